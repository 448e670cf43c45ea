"""nnkd.data.reading.dicom.stacks: which series fill a box, which do not, and why."""

from __future__ import annotations

import dicom_toys as toys
import numpy as np
import pytest

from nnkd.data.reading.dicom.volumes import read
from nnkd.errors import DatasetError, GeometryError

Z = toys.line(6)
TURN = np.pi * np.arange(12) / 12
SMALL = np.deg2rad(10)


def series(folder, positions=Z, **more):
    return toys.slices(folder, toys.noise((len(positions), 8, 9)), positions, **more)


def moved(index: int, by: tuple[float, float, float]) -> np.ndarray:
    found = Z.copy()
    found[index] += by
    return found


NO_BOX = {
    "copies of one place": ({"positions": Z[[0] * 6]}, r"6 images at one position \(InstanceNumber 1-6\)"),
    "side by side": ({"positions": toys.line(6, (20, 0, 0))}, r"6 images side by side in one plane"),
    "nearly side by side": ({"positions": toys.line(6, (20, 0, 5))}, "a line 76 degrees off their normal"),
    "radial": (
        {"positions": np.stack((5 * np.cos(TURN), 5 * np.sin(TURN), 0 * TURN), 1),
             "orientation": np.stack((np.cos(TURN), np.sin(TURN), 0 * TURN, 0 * TURN, 0 * TURN, 0 * TURN - 1), 1)},
        "slices of 12 orientations",
    ),
    "three planes": (
        {"orientation": [toys.AXIAL] * 4 + [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)]},
        r"3 orientations .*InstanceNumber 1-4\); 0\\1\\0\\0\\0\\-1 \(InstanceNumber 5\)",
    ),
    "one slice turned": (
        {"orientation": [toys.AXIAL] * 5 + [(np.cos(SMALL), np.sin(SMALL), 0, -np.sin(SMALL), np.cos(SMALL), 0)]},
        r"2 orientations .*\(InstanceNumber 6\)",
    ),
    "gap": (
        {"positions": Z[[0, 1, 3, 4, 5]]}, "lacks slices.* 2.5 mm apart as a rule, but 5 mm between "
        "InstanceNumber 2 and InstanceNumber 3",
    ),
    "two steps": ({"positions": np.array([(0, 0, z) for z in (0, 1, 2, 3, 5, 7)], float)}, "or its steps differ: 1 mm"),
    "uneven": ({"positions": moved(3, (0, 0, 0.6))}, r"unevenly spaced, 1.9 to 3.1 mm, .*InstanceNumber 4"),
    "a tenth of a voxel": ({"positions": moved(3, (0, 0, 0.4))}, "unevenly spaced"),
    "one slice aside": ({"positions": moved(2, (1, 0, 0))}, r"shifted sideways unevenly.*InstanceNumber"),
    "uneven drift": (
        {"positions": Z + np.array([(0.4 * k * k, 0, 0) for k in range(6)])}, "shifted sideways unevenly",
    ),
    "doubled": (
        {"positions": Z[[0, 1, 2, 2, 3, 4, 5]]},
        r"6 positions, and at 1 of them up to 2 images: InstanceNumber 3-4\. Keep the files of one volume in a folder",
    ),
    "time points": (
        {"positions": np.repeat(Z, 2, 0), "each": [{"TemporalPositionIdentifier": 1 + k % 2} for k in range(12)]},
        r"2 images at each of 6 positions \(12 images\), which differ in TemporalPositionIdentifier \(1: Instance"
        r"Number 1, 3, 5, 7, 9, 11; 2: InstanceNumber 2, .*: these are 2 volumes",
    ),
    "echoes": (
        {"positions": np.concatenate((Z, Z)),  "each": [{"EchoTime": 10}] * 6 + [{"EchoTime": 80}] * 6},
        r"which differ in EchoTime \(10.*InstanceNumber 1-6; 80.*InstanceNumber 7-12\)",
    ),
    "no telling": ({"positions": np.concatenate((Z, Z))}, r"2 images at each of 6 positions \(12 images\): these"),
    "spacings": (
        {"each": [{}] * 5 + [{"PixelSpacing": [1.6, 1.4]}]}, r"2 values of PixelSpacing.*1.6x1.4 mm \(Inst.* 6\)",
    ),
    "no unit vectors": ({"orientation": (2, 0, 0, 0, 1, 0)}, "no pair of unit vectors"),
    "nothing": ({"orientation": (0, 0, 0, 0, 0, 0)}, "no pair of unit vectors"),
    "skew": ({"orientation": (1, 0, 0, np.sin(SMALL), np.cos(SMALL), 0)}, "not at right angles"),
    "the same file twice": (
        {"positions": np.concatenate((Z, Z[:1])), "each": [{}] * 6 + [{"SOPInstanceUID": f"{toys.SERIES}.1"}]},
        "holds copies: 2 files have the SOPInstanceUID of another",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_BOX)
def test_what_fills_no_box_is_refused_with_its_reason(tmp_path, name):
    options, message = NO_BOX[name]
    with pytest.raises(DatasetError, match=message) as caught:
        read(series(tmp_path / "s", **options))
    assert str(tmp_path.parent) not in str(caught.value)
    assert "Made" not in str(caught.value)


def test_slices_of_two_sizes(tmp_path):
    files = series(tmp_path)
    files += toys.slices(tmp_path, toys.noise((1, 8, 12)), toys.line(7)[6:], first=7)
    with pytest.raises(DatasetError, match=r"2 sizes, .* 8x9 \(InstanceNumber 1-6\); 8x12 \(InstanceNumber 7\)"):
        read(files)


@pytest.mark.parametrize("by", [(0, 0, 0.2), (0.05, 0, 0), (0, 0.06, 0.1)])
def test_what_is_off_by_less_than_a_tenth_of_a_voxel_is_evened_out_and_said(tmp_path, by):
    image = read(series(tmp_path, moved(2, by)))
    assert "put on an even grid, from which their headers differ by up to" in image.said[0]
    np.testing.assert_array_equal(image.array[0], toys.noise((6, 8, 9)))
    for k, plane in enumerate(image.slices):
        off = np.linalg.inv(image.grid.affine) @ (*plane.position, 1) - (0, 0, k, 1)
        assert np.linalg.norm(off) < 0.1


def test_positions_of_few_digits_are_right(tmp_path):
    """0.625 mm, written with one digit behind the point: steps are 0.6 and 0.7 mm."""
    positions = np.round(toys.line(40, (0, 0, 0.625), (0, 0, 0)), 1)
    image = read(series(tmp_path, positions))
    assert image.grid.spacing[0] == pytest.approx(0.625, abs=1e-3)


def test_two_slices_and_many(tmp_path):
    assert read(series(tmp_path / "two", Z[:2])).grid.shape == (2, 8, 9)
    assert read(series(tmp_path / "down", Z[::-1])).slices[0].position == (1, 2, 3)


@pytest.mark.parametrize(
    ("stacks", "positions", "orientation", "message"),
    [
        (
            "111222",
            np.concatenate((Z[:3], np.add(Z[:3], (0, 40, 40)))),
            toys.AXIAL,
            r"2 stacks .* 1: frame 1-3; 2: frame 4-6",
        ),
        ("111222", Z, [toys.AXIAL] * 3 + [(0, 1, 0, 0, 0, -1)] * 3, "2 stacks of slices"),
        ("111111", np.concatenate((Z[:3], Z[:3])), toys.AXIAL, "2 images at each of 3 positions .* dcm2niix splits"),
    ],
)
def test_stacks_of_an_enhanced_file(tmp_path, stacks, positions, orientation, message):
    file = toys.enhanced(tmp_path / "e.dcm", toys.noise(), positions, orientation=orientation, stacks=stacks)
    with pytest.raises(GeometryError if "stacks" in message else DatasetError, match=message):
        read([file])


def test_stacks_that_fill_one_box_together_are_one_volume(tmp_path):
    image = read([toys.enhanced(tmp_path / "e.dcm", toys.noise(), Z, stacks="111222")])
    np.testing.assert_array_equal(image.array[0], toys.noise())


@pytest.mark.parametrize(
    ("group", "keyword", "values"),
    [
        ("MREchoSequence", "EffectiveEchoTime", (10.0, 80.0)),
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 1000.0)),
        ("FrameContentSequence", "TemporalPositionIndex", (1, 2)),
    ],
)
def test_volumes_of_an_enhanced_file_are_told_apart(tmp_path, group, keyword, values):
    each = [{group: {keyword: v}} for v in values for _ in range(3)]
    positions = np.concatenate((Z[:3], Z[:3]))
    file = toys.enhanced(tmp_path / "e.dcm", toys.noise(), positions, modality="MR", each=each)
    text = rf"2 images at each of 3 positions .* differ in {keyword} \({values[0]}: frame 1-3; {values[1]}: frame 4-6"
    with pytest.raises(DatasetError, match=text):
        read([file])


@pytest.mark.parametrize(
    ("keyword", "values", "message"),
    [("EchoTime", (3, 9) * 3, r"differ in EchoTime \(3: InstanceNumber 1, 3, 5; 9: InstanceNumber 2, 4, 6\)"),
     ("DiffusionBValue", (0,) * 3 + (900,) * 3, r"DiffusionBValue .*parts of 2 volumes"),
     ("TemporalPositionIdentifier", (1, 2, 3) * 2, "parts of 3 volumes"),
     ("EchoTime", (3.001, 3.002, 3, 3, 3, 3), ""), ("EchoTime", (1, 2, 3, 4, 5, 6), "")],
)  # fmt: skip
def test_volumes_that_share_the_positions_among_themselves(tmp_path, keyword, values, message):
    """They would fill one box together, in stripes or in halves."""
    files = series(tmp_path, modality="MR", each=[{keyword: value} for value in values])
    if message:
        with pytest.raises(DatasetError, match=message):
            read(files)
    else:
        assert len(read(files).slices) == 6
