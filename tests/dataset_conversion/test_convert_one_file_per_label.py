from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.one_file_per_label import convert, main
from toy import REAL_DATA, needs_real_data

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import read_participants
from nnkd.errors import DatasetError, FolderError, UnknownNameError

MASKS = ("heart", "liver", "lung_lower", "lung_upper")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    folder = tmp_path / "Totalsegmentator_toy"
    for k in range(3):
        made_up.volume(folder / f"s{k:04d}" / "ct.nii.gz", seed=k)
        parts = made_up.labels((0, 1, 2, 3, 4), seed=k)
        for integer, name in enumerate(MASKS, start=1):
            made_up.volume(
                folder / f"s{k:04d}" / "segmentations" / f"{name}.nii.gz", (parts == integer).astype(np.uint8)
            )
    (folder / "meta.csv").write_text(
        "image_id;age;gender;institute;split\ns0000;63;m;A;train\ns0001;;f;A;val\ns0002;41;;B;test\n",
        encoding="utf-8-sig",
    )
    return folder


def test_every_mask_becomes_a_label(cohort, nnunet_folders):
    assert not convert(cohort, "Dataset722_Organs").failures
    dataset = RawDataset.open(722)
    assert dataset.spec.labels == {name: (k,) for k, name in enumerate(MASKS, start=1)}
    np.testing.assert_array_equal(
        dataset.spec.read_label_map(dataset.label_file("s0001"))[0], made_up.labels((0, 1, 2, 3, 4), seed=1)
    )
    assert dataset.images("Ts").cases() == ["s0002"]
    assert dataset.label_file("s0002", "Ts").is_file()


def test_choice_and_joined_labels(cohort, nnunet_folders):
    arguments = [
        str(cohort),
        "-d",
        "722",
        "-n",
        "Organs",
        "--labels",
        "lung=lung_upper+lung_lower",
        "liver",
        "--ignore_split",
    ]
    assert main(arguments) == 0
    dataset = RawDataset.open(722)
    parts = made_up.labels((0, 1, 2, 3, 4), seed=2)
    np.testing.assert_array_equal(
        dataset.spec.read_label_map(dataset.label_file("s0002"))[0], np.select([parts >= 3, parts == 2], [1, 2])
    )
    assert main(arguments) == 0
    assert dataset.spec.json["numTraining"] == 3


def test_meta_becomes_participants(cohort, nnunet_folders):
    convert(cohort, "Dataset722_Organs")
    people = read_participants(nnunet_folders / "nnUNet_raw" / "Dataset722_Organs")
    assert {name: (p.sex, p.age) for name, p in people.items()} == {
        "s0000": ("M", 63.0), "s0001": ("F", None), "s0002": (None, 41.0)}  # fmt: skip


def test_overlaps_go_to_the_first_and_are_counted(cohort, nnunet_folders):
    array = np.zeros((5, 6, 7), np.uint8)
    array[0] = 1
    for name in ("heart", "liver"):
        made_up.volume(cohort / "s0000" / "segmentations" / f"{name}.nii.gz", array)
    report = convert(cohort, "Dataset722_Organs", labels=["liver", "heart"])
    assert report.lines[-1] == "Voxels lost to a label named earlier: heart 42."
    dataset = RawDataset.open(722)
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("s0000"))[0], array)


def test_a_missing_mask_fails_the_case_unless_it_means_absence(cohort, nnunet_folders):
    (cohort / "s0001" / "segmentations" / "liver.nii.gz").unlink()
    report = convert(cohort, "Dataset722_Organs", labels=["heart", "liver"])
    assert [f.case for f in report.failures] == ["s0001"]
    assert "lacks the mask liver" in report.failures[0].reason
    assert not convert(cohort, "Dataset723_Organs", labels=["heart", "liver"], absent=True).failures
    dataset = RawDataset.open(723)
    assert set(np.unique(dataset.spec.read_label_map(dataset.label_file("s0001"))[0])) == {0, 1}


def test_masks_on_another_grid(cohort, nnunet_folders):
    made_up.volume(cohort / "s0000" / "segmentations" / "liver.nii.gz", made_up.labels((0, 1)), spacing=(1, 1, 1))
    made_up.volume(cohort / "s0001" / "ct.nii.gz", origin=(0, 0, 0))
    reasons = {f.case: f.reason for f in convert(cohort, "Dataset722_Organs").failures}
    assert "'liver' does not lie on the others' grid: spacing" in reasons["s0000"]
    assert "does not lie on its image's grid: origin" in reasons["s0001"]


def test_what_is_asked_for_must_be_there(cohort, nnunet_folders, tmp_path):
    with pytest.raises(UnknownNameError, match=r"'livr'; is it liver\?"):
        convert(cohort, "Dataset722_Organs", labels=["livr"])
    with pytest.raises(FolderError, match=r"no CASE/mr\.nii\.gz"):
        convert(cohort, "Dataset722_Organs", images=["mr.nii.gz"])
    made_up.volume(tmp_path / "bare" / "a" / "ct.nii.gz")
    with pytest.raises(DatasetError, match="Name them with --labels"):
        convert(tmp_path / "bare", "Dataset722_Organs")
    assert convert(tmp_path / "bare", "Dataset722_Organs", labels=["liver"]).data["labelsTr"] == 0


@needs_real_data("trunk_ct")
def test_a_real_trunk(nnunet_folders, tmp_path):
    import SimpleITK as sitk

    case = tmp_path / "down" / "s1"
    case.mkdir(parents=True)
    (case / "ct.nii.gz").write_bytes((REAL_DATA / "trunk_ct" / "ct.nii.gz").read_bytes())
    whole = sitk.ReadImage(str(REAL_DATA / "trunk_ct" / "totalsegmentator_v2_fast.nii.gz"))
    for name, integer in {"spleen": 1, "liver": 5}.items():
        (case / "segmentations").mkdir(exist_ok=True)
        sitk.WriteImage(whole == integer, str(case / "segmentations" / f"{name}.nii.gz"))
    assert not convert(tmp_path / "down", "Dataset722_Organs").failures
    dataset = RawDataset.open(722)
    label_map = dataset.spec.read_label_map(dataset.label_file("s1"))[0]
    array = sitk.GetArrayFromImage(whole)
    np.testing.assert_array_equal(label_map, np.select([array == 5, array == 1], [1, 2]))
