"""nnkd.data.reading.dicom.frames: which objects are images, and what their headers must say."""

from __future__ import annotations

import dicom_toys as toys
import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from nnkd.data.reading.dicom.volumes import read
from nnkd.errors import DatasetError, GeometryError

STORAGE = "1.2.840.10008.5.1.4.1.1"
FILM = np.zeros((4, 8, 9), np.uint8)


def other(file, sop_class, modality, pixels=FILM[0], **tags):
    ds = toys.base(sop_class, f"{toys.ROOT}.77", modality, pixels)
    toys.set_all(ds, {"NumberOfFrames": len(pixels) if pixels.ndim > 2 else None, **tags})
    return toys.save(ds, file)


@pytest.mark.parametrize(
    ("sop_class", "modality", "pixels", "tags", "message"),
    [
        (toys.SEG, "SEG", FILM, {}, "is a segmentation. Give it as a mask"),
        (toys.RTDOSE, "RTDOSE", FILM, {}, r"a dose distribution \(RTDOSE\)"),
        (f"{STORAGE}.30", "OT", FILM, {}, "a parametric map"),
        (f"{STORAGE}.77.1.6", "SM", np.zeros((4, 8, 9, 3), np.uint8), {}, "a microscope slide"),
        (f"{STORAGE}.481.3", "RTSTRUCT", FILM[0], {"PixelData": None, "Rows": None}, "no image but RT Structure Set"),
        (f"{STORAGE}.88.33", "SR", FILM[0], {"PixelData": None, "Rows": None}, "no image but Comprehensive SR Storage"),
        (f"{STORAGE}.11.1", "PR", FILM[0], {"PixelData": None, "Rows": None}, "Presentation State"),
        (toys.CT, "CT", FILM[0], {"PixelData": None}, "has no pixels. It is cut short"),
        (toys.ULTRASOUND_FILM, "US", np.zeros((4, 8, 9, 3), np.uint8), {}, "film of 4 frames, and in colour"),
        (toys.SECONDARY, "OT", np.zeros((1, 8, 9, 3), np.uint8), {}, "in colour .*RGB.* Export it as png"),
        (toys.CT, "CT", FILM[0], {"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        (toys.ANGIOGRAM, "XA", FILM, {"FrameTime": 33}, r"film of 4 frames \(X-Ray Angiographic Image Storage\)"),
        (toys.SECONDARY, "OT", FILM[0], {}, "does not say where it lies: its ImagePositionPatient has 0 of 3"),
        (f"{STORAGE}.20", "NM", FILM, {}, "film of 4 frames"),
    ],
)  # fmt: skip
def test_what_is_no_volume_says_what_it_is(tmp_path, sop_class, modality, pixels, tags, message):
    with pytest.raises(DatasetError, match=message):
        read([other(tmp_path / "x.dcm", sop_class, modality, pixels, **tags)])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "Siemens mosaic .*dcm2niix"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localizer"),
        ({"ImagePositionPatient": None}, "its ImagePositionPatient has 0 of 3"),
        ({"ImageOrientationPatient": None}, "its ImageOrientationPatient has 0 of 6"),
        ({"PixelSpacing": None}, "its PixelSpacing has 0 of 2"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing of InstanceNumber 1 .* is not positive"),
        ({"RescaleSlope": 0}, "RescaleSlope of InstanceNumber 1 .* is 0"),
        ({"HighBit": 14, "BitsStored": 12}, "12 bits below bit 14"),
    ],
)
def test_a_slice_that_lies_nowhere_or_means_nothing_is_refused(tmp_path, tags, message):
    with pytest.raises(DatasetError, match=message):
        read(toys.slices(tmp_path, toys.noise(), toys.line(6), tags=tags))


@pytest.mark.parametrize("group", ["PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"])
def test_a_functional_group_that_lacks_is_named(tmp_path, group):
    file = toys.enhanced(tmp_path / "e.dcm", toys.noise(), toys.line(6))
    ds = pydicom.dcmread(file)
    for item in (*ds.SharedFunctionalGroupsSequence, *ds.PerFrameFunctionalGroupsSequence):
        toys.set_all(item, {group: None})
    with pytest.raises(GeometryError, match=rf"does not say where it lies: .*\({group}\)"):
        read([toys.save(ds, file)])


def test_groups_for_fewer_frames_than_there_are(tmp_path):
    file = toys.enhanced(tmp_path / "e.dcm", toys.noise(), toys.line(6))
    ds = pydicom.dcmread(file)
    del ds.PerFrameFunctionalGroupsSequence[5]
    with pytest.raises(DatasetError, match="describes 5 of its 6 frames"):
        read([toys.save(ds, file)])


def test_files_without_preamble_and_transfer_syntax_are_read(tmp_path):
    files = toys.slices(tmp_path, toys.noise(), toys.line(6))
    for file in files:
        ds = pydicom.dcmread(file)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(file, enforce_file_format=True, implicit_vr=True, little_endian=True)
        whole = file.read_bytes()
        start = 132 + 12 + int.from_bytes(whole[140:144], "little")
        file.write_bytes(whole[start:])
    np.testing.assert_array_equal(read(files).array[0], toys.noise())


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "a.dcm").write_text("hello " * 300)
    with pytest.raises(DatasetError, match=r"'a.dcm' in .* is no DICOM image"):
        read([tmp_path / "a.dcm"])


def test_a_secondary_capture_that_says_where_it_lies_is_read_and_told(tmp_path):
    image = read(toys.slices(tmp_path, toys.noise(), toys.line(6), modality="OT"))
    np.testing.assert_array_equal(image.array[0], toys.noise())
    assert image.said == ("it is a secondary capture: its values may be no measurements",)
