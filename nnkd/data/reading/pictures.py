"""Pictures: png, jpg, bmp, gif and tif, as their colours are meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnkd.data.reading.image import TIFFS, Image, ending_of, flat, stack


def read(file: Path) -> Image:
    """Read a picture, or a stack of grey ones.

    Raises:
        OSError, ValueError, SyntaxError: What Pillow and tifffile raise.
    """
    if ending_of(file) in TIFFS:
        from skimage import io

        array = io.imread(file)
    else:
        from PIL import Image as Pillow

        with Pillow.open(file) as picture:
            # Colour palettes of masks hold labels, which are the indices; a grey palette's are its grey values
            grey = picture.mode == "P" and _is_grey(picture.getpalette() or [])
            array = np.asarray(picture.convert("L") if grey or picture.mode in ("1", "LA") else picture)
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return flat(np.moveaxis(array[..., :3], -1, 0), colour=True)
    if array.ndim == 2:
        return flat(array[None])
    return stack(array)


def _is_grey(palette: Sequence[int]) -> bool:
    return list(palette[0::3]) == list(palette[1::3]) == list(palette[2::3])
