from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.brats import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.errors import FolderError

OLD = ("{}_t1", "{}_t1ce", "{}_t2", "{}_flair", "{}_seg")
NEW = ("{}-t1n", "{}-t1c", "{}-t2w", "{}-t2f", "{}-seg")


def case(folder: Path, naming, values, label: bool = True, ending: str = ".nii.gz") -> np.ndarray:
    for k, name in enumerate(naming[:4]):
        made_up.volume(folder / f"{name.format(folder.name)}{ending}", np.full((5, 6, 7), k + 1, np.int16))
    segmentation = made_up.labels(values)
    if label:
        made_up.volume(folder / f"{naming[4].format(folder.name)}{ending}", segmentation)
    return segmentation


@pytest.mark.parametrize(
    ("naming", "values", "flag"), [(OLD, (0, 1, 2, 4), "--old_labels"), (NEW, (0, 1, 2, 3), "--new_labels")]
)
def test_regions_and_label_values(tmp_path, nnunet_folders, naming, values, flag):
    source = tmp_path / "BraTS"
    segmentation = case(source / "HGG" / "BraTS_001", naming, values)
    case(source / "BraTS_002", naming, values, label=False)
    case(tmp_path / "Validation" / "BraTS_009", naming, values, label=False)
    assert main([str(source), "-d", "721", "-n", "BraTS", flag, "--test", str(tmp_path / "Validation")]) == 0
    dataset = RawDataset.open(721)
    assert dataset.spec.labels == {"whole tumor": (1, 2, 3), "tumor core": (2, 3), "enhancing tumor": (3,)}
    assert dataset.spec.json["regions_class_order"] == [1, 2, 3]
    array, _, _ = dataset.images().read("BraTS_001")
    assert array[:, 0, 0, 0].tolist() == [1, 2, 3, 4]  # T1, T1ce, T2, Flair
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file("BraTS_001"))
    enhancing = max(values)
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "whole tumor"), segmentation > 0)
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "tumor core"), np.isin(segmentation, (1, enhancing)))
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "enhancing tumor"), segmentation == enhancing)
    assert not dataset.label_file("BraTS_002").exists()
    assert dataset.images("Ts").cases() == ["BraTS_009"]


def test_a_value_of_the_other_naming_fails_the_case(tmp_path, nnunet_folders):
    case(tmp_path / "B" / "a", OLD, (0, 1, 2, 4))
    case(tmp_path / "B" / "b", OLD, (0, 1, 2, 3))
    report = convert(tmp_path / "B", "Dataset721_BraTS", old_labels=True)
    assert (report.done, [f.case for f in report.failures]) == (["a"], ["b"])
    report = convert(tmp_path / "B", "Dataset722_BraTS", old_labels=False)
    assert (report.done, [f.case for f in report.failures]) == (["b"], ["a"])  # 4 is no label without the cavity


def test_resection_cavity(tmp_path, nnunet_folders):
    segmentation = case(tmp_path / "B" / "a", NEW, (0, 1, 2, 3, 4))
    convert(tmp_path / "B", "Dataset721_BraTS", old_labels=False, cavity=True)
    dataset = RawDataset.open(721)
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file("a"))
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "resection cavity"), segmentation == 4)
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "whole tumor"), np.isin(segmentation, (1, 2, 3)))


def test_a_missing_sequence_and_the_oddly_named_label_map(tmp_path, nnunet_folders):
    case(tmp_path / "B" / "a", OLD, (0, 1, 2, 4), ending=".nii")
    (tmp_path / "B" / "a" / "a_seg.nii").rename(tmp_path / "B" / "a" / "W39_1998.09.19_Segm.nii")
    case(tmp_path / "B" / "b", OLD, (0, 1, 2, 4))
    (tmp_path / "B" / "b" / "b_flair.nii.gz").unlink()
    report = convert(tmp_path / "B", "Dataset721_BraTS")
    assert [(f.case, f.reason) for f in report.failures] == [("b", "It lacks Flair. Download it again or take it out.")]
    assert RawDataset.open(721).label_file("a").is_file()


def test_missing_folder(tmp_path, nnunet_folders):
    with pytest.raises(FolderError, match="no folder 'nowhere'"):
        convert(tmp_path / "nowhere", "Dataset721_BraTS")
