"""Which files are one case and whose: the files are empty, as names alone decide."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnkd_dataset_conversion.visits import visits


def found(root: Path, *files: str) -> dict[str, str]:
    """Person by case."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return {visit.name: visit.person for visit in visits(root, {"t1", "t2"}.__contains__, {"seg"}.__contains__)}


@pytest.mark.parametrize(
    ("file", "case", "person"),
    [
        ("BraTS2021_00001/BraTS2021_00001_t1.nii.gz", "BraTS2021_00001", "BraTS2021_00001"),
        ("HGG/BraTS19_2013_10_1/BraTS19_2013_10_1_t1.nii", "BraTS19_2013_10_1", "BraTS19_2013_10_1"),
        ("BraTS-GLI-00005-101/BraTS-GLI-00005-101-t1.nii.gz", "BraTS-GLI-00005-101", "BraTS-GLI-00005"),
        ("BraTS-GoAT-00005/BraTS-GoAT-00005-t1.nii.gz", "BraTS-GoAT-00005", "BraTS-GoAT-00005"),
        ("sub-01/ses-01/sub-01_ses-01_t1.nii.gz", "sub-01_ses-01", "sub-01"),
        ("sub-01/ses-01/anat/sub-01_ses-01_t1.nii.gz", "sub-01_ses-01", "sub-01"),
        ("sub-01/sub-01_ses-01/sub-01_ses-01_t1.nii.gz", "sub-01_ses-01", "sub-01"),
        ("site A/sub-01/visit2/t1.nii.gz", "site_A_sub-01_visit2", "site_A_sub-01"),
        ("anna/2019-03-21/t1.nii.gz", "anna_2019-03-21", "anna"),
        ("anna/20190321/t1.nii.gz", "anna_20190321", "anna"),
        ("anna/2/anna_t1.nii.gz", "anna_2", "anna"),
        ("group/12345678/t1.nii.gz", "12345678", "12345678"),  # a number, no date
        ("group/tpatient/t1.nii.gz", "tpatient", "tpatient"),
        ("ses-01/t1.nii.gz", "ses-01", "ses-01"),  # whose it is lies above the root
    ],
)
def test_a_case(tmp_path, file, case, person):
    assert found(tmp_path, file) == {case: person}


def test_files_are_grouped_by_how_their_names_begin(tmp_path):
    files = (
        "a_ses-1_t1.nii.gz",
        "a_ses-1_seg.nii.gz",
        "a_ses-2_t1.nii.gz",
        "._a_ses-2_t2.nii.gz",
        "a_ses-2_flow.nii.gz",
    )
    assert found(tmp_path, *files) == {"a_ses-1": "a", "a_ses-2": "a"}
    groups = visits(tmp_path, {"t1", "t2"}.__contains__, {"seg"}.__contains__)
    assert [sorted(visit.files) for visit in groups] == [["seg", "t1"], ["t1"]]


def test_an_odd_label_map_belongs_to_the_only_images(tmp_path):
    found(tmp_path, "a/a_t1.nii", "a/W39_1998.09.19_seg.nii", "b/b_t1.nii", "b/b_seg.nii", "b/other_seg.nii")
    a, b = visits(tmp_path, {"t1"}.__contains__, {"seg"}.__contains__)
    assert [path.name for path in a.files["seg"]] == ["W39_1998.09.19_seg.nii"]
    assert len(b.files["seg"]) == 2  # brats refuses it


def test_folders_of_one_name(tmp_path):
    assert found(tmp_path, "HGG/1/t1.nii", "LGG/1/t1.nii", "LGG/2/t1.nii") == {
        "HGG_1": "HGG_1",
        "LGG_1": "LGG_1",
        "2": "2",
    }
    assert [visit.told for visit in visits(tmp_path, {"t1"}.__contains__, {"seg"}.__contains__)] == [False, False, True]
