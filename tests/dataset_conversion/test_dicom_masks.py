"""DICOM-SEG as the label maps of a conversion."""

from __future__ import annotations

from pathlib import Path

import dicom_toys as toys
import nibabel as nib
import numpy as np
import pytest
from extras import needs
from nnkd_dataset_conversion.images_folder import convert

from nnkd.data.dataset import RawDataset
from nnkd.data.reading.dicom import segmentation_writer, volumes
from nnkd.data.reading.dicom.segmentation_writer import Algorithm
from nnkd.errors import DatasetError

pytestmark = needs("dicom", "highdicom")
SHAPE = (6, 8, 9)


def labelled(folder: Path, uid: int, seg: Path, names: dict, **tags: object) -> np.ndarray:
    """A series, and a DICOM-SEG of it; its label map (Z, Y, X)."""
    files = toys.slices(folder, toys.noise(SHAPE, uid), toys.line(6)[::-1], series_uid=f"{toys.ROOT}.{uid}", tags=tags)
    image = volumes.read(files)
    array = np.random.default_rng(uid).integers(0, 3, SHAPE)
    seg.parent.mkdir(parents=True, exist_ok=True)
    segmentation_writer.write(array, names, image, seg, Algorithm("a reader"))
    return array


def stored(name: str) -> np.ndarray:
    file = RawDataset.open(710).folder / "labelsTr" / f"{name}.nii.gz"
    return np.asanyarray(nib.load(file).dataobj).T


@pytest.mark.parametrize("where", ["masks", "study"])
def test_segs_find_the_series_they_refer_to(tmp_path, nnunet_folders, where):
    names = {"Liver": [1], "Right Kidney": [2]}
    study = tmp_path / "study"
    first = labelled(study / "a", 21, tmp_path / where / "x" / "1.dcm", names)
    second = labelled(study / "b", 22, tmp_path / where / "x" / "2.dcm", names)
    toys.slices(study / "c", toys.noise(), toys.line(6), series_uid=f"{toys.ROOT}.23")
    labels = {"spleen": 1, "kidney_right": 2, "liver": 3}
    report = convert(study, "Dataset710_D", labels=labels, masks=tmp_path / where)
    assert not report.failures
    assert len(report.done) == 3
    assert not [line for line in report.lines if "Set aside" in line]  # what serves as a label map is not passed over
    names = [file.name for file in (RawDataset.open(710).folder / "labelsTr").iterdir()]
    assert sorted(names) == ["case_0001.nii.gz", "case_0002.nii.gz"]
    for name, array in (("case_0001", first), ("case_0002", second)):
        assert np.array_equal(stored(name), np.array([0, 3, 2])[array])


def test_values_are_the_segments_numbers(tmp_path, nnunet_folders):
    array = labelled(tmp_path / "d" / "a", 21, tmp_path / "m" / "1.dcm", {"Segment_1": [1], "Segment_2": [2]})
    convert(tmp_path / "d", "Dataset710_D", values={1: "liver", 2: "cyst"}, labels={"cyst": 1, "liver": 2},
            masks=tmp_path / "m")  # fmt: skip
    assert np.array_equal(stored("case_0001"), np.array([0, 2, 1])[array])


def test_segs_of_other_labels_fail_and_of_other_series_are_told(tmp_path, nnunet_folders):
    labelled(tmp_path / "d" / "a", 21, tmp_path / "m" / "1.dcm", {"strange": [1]})
    labelled(tmp_path / "other", 22, tmp_path / "m" / "2.dcm", {"liver": [1]})
    report = convert(tmp_path / "d", "Dataset710_D", labels={"liver": 1}, masks=tmp_path / "m")
    reasons = {failure.case: failure.reason for failure in report.failures}
    assert "neither names nor codes fit" in reasons["case_0001"]
    assert reasons["2"] == "It is a mask without image."


def test_two_readers_of_one_series_are_refused(tmp_path, nnunet_folders):
    for number in (1, 2):
        labelled(tmp_path / "d" / "a", 21, tmp_path / "m" / f"{number}.dcm", {"liver": [1, 2]})
    with pytest.raises(DatasetError, match="has 2 masks"):
        convert(tmp_path / "d", "Dataset710_D", labels={"liver": 1}, masks=tmp_path / "m")
