from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.word import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.errors import FolderError

ORGANS = [
    "liver",
    "spleen",
    "left_kidney",
    "right_kidney",
    "stomach",
    "gallbladder",
    "esophagus",
    "pancreas",
    "duodenum",
    "colon",
    "intestine",
    "adrenal",
    "rectum",
    "bladder",
    "Head_of_femur_L",
    "Head_of_femur_R",
]


@pytest.fixture
def word(tmp_path: Path) -> Path:
    folder = tmp_path / "WORD-V0.1.0"
    for split, number in {"Tr": 2, "Val": 1, "Ts": 14}.items():
        made_up.volume(folder / f"images{split}" / f"word_{number:04d}.nii.gz")
        made_up.volume(folder / f"labels{split}" / f"word_{number:04d}.nii.gz", made_up.labels(range(17), seed=number))
    return folder


@pytest.mark.parametrize(
    ("validation", "training", "test"),
    [("train", ["word_0001", "word_0002"], ["word_0014"]), ("test", ["word_0002"], ["word_0001", "word_0014"])],
)
def test_labels_and_splits(word, nnunet_folders, validation, training, test):
    assert main([str(word), "-d", "724", "-n", "WORD", "--validation", validation]) == 0
    dataset = RawDataset.open(724)
    assert (dataset.images().cases(), dataset.images("Ts").cases()) == (training, test)
    assert dataset.spec.labels == {name: (k,) for k, name in enumerate(ORGANS, start=1)}
    label_map = dataset.spec.read_label_map(dataset.label_file("word_0014", "Ts"))[0]
    np.testing.assert_array_equal(label_map, made_up.labels(range(17), seed=14))


def test_a_missing_mask_and_a_wrong_layout(word, nnunet_folders):
    made_up.volume(word / "imagesTr" / "word_0003.nii.gz")
    assert [failure.case for failure in convert(word, "Dataset724_WORD").failures] == ["word_0003"]
    with pytest.raises(FolderError, match="has no imagesTr, so it is not WORD as published"):
        convert(word / "labelsTr", "Dataset725_WORD")
