"""What ITK, which nnU-Net reads with, says of an image file: where its voxels lie, and the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = ("RGB-color", "RGBA-color", "HSV-color", "XYZ-color")  # NRRD's kinds of an axis of colours
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


def information(file: Path) -> Information | None:
    """Look at a header; voxels are not read. None: ITK does not read the file."""
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(str(file))
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
        RuntimeError: What ITK raises.
    """
    sitk = simpleitk()
    image = sitk.ReadImage(str(file))
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


def simpleitk() -> Any:
    """The module, which has no types."""
    import SimpleITK

    return SimpleITK
