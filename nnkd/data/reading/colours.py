"""What tif and all other pictures share: how they are turned, and what their transparency means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORIENTATION = 0x0112  # the tag, of EXIF as of tif
# By its value: whether rows become columns, and what is turned round then, rows or columns
_TURNS = {2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
          6: (True, False, True), 7: (True, True, True), 8: (True, True, False)}  # fmt: skip
TURNED = "it was turned as its orientation tag says; masks and boxes count as drawn on the turned picture"
BLURRED = "it is a JPEG, which changes a label map's values near edges"
INVERTED = "its zero is white: it was inverted"
OF_CMYK = "CMYK was made RGB, without its colour profile"


def named(file: Path) -> str:
    """A file's name and its folder's, for messages."""
    return f"'{file.name}' in {file.parent.name}"


def turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An array as it is meant to be seen.

    Args:
        array: (..., Y, X).
        orientation: EXIF's, from 1 to 8; any other leaves it as it is, as viewers do.
    """
    transposed, rows, columns = _TURNS.get(orientation, (False, False, False))
    array = np.swapaxes(array, -1, -2) if transposed else array
    return array[..., :: -1 if rows else 1, :: -1 if columns else 1]


def said_of_alpha(alpha: NDArray[Any], file: Path, label_map: bool) -> tuple[str, ...]:
    """What is to be said where transparency is left out: nothing, if there is none.

    Args:
        alpha: Opacity, of any shape and numeric type.
        file: Whose.
        label_map: Whether values are labels: which of them a transparent pixel has nobody can tell.

    Raises:
        DatasetError: If a label map has transparent pixels.
    """
    full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    if (alpha == full).all():
        return ()
    if label_map:
        raise DatasetError(
            f"{named(file)} has transparent pixels, but a label map has one value a pixel. Export it as grey, without "
            f"transparency."
        )
    return ("some of its pixels are transparent: their colours were taken as they are stored",)
