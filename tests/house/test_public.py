"""What plugins may import is a list, which stands in docs/plugins.md."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnkd

ROOT = Path(__file__).parents[2]
PLUGINS = [
    file
    for folder in ("plugins", "tests/third_party", "tests/third_party_student")
    for file in (ROOT / folder).rglob("*.py")
]


def public() -> set[str]:
    """The modules of the table, its braces resolved."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    table = text.split("## What is public")[1].split("\n## ")[0]
    found = set()
    for cell in re.findall(r"^\| (`nnkd.*?) \|", table, flags=re.MULTILINE):
        for name in re.findall(r"`(nnkd[^`]*)`", cell):
            room, _, inner = name.partition("{")
            found |= {room + module for module in inner.rstrip("}").split(",")}
    return found


def imported() -> dict[str, set[str]]:
    """Who imports each module of nnkd, and `nnkd.NAME` for a name of the face."""
    found: dict[str, set[str]] = {}
    for file in PLUGINS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name if is_module(name) or node.module == "nnkd" else node.module for name in inner]
            else:
                continue
            for module in modules:
                if module.split(".")[0] == "nnkd":
                    found.setdefault(module, set()).add(file.name)
    return found


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or package of nnkd."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.heavy
def test_plugins_import_what_is_public():
    allowed = public() | {f"nnkd.{name}" for name in nnkd.__all__}
    assert {module: who for module, who in imported().items() if module not in allowed} == {}


@pytest.mark.heavy
def test_nothing_is_public_that_nobody_needs():
    """A module is listed because a plugin imports it, or because the face hands out what stands in it."""
    handed_out = {getattr(nnkd, name).__module__ for name in nnkd.__all__ if hasattr(getattr(nnkd, name), "__module__")}
    assert public() - set(imported()) - handed_out - {"nnkd"} == set()


@pytest.mark.parametrize("name", sorted(nnkd.__all__))
def test_the_face_has_what_it_names(name):
    assert getattr(nnkd, name) is not None
    if name in nnkd.ON_FIRST_USE:
        assert getattr(nnkd, name) is getattr(importlib.import_module(nnkd.ON_FIRST_USE[name]), name)


def test_the_face_has_nothing_else():
    with pytest.raises(AttributeError, match="has no attribute 'nnUNetTrainerXX'"):
        _ = nnkd.nnUNetTrainerXX


def test_asking_for_one_heavy_base_imports_it_alone():
    code = "import sys; from nnkd import parse_options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
