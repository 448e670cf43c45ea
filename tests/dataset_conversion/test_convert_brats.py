from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.brats import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import participants_of_cases
from nnkd.errors import DatasetError, FolderError

OLD = ("{}_t1", "{}_t1ce", "{}_t2", "{}_flair", "{}_seg")
NEW = ("{}-t1n", "{}-t1c", "{}-t2w", "{}-t2f", "{}-seg")


def case(
    folder: Path, naming, values, label: bool = True, ending: str = ".nii.gz", start: str | None = None
) -> np.ndarray:
    start = folder.name if start is None else start
    for k, name in enumerate(naming[:4]):
        made_up.volume(folder / f"{name.format(start)}{ending}", np.full((5, 6, 7), k + 1, np.int16))
    segmentation = made_up.labels(values)
    if label:
        made_up.volume(folder / f"{naming[4].format(start)}{ending}", segmentation)
    return segmentation


def region(dataset: RawDataset, name: str, of: str) -> np.ndarray:
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file(name))
    return dataset.spec.mask(label_map, of)


@pytest.mark.parametrize(
    ("name", "naming", "core", "oedema", "enhancing"),
    [
        ("Brats17_2013_0_1", OLD, 1, 2, 4),
        ("BraTS20_Training_001", OLD, 1, 2, 4),
        ("BraTS2021_00000", OLD, 1, 2, 4),
        ("BraTS-GLI-00000-000", NEW, 1, 2, 3),
        ("BraTS-MEN-00004-000", NEW, 1, 2, 3),
        ("BraTS-SSA-00002-000", NEW, 1, 2, 3),
    ],
)
def test_each_release_has_its_numbering(tmp_path, nnunet_folders, name, naming, core, oedema, enhancing, capsys):
    segmentation = case(tmp_path / "download" / "HGG" / name, naming, (0, core, oedema, enhancing))
    case(tmp_path / "Validation" / f"{name[:-1]}9", naming, (0,), label=False)
    command = [str(tmp_path / "download"), "-d", "721", "-n", "BraTS", "--test", str(tmp_path / "Validation")]
    assert main(command) == 0
    assert f"{core} necrosis, {oedema} oedema, {enhancing} enhancing" in capsys.readouterr().out
    dataset = RawDataset.open(721)
    assert dataset.spec.labels == {"whole tumor": (1, 2, 3), "tumor core": (2, 3), "enhancing tumor": (3,)}
    assert dataset.spec.json["regions_class_order"] == [1, 2, 3]
    array, _, _ = dataset.images().read(name)
    assert array[:, 0, 0, 0].tolist() == [1, 2, 3, 4]  # T1, T1ce, T2, Flair
    np.testing.assert_array_equal(region(dataset, name, "whole tumor"), segmentation > 0)
    np.testing.assert_array_equal(region(dataset, name, "tumor core"), np.isin(segmentation, (core, enhancing)))
    np.testing.assert_array_equal(region(dataset, name, "enhancing tumor"), segmentation == enhancing)
    assert dataset.images("Ts").cases() == [f"{name[:-1]}9"]


def test_children_since_2024(tmp_path, nnunet_folders, capsys):
    segmentation = case(tmp_path / "PEDs" / "BraTS-PED-00002-000", NEW, (0, 1, 2, 3, 4))
    assert main([str(tmp_path / "PEDs"), "-d", "721", "-n", "BraTS", "--new_labels"]) == 1
    assert main([str(tmp_path / "PEDs"), "-d", "721", "-n", "BraTS"]) == 1
    assert "numbered in two ways" in capsys.readouterr().err
    assert main([str(tmp_path / "PEDs"), "-d", "721", "-n", "BraTS", "--peds_labels"]) == 0
    dataset = RawDataset.open(721)
    for name, values in {
        "whole tumor": (1, 2, 3, 4),
        "tumor core": (1, 2, 3),
        "enhancing tumor": (1,),
        "cystic component": (3,),
    }.items():
        np.testing.assert_array_equal(region(dataset, "BraTS-PED-00002-000", name), np.isin(segmentation, values))


def test_children_of_2023_are_known_by_the_published_folder(tmp_path, nnunet_folders):
    source = tmp_path / "ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData"
    segmentation = case(source / "BraTS-PED-00002-000", NEW, (0, 1, 2, 3))
    with pytest.raises(DatasetError, match="which is not --peds_labels"):
        convert(source, "Dataset721_BraTS", labels="peds")
    convert(source, "Dataset721_BraTS")
    np.testing.assert_array_equal(
        region(RawDataset.open(721), "BraTS-PED-00002-000", "enhancing tumor"), segmentation == 3
    )


@pytest.mark.parametrize("name", ["BraTS-MEN-RT-0000-1", "BraTS2012_0001", "BraTS-XYZ-00001-000"])
def test_a_release_that_is_not_known_is_refused(tmp_path, nnunet_folders, name):
    case(tmp_path / "B" / name, NEW, (0, 1))
    with pytest.raises(DatasetError, match="labels are not known here"):
        convert(tmp_path / "B", "Dataset721_BraTS", labels="new")


def test_what_contradicts_the_names_is_refused(tmp_path, nnunet_folders):
    case(tmp_path / "B" / "BraTS-GLI-00000-000", NEW, (0, 1, 2))
    with pytest.raises(DatasetError, match="which is not --old_labels"):
        convert(tmp_path / "B", "Dataset721_BraTS", labels="old")
    case(tmp_path / "C" / "BraTS-MEN-00000-000", NEW, (0, 1, 2))
    with pytest.raises(DatasetError, match="no resection cavity"):
        convert(tmp_path / "C", "Dataset721_BraTS", cavity=True)
    case(tmp_path / "C" / "BraTS20_Training_001", OLD, (0, 1, 2))
    with pytest.raises(DatasetError, match="Convert each release apart"):
        convert(tmp_path / "C", "Dataset721_BraTS")
    case(tmp_path / "D" / "a", OLD, (0, 1, 2))
    with pytest.raises(DatasetError, match=r"'a' tells no release.*--old_labels: 1 necrosis"):
        convert(tmp_path / "D", "Dataset721_BraTS")


def test_a_value_of_the_other_numbering_fails_the_case(tmp_path, nnunet_folders):
    case(tmp_path / "B" / "a", OLD, (0, 1, 2, 4))
    case(tmp_path / "B" / "b", OLD, (0, 1, 2, 3))
    report = convert(tmp_path / "B", "Dataset721_BraTS", labels="old")
    assert (report.done, [f.case for f in report.failures]) == (["a"], ["b"])
    assert "label map holds 3, not 1 necrosis, 2 oedema, 4 enhancing" in report.failures[0].reason
    report = convert(tmp_path / "B", "Dataset722_BraTS", labels="new")
    assert (report.done, [f.case for f in report.failures]) == (["b"], ["a"])
    assert "say --cavity" in report.failures[0].reason


def test_resection_cavity(tmp_path, nnunet_folders):
    segmentation = case(tmp_path / "B" / "BraTS-GLI-00005-100", NEW, (0, 1, 2, 3, 4))
    convert(tmp_path / "B", "Dataset721_BraTS", cavity=True)
    dataset = RawDataset.open(721)
    np.testing.assert_array_equal(region(dataset, "BraTS-GLI-00005-100", "resection cavity"), segmentation == 4)
    np.testing.assert_array_equal(
        region(dataset, "BraTS-GLI-00005-100", "whole tumor"), np.isin(segmentation, (1, 2, 3))
    )


def people(number: int) -> dict[str, str]:
    dataset = RawDataset.open(number)
    cases = dataset.images().cases()
    return {name: person.identifier for name, person in participants_of_cases(dataset.folder, cases).items()}


def test_visits_in_the_names_are_one_participant(tmp_path, nnunet_folders):
    for name in ("00005-100", "00005-101", "00006-100"):
        case(tmp_path / "B" / f"BraTS-GLI-{name}", NEW, (0, 1))
    convert(tmp_path / "B", "Dataset721_BraTS")
    assert people(721) == {
        "BraTS-GLI-00005-100": "BraTS-GLI-00005",
        "BraTS-GLI-00005-101": "BraTS-GLI-00005",
        "BraTS-GLI-00006-100": "BraTS-GLI-00006",
    }


@pytest.mark.parametrize("start", ["sub", "ses", ""])
def test_a_folder_a_visit(tmp_path, nnunet_folders, start):
    expected = {}
    for person, visit in (("sub-01", "ses-01"), ("sub-01", "ses-02"), ("sub-02", "ses-01")):
        expected[f"{person}_{visit}"] = person
        case(tmp_path / "B" / person / visit, OLD, (0, 1), start={"sub": person, "ses": visit, "": ""}[start])
    convert(tmp_path / "B", "Dataset721_BraTS", labels="old")
    assert people(721) == expected


def test_a_folder_a_visit_above_the_persons(tmp_path, nnunet_folders):
    for visit, person in (("ses-01", "sub-01"), ("ses-02", "sub-01"), ("ses-01", "sub-02")):
        case(tmp_path / "B" / visit / person, OLD, (0, 1))
    report = convert(tmp_path / "B", "Dataset721_BraTS", labels="old")
    assert people(721) == {"ses-01_sub-01": "sub-01", "ses-02_sub-01": "sub-01", "sub-02": "sub-02"}
    assert not any("--cases" in line for line in report.lines)


def test_everybody_in_one_folder(tmp_path, nnunet_folders):
    for start in ("sub-01_ses-01", "sub-01_ses-02", "sub-02_ses-01"):
        case(tmp_path / "B", OLD, (0, 1), start=start)
    assert not convert(tmp_path / "B", "Dataset721_BraTS", labels="old").failures
    assert people(721) == {"sub-01_ses-01": "sub-01", "sub-01_ses-02": "sub-01", "sub-02_ses-01": "sub-02"}


def test_everybody_in_one_folder_a_site(tmp_path, nnunet_folders):
    for site, start in (("A", "001"), ("A", "002"), ("B", "001")):
        case(tmp_path / "T" / site, OLD, (0, 1), start=start)
    convert(tmp_path / "T", "Dataset721_BraTS", labels="old")
    assert people(721) == {"002": "002", "A_001": "A_001", "B_001": "B_001"}


def test_folders_of_one_name_are_told_apart_and_it_is_said(tmp_path, nnunet_folders):
    for group in ("HGG", "LGG"):
        case(tmp_path / "B" / group / "001", OLD, (0, 1))
    report = convert(tmp_path / "B", "Dataset721_BraTS", labels="old")
    assert people(721) == {"HGG_001": "HGG_001", "LGG_001": "LGG_001"}
    assert any("person of its own" in line and "--cases" in line for line in report.lines)


def test_a_missing_sequence_a_double_one_and_the_oddly_named_label_map(tmp_path, nnunet_folders):
    for name in "abcd":
        case(tmp_path / "B" / name, OLD, (0, 1, 2, 4), ending=".nii")
    (tmp_path / "B" / "a" / "a_seg.nii").rename(tmp_path / "B" / "a" / "W39_1998.09.19_Segm.nii")
    (tmp_path / "B" / "b" / "b_flair.nii").unlink()
    made_up.volume(tmp_path / "B" / "c" / "c_t1.nii.gz")
    for channel in ("t1", "t1ce", "t2", "flair"):
        (tmp_path / "B" / "d" / f"d_{channel}.nii").unlink()
    report = convert(tmp_path / "B", "Dataset721_BraTS", labels="old")
    assert {f.case: f.reason for f in report.failures} == {
        "b": "It lacks Flair. Download it again or take it out.",
        "c": "It has T1 2 times (c_t1.nii, c_t1.nii.gz). Keep one.",
        "d": "It lacks T1, T1ce, T2, Flair. Download it again or take it out.",
    }
    assert RawDataset.open(721).label_file("a").is_file()


def test_wrong_folders(tmp_path, nnunet_folders):
    with pytest.raises(FolderError, match="no folder 'nowhere'"):
        convert(tmp_path / "nowhere", "Dataset721_BraTS")
    made_up.volume(tmp_path / "CT" / "ct.nii.gz")
    with pytest.raises(FolderError, match="'CT' has no CASE_t1"):
        convert(tmp_path / "CT", "Dataset721_BraTS")
