"""What another program calls the labels: an option `map`, label -> its value(s) or name(s)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import SimpleITK as sitk

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.by_name import FolderLabels
from nnkd.data.reading import formats
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.data.reading.image import KNOWN, WITHOUT_WORLD, ending_of
from nnkd.data.reading.itk import with_grid
from nnkd.errors import DatasetError, GeometryError, SettingError
from nnkd.files import load_json
from nnkd.types import TeacherContext, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("nnkd")
ENDINGS = KNOWN
TOUCHING = 1e-3  # voxels: boxes that share no more than this only touch

Part = int | str
# Values that no label is made of: refused; background, if there are labels beside them; background
Others = Literal["refuse", "some", "background"]
Map = dict[str, Part | list[Part]]


def read_map(given: Map | Path | None, labels: Sequence[str], owner: str) -> dict[str, list[Part]] | None:
    """Look at a teacher's option `map`.

    Args:
        given: The map itself, or a JSON file that holds it.
        labels: The dataset's labels.
        owner: The teacher's name, for messages.

    Returns:
        Values or names by label, as lists; None if there is no map.

    Raises:
        SettingError: If the file is no such JSON, or the map is empty, names unknown labels, or holds the background.
    """
    if given is None:
        return None
    found = _read(given) if isinstance(given, Path) else given
    strange = sorted(set(found) - set(labels))
    if strange:
        raise SettingError(
            f"The {owner} teacher's map has {', '.join(strange)}, but the dataset's labels are "
            f'{", ".join(labels)}. Write label -> value, such as {{"{labels[0]}": 1}}.'
        )
    if not found:
        raise SettingError(f"The {owner} teacher's map is empty. Name at least one label in it, or leave it out.")
    parts = {label: list(value) if isinstance(value, list) else [value] for label, value in found.items()}
    if any(not values for values in parts.values()) or any(part == 0 for v in parts.values() for part in v):
        raise SettingError(f"The {owner} teacher's map has an empty list or the value 0, which is the background.")
    return parts


def read_parts(given: Map | Path | None, context: TeacherContext, owner: str) -> dict[str, list[Part]]:
    """A teacher's option `map`, or what stands for it: the dataset's own integers (names, where there is no dataset).

    Args:
        given, owner: As for `read_map`.
        context: The labels, and the dataset.

    Raises:
        SettingError: As `read_map`, and if values and names are mixed.
    """
    parts = read_map(given, context.labels, owner)
    if parts is None:
        dataset = context.dataset
        return {label: [label] if dataset is None else list(dataset.spec.labels[label]) for label in context.labels}
    if {type(part) for values in parts.values() for part in values} == {int, str}:
        raise SettingError(f"The {owner} teacher's map mixes values and names of files; use one kind throughout.")
    return parts


def labels_of_folder(folder: Path, context: TeacherContext) -> FolderLabels | None:
    """What the integers in a folder of masks mean, and a line about it in the log; None where there is no dataset.

    Raises:
        NnkdError: If the folder's own manifest or dataset.json has no label of the dataset's.
    """
    spec = None if context.dataset is None else context.dataset.spec
    if not isinstance(spec, DatasetSpec):
        return None
    found = FolderLabels.of(folder, spec)
    if line := found.line():
        log.info("%s", line)
    return found


def ignore_label(context: TeacherContext) -> int | None:
    """The dataset's value of voxels that are left out of training, which its own label maps may hold."""
    return None if context.dataset is None else context.dataset.spec.ignore_label


def _read(file: Path) -> Map:
    from pydantic import TypeAdapter

    try:
        return TypeAdapter(Map).validate_python(load_json(file))
    except OSError as error:
        raise SettingError(f"The map '{file.name}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise SettingError(
            f'The map \'{file.name}\' must be JSON such as {{"liver": 5, "kidney": [2, 3]}}. Correct it.'
        ) from error


@dataclass(frozen=True)
class MaskFile:
    """A mask file's content.

    Attributes:
        file: Where it was read from.
        values: (Z, Y, X) int32, in file order.
        grid: Where the voxels lie; `in_world` is False for formats without geometry.
        known: Whether the file says where they lie.
    """

    file: Path
    values: NDArray[np.int32]
    grid: Grid
    known: bool = True

    @classmethod
    def read(cls, file: Path) -> MaskFile:
        """Read a file.

        Raises:
            DatasetError: If it is empty, truncated or unreadable, coloured, holds fractions, or has not 2 or 3 axes.
            GeometryError: If its axes are not at right angles.
        """
        image = formats.read(file, label_map=True)
        formats.say(file, image.said)
        return cls(file, image.integers(f"The mask '{file.name}'"), image.grid, image.known)

    @property
    def in_world(self) -> bool:
        """Whether the format says where voxels lie."""
        return ending_of(self.file) not in WITHOUT_WORLD

    def difference(self, volume: Volume) -> str:
        """How its grid differs from the volume's, in whatever order it is stored, as half a sentence; empty: not."""
        return Orientation(self.grid).grid.difference(grid_of(volume, self.in_world))

    def turned(self) -> NDArray[np.int32]:
        """(Z, Y, X) int32 in LPS order."""
        return Orientation(self.grid).to_lps(self.values)

    def onto(self, volume: Volume, resample: bool, todo: str) -> tuple[NDArray[np.int32], bool]:
        """The mask on the volume's grid: the one way by which a mask from outside becomes a prediction.

        Args:
            volume: Whose mask it is.
            resample: Whether a mask of another grid is brought onto the volume's.
            todo: What to do where a mask lies elsewhere, as a sentence.

        Returns:
            (Z, Y, X) int32 in LPS order, and whether it was resampled.

        Raises:
            GeometryError: If it lies elsewhere, has a header that says nothing, or is not to be resampled.
        """
        difference = self.difference(volume)
        if not difference:
            return self.turned(), False
        what, target = f"The mask '{self.file.name}'", grid_of(volume)
        in_space = self.in_world and self.grid.in_world and not volume.is_2d
        if in_space and (not self.known or bare(self.grid, target)):
            raise GeometryError(
                f"{what} of '{volume.case}' has a header that says nothing of where it lies, while its image's does "
                f"({difference}). {todo}"
            )
        if in_space and not overlap(self.grid, target):
            raise GeometryError(
                f"{what} does not overlap its image '{volume.case}': their origins, directions or spacings do not "
                f"belong together. {todo}"
            )
        if not (resample and in_space):
            raise GeometryError(f"{what} does not lie on the grid of its image '{volume.case}': {difference}. {todo}")
        return self.resampled(volume), True

    def resampled(self, volume: Volume) -> NDArray[np.int32]:
        """(Z, Y, X) int32 on the volume's grid: nearest neighbour in world space; outside is background."""
        return resample_nearest(with_grid(self.values, self.grid), grid_of(volume))


def grid_of(volume: Volume, in_world: bool = True) -> Grid:
    """A volume's grid."""
    return Grid(volume.shape, volume.spacing, volume.origin, np.asarray(volume.direction), in_world=in_world)


def bare(grid: Grid, target: Grid) -> bool:
    """Whether a mask's grid is what a program writes that lost the image's header: origin 0, axes along the world's,
    and spacing 1 or as many voxels as the image has, while the image itself lies elsewhere."""
    return (
        _at_zero(grid)
        and (grid.spacing == (1.0, 1.0, 1.0) or sorted(grid.shape) == sorted(target.shape))
        and not (_at_zero(target) and target.spacing == grid.spacing)
    )


def _at_zero(grid: Grid) -> bool:
    return not np.any(grid.origin) and np.array_equal(np.abs(grid.direction), np.eye(3))


def resample_nearest(image: sitk.Image, target: Grid) -> NDArray[np.int32]:
    """Nearest neighbour in world space; outside is background.

    Returns:
        (Z, Y, X) int32 on `target`.
    """
    resampled = sitk.Resample(
        image, list(target.shape[::-1]), sitk.Transform(), sitk.sitkNearestNeighbor, list(target.origin),
        list(target.spacing[::-1]), target.direction.ravel().tolist(), 0.0, image.GetPixelID(),
    )  # fmt: skip
    return np.rint(sitk.GetArrayFromImage(resampled)).astype(np.int32)


def overlap(one: Grid, other: Grid) -> bool:
    """Whether the boxes that two grids' voxels fill have anything in common. Boxes may be oblique: corners of each
    are looked at in the other's axes, so that boxes which miss each other at a slant may pass."""
    return _meets(one, other) and _meets(other, one)


def _meets(one: Grid, other: Grid) -> bool:
    """Whether the corners of `other`, in voxels of `one`, leave no gap along any of its axes."""
    corners = np.array(list(product(*((-0.5, n - 0.5) for n in other.shape[::-1]))))
    world = corners * other.spacing[::-1] @ np.asarray(other.direction).T + other.origin
    voxels = (world - one.origin) @ np.linalg.inv(np.asarray(one.direction)).T / one.spacing[::-1]
    high = np.asarray(one.shape[::-1]) - 0.5
    return bool(np.all(voxels.max(0) > -0.5 + TOUCHING) and np.all(voxels.min(0) < high - TOUCHING))


def by_values(
    mask: MaskFile,
    values: NDArray[np.integer],
    parts: Mapping[str, Sequence[int | str]],
    others: Others,
    known: Sequence[int | None] = (),
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, int]]:
    """Take a label map apart.

    Args:
        mask: Where it is from, for messages.
        values: (Z, Y, X) integers.
        parts: Values by label.
        others: What becomes of values that no label is made of (`Others`).
        known: Further values that may be there, such as the dataset's ignore label; they are background.

    Returns:
        bool masks (Z, Y, X) by label; and voxels by value of those that no label is made of.

    Raises:
        DatasetError: If there are values that no label is made of and `others` is "refuse", or, but with "background",
            no others.
    """
    mapped = {part for several in parts.values() for part in several}
    found, counts = np.unique(values[values != 0], return_counts=True)
    ignored = {int(v): int(n) for v, n in zip(found, counts, strict=True) if int(v) not in mapped}
    strange = [v for v in ignored if v not in known]
    if strange and (others == "refuse" or (others == "some" and len(ignored) == len(found))):
        named = ", ".join(f"{label} {'+'.join(map(str, several))}" for label, several in parts.items())
        raise DatasetError(
            f"The mask '{mask.file.name}' holds the value{'s' if len(strange) > 1 else ''} "
            f"{', '.join(map(str, strange[:8]))}{' ...' if len(strange) > 8 else ''}, which no label is made of "
            f"({named}). Set the option map, such as map='{{\"{next(iter(parts))}\": {strange[0]}}}', or "
            f"others=background if they are to be background."
        )
    return {label: np.isin(values, list(several)) for label, several in parts.items()}, {
        str(value): count for value, count in ignored.items()
    }
