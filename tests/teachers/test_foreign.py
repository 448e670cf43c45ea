"""nnkd.teachers.foreign. Files that cannot be read: tests/plugins/test_imported.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.itk import with_grid
from nnkd.errors import DatasetError, SettingError
from nnkd.teachers.foreign import MaskFile, bare, by_values, grid_of, overlap, read_map
from nnkd.types import Volume

LABELS = ("liver", "kidney")


def test_single_values_become_lists(tmp_path):
    assert read_map(None, LABELS, "toy") is None
    expected = {"liver": [5], "kidney": ["left", "right"]}
    assert read_map({"liver": 5, "kidney": ["left", "right"]}, LABELS, "toy") == expected
    file = tmp_path / "map.json"
    file.write_text('{"liver": 5, "kidney": ["left", "right"]}')
    assert read_map(file, LABELS, "toy") == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lung": 1}, "^The toy teacher's map has lung, but the dataset's labels are liver, kidney"),
        ({}, "^The toy teacher's map is empty"),
        ({"liver": []}, "empty list or the value 0"),
        ({"liver": [1, 0]}, "empty list or the value 0"),
        (Path("gone.json"), "^The map 'gone.json' cannot be read"),
    ],
)
def test_maps_that_say_nothing(given, said):
    with pytest.raises(SettingError, match=said):
        read_map(given, LABELS, "toy")


@pytest.mark.parametrize("text", ["{", '{"liver": 1.5}', "[1]"])
def test_files_that_are_no_map(tmp_path, text):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(SettingError, match=r"'map\.json' must be JSON such as"):
        read_map(tmp_path / "map.json", LABELS, "toy")


def rotated(angle: float) -> np.ndarray:
    return np.asarray(sitk.VersorTransform((0.3, 0.2, 1.0), angle).GetMatrix()).reshape(3, 3)


def volume(shape=(6, 8, 7), spacing=(3.0, 1.0, 1.5), origin=(5.0, -7.0, 2.0), angle=0.4) -> Volume:
    data = np.zeros((1, *shape), np.float32)
    return Volume("a", data, spacing, origin, rotated(angle), ("CT",))


@given(
    factor=st.tuples(*[st.integers(1, 4)] * 3),
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    crop=st.tuples(*[st.integers(0, 2)] * 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_what_was_refined_cropped_and_turned_comes_back(tmp_path_factory, factor, order, flips, crop, seed):
    """Each voxel cut into whole parts, the outermost voxels cut off, axes permuted and reversed: voxel for voxel."""
    case, file = volume(), tmp_path_factory.mktemp("m") / "m.nii.gz"
    truth = np.random.default_rng(seed).integers(0, 3, case.shape)
    fine = truth.repeat(factor[0], 0).repeat(factor[1], 1).repeat(factor[2], 2).astype(np.uint8)
    grid = grid_of(case)
    spacing = np.asarray(grid.spacing) / factor
    corner = (spacing - grid.spacing) / 2  # (z, y, x) mm from the first voxel's centre to its first part's
    image = with_grid(fine, Grid(fine.shape, tuple(spacing), tuple(grid.direction @ corner[::-1] + grid.origin),
                                 grid.direction))  # fmt: skip
    low = [int(c * f) for c, f in zip(crop[::-1], factor[::-1], strict=True)]
    image = sitk.Crop(image, low, low)
    sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(image, [int(i) for i in order]), list(flips)), str(file))
    mask = MaskFile.read(file)
    found = mask.resampled(case) if mask.difference(case) else mask.turned()
    inside = tuple(slice(c, n - c) for c, n in zip(crop, case.shape, strict=True))
    expected = np.zeros_like(truth)
    expected[inside] = truth[inside]
    assert np.array_equal(found, expected)
    assert bool(mask.difference(case)) == (max(factor) > 1 or max(crop) > 0)


@given(shift=st.tuples(*[st.integers(-12, 12)] * 3), angle=st.sampled_from([0.0, 0.7]))
def test_grids_overlap_if_a_voxel_is_shared(shift, angle):
    """Along the grids' own axes, where it is exact."""
    case = volume(angle=angle)
    here = grid_of(case)
    moved = tuple(here.direction @ (np.asarray(shift[::-1]) * here.spacing[::-1]) + here.origin)
    there = Grid(here.shape, here.spacing, moved, here.direction)
    assert overlap(here, there) == all(abs(s) < n for s, n in zip(shift, here.shape, strict=True))


def test_grids_in_another_direction_overlap():
    here = grid_of(volume(angle=0.0))
    assert overlap(here, Grid((50, 50, 50), (1.0, 1.0, 1.0), (-20.0, -20.0, -20.0), rotated(1.0)))
    assert not overlap(here, Grid((5, 5, 5), (1.0, 1.0, 1.0), (200.0, 0.0, 0.0), rotated(1.0)))


@pytest.mark.parametrize("turn", [np.eye(3), np.diag([-1.0, -1.0, 1.0])])
def test_a_header_without_geometry_is_known(turn):
    image = Grid((4, 5, 6), (2.0, 1.0, 1.0), (10.0, 0.0, 0.0), np.eye(3))
    assert bare(Grid((8, 5, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turn), image)
    assert bare(Grid((6, 5, 4), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), turn), image)  # the image's voxels, its place lost
    assert not bare(Grid((8, 5, 6), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), turn), image)
    assert not bare(Grid((8, 5, 6), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0), turn), image)
    assert not bare(replace(image, origin=(0.0, 0.0, 0.0)), replace(image, origin=(0.0, 0.0, 0.0)))


VALUES, PARTS = np.array([[[0, 1, 2, 3, 3, 9]]]), {"a": [1, 3], "b": [2], "c": [7]}
MASK = MaskFile(Path("m.nii.gz"), VALUES.astype(np.int32), Grid((1, 1, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)))


@pytest.mark.parametrize("others", ["some", "background"])
def test_values_that_no_label_is_made_of_are_counted(others):
    masks, ignored = by_values(MASK, VALUES, PARTS, others)
    assert {label: mask.ravel().tolist() for label, mask in masks.items()} == {
        "a": [False, True, False, True, True, False],
        "b": [False, False, True, False, False, False],
        "c": [False] * 6,
    }
    assert ignored == {"9": 1}


def test_a_mask_with_a_palette_counts_by_its_indices(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (6, 7)).astype(np.uint8)
    mask = Image.frombytes("P", (7, 6), labels.tobytes())
    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    for name in ("a.png", "b.tif", "c.gif", "d.bmp"):
        mask.save(tmp_path / name)
        assert np.array_equal(MaskFile.read(tmp_path / name).values[0], labels)
    Image.fromarray(labels).convert("RGB").save(tmp_path / "e.png")  # grey saved as RGB
    assert np.array_equal(MaskFile.read(tmp_path / "e.png").values[0], labels)
    mask.convert("RGB").save(tmp_path / "f.png")
    with pytest.raises(DatasetError, match=r"The mask 'f\.png' is a colour picture"):
        MaskFile.read(tmp_path / "f.png")


@pytest.mark.parametrize(
    ("values", "others", "refused"),
    [
        ([0, 1, 9], "refuse", True),
        ([0, 9, 9], "some", True),
        ([0, 9, 9], "background", False),
        ([0, 0, 0], "refuse", False),  # nothing was found: a no
        ([0, 1, 200], "refuse", False),  # the dataset's ignore label
    ],
)
def test_values_that_no_label_is_made_of_are_no_silent_no(values, others, refused):
    array = np.array([[values]])
    if not refused:
        assert by_values(MASK, array, PARTS, others, [200])[0]["a"].sum() == values.count(1)
        return
    with pytest.raises(DatasetError, match=r"'m.nii.gz' holds the value 9, which no label.*a 1\+3.*others=background"):
        by_values(MASK, array, PARTS, others, [200])
