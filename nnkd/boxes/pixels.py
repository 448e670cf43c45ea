"""Slices and boxes in the pixels that a model sees, and its logits as masks of the slice again: LiteMedSAM's steps, for
a square of any size. numpy alone, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALLEST = 1e-8  # divisor of a slice of one value
ROWS = 64  # of a mask that are computed at once, so that they stay in the cache: 4096 x 4096 in 17 ms instead of 155


def scaled_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(H, W) once the longest side has `size` pixels; no side vanishes."""
    factor = size / max(shape)
    return max(1, int(shape[0] * factor + 0.5)), max(1, int(shape[1] * factor + 0.5))


def prepare(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """A slice as the image encoder wants it: its longest side fills it, its own lowest value 0 and highest 1, zeros
    behind.

    Args:
        image: (H, W, 3) uint8, or (H, W) uint8 for three equal channels, which is faster.
        size: Pixels of a side of what the encoder sees.

    Returns:
        (3, size, size) float32 in [0, 1]; what is right of or below the image is 0.
    """
    image = image[..., None] if image.ndim == 2 else image
    height, width = scaled_shape(image.shape[:2], size)
    scaled = resize(image, (height, width)).astype(np.float32)
    low, high = scaled.min(), scaled.max()
    padded = np.zeros((3, size, size), dtype=np.float32)
    padded[:, :height, :width] = np.moveaxis((scaled - low) / max(high - low, SMALLEST), -1, 0)
    return padded


def resize(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize: means over areas when shrinking (OpenCV's INTER_AREA, LiteMedSAM's own), linearly when enlarging.

    Departs: LiteMedSAM enlarges with INTER_AREA too, which makes blocks of the old pixels. Linear pictures look more
    like those it was trained on: in slices of 35 x 50 pixels (every fifth of one hippocampus scan) DSC .70 instead of
    .39 for the anterior part, .72 instead of .65 for the posterior.

    Args:
        image: (H, W, C) uint8.
        shape: (H, W) wanted; both larger, or both smaller, or equal.

    Returns:
        (H, W, C) uint8.
    """
    if image.shape[:2] == shape:
        return image
    rows, columns = _weights(image.shape[0], shape[0]), _weights(image.shape[1], shape[1])
    # each channel by itself: the sums' order would depend on how many there are, and with it what is just one half
    planes = [rows @ image[..., channel].astype(np.float32) @ columns.T for channel in range(image.shape[2])]
    return np.clip(np.floor(np.stack(planes, axis=-1) + 0.5), 0, 255).astype(np.uint8)


def scaled_boxes(boxes: ArrayLike, shape: tuple[int, int], size: int) -> NDArray[np.float32]:
    """Boxes in pixels of the slice -> corners as the model was trained on.

    Args:
        boxes: (n, 4) int, rows (y0, x0, y1, x1), upper bounds excluded.
        shape: (H, W) of the slice.
        size: Pixels of a side of what the encoder sees.

    Returns:
        (n, 4) float32, rows (x0, y0, x1, y1) in whole pixels of what the encoder sees.
    """
    y0, x0, y1, x1 = np.asarray(boxes, dtype=np.int64).T
    # Upper bounds stay excluded: with the last row and column inside instead, small slices, which are enlarged, lost
    # up to a pixel of their own at two sides (aorta in a CT of 122 x 101 pixels: DSC .84 instead of .95).
    corners = np.stack([x0, y0, x1, y1], axis=1)
    return np.floor(corners * (size / max(shape))).astype(np.float32)


def probabilities_of_logits(logits: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Logits of the padded square -> probabilities on the slice; interpolated first, as LiteMedSAM does it.

    Args:
        logits: (n, size, size) float32.
        shape: (H, W) of the slice.

    Returns:
        (n, H, W) float32 in [0, 1].
    """
    height, width = scaled_shape(shape, logits.shape[-1])
    rows, columns = _neighbours(height, shape[0]), _neighbours(width, shape[1])
    found = np.empty((len(logits), *shape), dtype=np.float32)
    for one, cropped in zip(found, logits[:, :height, :width], strict=True):
        across = _along_columns(cropped, columns)
        for strip in _strips(shape[0]):
            one[strip] = _sigmoid(_between(across, rows, strip))
    return found


def masks_of_logits(logits: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Logits of the padded square -> masks on the slice: where the probability is above one half.

    Args:
        logits: (n, size, size) float32.
        shape: (H, W) of the slice.

    Returns:
        (n, H, W) bool.
    """
    height, width = scaled_shape(shape, logits.shape[-1])
    rows, columns = _neighbours(height, shape[0]), _neighbours(width, shape[1])
    found = np.zeros((len(logits), *shape), dtype=bool)
    for mask, cropped in zip(found, logits[:, :height, :width], strict=True):
        positive = cropped > 0
        if not positive.any():
            continue
        # Between numbers that are not positive none is: only what lies around the positive ones is computed.
        inside = _reached(positive.any(axis=0), columns)
        across = _along_columns(cropped, [part[inside] for part in columns])
        reached = _reached(positive.any(axis=1), rows)
        for strip in _strips(reached.stop, reached.start):
            mask[strip, inside] = _between(across, rows, strip) > 0
    return found


def _along_columns(image: np.ndarray, columns: Sequence[np.ndarray]) -> np.ndarray:
    """(h, w) -> (h, W); rows are taken out of an array much faster than columns are."""
    turned = _between(np.ascontiguousarray(image.T), columns, slice(None))
    return np.ascontiguousarray(turned.T)


def _between(image: np.ndarray, neighbours: Sequence[np.ndarray], strip: slice) -> np.ndarray:
    """Rows of an image (h, W), interpolated: some of the new ones."""
    before, after, share = (part[strip] for part in neighbours)
    values, step = image[before], image[after]
    step -= values
    step *= share[:, None]
    values += step
    return values


def _strips(stop: int, start: int = 0) -> list[slice]:
    return [slice(first, min(first + ROWS, stop)) for first in range(start, stop, ROWS)]


def _reached(positive: np.ndarray, neighbours: Sequence[np.ndarray]) -> slice:
    """From the first new row that has a positive neighbour to the last."""
    flags = positive[neighbours[0]] | positive[neighbours[1]]
    return slice(int(flags.argmax()), len(flags) - int(flags[::-1].argmax()))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Of any number without overflow, in place."""
    values *= 0.5
    np.tanh(values, out=values)
    values += 1
    values *= 0.5
    return values


@lru_cache(maxsize=32)
def _neighbours(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new row the old ones whose centres lie before and behind its own, and the share of the latter; what
    torch calls bilinear, with align_corners=False, and in single precision as there (else logits differ by 4e-5)."""
    half = np.float32(0.5)
    centres = (np.arange(after, dtype=np.float32) + half) * (np.float32(before) / np.float32(after)) - half
    centres = np.clip(centres, 0, before - 1)
    first = centres.astype(np.int64)
    return first, np.minimum(first + 1, before - 1), centres - first.astype(np.float32)


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> np.ndarray:
    """(after, before) float32: how much of each old pixel goes into each new one; rows sum to 1."""
    weights = np.zeros((after, before))
    scale = before / after
    for new in range(after):
        if scale >= 1:
            first, last = new * scale, (new + 1) * scale
            old = np.arange(before)
            weights[new] = np.clip(np.minimum(old + 1, last) - np.maximum(old, first), 0, None)
        else:
            centre = min(max((new + 0.5) * scale - 0.5, 0), before - 1)
            left = int(centre)
            weights[new, left] += 1 - (centre - left)
            weights[new, min(left + 1, before - 1)] += centre - left
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
