from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.data.dataset import RawDataset
from nnkd.data.reading.nifti import check_whole
from nnkd.errors import DatasetError


def volume(file: Path, shape=(6, 7, 8), dtype=np.int16, kind=nib.Nifti1Image) -> bytes:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    nib.save(kind(array, np.eye(4), dtype=dtype), file)
    return file.read_bytes()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 8), (6, 7, 8, 2)])
def test_whole_files_pass_and_truncated_ones_do_not(tmp_path, ending, kind, shape):
    file = tmp_path / f"a{ending}"
    content = volume(file, shape, kind=kind)
    check_whole(file)
    file.write_bytes(content[:-20])
    with pytest.raises(DatasetError, match=r"'a\.nii.* is truncated"):
        check_whole(file)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 0.999))
def test_no_truncation_passes(tmp_path_factory, share):
    file = tmp_path_factory.mktemp("cut") / "a.nii.gz"
    content = volume(file)
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DatasetError):
        check_whole(file)


def test_several_gzip_members_and_bytes_behind_the_voxels_pass(tmp_path):
    plain = tmp_path / "a.nii"
    content = volume(plain)
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    check_whole(file)
    file.write_bytes(gzip.compress(content + b"more"))
    check_whole(file)


def test_big_endian_header(tmp_path):
    file = tmp_path / "a.nii"
    array = np.zeros((4, 5, 6), ">i2")
    nib.save(nib.Nifti1Image(array, np.eye(4), nib.Nifti1Header(endianness=">")), file)
    check_whole(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="truncated"):
        check_whole(file)


def test_other_formats_pass_and_no_nifti_does_not(tmp_path):
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(tmp_path / "a.nrrd"))
    check_whole(tmp_path / "a.nrrd")
    (tmp_path / "b.nii.gz").write_text("hello, I am a text")
    with pytest.raises(DatasetError, match="no NIfTI file"):
        check_whole(tmp_path / "b.nii.gz")


def test_a_dataset_refuses_a_truncated_image(dataset: RawDataset):
    file = dataset.images().files("toy_001")[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # ITK alone would read zeros
    with pytest.raises(DatasetError, match="in imagesTr is truncated"):
        dataset.images().read("toy_001")
