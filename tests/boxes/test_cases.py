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
    ("names", "boxed", "cases", "passed"),
    [
        (["v_0001", "v_0002", "v_0003"], [], ["v_0001", "v_0002", "v_0003"], 0),  # frames: no first channel
        (["v_0000", "v_0001", "v_0002"], [], ["v"], 2),
        (["v_0000", "v_0001", "v_0002"], ["v"], ["v"], 2),
        (["v_0000", "v_0001", "v_0002"], ["v_0001"], ["v_0000", "v_0001", "v_0002"], 0),  # boxes for one say it
        (["v_0000", "v_0002"], [], ["v_0000", "v_0002"], 0),  # a number is missing: frames
        (["v_0000", "v_0001", "w_0000", "x"], [], ["v", "w", "x"], 1),
        (["v_0001_0000", "v_0001_0001", "v_0002_0000", "v_0002_0001"], [], ["v_0001", "v_0002"], 2),
        (["v_0000"], ["v_0000"], ["v_0000"], 0),
    ],
)
def test_channels_and_frames(tmp_path, caplog, names, boxed, cases, passed):
    found = find_cases(folder(tmp_path, *(f"{name}.png" for name in names)), boxed)
    assert [case.name for case in found] == cases
    assert (f"{passed} further channels were passed over" in caplog.text) == bool(passed)


def test_an_npz_is_never_a_channel(tmp_path):
    found = find_cases(folder(tmp_path, "CT_0000.npz", "CT_0001.npz", "CT_0002.npz"))
    assert [case.name for case in found] == ["CT_0000", "CT_0001", "CT_0002"]


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
