from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.acdc import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import participants_of_cases
from nnkd.errors import FolderError


@pytest.fixture
def database(tmp_path: Path) -> Path:
    root = tmp_path / "ACDC" / "database"
    for part, patient, end in (
        ("training", "patient001", 12),
        ("training", "patient002", 9),
        ("testing", "patient101", 14),
    ):
        folder = root / part / patient
        made_up.volume(folder / f"{patient}_4d.nii.gz", np.zeros((3, 5, 6, 7), np.int16))
        for frame in (1, end):
            made_up.volume(folder / f"{patient}_frame{frame:02d}.nii.gz", seed=frame)
            made_up.volume(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", made_up.labels((0, 1, 2, 3), seed=frame))
        (folder / "Info.cfg").write_text(f"ED: 1\nES: {end}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    (root / "MANDATORY_CITATION.md").write_text("")
    return root


def test_frames_labels_and_participants(database, nnunet_folders):
    (database / "training" / "patient002" / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: NOR\nHeight: 0\nWeight: 70\n")
    assert main([str(database.parent), "-d", "727", "-n", "ACDC"]) == 0
    dataset = RawDataset.open(727)
    training = [f"patient{p}_frame{f}" for p, f in (("001", "01"), ("001", "12"), ("002", "01"), ("002", "09"))]
    assert dataset.images().cases() == training
    assert dataset.images("Ts").cases() == ["patient101_frame01", "patient101_frame14"]
    assert dataset.spec.labels == {"RV": (1,), "MYO": (2,), "LV": (3,)}
    label_map = dataset.spec.read_label_map(dataset.label_file("patient001_frame12"))[0]
    np.testing.assert_array_equal(label_map, made_up.labels((0, 1, 2, 3), seed=12))
    people = participants_of_cases(dataset.folder, training, required=True)
    assert [person.identifier for person in people.values()] == ["patient001"] * 2 + ["patient002"] * 2
    first, second = people[training[0]], people[training[2]]
    assert first.bmi == pytest.approx(95 / 1.84**2, abs=0.05)
    assert dict(first.attributes) == {"group": "DCM", "height": "184.0", "weight": "95.0"}
    assert second.bmi is None  # nobody is 0 cm tall


def test_what_is_missing_fails_the_case(database, nnunet_folders):
    (database / "training" / "patient001" / "patient001_frame12.nii.gz").unlink()
    (database / "training" / "patient002" / "patient002_frame09_gt.nii.gz").unlink()
    (database / "testing" / "patient101" / "Info.cfg").unlink()
    report = convert(database, "Dataset727_ACDC")
    reasons = {failure.case: failure.reason for failure in report.failures}
    assert report.done == ["patient001_frame01", "patient002_frame01"]
    assert set(reasons) == {"patient001_frame12", "patient002_frame09", "patient101"}
    assert "is missing" in reasons["patient001_frame12"]
    assert "no label map" in reasons["patient002_frame09"]
    assert "ED and ES" in reasons["patient101"]


def test_a_wrong_layout(database, nnunet_folders):
    with pytest.raises(FolderError, match="has no training, so it is not ACDC as published"):
        convert(database / "training", "Dataset727_ACDC")
