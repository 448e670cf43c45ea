"""nnkd.boxes.cases: which images are there."""

from __future__ import annotations

import pytest

from nnkd.boxes.cases import find_cases
from nnkd.errors import DatasetError, FolderError


def folder(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_names_and_what_is_written(tmp_path):
    found = find_cases(folder(tmp_path, "b.JPG", "a.b_0000.png", "a.b_0001.png", ".hidden.png", "notes.txt", "c.bmp"))
    assert [(case.name, case.written) for case in found] == [("a.b", ".png"), ("b", ".png"), ("c", ".png")]


@pytest.mark.parametrize(
    ("name", "case", "written"),
    [("s_0000.nii.gz", "s", ".nii.gz"), ("s.NRRD", "s", ".nrrd"), ("s.tiff", "s", ".tif"), ("s.npz", "s", ".npz")],
)
def test_a_single_file(tmp_path, name, case, written):
    (found,) = find_cases(folder(tmp_path, name) / name)
    assert (found.name, found.written) == (case, written)


def test_what_cannot_be(tmp_path):
    with pytest.raises(FolderError, match="There is no file or folder 'nowhere'"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(FolderError, match="holds no image"):
        find_cases(folder(tmp_path, "notes.txt"))
    with pytest.raises(FolderError, match=r"'notes\.txt' is no image"):
        find_cases(tmp_path / "notes.txt")


def test_two_images_of_one_name(tmp_path):
    with pytest.raises(DatasetError, match=r"'a\.jpg' and 'a\.png' would both be written as 'a'"):
        find_cases(folder(tmp_path, "a.png", "a.jpg"))


def test_two_kinds(tmp_path):
    with pytest.raises(DatasetError, match=r"of 2 kinds \(\.npz, \.png\).*: a\.npz, b\.png"):
        find_cases(folder(tmp_path, "a.npz", "b.png", "c.npz"))
