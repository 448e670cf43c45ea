from __future__ import annotations

import json

import made_up
import pytest
from nnkd_dataset_conversion import folders

from nnkd.errors import DatasetError, FolderError


def test_finds_what_lies_deeper(tmp_path):
    (tmp_path / "a" / "b" / "imagesTr").mkdir(parents=True)
    assert folders.find(tmp_path, ["imagesTr"], "X") == tmp_path / "a" / "b"
    assert folders.find(tmp_path / "a" / "b", ["imagesTr"], "X") == tmp_path / "a" / "b"
    (tmp_path / "a" / "c" / "imagesTr").mkdir(parents=True)
    with pytest.raises(FolderError, match=r"holds X 2 times \(b, c\)"):
        folders.find(tmp_path, ["imagesTr"], "X")
    with pytest.raises(FolderError, match="has no imagesTr and no labelsTr, so it is not X as published"):
        folders.find(tmp_path, ["imagesTr", "labelsTr"], "X")
    with pytest.raises(FolderError, match="no folder 'nowhere'"):
        folders.find(tmp_path / "nowhere", ["imagesTr"], "X")


def test_two_files_of_one_case_are_refused(tmp_path):
    for name in ("a.nii", "a.nii.gz", "._a.nii.gz", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a\.nii and .*/a\.nii\.gz are both the case 'a'"):
        folders.volumes(tmp_path.iterdir())
    (tmp_path / "a.nii").unlink()
    assert folders.volumes(tmp_path.iterdir()) == {"a": tmp_path / "a.nii.gz"}


def test_what_has_no_partner(tmp_path):
    for file in ("i/a.nii.gz", "i/b.nii.gz", "m/b.nii.gz", "m/c.nii.gz"):
        made_up.volume(tmp_path / file)
    places = [("i", "m", "Tr"), ("nowhere", "nothing", "Ts")]
    cases, alone = folders.cases(tmp_path, places)
    assert [case.name for case in cases] == ["b"]
    assert {failure.case: failure.reason for failure in alone} == {
        "a": "It has no label map, but others have. Download it again or take it out.",
        "c": "It has a label map, but no image.",
    }
    cases, alone = folders.cases(tmp_path, places, complete=False)
    assert ([case.name for case in cases], [failure.case for failure in alone]) == (["a", "b"], ["c"])
    cases, alone = folders.cases(tmp_path, [("i", "nothing", "Ts")])
    assert ([(case.name, case.label, case.split) for case in cases], alone) == (
        [("a", None, "Ts"), ("b", None, "Ts")],
        [],
    )


@pytest.mark.parametrize("labels", [{"1": "liver", "2": "right kidney"}, {"Liver": 1, "right_kidney": 2}, None])
def test_labels_as_published(tmp_path, labels):
    if labels:
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    folders.check_labels(tmp_path, {"liver": 1, "right kidney": 2})


@pytest.mark.parametrize("labels", [{"1": "spleen", "2": "right kidney"}, {"1": "liver"}, {"liver": 1, "x": 3}])
def test_labels_numbered_anew_are_refused(tmp_path, labels):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(DatasetError, match="it was published as"):
        folders.check_labels(tmp_path, {"liver": 1, "right kidney": 2})
