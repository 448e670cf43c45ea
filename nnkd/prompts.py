"""What teachers are told: label texts, and boxes per axial slice from a file or from masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.dataset import DatasetSpec
from nnkd.errors import DatasetError, PredictionError, UnknownNameError
from nnkd.files import sha256_text
from nnkd.geometry import Orientation
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
        """sha256 of a case's boxes: when it changes, the case is to be done again."""
        return sha256_text(json.dumps(self.boxes[case], sort_keys=True))

    def prompts(self, case: str, orientation: Orientation, stored_shape: tuple[int, ...]) -> dict[str, SliceBoxes]:
        """A case's boxes in the order teachers see (LPS).

        Args:
            case: Its identifier.
            orientation: Of the case's image.
            stored_shape: (Z, Y, X) of the stored array.

        Raises:
            PredictionError: If the case has no boxes, one leaves the image, or the stored slices are not axial.
        """
        if case not in self.boxes:
            raise PredictionError(f"Case '{case}' is not in the file of boxes. Add its boxes, or take the case out.")
        return {
            label: SliceBoxes([_to_lps(box, case, label, orientation, stored_shape) for box in boxes])
            for label, boxes in self.boxes[case].items()
        }


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
        PredictionError: If it is missing, no JSON, or a box is malformed.
        UnknownNameError: If it names an unknown case or label.
    """
    content, known = _load(file), set(cases)
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


def boxes_of(mask: np.ndarray, spacing: tuple[float, float, float], margin: float = 0.0) -> list[Box]:
    """The box around a mask in each axial slice that holds some of it.

    Args:
        mask: bool (Z, Y, X).
        spacing: (z, y, x) in mm.
        margin: Added on all four sides, in mm, rounded to voxels and clipped to the image.

    Returns:
        Rows (z, y0, x0, y1, x1), upper bounds excluded, at most one a slice.
    """
    height, width = mask.shape[1:]
    my, mx = (round(margin / s) for s in spacing[1:])
    rows = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        ys, xs = np.flatnonzero(mask[z].any(axis=1)), np.flatnonzero(mask[z].any(axis=0))
        y0, x0 = max(0, ys[0] - my), max(0, xs[0] - mx)
        y1, x1 = min(height, ys[-1] + 1 + my), min(width, xs[-1] + 1 + mx)
        rows.append((int(z), int(y0), int(x0), int(y1), int(x1)))
    return rows


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PredictionError(f"The file of boxes '{file.name}' cannot be read ({error.strerror}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PredictionError(f"'{file.name}' is no valid JSON ({error}); boxes have the form {FORM}.") from error
    if not isinstance(content, dict):
        raise PredictionError(f"'{file.name}' holds a {type(content).__name__}; boxes have the form {FORM}.")
    return content


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
