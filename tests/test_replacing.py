"""Tests of nnkd.replacing: which files may be replaced."""

from __future__ import annotations

import os
import shutil

import pytest

from nnkd.errors import FolderError, ReplacingError
from nnkd.replacing import RECORD, Written, check_folder, check_results


def put(written: Written, name: str, text: str) -> None:
    with written.writing(name) as temporary:
        temporary.write_text(text)


def test_what_nnkd_wrote_is_replaced_and_what_somebody_changed_is_not(tmp_path):
    written = Written(tmp_path / "out")
    put(written, "a/b.txt", "one")
    put(written, "a/b.txt", "two")
    (tmp_path / "out" / "a" / "b.txt").write_text("by hand")
    with pytest.raises(ReplacingError, match=r"'a/b\.txt' in 'out' would be replaced, but nnkd did not write it"):
        written.check(["c.txt", "a/b.txt"])
    with pytest.raises(ReplacingError):
        put(written, "a/b.txt", "three")
    assert (tmp_path / "out" / "a" / "b.txt").read_text() == "by hand"
    assert [file.name for file in (tmp_path / "out" / "a").iterdir()] == ["b.txt"]
    put(Written(tmp_path / "out", replace=True), "a/b.txt", "three")
    put(written, "a/b.txt", "four")


@pytest.mark.parametrize("name", ["two\nlines", "back\\slash", "back\\nslash", "fälle", "\udcfc.txt", " a  b "])
def test_any_name_is_known_again(tmp_path, name):
    written = Written(tmp_path)
    put(written, name, "one")
    put(written, name, "two")
    assert len((tmp_path / RECORD).read_bytes().splitlines()) == 2
    (tmp_path / name.replace("a", "b")).write_text("other") if "a" in name else None
    assert Written(tmp_path).check([name]) is None


@pytest.mark.parametrize(
    "folder", ["labelsTr", "labelsTs", "imagesTr", "labelsHidden", "ratersTs/2nd", "gt_segmentations"]
)
def test_manual_label_maps_are_never_replaced(tmp_path, folder):
    home = tmp_path / "Dataset701_A" / folder
    home.mkdir(parents=True)
    (home / "c.nii.gz").write_text("manual")
    os.symlink(home, tmp_path / "link")
    os.makedirs(tmp_path / "x")
    for place in (home, tmp_path / "link", tmp_path / "x" / ".." / "link"):
        for replace in (False, True):
            with pytest.raises(ReplacingError, match=r"'c\.nii\.gz' .* manual label maps"):
                Written(place, replace).check(["c.nii.gz"])
    put(Written(home), "new.nii.gz", "added")
    put(Written(home), "new.nii.gz", "added again")


def test_the_dataset_json_of_a_dataset_is_never_replaced(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text("{}")
    written = Written(tmp_path, replace=True)
    assert not written.differs("dataset.json", {})
    written.write_json("dataset.json", {})
    with pytest.raises(ReplacingError, match=r"dataset\.json"):
        written.write_json("dataset.json", {"labels": 1})
    assert (tmp_path / "dataset.json").read_text() == "{}"


def test_the_same_content_is_no_replacement(tmp_path):
    (tmp_path / "a").write_text("one")
    put(Written(tmp_path), "a", "one")
    with pytest.raises(ReplacingError):
        Written(tmp_path).check([RECORD, "link"]) if os.symlink("nowhere", tmp_path / "link") is None else None


def test_files_of_another_record_are_taken_over(tmp_path):
    (tmp_path / "a").write_text("abc")
    known = {"a": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    Written(tmp_path).check(["a"], known)
    Written(tmp_path).adopt(known)
    Written(tmp_path).adopt(known)
    assert (tmp_path / RECORD).read_text() == f"{known['a']}  a\n"
    put(Written(tmp_path), "a", "two")


def test_only_own_files_are_removed(tmp_path):
    written = Written(tmp_path)
    for name in "abc":
        put(written, name, name)
    (tmp_path / "b").write_text("by hand")
    written.remove(["a", "b", "none"])
    assert {file.name for file in tmp_path.glob("[!.]*")} == {"b", "c"}


def test_staged_files_come_all_or_not_at_all(tmp_path):
    written = Written(tmp_path / "out")
    for text in ("one", "two"):
        with written.staged() as folder:
            (folder / "in").mkdir()
            (folder / "in" / "a.csv").write_text(text)
            (folder / "b.json").write_text(text)
    (tmp_path / "out" / "b.json").write_text("by hand")
    staging = written.staged()
    folder = staging.__enter__()
    for name in ("b.json", "c.csv"):
        (folder / name).write_text("three")
    with pytest.raises(ReplacingError):
        staging.__exit__(None, None, None)
    assert {file.name: file.read_text() for file in (tmp_path / "out").rglob("[!.]*.*")} == {
        "a.csv": "two", "b.json": "by hand",
    }  # fmt: skip
    with pytest.raises(ZeroDivisionError), Written(tmp_path / "new").staged():
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()


def test_a_copied_folder_still_knows_its_files(tmp_path):
    put(Written(tmp_path / "one"), "a", "1")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    put(Written(tmp_path / "two"), "a", "2")
    assert (tmp_path / "two" / "a").read_text() == "2"


def test_what_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "a.txt").mkdir(parents=True)
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(FolderError, match="-o is the file 'file', but a folder is expected"):
        check_folder(tmp_path / "file")
    with pytest.raises(FolderError, match="'deep' is to be made in the file 'file'"):
        Written(tmp_path / "file" / "deep").check(["a"])
    with pytest.raises(FolderError, match="-o is the broken link 'broken'"):
        check_folder(tmp_path / "broken")
    with pytest.raises(FolderError, match=r"'a\.txt' in 'out' is a folder"):
        Written(tmp_path / "out").check(["a.txt"])
    check_folder(tmp_path / "to" / "be" / "made")


def test_where_label_maps_may_go(tmp_path):
    images = tmp_path / "Dataset701_A" / "imagesTs"
    images.mkdir(parents=True)
    (tmp_path / "link").symlink_to(images)
    with pytest.raises(FolderError, match="-o is the folder of the images"):
        check_results(tmp_path / "link", images)
    with pytest.raises(FolderError, match="-o is imagesTs of a dataset"):
        check_results(tmp_path / "link", tmp_path)
    assert check_results(images / "predictions", images) == ""
    assert "labelsTs counts as manual" in check_results(images.parent / "labelsTs", images)
