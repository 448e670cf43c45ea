"""What teachers are told: label texts, and boxes per axial slice that are drawn around masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import SettingError
from nnkd.types import TextPrompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int, int]


def texts(spec: DatasetSpec) -> dict[str, TextPrompt]:
    """Each label's name."""
    return {label: TextPrompt(label) for label in spec.labels}


@dataclass(frozen=True, kw_only=True)
class BoxDrawing:
    """How boxes are drawn around a mask.

    Attributes:
        margin: Added on all four sides, in mm (pixels where the image has no spacing).
        jitter: Each side is moved, in or out, by up to so many mm, as people's boxes are not exact either.
        min_area: Masks below so many mm2 in a slice are taken for specks and get no box.
        each: One box around all of the mask in a "slice", or one around each connected "component" of it: two kidneys
            under one label are far apart.

    Raises:
        SettingError: If a length or area is negative.
    """

    margin: float = 0.0
    jitter: float = 0.0
    min_area: float = 0.0
    each: Literal["slice", "component"] = "slice"

    def __post_init__(self) -> None:
        for name in ("margin", "jitter", "min_area"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingError(f"The {name} of boxes is {getattr(self, name):g}, but it must not be negative.")


AROUND = BoxDrawing()  # exactly around


def boxes_of(
    mask: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    drawing: BoxDrawing = AROUND,
    rng: np.random.Generator | None = None,
) -> list[Box]:
    """Boxes around a mask in each axial slice that holds some of it.

    Args:
        mask: bool (Z, Y, X).
        spacing: (z, y, x) in mm.
        drawing: Margin, jitter and what to leave out.
        rng: For jitter; needed only with it.

    Returns:
        Rows (z, y0, x0, y1, x1), upper bounds excluded, inside the image, of at least one pixel.
    """
    pixel = spacing[1] * spacing[2]
    rows = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        pieces = [mask[z]]
        if drawing.each == "component":
            numbered, found = ndimage.label(mask[z], structure=np.ones((3, 3)))
            pieces = [numbered == number for number in range(1, found + 1)]
        for piece in pieces:
            if piece.sum() * pixel >= drawing.min_area:
                rows.append((int(z), *_box_around(piece, spacing[1:], drawing, rng)))
    return rows


def _box_around(
    piece: np.ndarray, spacing: tuple[float, ...], drawing: BoxDrawing, rng: np.random.Generator | None
) -> tuple[int, int, int, int]:
    lows, highs = [], []
    for axis, size in enumerate(piece.shape):
        inside = np.flatnonzero(piece.any(axis=1 - axis))
        out = np.full(2, drawing.margin)
        if drawing.jitter and rng is not None:
            out += rng.uniform(-drawing.jitter, drawing.jitter, 2)
        low, high = np.rint((inside[0] - out[0] / spacing[axis], inside[-1] + 1 + out[1] / spacing[axis])).astype(int)
        if high <= low:  # jitter turned it inside out
            low, high = inside[0], inside[-1] + 1
        low = min(max(low, 0), size - 1)
        lows.append(int(low))
        highs.append(int(min(max(high, low + 1), size)))
    return lows[0], lows[1], highs[0], highs[1]
