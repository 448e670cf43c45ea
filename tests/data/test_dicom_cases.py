"""DICOM series as the images of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import dicom_toys as toys
import nibabel as nib
import numpy as np
import pydicom
import pytest
from extras import needs

from nnkd.data.dicom_cases import SEG, DicomRequest, dicom_cases
from nnkd.data.predictions import Lineage, Manifest, Weights
from nnkd.errors import FolderError, GeometryError, SettingError
from nnkd.files import sha256

LABELS = {"liver": [1]}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for number, modality in ((1, "CT"), (2, "CT"), (3, "MR")):
        toys.slices(
            tmp_path / "study" / str(number), toys.noise(seed=number), toys.line(6), modality=modality,
            series_uid=f"{toys.ROOT}.9.{number}",
            tags={"SeriesNumber": number, "SeriesDescription": f"body {number}"},
        )  # fmt: skip
    return tmp_path / "study"


def numbers(study: Path, target: Path, wanted: DicomRequest, **more: object) -> dict[str, int]:
    """The number of each case's series, by the folder it lies in."""
    with dicom_cases(study, target, wanted, **more) as found:
        return {case: int(image.slices[0].file.parent.name) for case, image in found.images.items()}


def test_series_are_numbered_images_while_they_are_needed(study: Path, tmp_path: Path) -> None:
    with dicom_cases(study, tmp_path / "out", DicomRequest(), ("CT",)) as found:
        assert sorted(p.name for p in found.folder.iterdir()) == ["case_0001_0000.nii.gz", "case_0002_0000.nii.gz"]
        hashes = [sha256(p) for p in sorted(found.folder.iterdir())]
        stored = nib.load(found.folder / "case_0001_0000.nii.gz")
        assert np.array_equal(np.asarray(stored.dataobj).T, toys.noise(seed=1))
        assert np.abs(stored.affine[:3, 3] - (-1, -2, 3)).max() < 1e-6
    assert not (tmp_path / "out").exists()
    with dicom_cases(study, tmp_path / "out", DicomRequest(), ("CT",)) as found:  # for continuing
        assert [sha256(p) for p in sorted(found.folder.iterdir())] == hashes


def test_which_series_are_taken(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert numbers(study, out, DicomRequest()) == {"case_0001": 1, "case_0002": 2, "case_0003": 3}
    assert numbers(study, out, DicomRequest(), channels=("CT",)) == {"case_0001": 1, "case_0002": 2}
    assert numbers(study, out, DicomRequest(), channels=("MRI",)) == {"case_0001": 3}
    assert numbers(study, out, DicomRequest(series=("body*3",)), channels=("CT",)) == {"case_0001": 3}
    assert numbers(study, out, DicomRequest(modality="MR"), channels=("T1",)) == {"case_0001": 3}
    assert numbers(study, out, DicomRequest(), part=(1, 2)) == {"case_0002": 2}
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", study))
    assert numbers(archive, out, DicomRequest()) == {"case_0001": 1, "case_0002": 2, "case_0003": 3}
    with pytest.raises(SettingError, match="No series has the UID, number or description 'head'"):
        numbers(study, out, DicomRequest(series=("head",)))


def test_what_cannot_be_read_stops_nobody(study: Path, tmp_path: Path) -> None:
    for file in (study / "1").iterdir():
        ds = pydicom.dcmread(file)
        ds.ImagePositionPatient = [0, 0, 0]
        ds.save_as(file)
    with dicom_cases(study, tmp_path / "out", DicomRequest(), ("CT",)) as found:
        assert ([*found.failed], [*found.images]) == (["case_0001"], ["case_0002"])


@needs("dicom", "highdicom")
def test_series_to_which_no_seg_can_refer_fail_at_once(study: Path, tmp_path: Path) -> None:
    for file in (study / "1").iterdir():
        ds = pydicom.dcmread(file)
        del ds.StudyInstanceUID
        ds.save_as(file)
    with dicom_cases(study, tmp_path / "out", DicomRequest(formats=(SEG,)), ("CT",)) as found:
        assert "lacks StudyInstanceUID" in found.failed["case_0001"]
        assert [*found.images] == ["case_0002"]


@pytest.mark.parametrize(
    ("more", "why"),
    [({"channels": ("T1", "FLAIR")}, "sees 2 channels"), ({"ending": ".png"}, ".png files, but DICOM")],
)  # fmt: skip
def test_models_that_want_something_else(study: Path, tmp_path: Path, more: dict, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        numbers(study, tmp_path / "out", DicomRequest(), **more)


def test_a_folder_without_series(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("text")
    with pytest.raises(FolderError, match="'a' holds no image and no DICOM series"):
        numbers(tmp_path / "a", tmp_path / "out", DicomRequest())
    with pytest.raises(SettingError, match="something else"):
        numbers(tmp_path / "a", tmp_path / "out", DicomRequest(), otherwise=SettingError("something else"))


@needs("dicom", "highdicom")
def test_label_maps_are_filed(study: Path, tmp_path: Path) -> None:
    manifest = Manifest(
        kind="student", name="p", made_by="nnUNetTrainerUNet", labels={"liver": [1]}, file_ending=".nii.gz",
        weights=[Weights(name="a", sha256="ab" * 32, licence="MIT")], lineage=[Lineage(name="t", licence="CC-BY-4.0")],
    )  # fmt: skip
    with dicom_cases(study, tmp_path / "out", DicomRequest(formats=(SEG,)), ("CT",)) as found:
        found = found.made_by(manifest)
        image = nib.load(found.folder / "case_0001_0000.nii.gz")
        file = tmp_path / "case_0001.nii.gz"
        nib.save(nib.Nifti1Image((np.asarray(image.dataobj) > 0).astype(np.uint8), image.affine), file)
        assert found.file_seg("case_0001", file, LABELS) == ()
        assert not file.exists()
        ds = pydicom.dcmread(tmp_path / "case_0001.dcm")
        assert ds.pixel_array.sum() == (toys.noise(seed=1) > 0).sum()
        assert ds.ContentDescription == "Licences: CC-BY-4.0, MIT"
        assert "abab" in ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), 2 * image.affine), file)
        with pytest.raises(GeometryError, match="does not lie on its series"):
            found.file_seg("case_0001", file, LABELS)
