"""nnkd.data.reading.dicom.volumes: series -> volumes, against pydicom's own words and functions of the world."""

from __future__ import annotations

import dicom_toys as toys
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkd.data.reading.dicom.volumes import DicomImage, read
from nnkd.errors import DatasetError, GeometryError


def said_position(ds: pydicom.Dataset, row: int, column: int) -> np.ndarray:
    """mm LPS of a pixel, by the formula of DICOM (PS3.3 C.7.6.2.1.1)."""
    turn, spacing = np.array(ds.ImageOrientationPatient, dtype=float), ds.PixelSpacing
    start = np.array(ds.ImagePositionPatient, dtype=float)
    return start + turn[:3] * float(spacing[1]) * column + turn[3:] * float(spacing[0]) * row


def voxel_position(image: DicomImage, z: float, y: float, x: float) -> np.ndarray:
    return (image.grid.affine @ (x, y, z, 1))[:3]


def rotation(rng: np.random.Generator) -> np.ndarray:
    found, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return found


def check_positions(image: DicomImage) -> None:
    """Every corner of every slice lies where its file says, and holds its value."""
    for z, plane in enumerate(image.slices):
        ds = pydicom.dcmread(plane.file)
        values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_allclose(image.array[0, z], values, rtol=1e-6)
        assert plane.sop_instance == ds.SOPInstanceUID
        assert plane.position == tuple(ds.ImagePositionPatient)
        for row, column in ((0, 0), (0, ds.Columns - 1), (ds.Rows - 1, 0), (ds.Rows - 1, ds.Columns - 1)):
            off = voxel_position(image, z, row, column) - said_position(ds, row, column)
            assert np.abs(off).max() < 1e-3 * min(image.grid.spacing)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    spacing=st.tuples(*[st.floats(0.05, 5).map(lambda v: round(v, 4))] * 3),
    permuted=st.booleans(),
)
def test_any_right_angled_series_lies_where_pydicom_says(tmp_path_factory, seed, spacing, permuted):
    rng = np.random.default_rng(seed)
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3) if permuted else rotation(rng)
    rows, columns = turn[0], turn[1]
    step = np.cross(rows, columns) * spacing[0] * rng.choice([-1, 1])
    folder = tmp_path_factory.mktemp("series")
    array = toys.noise((4, 5, 3), seed)
    files = toys.slices(
        folder, array, toys.line(4, step, rng.uniform(-200, 200, 3)), orientation=(*rows, *columns), spacing=spacing[1:]
    )
    image = read([files[k] for k in rng.permutation(4)])
    assert image.said == ()
    assert image.array.dtype == np.int16
    check_positions(image)
    normal = np.cross(image.orientation[:3], image.orientation[3:])
    heights = [np.dot(s.position, normal) for s in image.slices]
    assert heights == sorted(heights)
    label_map = (image.array[0] > 0).astype(np.uint8)
    assert image.to_frames(label_map) is label_map


def ramp(world: np.ndarray) -> np.ndarray:
    """A linear function of the world; (..., 3) mm -> stored values at a slope of 1/8."""
    return 3.0 * world[..., 0] - 2.0 * world[..., 1] + 5.0 * world[..., 2] + 40


def ramp_series(folder, positions, orientation, shape=(9, 11), spacing=(0.5, 1.0)):
    """A series that samples `ramp` exactly: all numbers are eighths."""
    turn = np.array(orientation).reshape(2, 3)
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = y[..., None] * spacing[0] * turn[1] + x[..., None] * spacing[1] * turn[0]
    exact = np.array([ramp(plane + p) for p in positions])
    stored = np.round(exact * 256).astype(np.int32)
    slopes, intercepts = [1 / 256] * len(positions), [0] * len(positions)
    return toys.slices(folder, stored, positions, orientation=orientation, spacing=spacing, slopes=slopes,
                       intercepts=intercepts)  # fmt: skip


TILT = np.deg2rad(18.5)
TILTED = {
    "gantry": (toys.line(7, (0, 0, 2.5)), (1, 0, 0, 0, np.cos(TILT), -np.sin(TILT))),
    "gantry the other way": (toys.line(7, (0, 0, -2.5)), (1, 0, 0, 0, np.cos(TILT), np.sin(TILT))),
    "table": (toys.line(7, (0.5, 0, 2.5)), toys.AXIAL),
    "both": (toys.line(7, (-0.4, 0.7, 2.0)), toys.AXIAL),
    "sagittal": (toys.line(7, (3.0, 0.5, 0.25)), (0, 1, 0, 0, 0, -1)),
}


@pytest.mark.parametrize("name", TILTED)
def test_a_tilted_series_is_resampled_where_its_slices_lie(tmp_path, name):
    positions, orientation = TILTED[name]
    image = read(ramp_series(tmp_path, positions, orientation))
    turn = np.array(orientation, dtype=float).reshape(2, 3)
    normal = np.cross(*turn)
    step = positions[1] - positions[0]
    angle = np.degrees(np.arccos(abs(step @ normal) / np.linalg.norm(step)))
    assert f"shifted evenly against each other (gantry tilt or table movement, {angle:.3g} degrees)" in image.said[0]
    np.testing.assert_allclose(image.grid.direction.T @ image.grid.direction, np.eye(3), atol=1e-9)
    z, y, x = np.indices(image.grid.shape)
    world = np.stack((x, y, z), -1) @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]
    where = np.array([s.position for s in image.slices])
    row = ((world - where[:, None, None]) @ turn[1]) / 0.5  # of each voxel in its slice
    column = ((world - where[:, None, None]) @ turn[0]) / 1.0
    np.testing.assert_allclose((world - where[:, None, None]) @ normal, 0, atol=1e-9)
    inside = (row > -1e-9) & (row < 8 + 1e-9) & (column > -1e-9) & (column < 10 + 1e-9)
    assert inside.sum() > 0.6 * 7 * 9 * 11
    np.testing.assert_allclose(image.array[0][inside], ramp(world[inside]), atol=0.01)  # stored: 1/256
    far = (row < -0.6) | (row > 8.6) | (column < -0.6) | (column > 10.6)
    assert far.any()
    np.testing.assert_array_equal(image.array[0][far], -1024)
    assert row.min(axis=(1, 2)).max() <= 1e-6  # the box holds each slice whole
    assert row.max(axis=(1, 2)).min() >= 8 - 1e-6
    assert column.min(axis=(1, 2)).max() <= 1e-6
    assert column.max(axis=(1, 2)).min() >= 10 - 1e-6


@pytest.mark.parametrize("name", TILTED)
def test_a_label_map_of_a_tilted_series_goes_back_to_the_nearest_pixel(tmp_path, name):
    positions, orientation = TILTED[name]
    image = read(ramp_series(tmp_path, positions, orientation))
    label_map = np.random.default_rng(1).integers(0, 9, image.grid.shape)
    frames = image.to_frames(label_map)
    assert frames.shape == (7, 9, 11)
    for z, plane in enumerate(image.slices):
        ds = pydicom.dcmread(plane.file)
        for row, column in np.random.default_rng(z).integers(0, (9, 11), (20, 2)):
            voxel = np.linalg.inv(image.grid.affine) @ (*said_position(ds, row, column), 1)
            x, y, k = np.floor(voxel[:3] + 0.5 + 1e-9).astype(int)
            assert k == z
            assert frames[z, row, column] == label_map[k, y, x]


def test_a_label_map_of_another_shape_is_refused(tmp_path):
    image = read(toys.slices(tmp_path, toys.noise(), toys.line(6)))
    with pytest.raises(GeometryError, match="does not lie on the image's"):
        image.to_frames(np.zeros((6, 8, 8), int))


def test_what_is_kept_of_the_header(tmp_path):
    files = toys.slices(tmp_path, toys.noise(), toys.line(6), tags={"SeriesDescription": "thin"})
    image = read(files)
    assert (image.study, image.series, image.frame_of_reference) == (toys.STUDY, toys.SERIES, toys.FRAME_OF_REFERENCE)
    assert (image.modality, image.description, image.size, image.flat) == ("CT", "thin", (8, 9), False)
    assert [s.file for s in image.slices] == files
    assert {s.sop_class for s in image.slices} == {toys.CT}


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_frames_of_an_enhanced_file_are_sorted_and_scaled_one_by_one(tmp_path, modality):
    array, shuffled = toys.noise(), np.array([4, 0, 5, 2, 1, 3])
    slopes, intercepts = [1, 0.5, 0.25, 1.5, 0.1, 2.25], [0, 1, -1024, 3, 0.5, 7]
    file = toys.enhanced(
        tmp_path / "e.dcm", array[shuffled], toys.line(6)[shuffled], modality=modality,
        slopes=[slopes[k] for k in shuffled], intercepts=[intercepts[k] for k in shuffled],
    )  # fmt: skip
    image = read([file])
    wanted = array * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None]
    np.testing.assert_allclose(image.array[0], wanted, rtol=1e-6)
    assert [s.frame for s in image.slices] == np.argsort(shuffled).tolist()
    np.testing.assert_allclose(voxel_position(image, 5, 7, 8), (1 + 8 * 0.7, 2 + 7 * 0.8, 3 + 5 * 2.5))


def test_an_enhanced_series_of_several_files_is_one_volume(tmp_path):
    array = toys.noise()
    files = [toys.enhanced(tmp_path / f"{k}.dcm", array[k : k + 3], toys.line(6)[k : k + 3],
                           tags={"SOPInstanceUID": f"1.2.{k}"}) for k in (3, 0)]  # fmt: skip
    image = read(files)
    np.testing.assert_array_equal(image.array[0], array)
    assert [(s.file, s.frame) for s in image.slices[2:4]] == [(files[1], 2), (files[0], 0)]


def test_a_radiograph_has_a_size_and_no_place(tmp_path):
    pixels = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    tags = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PhotometricInterpretation": "MONOCHROME1",
            "BitsStored": 12, "HighBit": 11}  # fmt: skip
    files = toys.slices(tmp_path / "one", pixels, toys.line(1), modality="DX", tags=tags)
    image = read(files)
    np.testing.assert_array_equal(image.array[0], 4095 - pixels.astype(int))
    assert (image.grid.in_world, image.grid.spacing, image.flat) == (False, (1.0, 0.8, 0.7), False)
    assert "no place in the patient" in " ".join(image.said)
    assert "MONOCHROME1" in " ".join(image.said)
    two = toys.slices(tmp_path / "two", np.repeat(pixels, 2, 0), toys.line(2), modality="DX", tags=tags)
    with pytest.raises(GeometryError, match="has 2 radiographs"):
        read(two)


def test_one_slice(tmp_path):
    image = read(toys.slices(tmp_path, toys.noise()[:1], toys.line(1), tags={"SliceThickness": 4}))
    assert (image.array.shape, image.grid.spacing, image.flat, image.said) == ((1, 1, 8, 9), (4.0, 0.8, 0.7), False, ())
    (image,) = [read(toys.slices(tmp_path / "thin", toys.noise()[:1], toys.line(1)))]
    assert "unknown thickness" in image.said[0]
    with pytest.raises(DatasetError, match=r"one slice \(InstanceNumber 1\) of 40"):
        read(toys.slices(tmp_path / "lone", toys.noise()[:1], toys.line(1), tags={"ImagesInAcquisition": 40}))


def test_slices_that_lack_at_an_end_are_told(tmp_path):
    image = read(toys.slices(tmp_path, toys.noise(), toys.line(6), modality="PT", tags={"NumberOfSlices": 8}))
    assert image.said == ("its header speaks of 8 slices, and 6 are here",)


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ({"SeriesInstanceUID": "1.2.3"}, "mixes files of 2 series"),
        ({"Modality": "MR"}, "mixes files of 2 modalities"),
        ({"FrameOfReferenceUID": "1.2.3"}, "mixes files of 2 frames of reference"),
    ],
)
def test_files_of_several_series_are_refused(tmp_path, tag, message):
    with pytest.raises(DatasetError, match=message):
        read(toys.slices(tmp_path, toys.noise(), toys.line(6), each=[{}] * 5 + [tag]))


@pytest.mark.parametrize("cut", [0, 100, 200, 400, -200, -40, -1])
def test_a_file_that_is_cut_short_is_never_a_shorter_volume(tmp_path, cut):
    files = toys.slices(tmp_path, toys.noise(), toys.line(6))
    files[-1].write_bytes(files[-1].read_bytes()[:cut])
    with pytest.raises(DatasetError, match=f"'{files[-1].name}' in {tmp_path.name}"):
        read(files)


def test_no_file():
    with pytest.raises(DatasetError, match="without a file"):
        read([])
