"""The same scan stored in other ways: masks lie at the same place in the world. On a real CT, with real weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from extras import needs
from toy import REAL_DATA, needs_real_data

from nnkd.cli.predict_teachers import main
from nnkd.data.dataset import write_dataset_json

ORGANS = {"spleen": 1, "liver": 5, "pancreas": 10}
SLICES = 2


def turned(image: sitk.Image, degrees: float) -> sitk.Image:
    """The same voxels in an oblique scan."""
    angle = math.radians(degrees)
    tilt = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    found = sitk.Image(image)
    found.SetDirection((tilt @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return found


STORED = {
    "straight": lambda image: image,
    "flipped": lambda image: sitk.Flip(image, [True, False, True]),
    "permuted": lambda image: sitk.PermuteAxes(image, [2, 0, 1]),
    "both": lambda image: sitk.Flip(sitk.PermuteAxes(image, [1, 2, 0]), [False, True, True]),
    "oblique": lambda image: turned(image, 12),
}


@pytest.mark.heavy
@needs("litemedsam")
@needs_real_data("trunk_ct")
def test_however_a_scan_is_stored_its_masks_lie_at_the_same_place(nnunet_folders):
    names = {"ct": "ct", "masks": "totalsegmentator_v1_full"}
    read = {
        k: sitk.DICOMOrient(sitk.ReadImage(str(REAL_DATA / "trunk_ct" / f"{n}.nii.gz")), "LPS")
        for k, n in names.items()
    }
    masks = sitk.GetArrayFromImage(read["masks"])
    labels = np.zeros_like(masks)
    for value, number in enumerate(ORGANS.values(), 1):
        labels[masks == number] = value
    first = int((labels == 3).sum(axis=(1, 2)).argmax()) - SLICES // 2
    read["masks"] = sitk.GetImageFromArray(labels)
    read["masks"].CopyInformation(read["ct"])
    raw = nnunet_folders / "nnUNet_raw" / "Dataset707_Stored"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for name, store in STORED.items():
        for file, image in (("imagesTr/{}_0000", read["ct"]), ("labelsTr/{}", read["masks"])):
            cut = image[:, :, first : first + SLICES]
            sitk.WriteImage(store(cut), str(raw / f"{file.format(name)}.nii.gz"))
    spec = {"background": 0, **{organ: value for value, organ in enumerate(ORGANS, 1)}}
    write_dataset_json(raw, ["CT"], spec, ".nii.gz", len(STORED))
    assert main(["-d", "707", "-t", "litemedsam", "--boxes-from", "labels", "-device", "cpu"]) == 0
    found = {}
    for name in STORED:
        answer = sitk.ReadImage(str(raw / "teachersTr" / "litemedsam" / f"{name}.nii.gz"))
        if name == "oblique":
            answer.SetDirection(read["ct"].GetDirection())
        found[name] = sitk.GetArrayFromImage(sitk.DICOMOrient(answer, "LPS"))
    assert set(np.unique(found["straight"])) == {0, 1, 2, 3}
    for name, array in found.items():
        np.testing.assert_array_equal(array, found["straight"], err_msg=name)
