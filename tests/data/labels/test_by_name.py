"""Tests of nnkd.data.labels.by_name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.by_name import FolderLabels, own_dataset_json
from nnkd.errors import DatasetError


def spec_of(labels: dict, **more) -> DatasetSpec:
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **labels}, "file_ending": ".nii.gz"}
    return DatasetSpec({**content, **more}, "Toy")


WANTED = spec_of({"liver": 1, "spleen": 2})


@pytest.mark.parametrize(
    ("place", "folder", "found"),
    [
        ("", "", True),
        ("..", "labelsTr", True),
        ("..", "gt_segmentations", True),
        ("../..", "fold_0/validation", True),
        ("..", "masks", False),
        ("../..", "other/validation", False),
    ],
)
def test_which_dataset_json_counts(tmp_path, place, folder, found):
    folder = tmp_path / folder
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / place / "dataset.json").resolve()
    file.write_text(json.dumps(dict(spec_of({"spleen": 1, "liver": 2}).json)))
    assert own_dataset_json(folder) == (file if found else None)
    labels = FolderLabels.of(folder, WANTED)
    assert labels.source == ("dataset.json" if found else "")
    assert ("by name, spleen 1 for 2, liver 2 for 1" if found else "nothing there says") in labels.line()


@given(st.permutations([1, 2, 3, 4]), st.permutations([1, 2, 3, 4]), st.integers(0, 2**32 - 1))
def test_masks_of_one_name_are_the_same_voxels(own, wanted, seed):
    theirs = spec_of(
        dict(zip("abcx", own, strict=True)),
    )
    mine = spec_of(dict(zip("abcy", wanted, strict=True)))
    label_map = np.random.default_rng(seed).integers(0, 5, (2, 3, 4))
    translated = FolderLabels(mine, theirs, "dataset.json", "folder").translated(label_map)
    for name in "abc":
        np.testing.assert_array_equal(translated == mine.labels[name][0], label_map == theirs.labels[name][0])
    assert not (translated == mine.labels["y"][0]).any()


def test_regions_and_ignored_voxels():
    theirs = spec_of({"whole": [1, 2, 4], "core": [4], "ignore": 5}, regions_class_order=[1, 4])
    wanted = spec_of({"whole": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2])
    label_map = np.array([0, 1, 2, 4, 5])
    translated = FolderLabels(wanted, theirs, "dataset.json", "folder").translated(label_map)
    np.testing.assert_array_equal(translated, [0, 1, 1, 2, 3])


def test_nothing_in_common_or_two_of_one_integer_is_refused(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(dict(spec_of({"Leber": 1}).json)))
    with pytest.raises(DatasetError, match=r"are of Leber .dataset.json.*has liver, spleen"):
        FolderLabels.of(tmp_path, WANTED)
    file.write_text(json.dumps(dict(spec_of({"liver": 1, "spleen": 1}).json)))
    with pytest.raises(DatasetError, match="two labels the same integer"):
        FolderLabels.of(tmp_path, WANTED)
