"""Distances to near points: as a k-d tree finds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from nnkd.evaluation import _nearest
from nnkd.evaluation._nearest import near_distances


@pytest.fixture
def any_number(monkeypatch):
    monkeypatch.setattr(_nearest, "FEW", 0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.8, 0.8), (5.0, 0.4, 1.3), (0.0, 0.7, 0.7)]),
    st.integers(1, 60),
    st.integers(3, 40),
)
def test_what_is_found_is_right_and_what_is_near_is_found(seed, spacing, many, size):
    rng = np.random.default_rng(seed)
    points, others = (rng.integers(-5, size, (n, 3)).astype(np.int32) for n in (many, 30))
    if spacing[0] == 0:
        points[:, 0] = others[:, 0] = 0
    before, _nearest.FEW, _nearest.DONE = (_nearest.FEW, _nearest.DONE), 0, 0
    try:
        found = near_distances(points, others, spacing)
    finally:
        _nearest.FEW, _nearest.DONE = before
    true = cKDTree(others * np.array(spacing)).query(points * np.array(spacing))[0]
    known = ~np.isnan(found)
    assert found[known] == pytest.approx(true[known], rel=1e-12)
    radius = _nearest._shells(spacing)[1][-1][0]
    low, high = _nearest._smaller_box(points, others)
    inside = ((points >= low) & (points <= high)).all(axis=1)
    assert known[inside & (true < radius - 1e-9)].all()


def test_far_points_few_points_and_large_boxes_are_left(any_number, monkeypatch):
    points = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 90]], np.int32)
    others = np.array([[0, 0, 2], [0, 0, 200]], np.int32)
    assert near_distances(points, others, (1, 1, 1))[:2] == pytest.approx([2, 1])
    assert np.isnan(near_distances(points, others, (1, 1, 1))[2])
    monkeypatch.setattr(_nearest, "MOST_VOXELS", 10)
    assert np.isnan(near_distances(points, others, (1, 1, 1))).all()
    monkeypatch.undo()
    assert np.isnan(near_distances(points, others, (1, 1, 1))).all()


def test_the_steps_go_outwards_and_are_about_as_many_as_said():
    for spacing in ((1.0, 1.0, 1.0), (2.5, 0.8, 0.8), (0.0, 1.0, 1.0), (9.0, 0.3, 0.3)):
        _, shells = _nearest._shells(spacing)
        distances = [distance for distance, _ in shells]
        assert distances == sorted(distances)
        assert distances[0] == 0
        assert 0.5 * _nearest.LOOKS < sum(len(steps) for _, steps in shells) < 1.2 * _nearest.LOOKS
