"""What an image is once it was read: voxels, where they lie, and what was done to get there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.listing import Listing, listing
from nnkd.data.reading import nifti
from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError
from nnkd.files import split_ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TIFFS = (".tif", ".tiff")
FREESURFER = (".mgz", ".mgh")
VOLUMES = (*nifti.NIFTI_ENDINGS[::-1], ".img", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", *FREESURFER)
KNOWN = (*PICTURES, *TIFFS, *VOLUMES)
WITHOUT_WORLD = (*PICTURES, *TIFFS)
LARGEST = 2**31 - 1
LARGEST_FLOAT = float(np.finfo(np.float32).max)
HEADER_BYTES = 1 << 16
VOXELS = "voxels of another file"
# How a header that is a text names the file of its voxels
DATA_FILES = {".mhd": rb"^ElementDataFile\s*=\s*(.+?)\s*$", ".nhdr": rb"^data ?file\s*:\s*(.+?)\s*$"}


@dataclass(frozen=True)
class Image:
    """An image as its file stores it.

    Attributes:
        array: (C, Z, Y, X) of any numeric type; Z = 1 for pictures and single slices.
        grid: Where the voxels lie: always right-angled. Pictures lie nowhere (`Grid.in_world`).
        flat: Whether the file has two axes.
        colour: Whether the channels are red, green and blue.
        said: What was chosen or changed to get there; empty: nothing.
        header: `nifti.Header.stored`, for what is written on the same grid; None: the grid says it all.
        known: Whether the file says where its voxels lie. A NIfTI file without qform and sform does not.
        as_is: Whether nnU-Net reads the file as it was read here, so that a copy of it will do.
    """

    array: NDArray[Any]
    grid: Grid
    flat: bool = False
    colour: bool = False
    said: tuple[str, ...] = ()
    header: Mapping[str, Any] | None = None
    known: bool = True
    as_is: bool = True

    @property
    def channels(self) -> list[Image]:
        """Each channel as an image of its own."""
        if len(self.array) == 1:
            return [self]
        return [replace(self, array=self.array[k : k + 1], colour=False) for k in range(len(self.array))]

    def integers(self, what: str) -> NDArray[np.int32]:
        """The values of a label map.

        Args:
            what: What it is, for messages.

        Returns:
            (Z, Y, X) int32; of a picture with three equal channels the first.

        Raises:
            DatasetError: If its channels differ, or it holds fractions or numbers that are none or beyond 32 bits.
        """
        if len(self.array) > 1 and (self.array != self.array[:1]).any():
            kind = "a colour picture" if self.colour else f"an image of {len(self.array)} channels"
            todo = "Export it as grey." if self.colour else "Give one file with one value a voxel."
            raise DatasetError(f"{what} is {kind}, but a label map has one value a voxel. {todo}")
        array = self.array[0]
        check_finite(array, what)
        if array.size and (array.max() > LARGEST or array.min() < -LARGEST):
            raise DatasetError(f"{what} holds {np.abs(array).max():.6g}, which is no label. Re-export it.")
        rounded: NDArray[np.int32] = np.rint(array).astype(np.int32)
        off = np.abs(rounded.astype(np.float64) - array)
        if not (off <= 1e-3).all():
            raise DatasetError(
                f"{what} holds fractions, but a label map holds integers. Re-export it, or threshold probabilities."
            )
        return rounded


def flat(array: NDArray[np.integer | np.floating], colour: bool = False) -> Image:
    """A picture, which lies nowhere.

    Args:
        array: (C, Y, X).
        colour: Whether the channels are red, green and blue.
    """
    volume = np.ascontiguousarray(array[:, None])
    return Image(volume, nowhere(volume.shape[1:]), flat=True, colour=colour)


def stack(array: NDArray[np.integer | np.floating]) -> Image:
    """(Z, Y, X) of a format that does not say where it lies: one channel."""
    return Image(np.ascontiguousarray(array[None]), nowhere(array.shape))


def ending_of(file: Path) -> str:
    """The file's ending in small letters, ".nii.gz" kept whole."""
    return split_ending(file.name)[1].lower()


def images_among(files: Sequence[Path]) -> list[Path]:
    """Files of known kinds, in their order, without those that only hold the voxels of another one (.img of .hdr, or
    whatever a .mhd or .nhdr names)."""
    known = [file for file in files if ending_of(file) in KNOWN]
    parts = _voxel_files(known)
    return [file for file in known if file not in parts]


def image_files(folder: Path, deep: bool = True, more: Sequence[str] = ()) -> Listing:
    """Image files of known kinds by name, those that only hold the voxels of another one set aside.

    Args:
        folder: Where they lie.
        deep: Whether those in folders below are looked for, too; they are named by their path below the folder.
        more: Endings of further kinds.
    """
    kinds = (*KNOWN, *more)
    found = listing(folder, lambda name: name if ending_of(Path(name)) in kinds else "", deep=deep)
    parts = _voxel_files([file for (file,) in found.cases.values()])
    alone = {name for name, (file,) in found.cases.items() if file not in parts}
    return found.only(alone, rule=VOXELS).told(*parts, rule=VOXELS)


def _voxel_files(headers: Sequence[Path]) -> set[Path]:
    parts: set[Path] = set()
    for file in headers:
        ending = ending_of(file)
        if ending == ".hdr":
            parts.update(file.with_suffix(other) for other in (".img", ".IMG"))
        elif ending in DATA_FILES:
            with file.open("rb") as stream:
                found = re.findall(DATA_FILES[ending], stream.read(HEADER_BYTES), re.MULTILINE | re.IGNORECASE)
            parts.update(file.parent / os.fsdecode(name) for name in found)
    return parts


def not_finite(array: NDArray[Any]) -> int:
    """How many values are no number, or beyond what float32 holds, with which everything is computed."""
    if array.dtype.kind != "f":
        return 0
    if array.dtype.itemsize <= 4 and np.isfinite(array.sum(dtype=np.float64)):  # fast, and right where it says none
        return 0
    return int(array.size - np.count_nonzero(_is_finite(array)))


def check_finite(array: NDArray[Any], what: str) -> None:
    """Refuse an image with voxels that are no number: one of them makes a case, and then a network, nothing but NaN.

    Args:
        array: (..., Z, Y, X) of any numeric type.
        what: What it is, for messages.

    Raises:
        DatasetError: If a value is infinite (or beyond float32) or not a number.
    """
    count = not_finite(array)
    if not count:
        return
    nans, are = int(np.count_nonzero(np.isnan(array))), "are" if count > 1 else "is"
    kind = "without a number (NaN)" if nans == count else f"that {are} infinite, or beyond what float32 holds"
    kind = "without a number (NaN or infinite)" if 0 < nans < count else kind
    raise DatasetError(
        f"{what} holds {count} voxel{'s' if count > 1 else ''} {kind}, the first at {_first(~_is_finite(array))}, "
        f"with which nothing can be computed. Replace {'them' if count > 1 else 'it'}, such as by the value of the air "
        f"around."
    )


def without_nan(array: NDArray[Any], what: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """An image whose NaN are 0, as nnU-Net reads those of NIfTI files, where programs of brain imaging write NaN for
    "outside"; and what is to be said of it.

    Args:
        array: (..., Z, Y, X) of any numeric type.
        what: What it is, for messages.

    Raises:
        DatasetError: If a value is infinite, or beyond float32.
    """
    count = not_finite(array)
    if not count:
        return array, ()
    missing = np.isnan(array)
    filled: NDArray[Any] = np.where(missing, np.zeros((), array.dtype), array)
    check_finite(filled, what)
    share = f"{count} of its {array.size} voxels are" if count > 1 else "1 of its voxels is"
    became = "they" if count > 1 else "it"
    return filled, (f"{share} without a number (NaN), the first at {_first(missing)}: {became} became 0",)


def _is_finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.abs(array) <= LARGEST_FLOAT  # NaN answers no
    return found


def _first(where: NDArray[np.bool_]) -> str:
    index = np.unravel_index(int(where.argmax()), where.shape)
    return ", ".join(f"{axis} {int(i)}" for axis, i in zip("xyz", index[::-1], strict=False)) + " (from 0)"


def nowhere(shape: tuple[int, ...]) -> Grid:
    """The grid of an array (Z, Y, X) whose format does not say where it lies."""
    z, y, x = shape
    return Grid((z, y, x), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3), in_world=False)
