"""Boxes that a user gives, by case and label: read, checked, and brought into the order in which slices are seen."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkd.errors import DatasetError, PredictionError
from nnkd.files import read_object, sha256_text

if TYPE_CHECKING:
    from nnkd.data.reading.geometry import Box3D, Orientation

FORM = "{case: {label: [[z0, y0, x0, z1, y1, x1], ...]}}"
AXES_3D, AXES_SLICE, AXES_2D = "[z0, y0, x0, z1, y1, x1]", "[z, y0, x0, y1, x1]", "[y0, x0, y1, x1]"
CHALLENGE = {4: "[x0, y0, x1, y1]", 6: "[x0, y0, z0, x1, y1, z1]"}  # MedSAM's order, in its npz

Asked = Mapping[str, Sequence[Any]]  # boxes by label, as they were given


@dataclass(frozen=True)
class GivenBoxes:
    """A file of boxes; what is wrong with one case's is said when that case is asked for.

    Attributes:
        name: The file's name.
        content: By case: boxes by label, or a list of boxes, which are numbered from 1 then.
    """

    name: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> GivenBoxes:
        """Read a JSON file.

        Raises:
            SettingError: If it is missing, no JSON, or no object.
        """
        return cls(file.name, read_object(file, "boxes", FORM))

    @property
    def labels(self) -> list[str]:
        """Every label, in the order in which the file first names it."""
        found: dict[str, None] = {}
        for by_label in self.content.values():
            names = range(1, len(by_label) + 1) if isinstance(by_label, list) else by_label
            found |= dict.fromkeys(map(str, names if isinstance(names, dict | range) else ()))
        return list(found)

    def of(self, case: str) -> Asked:
        """A case's boxes by label.

        Raises:
            PredictionError: If there are none, or they are no lists of boxes by label.
        """
        if case not in self.content:
            raise PredictionError(f"'{self.name}' has no boxes for '{case}'. Add them, or take the image out.")
        by_label = self.content[case]
        if isinstance(by_label, list):
            by_label = {str(number): [box] for number, box in enumerate(by_label, start=1)}
        if not isinstance(by_label, dict) or not all(isinstance(boxes, list) for boxes in by_label.values()):
            raise PredictionError(f"'{self.name}' has no lists of boxes by label for '{case}'; the form is {FORM}.")
        return by_label

    def seen(
        self, case: str, orientation: Orientation | None, shape: Sequence[int], flat: bool, otherwise: str
    ) -> dict[str, list[Box3D]]:
        """A case's boxes by label in the order in which its slices are seen, upper bounds excluded.

        Args:
            case: Which.
            orientation: From the stored array to the seen one; None: they are the same.
            shape: (Z, Y, X) of the stored array.
            flat: Whether it is a picture, of one slice.
            otherwise: What else than boxes of volumes helps where the stored slices are not axial.

        Raises:
            PredictionError: If there are none, or one is no box of this image.
            DatasetError: If one was given for a slice, and the stored slices are not axial.
        """
        found: dict[str, list[Box3D]] = {}
        for label, boxes in self.of(case).items():
            where = self.where(case, label)
            found[label] = [checked(box, shape, flat, where) for box in boxes]
            if orientation is None:
                continue
            if orientation.axes()[0][0] != 0 and any(len(box) == 5 for box in boxes):
                raise DatasetError(
                    f"{where} a box for one slice, but the image's stored slices are not axial. Give boxes {AXES_3D}, "
                    f"or {otherwise}."
                )
            found[label] = list(map(orientation.turn, found[label]))
        return found

    def where(self, case: str, label: str) -> str:
        """What to begin a message about a box with."""
        return f"'{self.name}' has for '{label}' of '{case}'"


def fingerprint(asked: Asked) -> str:
    """sha256 of a case's boxes: when it changes, the case is to be done again."""
    return sha256_text(json.dumps(asked, sort_keys=True))


def check_form(box: Any, where: str) -> None:
    """Refuse what is a box of no image, before an image is read; arguments and errors as for `checked`."""
    _corners(box, isinstance(box, list) and len(box) == 4, where)


def checked(box: Any, shape: Sequence[int], flat: bool, where: str) -> Box3D:
    """A box as the user wrote it, in voxels of the stored array.

    Args:
        box: Four numbers in a picture; six in a volume, or five for one of its slices. Fractions are rounded outwards.
        shape: (Z, Y, X) of the stored array.
        flat: Whether it is a picture, of one slice.
        where: What to begin a message with, such as "'boxes.json' has for 'liver' of 'scan'".

    Returns:
        (z0, y0, x0, z1, y1, x1), upper bounds excluded, inside the array and not empty.

    Raises:
        PredictionError: If it is none.
    """
    found = _corners(box, flat, where)
    _check_inside(found, box, shape, flat, where)
    return found


def _corners(box: Any, flat: bool, where: str) -> Box3D:
    axes = [AXES_2D] if flat else [AXES_3D, AXES_SLICE]
    numbers = _numbers(box, where, axes)
    if len(numbers) == 4 and flat:
        low, high = [0, *numbers[:2]], [1, *numbers[2:]]
    elif len(numbers) == 5:
        low, high = numbers[:3], [numbers[0] + 1, *numbers[3:]]
    elif len(numbers) == 6 and not flat:
        low, high = numbers[:3], numbers[3:]
    else:
        what = "a picture has" if flat else "a volume has"
        raise PredictionError(f"{where} the box {box} of {len(numbers)} numbers, but {what} {' or '.join(axes)}.")
    return _outwards(low, high, box, flat, where)


def challenge_box(box: Sequence[float], shape: Sequence[int], where: str) -> Box3D:
    """A box in the order of MedSAM's challenge: (x0, y0, x1, y1), or (x0, y0, z0, x1, y1, z1) with z1 included.

    Source: MedSAM, branch LiteMedSAM: corners go to the model as they are, and slices up to z1 are segmented.

    Raises:
        PredictionError: If it is none.
    """
    numbers = _numbers(list(box), where, [CHALLENGE[len(box)]])
    if len(numbers) == 4:
        x0, y0, x1, y1 = numbers
        z0, z1 = 0.0, 1.0
    else:
        x0, y0, z0, x1, y1, z1 = numbers
        if z0 > z1:
            raise _swapped(list(box), where)
        z1 = max(min(z1 + 1, shape[0]), z1)  # some count the slices up to the one behind the last
    said, flat = [float(v) if v % 1 else int(v) for v in numbers], len(numbers) == 4
    found = _outwards((z0, y0, x0), (z1, y1, x1), said, flat, where)
    _check_inside(found, said, shape, flat, where, x_first=True)
    return found


def _numbers(box: Any, where: str, axes: Sequence[str]) -> list[float]:
    if (
        not isinstance(box, list)
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
        or not all(abs(v) <= sys.float_info.max for v in box)  # NaN fails too
    ):
        raise PredictionError(f"{where} the box {box}, but the finite numbers {' or '.join(axes)} are expected.")
    return box


def _outwards(low: Sequence[float], high: Sequence[float], said: Any, flat: bool, where: str) -> Box3D:
    """Corners in whole voxels; refused if they are swapped or hold nothing."""
    (z0, y0, x0), (z1, y1, x1) = map(math.floor, low), map(math.ceil, high)
    sides = (z1 - z0, y1 - y0, x1 - x0)
    if min(sides) < 0:
        raise _swapped(said, where)
    if min(sides) == 0:
        raise PredictionError(
            f"{where} the box {said}, which has no {'area' if flat else 'volume'}: upper bounds are excluded, so add "
            f"1 to them."
        )
    return z0, y0, x0, z1, y1, x1


def _check_inside(found: Box3D, said: Any, shape: Sequence[int], flat: bool, where: str, x_first: bool = False) -> None:
    pairs = list(zip(found[:3], found[3:], shape, strict=True))
    if any(low < 0 or high > size for low, high, size in pairs):
        order = "height, width" if flat else "z, y, x"
        size = "x".join(map(str, shape[1:] if flat else shape))
        raise PredictionError(
            f"{where} the box {said}, which leaves the image of {size} ({order}).{_hint(pairs[flat:], x_first)}"
        )


def _swapped(said: Any, where: str) -> PredictionError:
    return PredictionError(f"{where} the box {said} with swapped corners: lower bounds come first.")


def _hint(pairs: Sequence[tuple[int, int, int]], x_first: bool) -> str:
    """That a box would fit in the other order of axes, if it would."""
    sizes = [size for *_, size in pairs]
    fits = [low >= 0 and high <= size for (low, high, _), size in zip(pairs, reversed(sizes), strict=True)]
    here = "zyx"[-len(pairs) :][:: -1 if x_first else 1]
    other = ", ".join(reversed(here))
    return f" It would fit in the order {other}: {here[0]} comes first here." if all(fits) else ""
