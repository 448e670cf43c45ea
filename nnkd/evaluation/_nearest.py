"""Distances to the nearest of many lattice points, for those that are near.

Two surfaces of one organ mostly lie a few voxels apart. There it costs less to look around a point, at the nearest
steps first, than to ask a k-d tree: on masks with a DSC of .93 it saves half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

FEW = 1000  # points; for fewer a k-d tree is as fast
LOOKS = 150  # lattice points around a point that are looked at
MOST_VOXELS = 1 << 24  # of the box that is looked at, a byte each
DONE = 0.02  # share of points whose distances are left to others


def near_distances(
    points: NDArray[np.integer], others: NDArray[np.integer], spacing: Sequence[float]
) -> NDArray[np.float64]:
    """Distance from each point to the nearest other one, where that is near.

    Args:
        points: (n, 3) int, steps of a lattice.
        others: (m, 3) int, on the same lattice; at least one.
        spacing: Length of a step along each axis, in mm; 0 along an axis that does not count.

    Returns:
        (n,) float64, mm; nan where it was not found.
    """
    found = np.full(len(points), np.nan)
    reach, shells = _shells(tuple(float(s) for s in spacing))
    low, high = _smaller_box(points, others)  # beyond it, one of the two has no points
    shape = high - low + 1 + 2 * reach
    if len(points) < FEW or np.prod(shape, dtype=np.float64) > MOST_VOXELS:
        return found
    there = np.zeros(shape, dtype=bool)
    there[tuple((_within(others, low - reach, high + reach) - (low - reach)).T)] = True
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    left = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    places, line, middle = (points[left] - low) @ strides, there.ravel(), reach @ strides
    for distance, steps in shells:
        hit = np.zeros(len(left), dtype=bool)
        for step in steps:
            hit |= line[middle + step @ strides :].take(places)
        found[left[hit]] = distance
        missed = np.flatnonzero(~hit)
        left, places = left[missed], places[missed]
        if len(left) <= DONE * len(points):
            break
    return found


def _smaller_box(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last corner of the smaller one of the two bounding boxes."""
    boxes = [(p.min(axis=0).astype(np.intp), p.max(axis=0).astype(np.intp)) for p in (points, others)]
    return min(boxes, key=lambda box: np.prod(box[1] - box[0] + 1, dtype=np.float64))


def _within(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return points[((points >= low) & (points <= high)).all(axis=1)]


@lru_cache(maxsize=16)
def _shells(spacing: tuple[float, ...]) -> tuple[np.ndarray, list[tuple[float, np.ndarray]]]:
    """Steps to look at: the largest along each axis, and all of them by distance in mm, the nearest first."""
    lengths = np.array([s for s in spacing if s])
    ball = {1: 2.0, 2: np.pi, 3: 4 / 3 * np.pi}[len(lengths)]
    radius = float((LOOKS / ball * np.prod(lengths)) ** (1 / len(lengths)))
    around = (range(-int(radius / s), int(radius / s) + 1) if s else (0,) for s in spacing)
    steps = np.array(list(product(*around)))
    distances = np.sqrt(np.square(steps * np.asarray(spacing)).sum(axis=1))
    radius = min(radius, float(np.sort(distances)[min(LOOKS, len(distances)) - 1]))
    steps, distances = steps[distances <= radius], distances[distances <= radius]
    return steps.max(axis=0), [(float(d), steps[distances == d]) for d in np.unique(distances)]
