"""nnKD_predict on a clinic's export: series in, label maps and DICOM-SEG out, and nobody's data beside the latter."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import dicom_toys as toys
import nibabel as nib
import numpy as np
import pydicom
import pytest
from extras import needs
from trained import trained

from nnkd.cli.predict import main
from nnkd.data.predictions import PredictionFolder
from nnkd.data.reading.dicom import segmentations, volumes

pytestmark = [pytest.mark.heavy, needs("dicom", "highdicom")]
TILT = np.deg2rad(15)
PERSON = ("Muster", "geheim77", "19500607")


def predict(images: Path, target: Path, model: Path, *more: object) -> int:
    words = ["-i", images, "-o", target, "-m", model, "-f", 0, "-device", "cpu", "-npp", 0, "-nps", 0, *more]
    return main([str(w) for w in words])


def scan(folder: Path, uid: int, **more: object) -> list[Path]:
    array = np.random.default_rng(uid).integers(-500, 500, (6, 20, 22)).astype(np.int16)
    tags = {"PatientName": "Muster^Anna", "PatientID": "geheim77", "PatientBirthDate": "19500607",
            "SeriesNumber": uid, "SeriesDescription": f"body {uid}"}  # fmt: skip
    positions = toys.line(6)[::-1]
    return toys.slices(folder, array, positions, series_uid=f"{toys.ROOT}.9.{uid}", **{"tags": tags, **more})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two CT series, one of them tilted, and an MR series, in a folder of the patient's name."""
    folder = tmp_path / "Muster_Anna"
    scan(folder / "a", 1)
    scan(folder / "b", 2, orientation=(1, 0, 0, 0, np.cos(TILT), -np.sin(TILT)))
    scan(folder / "c", 3, modality="MR")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return trained(tmp_path / "model", spacing=(1.3, 0.9))


def images_of(study: Path) -> dict[str, volumes.DicomImage]:
    return {f"case_{n:04d}": volumes.read(sorted((study / name).iterdir())) for n, name in ((1, "a"), (2, "b"))}


def test_label_maps_and_segs_of_a_study(study, model, tmp_path, caplog, capsys):
    caplog.set_level("INFO", "nnkd")
    out, plain = tmp_path / "out", tmp_path / "plain"
    assert predict(study, out, model, "--format", "nifti", "dicomseg") == 0
    assert "case_0001 is series 1 CT 'body 1', 6 slices" in caplog.text
    assert "another modality" in capsys.readouterr().out.splitlines()[-1]
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "case_0001.dcm", "case_0001.nii.gz", "case_0002.dcm", "case_0002.nii.gz", "dataset.json", "manifest.json",
        "plans.json",
    ]  # fmt: skip
    (tmp_path / "images").mkdir()
    for case, image in images_of(study).items():  # the same as from NIfTI
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.grid.affine
        nib.save(nib.Nifti1Image(image.array[0].T, affine), tmp_path / "images" / f"{case}_0000.nii.gz")
    assert predict(tmp_path / "images", plain, model) == 0
    for case, image in images_of(study).items():
        stored = nib.load(out / f"{case}.nii.gz")
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stored.affine
        assert np.abs(lps - image.grid.affine).max() < 1e-4
        label_map = np.asarray(stored.dataobj).T
        assert set(np.unique(label_map)) > {0}
        assert np.array_equal(np.asarray(nib.load(plain / f"{case}.nii.gz").dataobj).T, label_map)
        back = segmentations.read(out / f"{case}.dcm", image, {"liver": 1, "spleen": 2})
        assert np.array_equal(image.to_frames(back.array[0]), image.to_frames(label_map))
    ds = pydicom.dcmread(out / "case_0001.dcm")
    assert ds.PatientID == "geheim77"
    assert ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "nnUNetTrainer"


def test_nothing_but_the_seg_names_the_patient(study, model, tmp_path):
    (study / "a" / "Muster_Anna_99.dcm").write_bytes(b"cut short" * 60)
    out = tmp_path / "out"
    assert predict(study, out, model, "--format", "nifti", "dicomseg") == 3
    assert "case_0001" in json.loads((out / "manifest.json").read_text())["failures"]
    for file in out.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        if file.suffix == ".dcm":
            assert b"geheim77" in content
            continue
        assert not any(word.encode() in content for word in PERSON), file.name
        assert f"{toys.ROOT}.9".encode() not in content, file.name
    assert not list(out.glob(".writing-*"))


def test_a_zip_and_segs_alone_and_continuing(study, model, tmp_path, capsys):
    archive = Path(shutil.make_archive(str(tmp_path / "export"), "zip", study))
    out = tmp_path / "out"
    words = ("--format", "dicomseg", "--series", "body*1", "--c")
    assert predict(archive, out, model, *words) == 0
    assert [p.name for p in out.glob("case*")] == ["case_0001.dcm"]
    assert "1 case(s) predicted, 0 were there already" in capsys.readouterr().out
    before = (out / "case_0001.dcm").read_bytes()
    assert predict(archive, out, model, *words) == 0
    assert "0 case(s) predicted, 1 were there already" in capsys.readouterr().out
    assert (out / "case_0001.dcm").read_bytes() == before
    (out / "case_0001.dcm").unlink()
    (out / ".writing-1-dicom").mkdir()  # what a killed run left
    assert predict(archive, out, model, *words) == 0
    assert (out / "case_0001.dcm").is_file()
    assert not list(out.glob(".writing-*"))
    assert PredictionFolder(out).manifest().file_ending == ".dcm"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--format", "dicomseg"], "--format dicomseg goes with DICOM"), (["--series", "x"], "--series goes with DICOM"),
     (["--dicom_modality", "CT"], "--dicom_modality goes"), (["--segment_codes", "x"], "--segment_codes goes")],
)  # fmt: skip
def test_what_only_dicom_has(study, model, tmp_path, capsys, words, sentence):
    image = volumes.read(sorted((study / "a").iterdir()))
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(image.array[0].T, np.eye(4)), tmp_path / "images" / "x_0000.nii.gz")
    assert predict(tmp_path / "images", tmp_path / "out", model, *words) == 1
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_predicted(study, model, tmp_path, capsys):
    def refused(source: Path, model: Path, *words: str) -> str:
        assert predict(source, tmp_path / "no", model, *words) == 1
        assert not (tmp_path / "no").exists()
        return capsys.readouterr().err

    two = trained(tmp_path / "two", channels=("T1", "FLAIR"))
    assert "sees 2 channels (T1, FLAIR)" in refused(study, two)
    assert "No series has the modality 'US'" in refused(study, model, "--dicom_modality", "US")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    assert "is broken or no archive" in refused(tmp_path / "broken.zip", model)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scan.nii.gz").write_bytes(b"")
    assert "No image named CASE_0000.nii.gz" in refused(tmp_path / "other", model)
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("read.txt", "me")
    assert "holds no image and no DICOM series" in refused(tmp_path / "text.zip", model)
