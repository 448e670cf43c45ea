"""Slices that are shifted against each other -> a right-angled box, and label maps of that box back to the slices.

The planes stay planes: only pixels of one slice are mixed, and a label map goes back slice by slice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def undo(
    array: NDArray[Any], offsets: NDArray[np.float64], shape: tuple[int, int, int], outside: float
) -> NDArray[np.float32]:
    """Put slices where they belong, by linear interpolation within each.

    Args:
        array: (Z, Y, X), slices.
        offsets: (Z, 2), where the first pixel of each lies in the box, in voxels (y, x).
        shape: (Z, Y, X) of the box.
        outside: What the box holds beside the slices.

    Returns:
        The box, (Z, Y, X). A slice reaches half a pixel beyond the centres of its outermost ones.
    """
    box = np.empty(shape, np.float32)
    for k, (plane, (y, x)) in enumerate(zip(array, offsets, strict=True)):
        moved, in_y = _shifted(plane.astype(np.float64), y, shape[1])
        moved, in_x = _shifted(moved.T, x, shape[2])
        box[k] = np.where(in_y[:, None] & in_x, moved.T, outside)
    return box


def redo(box: NDArray[Any], offsets: NDArray[np.float64], size: tuple[int, int]) -> NDArray[Any]:
    """The pixels of each slice, nearest neighbours in the box.

    Args:
        box: (Z, Y, X), a label map.
        offsets: As in `undo`.
        size: (Y, X) of the slices.
    """
    starts = np.floor(offsets + 0.5).astype(int)
    rows, columns = size
    return np.stack([p[y : y + rows, x : x + columns] for p, (y, x) in zip(box, starts, strict=True)])


def _shifted(plane: NDArray[np.float64], offset: float, length: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N, M) -> (length, M), moved down by `offset`; and which rows the plane reaches."""
    last = len(plane) - 1
    wanted = np.arange(length) - offset
    inside = (wanted > -0.5) & (wanted < last + 0.5)
    wanted = wanted.clip(0, last)
    low = np.floor(wanted).astype(int)
    part = (wanted - low)[:, None]
    return plane[low] * (1 - part) + plane[np.minimum(low + 1, last)] * part, inside
