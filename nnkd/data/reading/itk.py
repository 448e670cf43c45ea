"""What ITK, which nnU-Net reads with, says of an image file: where its voxels lie, and the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = ("RGB-color", "RGBA-color", "HSV-color", "XYZ-color")  # NRRD's kinds of an axis of colours
NRRD = (".nrrd", ".nhdr")
_LAYER, _VALUE, _NAME = "Layer", "LabelValue", "Name"  # what Slicer says of a segment


@dataclass(frozen=True)
class Information:
    """What a header says, as ITK understands it.

    Attributes:
        shape: Of the axes, (x, y, z, ...).
        components: Values a voxel.
        affine: (4, 4), voxels (x, y, z) to mm, LPS; columns need not be at right angles.
        texts: Whatever else the header says, by name.
    """

    shape: tuple[int, ...]
    components: int
    affine: NDArray[np.floating]
    texts: dict[str, str]

    @property
    def spacing(self) -> NDArray[np.floating]:
        """(x, y, z) mm."""
        found: NDArray[np.floating] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return found


def with_grid(array: NDArray[np.generic], grid: Grid) -> Any:
    """(Z, Y, X), or (Z, Y, X, C) of several values a voxel, as an image of SimpleITK that lies on `grid`."""
    image = simpleitk().GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim > 3)
    image.SetSpacing([float(v) for v in grid.spacing[::-1]])
    image.SetOrigin([float(v) for v in grid.origin])
    image.SetDirection(np.asarray(grid.direction, dtype=float).ravel().tolist())
    return image


def information(file: Path) -> Information | None:
    """Look at a header; voxels are not read. None: ITK does not read the file.

    Raises:
        DatasetError: If its path is no text.
    """
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(path_of(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    axes, used = reader.GetDimension(), min(3, reader.GetDimension())
    affine = np.eye(4)
    direction = np.asarray(reader.GetDirection(), dtype=float).reshape(axes, axes)[:used, :used]
    affine[:used, :used] = direction * np.asarray(reader.GetSpacing()[:used])
    affine[:used, 3] = reader.GetOrigin()[:used]
    texts = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    return Information(tuple(reader.GetSize()), reader.GetNumberOfComponents(), affine, texts)


def read_voxels(file: Path) -> NDArray[Any]:
    """Voxels as (..., Z, Y, X), those of several components as (C, Z, Y, X).

    Raises:
        DatasetError: If its path is no text.
        RuntimeError: What ITK raises.
    """
    sitk = simpleitk()
    image = sitk.ReadImage(path_of(file))
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array


def one_layer(layers: NDArray[np.integer], texts: dict[str, str], what: str) -> NDArray[np.integer]:
    """A segmentation in layers, as 3D Slicer writes it, as one label map.

    Args:
        layers: (L, Z, Y, X).
        texts: The header's, which name each segment's layer and value.
        what: What it is, for messages.

    Returns:
        (1, Z, Y, X).

    Raises:
        DatasetError: If segments overlap, or two of them have one value.
    """
    names: dict[int, tuple[str, int]] = {}
    todo = "Export it from 3D Slicer as a label map (Segmentations > Export to files), or segment by segment."
    for key in sorted(key for key in texts if key.startswith("Segment") and key.endswith(f"_{_VALUE}")):
        segment = key[: -len(_VALUE)]
        value, layer = int(texts[key]), int(texts.get(f"{segment}{_LAYER}", 0))
        name = texts.get(f"{segment}{_NAME}", segment[:-1])
        other, _ = names.setdefault(value, (name, layer))
        if other != name:
            raise DatasetError(f"{what} has the segments '{other}' and '{name}', both with the value {value}. {todo}")
    if (np.count_nonzero(layers, axis=0) > 1).any():
        raise DatasetError(f"{what} has segments that overlap, but a label map has one value a voxel. {todo}")
    found: NDArray[np.integer] = layers.max(0, keepdims=True)
    return found


def is_layered(texts: dict[str, str]) -> bool:
    """Whether a header is that of a segmentation of 3D Slicer."""
    return any(key.startswith("Segment") and key.endswith(f"_{_VALUE}") for key in texts)


def is_anatomical(texts: dict[str, str]) -> bool:
    """Whether a NRRD header says which side is left; "scanner-xyz" and the like, or nothing, do not."""
    return "superior" in texts.get("NRRD_space", "")


def path_of(file: Path) -> str:
    """What ITK is given. At a name that is no UTF-8, as old disks have them, it ends the whole process (ITK 5.4).

    Raises:
        DatasetError: If it is no UTF-8.
    """
    path = str(file)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        name = file.name.encode("utf-8", "replace").decode("utf-8")
        raise DatasetError(
            f"The name of '{name}', or of a folder that it lies in, is no UTF-8, which image programs cannot open. "
            f"Rename it."
        ) from error
    return path


def simpleitk() -> Any:
    """The module, which has no types."""
    import SimpleITK

    return SimpleITK
