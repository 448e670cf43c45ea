"""Tests of nnkd.data.reading.geometry."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation

from nnkd.data.reading.geometry import Grid, Orientation

SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
grids = st.builds(
    lambda axes, angles, shape, spacing, origin: Grid(
        shape, spacing, origin, Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes
    ),
    st.sampled_from(SIGNED_PERMUTATIONS),
    st.one_of(st.just((0, 0, 0)), st.tuples(*[st.floats(-20, 20)] * 3), st.tuples(*[st.floats(-180, 180)] * 3)),
    st.tuples(st.integers(2, 4), st.integers(1, 5), st.integers(1, 6)),
    st.tuples(*[st.floats(0.2, 9)] * 3),
    st.tuples(*[st.floats(-300, 300)] * 3),
)


def world(grid: Grid, index_zyx: np.ndarray) -> np.ndarray:
    """(n, 3) voxel indices (z, y, x) -> (n, 3) positions in mm (x, y, z)."""
    steps = index_zyx[:, ::-1] * np.asarray(grid.spacing[::-1])
    return steps @ grid.direction.T + np.asarray(grid.origin)


@pytest.mark.heavy
@given(grids)
def test_there_and_back_is_exact(grid):
    orientation = Orientation(grid)
    array = np.arange(2 * np.prod(grid.shape)).reshape(2, *grid.shape)
    turned = orientation.to_lps(array)
    assert turned.shape[1:] == orientation.grid.shape
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(orientation.to_file(turned), array)
    np.testing.assert_array_equal(orientation.to_lps(array[0]), turned[0])


@given(grids, st.data())
def test_a_turned_box_lies_around_the_same_voxels(grid, data):
    low = [data.draw(st.integers(0, n - 1)) for n in grid.shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, grid.shape, strict=True)]
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(map(slice, low, high))] = True
    orientation = Orientation(grid)
    found = orientation.turn((*low, *high))
    seen = np.zeros(orientation.grid.shape, dtype=bool)
    seen[tuple(map(slice, found[:3], found[3:]))] = True
    np.testing.assert_array_equal(orientation.to_lps(mask), seen)


@given(grids)
def test_every_voxel_stays_where_it_is_in_the_world(grid):
    orientation = Orientation(grid)
    numbered = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    turned = orientation.to_lps(numbered)
    after = np.argwhere(turned >= 0)
    before = np.argwhere(numbered >= 0)[turned[tuple(after.T)]]
    np.testing.assert_allclose(world(orientation.grid, after), world(grid, before), atol=1e-6)


@given(grids)
def test_the_result_runs_left_back_and_up(grid):
    direction = Orientation(grid).grid.direction
    assert (np.diag(direction) >= -1e-9).all()
    tilt = np.abs(grid.direction).max(axis=0).min()
    if tilt > 0.8:  # every axis leans to one of the world's: it lies on the diagonal
        np.testing.assert_array_equal(np.abs(direction).argmax(axis=0), [0, 1, 2])
    np.testing.assert_allclose(np.linalg.norm(direction, axis=0), 1)


def test_lps_is_left_alone():
    grid = Grid((3, 4, 5), (3.0, 2.0, 1.0), (1.0, 2.0, 3.0), np.eye(3))
    assert Orientation(grid).grid.difference(grid) == ""
    array = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(Orientation(grid).to_lps(array), array)


@pytest.mark.parametrize("axes", SIGNED_PERMUTATIONS[::7])
def test_2d_is_untouched(axes):
    for grid in (
        Grid((1, 4, 5), (1.0, 2.0, 1.0), (0.0, 0.0, 0.0), axes),
        Grid((3, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes, in_world=False),
    ):
        array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
        assert Orientation(grid).grid is grid
        np.testing.assert_array_equal(Orientation(grid).to_lps(array), array)
        np.testing.assert_array_equal(Orientation(grid).to_file(array), array)


@settings(deadline=None, max_examples=15)
@given(grids)
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_the_grid_of_a_file_is_where_the_voxels_are(tmp_path_factory, reader, grid):
    """Each of nnU-Net's readers orders axes in its own way; in LPS all of them must agree with SimpleITK's image."""
    file = str(tmp_path_factory.mktemp("grid") / "image.nii.gz")
    numbered = np.arange(np.prod(grid.shape), dtype=np.float32).reshape(grid.shape)
    image = sitk.GetImageFromArray(numbered)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction.ravel())
    sitk.WriteImage(image, file)
    array, properties = reader().read_images([file])
    mine = Grid.from_properties(array.shape[1:], properties)
    orientation = Orientation(mine)
    turned = orientation.to_lps(array[0]).astype(int)
    after = np.argwhere(turned >= 0)
    before = np.argwhere(numbered >= 0)[turned[tuple(after.T)]]
    np.testing.assert_allclose(world(orientation.grid, after), world(grid, before), atol=0.01)


def test_differences_are_said_in_words():
    grid = Grid((3, 4, 5), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    assert grid.difference(replace(grid, origin=(0.001, 0.0, 0.0))) == ""
    assert "3x4x5 against 2x4x5 voxels" in grid.difference(replace(grid, shape=(2, 4, 5)))
    assert "3x1x1 against 3x1x1.1 mm" in grid.difference(replace(grid, spacing=(3.0, 1.0, 1.1)))
    assert "direction" in grid.difference(replace(grid, direction=np.diag([-1.0, -1, 1])))
    assert "origin" in grid.difference(replace(grid, origin=(0.0, 2.0, 0.0)))
    assert grid.difference(replace(grid, origin=(0.0, 2.0, 0.0), in_world=False)) == ""
