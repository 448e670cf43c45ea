"""What teachers are told: label texts, and boxes per axial slice from a file or from masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from nnkd.data.dataset import DatasetSpec
from nnkd.data.geometry import Orientation
from nnkd.errors import DatasetError, PredictionError, SettingError, UnknownNameError
from nnkd.files import read_object, sha256_text
from nnkd.types import SliceBoxes, TextPrompt

Box = tuple[int, int, int, int, int]
FORM = "{case: {label: [[z, y0, x0, y1, x1], ...]}}"


@dataclass(frozen=True)
class StoredBoxes:
    """Boxes in indices of the stored arrays (z, y, x as nnU-Net's reader gives them), upper bounds excluded.

    Attributes:
        boxes: By case and label. A label with an empty list was looked for and is not there; one without a list was
            never prompted.
    """

    boxes: Mapping[str, Mapping[str, tuple[Box, ...]]]

    def fingerprint(self, case: str) -> str:
        """sha256 of a case's boxes: when it changes, the case is to be done again.

        Raises:
            PredictionError: If the case has no boxes.
        """
        return sha256_text(json.dumps(self._of(case), sort_keys=True))

    def prompts(self, case: str, orientation: Orientation, stored_shape: tuple[int, ...]) -> dict[str, SliceBoxes]:
        """A case's boxes in the order teachers see (LPS).

        Args:
            case: Its identifier.
            orientation: Of the case's image.
            stored_shape: (Z, Y, X) of the stored array.

        Raises:
            PredictionError: If the case has no boxes, one leaves the image, or the stored slices are not axial.
        """
        return {
            label: SliceBoxes([_to_lps(box, case, label, orientation, stored_shape) for box in boxes])
            for label, boxes in self._of(case).items()
        }

    def _of(self, case: str) -> Mapping[str, tuple[Box, ...]]:
        if case not in self.boxes:
            raise PredictionError(f"Case '{case}' is not in the file of boxes. Add its boxes, or take the case out.")
        return self.boxes[case]


def texts(spec: DatasetSpec) -> dict[str, TextPrompt]:
    """Each label's name."""
    return {label: TextPrompt(label) for label in spec.labels}


def read_boxes(file: Path, spec: DatasetSpec, cases: Iterable[str]) -> StoredBoxes:
    """Read and check a file of boxes.

    Args:
        file: JSON {case: {label: [[z, y0, x0, y1, x1], ...]}}.
        spec: The dataset.
        cases: Every case the file may name.

    Raises:
        SettingError: If it is missing or no JSON.
        PredictionError: If a box is malformed.
        UnknownNameError: If it names an unknown case or label.
    """
    content, known = read_object(file, "boxes", FORM), set(cases)
    found: dict[str, dict[str, tuple[Box, ...]]] = {}
    for case, by_label in content.items():
        if case not in known:
            raise UnknownNameError(f"'{file.name}' has boxes for the case '{case}', but {spec.name} has no such image.")
        if not isinstance(by_label, dict):
            raise PredictionError(f"'{file.name}' has no labels under '{case}'; the form is {FORM}.")
        for label, boxes in by_label.items():
            spec.check_label(label)
            if not isinstance(boxes, list):
                raise PredictionError(f"'{file.name}' has no list of boxes for '{label}' of '{case}'; see {FORM}.")
            checked = tuple(_box(box, f"'{file.name}' has for '{label}' of '{case}'") for box in boxes)
            found.setdefault(case, {})[label] = checked
    return StoredBoxes(found)


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
    mask: np.ndarray,
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


def _box(box: Any, where: str) -> Box:
    if not isinstance(box, list) or len(box) != 5 or not all(type(v) is int for v in box):
        raise PredictionError(f"{where} the box {box}, but five integers [z, y0, x0, y1, x1] are expected.")
    z, y0, x0, y1, x1 = box
    if y1 < y0 or x1 < x0:
        raise PredictionError(f"{where} the box {box} with swapped corners; y0 < y1 and x0 < x1 are expected.")
    if y1 == y0 or x1 == x0:
        raise PredictionError(f"{where} the box {box} without area; upper bounds are excluded, so add 1 to them.")
    return z, y0, x0, y1, x1


def _to_lps(box: Box, case: str, label: str, orientation: Orientation, shape: tuple[int, ...]) -> Box:
    z, y0, x0, y1, x1 = box
    depth, height, width = shape
    if not (0 <= z < depth and y0 >= 0 and y1 <= height and x0 >= 0 and x1 <= width):
        raise PredictionError(
            f"The box {list(box)} for '{label}' of '{case}' leaves the image, whose stored array has "
            f"{depth}x{height}x{width} voxels (z, y, x)."
        )
    axes = orientation.axes()
    if axes[0][0] != 0:
        raise DatasetError(
            f"The stored slices of '{case}' are not axial, so boxes in them cannot prompt a teacher that works on "
            f"axial slices. Re-orient the image (and draw the boxes anew), or use another teacher."
        )
    ranges = [(0, 0)] * 3
    for (low, high), size, (axis, reversed_) in zip(((z, z + 1), (y0, y1), (x0, x1)), shape, axes, strict=True):
        ranges[axis] = (size - high, size - low) if reversed_ else (low, high)
    return ranges[0][0], ranges[1][0], ranges[2][0], ranges[1][1], ranges[2][1]
