"""Tests of nnkd.preprocessing.planning; tests of the step see most of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from toy import toy_dataset

from nnkd.errors import DatasetError
from nnkd.preprocessing import planning


@pytest.mark.parametrize("value", [np.inf, 1e300])
def test_an_infinite_voxel_in_the_fingerprint_is_named_and_goes(tmp_path, value):
    """nnU-Net's extractor counts it in: intensities of all cases would be normalised by it."""
    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=2, ending=".mha")
    file = dataset.images().files("toy_001")[0]
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float64)
    array[0, 1, 2] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    fingerprint = tmp_path / "dataset_fingerprint.json"
    properties = {"0": {"mean": 100.0, "std": 1.0, "max": 200.0}}
    fingerprint.write_text(json.dumps({"foreground_intensity_properties_per_channel": properties}))
    planning._check_statistics(dataset, tmp_path, ["toy_000", "toy_001"])
    assert fingerprint.is_file()
    properties["0"]["max"] = np.inf
    fingerprint.write_text(json.dumps({"foreground_intensity_properties_per_channel": properties}))
    with pytest.raises(DatasetError, match=r"'toy_001_0000.mha' in imagesTr holds 1 voxel .*at x 2, y 1, z 0"):
        planning._check_statistics(dataset, tmp_path, ["toy_000", "toy_001"])
    assert not fingerprint.is_file()
