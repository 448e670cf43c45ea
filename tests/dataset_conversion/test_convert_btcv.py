from __future__ import annotations

import zipfile
from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.btcv import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.errors import FolderError

ORGANS = [
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal vein and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
]


@pytest.fixture
def abdomen(tmp_path: Path) -> Path:
    raw = tmp_path / "Abdomen" / "RawData"
    for number in (1, 10):
        made_up.volume(raw / "Training" / "img" / f"img{number:04d}.nii.gz", seed=number)
        made_up.volume(raw / "Training" / "label" / f"label{number:04d}.nii.gz", made_up.labels(range(14), seed=number))
    made_up.volume(raw / "Testing" / "img" / "img0061.nii.gz")
    return raw.parent


def test_labels_and_splits(abdomen, nnunet_folders):
    assert main([str(abdomen), "-d", "725", "-n", "BTCV"]) == 0
    dataset = RawDataset.open(725)
    assert (dataset.images().cases(), dataset.images("Ts").cases()) == (["img0001", "img0010"], ["img0061"])
    assert dataset.spec.labels == {name: (k,) for k, name in enumerate(ORGANS, start=1)}
    label_map = dataset.spec.read_label_map(dataset.label_file("img0010"))[0]
    np.testing.assert_array_equal(label_map, made_up.labels(range(14), seed=10))


def test_the_archive(abdomen, nnunet_folders):
    with zipfile.ZipFile(abdomen.parent / "RawData.zip", "w") as archive:
        for file in (abdomen / "RawData").rglob("*.nii.gz"):
            archive.write(file, file.relative_to(abdomen))
    assert convert(abdomen.parent / "RawData.zip", "Dataset725_BTCV").data["labelsTr"] == 2


def test_a_missing_mask_and_a_wrong_layout(abdomen, nnunet_folders):
    (abdomen / "RawData" / "Training" / "label" / "label0001.nii.gz").unlink()
    report = convert(abdomen / "RawData", "Dataset725_BTCV")
    assert (report.done, [failure.case for failure in report.failures]) == (["img0010", "img0061"], ["img0001"])
    with pytest.raises(FolderError, match="has no Training/img"):
        convert(abdomen / "RawData" / "Testing", "Dataset726_BTCV")
