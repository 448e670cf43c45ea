"""nnKD_segment_boxes on DICOM series: boxes in, DICOM-SEG out."""

from __future__ import annotations

import json
from pathlib import Path

import dicom_toys as toys
import nibabel as nib
import numpy as np
import pydicom
import pytest
from box_toys import WEIGHTS, Bright
from extras import needs

from nnkd.boxes.model import OpenedBoxModel
from nnkd.boxes.runs import BoxJob
from nnkd.data.dicom_cases import DicomRequest
from nnkd.data.predictions import PredictionFolder
from nnkd.data.reading.dicom import segmentations, volumes
from nnkd.errors import NnkdError, SettingError
from nnkd.steps.segment_boxes import segment_boxes
from nnkd.types import StepReport

pytestmark = needs("dicom", "highdicom")
BOX = [1, 2, 1, 8, 15, 14]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A bright ball in the dark, seen sagittally, in files of any order."""
    z, y, x = np.ogrid[:9, :20, :24]
    ball = (z - 4) ** 2 + (y - 8) ** 2 / 4 + (x - 7) ** 2 / 4 < 10
    array = np.where(ball, 300, -900).astype(np.int16)
    positions, order = toys.line(9, (1.5, 0, 0)), np.random.default_rng(0).permutation(9)
    toys.slices(tmp_path / "study", array[order], positions[order], orientation=(0, 1, 0, 0, 0, -1))
    return tmp_path / "study"


def run(source: Path, target: Path, *formats: str, overwrite: bool = False, **boxes: dict) -> StepReport:
    file = target.parent / "boxes.json"
    file.write_text(json.dumps(boxes or {"case_0001": {"liver": [BOX]}}), encoding="utf-8")
    job = BoxJob(source, target, boxes=file, slices="stored", wanted=DicomRequest(formats=formats or ("nifti",)))
    model = OpenedBoxModel(Bright(), "toy", "torch", weights=(WEIGHTS,), licence="Apache-2.0")
    return segment_boxes(job, lambda: model, overwrite)


def test_boxes_of_a_series(study, tmp_path):
    report = run(study, tmp_path / "out", "nifti", "dicomseg")
    assert (report.done, report.failures) == (["case_0001"], [])
    stored = nib.load(tmp_path / "out" / "case_0001.nii.gz")
    image = volumes.read(list(study.iterdir()))
    label_map = np.asarray(stored.dataobj).T
    assert np.array_equal(label_map > 0, image.array[0] > 0)
    assert np.abs(np.diag([-1.0, -1.0, 1.0, 1.0]) @ stored.affine - image.grid.affine).max() < 1e-4
    seg = tmp_path / "out" / "case_0001.dcm"
    assert np.array_equal(segmentations.read(seg, image, {"liver": 1}).array[0], label_map)
    ds = pydicom.dcmread(seg)
    assert ds.SegmentSequence[0].SegmentAlgorithmName == "toy"
    assert "Apache-2.0" in ds.ContentDescription
    options = PredictionFolder(tmp_path / "out").manifest().options
    assert options["modality"] == "CT"
    assert not list((tmp_path / "out").glob(".writing-*"))


def test_segs_alone_and_what_is_there_already(study, tmp_path):
    out = tmp_path / "out"
    assert run(study, out, "dicomseg").done == ["case_0001"]
    assert [p.name for p in out.glob("case*")] == ["case_0001.dcm"]
    assert run(study, out, "dicomseg").skipped == ["case_0001"]


def test_a_seg_that_is_asked_for_later(study, tmp_path):
    assert run(study, tmp_path / "out").done == ["case_0001"]
    assert run(study, tmp_path / "out").skipped == ["case_0001"]
    assert run(study, tmp_path / "out", "nifti", "dicomseg").done == ["case_0001"]
    assert (tmp_path / "out" / "case_0001.dcm").is_file()


def test_series_that_fail_are_told_and_the_others_done(study, tmp_path):
    toys.slices(study / "z", toys.noise(), [(0, 0, 0)] * 6, series_uid=f"{toys.ROOT}.9.8")
    report = run(study, tmp_path / "out")
    assert report.done == ["case_0001"]
    assert [failure.case for failure in report.failures] == ["case_0002"]
    assert "case_0002" in PredictionFolder(tmp_path / "out").manifest().failures


def test_several_modalities_are_refused(study, tmp_path):
    toys.slices(study / "z", toys.noise(), toys.line(6), series_uid=f"{toys.ROOT}.9.8", modality="MR")
    with pytest.raises(SettingError, match="several modalities"):
        run(study, tmp_path / "out")


def test_pictures_hide_no_series(study, tmp_path):
    (study / "logo.png").write_bytes(b"")
    with pytest.raises(NnkdError, match="holds pictures and DICOM series"):
        run(study, tmp_path / "out")


def test_other_images_have_no_frames(tmp_path):
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)), tmp_path / "images" / "a.nii.gz")
    with pytest.raises(SettingError, match="--format dicomseg goes with DICOM"):
        run(tmp_path / "images", tmp_path / "out", "dicomseg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NnkdError, match="no image and no DICOM series"):
        run(tmp_path / "empty", tmp_path / "out")
