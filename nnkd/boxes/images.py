"""Images to segment in boxes: MedSAM's npz, volumes and pictures as arrays, and label maps written as the same kind.

What reads a kind is imported when the first image of it comes: SimpleITK and nibabel take longer than a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nnkd.boxes.cases import NPZ, VOLUMES, BoxCase
from nnkd.errors import DatasetError
from nnkd.files import atomic, write_json

if TYPE_CHECKING:
    from nnkd.data.reading.geometry import Orientation

Slices = Literal["axial", "stored"]


@dataclass
class BoxImage:
    """An image in the order in which its slices are seen.

    Attributes:
        data: (Z, Y, X), or (Z, Y, X, 3) uint8 in colour; of any numeric type.
        flat: Whether it is a picture, of one slice.
        stored_shape: (Z, Y, X) of the stored array.
        save: Writes a label map (Z, Y, X) of the stored array under a name.
        eight_bit: Whether it was stored in 8 bits, to be taken as they are.
        boxes: (n, 4) or (n, 6) of an npz, in MedSAM's order; None: it has none.
        reference: Integers (Z, Y, X) of an npz that has them.
        orientation: From the stored array to the seen one; None: they are the same.
        spacing: (z, y, x) in mm that a file beside a tif stack gives; it is written beside the label map too.
    """

    data: NDArray[np.integer | np.floating]
    flat: bool
    stored_shape: tuple[int, int, int]
    save: Callable[[NDArray[np.integer], Path], None]
    eight_bit: bool = False
    boxes: NDArray[np.integer | np.floating] | None = None
    reference: NDArray[np.integer | np.floating] | None = None
    orientation: Orientation | None = field(default=None, repr=False)
    spacing: Sequence[float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) as seen."""
        return self.data.shape[:3]

    @property
    def colour(self) -> bool:
        """Whether it has red, green and blue."""
        return self.data.ndim == 4

    def write(
        self, label_map: NDArray[np.integer], target: Path, before_move: Callable[[Path], None] = lambda _: None
    ) -> None:
        """Write a label map (Z, Y, X) of the seen order, atomically, on the image's grid.

        Args:
            label_map: (Z, Y, X).
            target: Where to.
            before_move: Called with the finished temporary file; if it raises, the old target stays.

        Raises:
            NnkdError: If it cannot be written.
        """
        with atomic(target) as temporary:
            self.save(self.in_file_order(label_map), temporary)
            before_move(temporary)
            if self.spacing is not None:
                write_json(target.with_suffix(".json"), {"spacing": list(self.spacing)})

    def in_file_order(self, label_map: NDArray[np.integer]) -> NDArray[np.integer]:
        """A label map (Z, Y, X) of the seen order -> of the stored one."""
        return label_map if self.orientation is None else self.orientation.to_file(label_map)


def read_image(case: BoxCase, slices: Slices = "axial", label_map: bool = False) -> BoxImage:
    """Read an image.

    Args:
        case: Which.
        slices: Which slices of a volume are seen: axial ones, or those along the first axis of the stored array.
        label_map: Whether its values are labels.

    Raises:
        DatasetError: If the file is broken, or not what its kind must be, or a value is infinite or no number.
    """
    from nnkd.data.reading.image import check_finite

    if case.file.stat().st_size == 0:
        raise DatasetError(f"'{case.file.name}' is empty (0 bytes). Copy it again.")
    if case.ending in NPZ:
        return _read_npz(case.file)
    image = _read_volume(case.file, slices) if case.ending in VOLUMES else _read_picture(case.file, label_map)
    check_finite(image.data, f"'{case.file.name}'")
    return image


# --- MedSAM's npz ----------------------------------------------------------------------------------------------


def _read_npz(file: Path) -> BoxImage:
    from nnkd.data.reading.image import check_finite

    content = _arrays(file)
    if "imgs" not in content:
        raise DatasetError(f"'{file.name}' has no 'imgs', but holds {', '.join(content) or 'nothing'}.")
    imgs, boxes = _eight_bit(content["imgs"], file), content.get("boxes")
    if boxes is not None:
        boxes = boxes[None] if boxes.ndim == 1 and boxes.size else boxes
        if boxes.size == 0:
            boxes = np.zeros((0, 6 if imgs.ndim == 3 else 4))
        elif boxes.ndim != 2 or boxes.shape[1] not in (4, 6) or not np.issubdtype(boxes.dtype, np.number):
            raise DatasetError(
                f"boxes of '{file.name}' have the shape {boxes.shape}, but (n, 4) or (n, 6) is expected."
            )
    flat = _is_flat(imgs, boxes, content.get("gts"), file)
    data = imgs[None] if flat else imgs
    reference = content.get("gts")
    if reference is not None:
        check_finite(reference, f"gts of '{file.name}'")
        reference = reference[None] if flat else reference
        reference = reference if reference.shape == data.shape[:3] else None

    def save(label_map: np.ndarray, target: Path) -> None:
        np.savez_compressed(target, segs=label_map[0] if flat else label_map)

    return BoxImage(data, flat, data.shape[:3], save, eight_bit=True, boxes=boxes, reference=reference)


def _arrays(file: Path) -> Mapping[str, np.ndarray]:
    from nnkd.data.reading import npz

    found = npz.read(file, ("imgs", "boxes", "gts"))
    return found if "imgs" in found else {key: np.empty(0) for key in npz.names(file)}


def _eight_bit(imgs: np.ndarray, file: Path) -> np.ndarray:
    numeric = np.issubdtype(imgs.dtype, np.number) and imgs.size
    if imgs.dtype != np.uint8 and not (numeric and imgs.min() >= 0 and imgs.max() <= 255):  # NaN fails too
        raise DatasetError(
            f"imgs of '{file.name}' are {imgs.dtype}, not all from 0 to 255, but MedSAM stores images in 8 bits. "
            f"Convert them, or give the image as NIfTI."
        )
    if imgs.size == 0:
        raise DatasetError(f"imgs of '{file.name}' have the shape {imgs.shape}: there is no pixel.")
    return np.asarray(imgs, dtype=np.uint8)


def _is_flat(imgs: np.ndarray, boxes: np.ndarray | None, gts: np.ndarray | None, file: Path) -> bool:
    """Whether an npz holds a picture. (Y, X, 3) could be a volume three voxels wide: boxes, or gts, decide."""
    if imgs.ndim == 2:
        return True
    if imgs.ndim != 3:
        raise DatasetError(
            f"imgs of '{file.name}' have the shape {imgs.shape}, but a picture (Y, X) or (Y, X, 3), or a grey volume "
            f"(Z, Y, X) is expected; colour volumes are none of them."
        )
    if boxes is not None:
        wanted = boxes.shape[1] == 4
    elif gts is not None:
        wanted = gts.ndim == 2
    else:
        wanted = imgs.shape[-1] == 3
    if wanted and imgs.shape[-1] != 3:
        raise DatasetError(
            f"imgs of '{file.name}' are a volume of the shape {imgs.shape}, but its boxes are those of a picture, "
            f"[x0, y0, x1, y1]. Boxes of a volume are [x0, y0, z0, x1, y1, z1]."
        )
    return wanted


# --- pictures --------------------------------------------------------------------------------------------------


def _read_picture(file: Path, label_map: bool) -> BoxImage:
    from nnkd.data.reading import formats

    image = formats.read(file, label_map)
    formats.say(file, image.said)
    array = image.array
    if image.colour and array.dtype != np.uint8:
        raise DatasetError(f"'{file.name}' has colours of {array.dtype}, but 8 bits each are expected. Scale them.")
    if len(array) > 1 and not image.colour:
        raise DatasetError(
            f"'{file.name}' has {len(array)} channels, but one picture, or grey pages of one size are expected. Split "
            f"it."
        )
    data = np.moveaxis(array, 0, -1) if image.colour else array[0]
    spacing = None if image.flat else _spacing_beside(file)

    def save(label_map: np.ndarray, target: Path) -> None:
        from PIL import Image as Pillow

        first, *rest = (Pillow.fromarray(page) for page in label_map)
        if rest:
            first.save(target, save_all=True, append_images=rest)
        else:
            first.save(target)

    return BoxImage(data, image.flat, data.shape[:3], save, eight_bit=data.dtype == np.uint8, spacing=spacing)


def _spacing_beside(file: Path) -> list[float] | None:
    from nnkd.data.reading import raw_pictures

    try:
        return raw_pictures.spacing(file)
    except DatasetError:  # a file of boxes may have the stack's name; nothing here is measured in mm
        return None


# --- volumes ---------------------------------------------------------------------------------------------------


def _read_volume(file: Path, slices: Slices) -> BoxImage:
    from nnkd.data.reading import formats
    from nnkd.data.reading.geometry import Orientation

    image = formats.read(file)
    formats.say(file, image.said)
    if len(image.array) > 1:
        raise DatasetError(
            f"'{file.name}' has {len(image.array)} channels, but a volume of one grey value a voxel is expected. Split "
            f"it."
        )
    array = image.array[0]
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    orientation = Orientation(image.grid) if slices == "axial" and not image.flat else None

    def save(label_map: np.ndarray, target: Path) -> None:
        formats.write(replace(image, array=label_map[None]), target)

    seen = array if orientation is None else orientation.to_lps(array)
    return BoxImage(seen, image.flat, array.shape, save, orientation=orientation)
