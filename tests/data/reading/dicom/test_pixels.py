"""nnkd.data.reading.dicom.pixels: stored values -> measurements, against pydicom's and ITK's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import dicom_toys as toys
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_rescale
from pydicom.uid import JPEG2000Lossless, RLELossless

from nnkd.data.reading.dicom.volumes import read
from nnkd.errors import DatasetError

Z = toys.line(6)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32]),
    slopes=st.lists(st.sampled_from([1, 2, 0.5, 0.25, 0.1, 2.25, 1e-3]), min_size=3, max_size=3),
    intercepts=st.lists(st.sampled_from([0, -1024, 0.5, 3]), min_size=3, max_size=3),
)
def test_each_slice_has_its_own_slope_as_pydicom_computes_it(tmp_path_factory, kind, slopes, intercepts):
    ends = np.iinfo(kind)
    stored = np.random.default_rng(0).integers(ends.min // 2, ends.max // 2, (3, 4, 5)).astype(kind)
    files = toys.slices(tmp_path_factory.mktemp("s"), stored, Z[:3], slopes=slopes, intercepts=intercepts)
    image = read(files)
    for k, file in enumerate(files):
        ds = pydicom.dcmread(file)
        np.testing.assert_allclose(image.array[0, k], apply_rescale(ds.pixel_array, ds), rtol=1e-6, atol=1e-4)
    whole = all(float(v).is_integer() for v in (*slopes, *intercepts))
    assert image.array.dtype.kind == ("i" if whole else "f")


@pytest.mark.parametrize(
    ("kind", "slope", "intercept", "wanted"),
    [
        (np.uint16, 1, -1024, np.int32),  # 60000 does not fit into 16 bits
        (np.int16, 1, 0, np.int16),
        (np.int16, 3, 0, np.int32),
        (np.int16, 0.5, 0, np.float32),
        (np.int16, 1, 0.5, np.float32),
        (np.uint8, 1, -1024, np.int16),
    ],
)
def test_integers_stay_integers_where_they_fit(tmp_path, kind, slope, intercept, wanted):
    stored = np.arange(24).reshape(2, 3, 4).astype(kind)
    stored[0, 0, 0] = {np.uint16: 60000, np.int16: 30000, np.uint8: 255}[kind]
    image = read(toys.slices(tmp_path, stored, Z[:2], slopes=[slope] * 2, intercepts=[intercept] * 2, modality="MR"))
    assert image.array.dtype == wanted
    np.testing.assert_array_equal(image.array[0], stored.astype(float) * slope + intercept)


def padded(folder, value, stored_padding, modality="CT", intercept=0, **tags):
    """A series whose first column is padding; everything else is odd, from -899 to 899."""
    stored = 2 * np.random.default_rng(0).integers(-450, 450, (6, 8, 9)).astype(np.int16) + 1
    stored[:, :, 0] = stored_padding
    tags = {"PixelPaddingValue": value, **tags}
    files = toys.slices(folder, stored, Z, modality=modality, intercepts=[intercept] * 6, tags=tags)
    return stored, read(files)


@pytest.mark.parametrize("intercept", [0, -1024])
@pytest.mark.parametrize("padding", [-2000, 0, 3000])
def test_padding_of_a_ct_becomes_air(tmp_path, padding, intercept):
    stored, image = padded(tmp_path, padding, padding, intercept=intercept)
    np.testing.assert_array_equal(image.array[0, :, :, 1:], stored[:, :, 1:] + intercept)
    np.testing.assert_array_equal(image.array[0, :, :, 0], -1024)
    if padding + intercept == -1024:  # it was right
        assert image.said == ()
    else:
        assert image.said == ("padding (11 % of the voxels) has no measurement and was put to -1024",)


def test_padding_elsewhere_becomes_the_lowest_measurement(tmp_path):
    stored, image = padded(tmp_path, -32768, -32768, "MR")
    np.testing.assert_array_equal(image.array[0, :, :, 0], stored[:, :, 1:].min())
    assert "padding (11 % of the voxels)" in image.said[0]
    stored, image = padded(tmp_path / "zero", 0, 0, "MR")
    np.testing.assert_array_equal(image.array[0], stored)
    assert image.said == ()


def test_padding_ranges_and_values_without_their_sign(tmp_path):
    _, image = padded(tmp_path, -2000, -1500, PixelPaddingRangeLimit=-1000)
    np.testing.assert_array_equal(image.array[0, :, :, 0], -1024)
    (file, *_) = files = toys.slices(tmp_path / "u", np.full((6, 8, 9), -2000, np.int16), Z)
    for file in files:
        ds = pydicom.dcmread(file)
        ds.add_new("PixelPaddingValue", "US", 63536)  # -2000 as 16 bits without a sign
        ds.PixelData = np.where(np.arange(72) < 3, -2000, 50).astype("<i2").tobytes()
        toys.save(ds, file)
    image = read(files)
    assert np.unique(image.array).tolist() == [-1024, 50]


def test_a_ct_without_slope_and_intercept_is_told(tmp_path):
    stored = toys.noise() + 1024
    image = read(toys.slices(tmp_path, stored, Z, tags={"RescaleSlope": None, "RescaleIntercept": None}))
    np.testing.assert_array_equal(image.array[0], stored)
    assert "no RescaleSlope and RescaleIntercept" in image.said[0]
    assert f"({stored.min()} to {stored.max()})" in image.said[0]
    image = read(toys.slices(tmp_path / "offset", stored, Z))
    assert image.said == (
        f"its lowest value is {stored.min()}, but air has -1000 HU: these may be no Hounsfield units",
    )
    image = read(toys.slices(tmp_path / "mr", stored, Z, modality="MR", tags={"RescaleSlope": None}))
    assert image.said == ()


def test_a_modality_lut_is_looked_up(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [4, 0, 16], "US"
    item.add_new("LUTData", "US", [5, 50, 500, 5000])
    stored = np.random.default_rng(0).integers(0, 4, (6, 8, 9)).astype(np.uint16)
    tags = {"ModalityLUTSequence": [item], "RescaleSlope": None, "RescaleIntercept": None}
    image = read(toys.slices(tmp_path, stored, Z, modality="MR", tags=tags))
    np.testing.assert_array_equal(image.array[0], np.array([5, 50, 500, 5000])[stored])
    assert image.said == ("stored values were looked up in its modality LUT",)


def test_monochrome1_keeps_its_values_where_they_are_measurements(tmp_path):
    image = read(toys.slices(tmp_path, toys.noise(), Z, tags={"PhotometricInterpretation": "MONOCHROME1"}))
    np.testing.assert_array_equal(image.array[0], toys.noise())


def test_bits_beyond_those_stored_are_no_values(tmp_path):
    """An old overlay in the upper four bits."""
    values = np.random.default_rng(0).integers(0, 4096, (6, 8, 9)).astype(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11}
    image = read(toys.slices(tmp_path, values | 0x8000, Z, modality="MR", tags=tags))
    np.testing.assert_array_equal(image.array[0], values)


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "693_J2KI"])
def test_itk_gives_stored_values_where_pydicom_has_no_decoder(name, monkeypatch):
    """Also where the file has an intercept: it must not be added twice."""
    file = get_testdata_file(f"{name}.dcm", download=False)
    ds = pydicom.dcmread(file)
    if not pydicom.pixels.get_decoder(ds.file_meta.TransferSyntaxUID).is_available:
        pytest.skip("no decoder to compare with")
    wanted = read([Path(file)])
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    found = read([Path(file)])
    np.testing.assert_array_equal(found.array, wanted.array)
    itk = sitk.GetArrayFromImage(sitk.ReadImage(file))
    real = found.array[0] != -1024  # padding
    np.testing.assert_array_equal(found.array[0][real], itk[real])


def test_a_compressed_series_is_read_and_said_what_to_install_where_it_is_not(tmp_path, monkeypatch):
    files = toys.slices(tmp_path, toys.noise(), Z)
    for file in files:
        ds = pydicom.dcmread(file)
        ds.compress(RLELossless, generate_instance_uid=False)
        toys.save(ds, file)
    np.testing.assert_array_equal(read(files).array[0], toys.noise())
    multi = toys.enhanced(tmp_path / "e" / "e.dcm", toys.noise(), Z)
    ds = pydicom.dcmread(multi)
    ds.compress(RLELossless, generate_instance_uid=False)
    toys.save(ds, multi)
    np.testing.assert_array_equal(read([multi]).array[0], toys.noise())
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    with pytest.raises(DatasetError, match=r'compressed \(RLE Lossless\).* pip install "nnkd\[dicom\]"'):
        read([multi])
    monkeypatch.undo()
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[: len(whole) - 120])
    with pytest.raises(DatasetError, match=f"'{files[2].name}'"):
        read(files)


def test_a_syntax_that_nobody_decodes(tmp_path, monkeypatch):
    file = toys.slices(tmp_path, toys.noise()[:1], Z[:1])[0]
    ds = pydicom.dcmread(file)
    ds.PixelData = pydicom.encaps.encapsulate([b"no picture at all "])
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds["PixelData"].VR = "OB"
    toys.save(ds, file)
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    with pytest.raises(DatasetError, match=r"compressed \(JPEG 2000 Image Compression \(Lossless Only\)\)"):
        read([file])
