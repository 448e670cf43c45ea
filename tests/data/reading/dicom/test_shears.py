"""nnkd.data.reading.dicom.shears: slices moved within their planes, against SciPy's interpolation."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from nnkd.data.reading.dicom import shears

OFFSETS = st.lists(st.tuples(st.floats(0, 4), st.floats(0, 4)), min_size=3, max_size=3)


@settings(max_examples=30, deadline=None)
@given(OFFSETS)
def test_a_box_holds_what_scipy_interpolates(offsets):
    array = np.random.default_rng(0).normal(size=(3, 5, 6))
    box = shears.undo(array, np.array(offsets), (3, 9, 10), -7)
    y, x = np.mgrid[:9, :10]
    for plane, found, (dy, dx) in zip(array, box, offsets, strict=True):
        places = np.array([y - dy, x - dx])
        wanted = map_coordinates(plane, places, order=1, mode="nearest")
        reached = (np.abs(places[0] - 2) < 2.5) & (np.abs(places[1] - 2.5) < 3)
        edge = (np.abs(np.abs(places[0] - 2) - 2.5) < 1e-6) | (np.abs(np.abs(places[1] - 2.5) - 3) < 1e-6)
        right = np.where(reached, wanted, -7)
        np.testing.assert_allclose(found[~edge], right[~edge], rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(OFFSETS)
def test_labels_go_there_and_back_but_for_nearest_neighbours(offsets):
    labels = np.random.default_rng(0).integers(1, 9, (3, 5, 6))
    whole = np.rint(np.array(offsets))
    box = shears.undo(labels, whole, (3, 9, 10), 0)
    np.testing.assert_array_equal(shears.redo(box, whole, (5, 6)), labels)
    near = shears.redo(box, np.array(offsets), (5, 6))
    assert near.shape == labels.shape
    close = np.abs(np.array(offsets) - whole).max(1) < 0.499
    np.testing.assert_array_equal(near[close], labels[close])
