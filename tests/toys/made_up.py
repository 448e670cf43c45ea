"""Made-up downloads for the tests of conversions: small volumes and pictures on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def volume(
    file: Path,
    array: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = (1.5, 1.0, 2.0),
    origin: Sequence[float] = (10.0, -20.0, 30.0),
    seed: int = 0,
) -> np.ndarray:
    """Write (Z, Y, X), or (channel, Z, Y, X), and return it; spacing and origin are (x, y, z)."""
    if array is None:
        array = np.random.default_rng(seed).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    parts = [array] if array.ndim == 3 else list(array)
    images = []
    for part in parts:
        image = sitk.GetImageFromArray(part)
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        images.append(image)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(images[0] if array.ndim == 3 else sitk.JoinSeries(images), str(file))
    return array


def labels(values: Sequence[int] = (0, 1, 2), shape: Sequence[int] = (5, 6, 7), seed: int = 0) -> np.ndarray:
    """A label map uint8 in which each of the values occurs."""
    made = np.random.default_rng(seed).choice(values, shape).astype(np.uint8)
    made.ravel()[: len(values)] = values
    return made


def picture(file: Path, array: np.ndarray | None = None, mode: str | None = None, seed: int = 0) -> np.ndarray:
    """Write (Y, X) or (Y, X, 3) with Pillow and return it."""
    from PIL import Image

    if array is None:
        array = np.random.default_rng(seed).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(array)
    (made.convert(mode) if mode else made).save(file)
    return array
