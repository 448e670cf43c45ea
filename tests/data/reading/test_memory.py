"""nnkd.data.reading.memory: what is announced, and what becomes of it once resampled, before memory is taken."""

from __future__ import annotations

import gzip
import zlib
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnkd import limits
from nnkd.data.reading import formats, nifti, pictures, readers
from nnkd.data.reading.memory import check_resampled
from nnkd.data.reading.readers import reader_of
from nnkd.errors import DatasetError

META = """ObjectType = Image
NDims = 3
BinaryData = True
CompressedData = True
DimSize = {}
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


def lying(file, *shape):
    """A header that announces a shape, with a thousand bytes behind it."""
    file.write_bytes(META.format(" ".join(map(str, shape))).encode() + zlib.compress(b"\0" * 1000))
    return file


@pytest.mark.parametrize(
    ("shape", "says"),
    [((10_000,) * 3, "NNKD_MAX_MEMORY"), ((2000, 2000, 2000), "NNKD_MAX_RATIO"), ((0, 10, 10), "no voxel")],
)
def test_a_header_that_announces_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch, shape, says):
    monkeypatch.setenv("NNKD_MAX_MEMORY", "64")
    file = lying(tmp_path / "a.mha", *shape)
    for read in (formats.read, lambda f: reader_of({"file_ending": ".mha"}, "Toy").read_images([f])):
        with pytest.raises(DatasetError, match=says):
            read(file)


def test_a_limit_of_memory_holds_for_whole_files_too(tmp_path, monkeypatch):
    file = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.Image(500, 500, 300, sitk.sitkUInt8), str(file))
    monkeypatch.setenv("NNKD_MAX_MEMORY", "0.2")
    with pytest.raises(DatasetError, match=r"takes 0\.2794 GiB, but 0\.2 GiB are there"):
        formats.read(file)
    monkeypatch.setenv("NNKD_MAX_MEMORY", "0.3")
    assert formats.read(file).array.shape == (1, 300, 500, 500)


def test_a_picture_over_the_limit_names_what_raises_it(tmp_path, monkeypatch):
    sitk.WriteImage(sitk.Image(1100, 1000, sitk.sitkUInt8), str(tmp_path / "a.png"))
    monkeypatch.setenv("NNKD_MAX_PIXELS", "1")
    for look in (formats.read, pictures.form_of):
        with pytest.raises(DatasetError, match="NNKD_MAX_PIXELS"):
            look(tmp_path / "a.png")
    monkeypatch.setenv("NNKD_MAX_PIXELS", "2")
    assert formats.read(tmp_path / "a.png").array.shape == (1, 1, 1000, 1100)


def managers(spacing):
    return SimpleNamespace(spacing=spacing), SimpleNamespace(transpose_forward=[0, 1, 2])


@pytest.mark.parametrize("target", [[1e-6, 1.0, 1.0], [1e-6, 1e-6]], ids=["3d", "2d"])
def test_a_case_that_would_not_fit_once_resampled_is_refused(target):
    array = np.ones((1, 8, 100, 100), np.float32)
    with pytest.raises(DatasetError, match=r"'toy' with a spacing of 1 x 1 x 1 mm becomes .* --max_memory"):
        check_resampled(array, (1.0, 1.0, 1.0), *managers(target), "'toy'")


def test_what_is_cropped_away_does_not_count(monkeypatch):
    array = np.zeros((1, 100, 100, 100), np.float32)
    array[:, 40:50, 40:50, 40:50] = 1
    monkeypatch.setenv("NNKD_MAX_MEMORY", str(10**3 * 12 * 1.01 / limits.GIB))
    check_resampled(array, (1.0, 1.0, 1.0), *managers([1.0, 1.0, 1.0]), "'toy'")
    with pytest.raises(DatasetError):
        check_resampled(array, (1.0, 1.0, 1.0), *managers([1.0, 1.0, 0.9]), "'toy'")


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (np.inf, 1.0, 1.0), (1.0,) * 5])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(DatasetError, match="three numbers above 0"):
        check_resampled(np.ones((1, 4, 4, 4), np.float32), spacing, *managers([1.0, 1.0, 1.0]), "'toy'")


@pytest.mark.parametrize("door", [formats.read, readers._check_there])
def test_what_unpacks_to_far_more_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, door):
    header = nibabel.Nifti1Header()
    header.set_data_shape((1500, 1500, 1500))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(header.binaryblock + bytes(4)) + gzip.compress(bytes(1 << 20)))
    monkeypatch.setattr(nifti, "check_whole", lambda _: pytest.fail("unpacked"))
    with pytest.raises(DatasetError, match="unpacks to 3"):
        door(file)
