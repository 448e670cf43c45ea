"""Images and masks are opened in nnkd.data.reading and nowhere else: one place decides where a voxel lies."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "nnkd" / "data" / "reading"
OPENERS = {
    "ReadImage", "ImageFileReader", "ImageSeriesReader", "imread", "dcmread", "TiffFile", "nibabel.load", "nib.load",
    "Image.open",
}  # fmt: skip


def openers(code: str) -> list[str]:
    """Calls that open an image, as they are written."""
    names = [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute | ast.Name)]
    return [name for name in names if name.split(".")[-1] in OPENERS or ".".join(name.split(".")[-2:]) in OPENERS]


def test_nobody_else_opens_an_image():
    found = {
        file.relative_to(ROOT).as_posix(): wrong
        for folder in ("nnkd", "plugins", "dataset_conversion")
        for file in (ROOT / folder).rglob("*.py")
        if not file.is_relative_to(DOOR) and (wrong := openers(file.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    ["sitk.ReadImage(f)", "import nibabel\nnibabel.load(f)", "Image.open(f)", "io.imread(f)", "r = ImageFileReader"],
)
def test_another_door_is_seen(code):
    assert openers(code)


def json_readers(code: str) -> list[str]:
    """Calls that read JSON of what was not written in the same call."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = [(ast.unparse(call.func), ast.unparse(call.args[0]) if call.args else "") for call in calls]
    return [name for name, first in names if name in ("json.load", "json.loads") and not first.startswith("json.dumps")]


def test_nobody_else_reads_json():
    """`nnkd.files` has the limits. What nnkd itself hands to a child process that stands in another environment is
    read there."""
    allowed = {"nnkd/files.py", "plugins/nnkd_totalsegmentator/child.py"}
    files = [file for folder in ("nnkd", "plugins", "dataset_conversion") for file in (ROOT / folder).rglob("*.py")]
    found = {file.relative_to(ROOT).as_posix() for file in files if json_readers(file.read_text(encoding="utf-8"))}
    assert found == allowed
