from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.flare22 import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.errors import FolderError

ORGANS = [
    "liver",
    "right kidney",
    "spleen",
    "pancreas",
    "aorta",
    "inferior vena cava",
    "right adrenal gland",
    "left adrenal gland",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "left kidney",
]


@pytest.fixture
def flare(tmp_path: Path) -> Path:
    folder = tmp_path / "FLARE2022"
    labelled = folder / "Training" / "FLARE22_LabeledCase50"
    for number in (1, 2):
        made_up.volume(labelled / "images" / f"FLARE22_Tr_{number:04d}_0000.nii.gz")
        made_up.volume(labelled / "labels" / f"FLARE22_Tr_{number:04d}.nii.gz", made_up.labels(range(14), seed=number))
    made_up.volume(folder / "Training" / "FLARE22_UnlabeledCase1-1000" / "Case_00001_0000.nii.gz")
    made_up.volume(folder / "Tuning" / "images" / "FLARETs_0001_0000.nii.gz", seed=1)
    made_up.volume(folder / "Tuning" / "labels" / "FLARETs_0001.nii.gz", made_up.labels(range(14)))
    made_up.volume(folder / "Testing" / "FLARETs_0001_0000.nii.gz", seed=2)
    return folder


def test_labels_and_splits(flare, nnunet_folders, capsys):
    assert main([str(flare), "-d", "726", "-n", "FLARE"]) == 0
    assert "1 files of Testing were left out" in capsys.readouterr().out
    dataset = RawDataset.open(726)
    assert dataset.images().cases() == ["Case_00001", "FLARE22_Tr_0001", "FLARE22_Tr_0002"]
    assert dataset.images("Ts").cases() == ["FLARETs_0001"]
    assert not dataset.label_file("Case_00001").exists()
    assert dataset.spec.labels == {name: (k,) for k, name in enumerate(ORGANS, start=1)}
    label_map = dataset.spec.read_label_map(dataset.label_file("FLARE22_Tr_0002"))[0]
    np.testing.assert_array_equal(label_map, made_up.labels(range(14), seed=2))
    tuning = dataset.images("Ts").read("FLARETs_0001")[0]
    np.testing.assert_array_equal(tuning[0], np.random.default_rng(1).integers(-1000, 1000, (5, 6, 7)))


def test_pseudo_labels_are_no_manual_labels(flare, nnunet_folders):
    made_up.volume(flare / "pseudo" / "Case_00001.nii.gz", made_up.labels(range(14)))
    report = convert(flare, "Dataset726_FLARE")
    assert any("nobody's manual labels" in line for line in report.lines)
    assert not RawDataset.open(726).label_file("Case_00001").exists()


def test_a_missing_mask_and_a_wrong_layout(flare, nnunet_folders):
    (flare / "Training" / "FLARE22_LabeledCase50" / "labels" / "FLARE22_Tr_0001.nii.gz").unlink()
    assert [failure.case for failure in convert(flare, "Dataset726_FLARE").failures] == ["FLARE22_Tr_0001"]
    with pytest.raises(FolderError, match="so it is not FLARE22 as published"):
        convert(flare / "Tuning" / "labels", "Dataset727_FLARE")
