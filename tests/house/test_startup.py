"""Commands answer --help and list plugins without importing anything heavy."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "nnunetv2", "numpy", "pydantic", "matplotlib", "SimpleITK", "nibabel", "scipy", "pandas", "skimage")
SLOW = ("tqdm", "concurrent.futures.process", "multiprocessing.connection")  # together as long as all else of --help
ASK = """
import sys
try:
    {statement}
except SystemExit as end:
    if end.code:
        raise
sys.exit(", ".join(name for name in {heavy} if name in sys.modules))
"""


def console_scripts() -> dict[str, tuple[str, str]]:
    """Module and function by command, from setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    named = (line.split("=") for line in lines)
    return {name.strip(): tuple(target.strip().split(":")) for name, target in named}


def heavy_imports(statement: str) -> str:
    """What a statement imports in a fresh interpreter that no listing should; empty if nothing. Or how it failed."""
    code = ASK.format(statement=statement, heavy=(*HEAVY, *SLOW))
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    return run.stderr.strip()


@pytest.mark.parametrize("script", console_scripts())
def test_help_imports_nothing_heavy(script):
    module, function = console_scripts()[script]
    if not (ROOT / (module.replace(".", os.sep) + ".py")).is_file():
        pytest.skip(f"{module} does not exist yet")
    assert heavy_imports(f"from {module} import {function}; {function}(['--help'])") == ""


def test_help_of_conversions_imports_no_library_of_images():
    folder = ROOT / "dataset_conversion"
    named = [f.stem for f in sorted(folder.glob("*.py")) if "def main(" in f.read_text(encoding="utf-8")]
    assert "images_folder" in named
    code = "\n".join([
        "import contextlib, importlib, sys",
        f"for name in {named}:",
        "    with contextlib.suppress(SystemExit):",
        "        importlib.import_module(f'nnkd_dataset_conversion.{name}').main(['--help'])",
        f"sys.exit(', '.join(n for n in {(*HEAVY, 'pydicom')} if n in sys.modules and n not in ('numpy', 'pydantic')))",
    ])  # fmt: skip
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert run.stderr.strip() == ""


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_listing_plugins_imports_nothing_heavy(arguments):
    assert heavy_imports(f"from nnkd.cli.plugins import main; main({arguments})") == ""


def test_the_face_is_light():
    assert heavy_imports("import nnkd") == ""


def test_something_heavy_would_be_seen():
    assert heavy_imports("import nnkd.data.reading.geometry").startswith("numpy")
    assert "unrecognized arguments" in heavy_imports("from nnkd.cli.plugins import main; main(['--no-such-option'])")
