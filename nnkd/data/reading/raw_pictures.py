"""Pictures and tif stacks of raw datasets, which nnU-Net's own readers read: what these would get wrong is refused.

nnU-Net has two readers of tif and tries them on a dataset's first image. Both go by the lengths of axes: a stack of
three or four pages is RGB to the one, a picture in colour is a volume to the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading import pictures, tifs
from nnkd.data.reading.colours import named
from nnkd.data.reading.image import TIFFS
from nnkd.errors import DatasetError
from nnkd.files import load_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES, STACKS = "NaturalImage2DIO", "Tiff3DIO"  # nnU-Net's readers
NO_THIRD_AXIS = 999  # nnU-Net's spacing across a picture
CONVERT = "Convert the folder with 'nnKD_convert_dataset images_folder', which reads it as it is meant"


class EitherTif:
    """nnU-Net's two readers of tif, where no image of a dataset is at hand to choose by: each file by what it is."""

    def read_images(self, files: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """As nnU-Net's."""
        found: tuple[NDArray[np.float32], dict[str, Any]] = _own(Path(files[0]), False).read_images(files)
        return found

    def read_seg(self, file: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """As nnU-Net's."""
        found: tuple[NDArray[np.float32], dict[str, Any]] = _own(Path(file), True).read_seg(file)
        return found

    def write_seg(self, label_map: NDArray[np.integer], file: str, properties: Mapping[str, Any]) -> None:
        """As nnU-Net's: a stack, unless what was read was flat."""
        if properties["spacing"][0] < NO_THIRD_AXIS:
            write_stack(label_map, Path(file), properties["spacing"])
        else:
            _reader(of_stacks=False).write_seg(label_map, file, properties)


def reader_name(own: Any, file: Path, label_map: bool) -> str:
    """The name of the reader of nnU-Net's that a file is read with."""
    return type(_own(file, label_map) if isinstance(own, EitherTif) else own).__name__


def _own(file: Path, label_map: bool) -> Any:
    return _reader(sidecar(file, label_map).is_file() or tifs.look(file).stack)


def _reader(of_stacks: bool) -> Any:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    return Tiff3DIO() if of_stacks else NaturalImage2DIO()


def check(file: Path, reader: str, label_map: bool) -> tuple[str, ...]:
    """Look at a file that one of nnU-Net's readers is to read; voxels are not read.

    Args:
        file: A picture or a tif stack; of others nothing is asked.
        reader: The reader's name.
        label_map: Whether its values are labels.

    Returns:
        What is to be said.

    Raises:
        DatasetError: If that reader would read other values than the file means, or no spacing.
    """
    if reader == STACKS:
        return _check_stack(file, label_map)
    if reader != PICTURES:
        return ()
    return _check_tif(file, label_map) if tifs.is_tif(file) else _check_picture(file, label_map)


def _check_stack(file: Path, label_map: bool) -> tuple[str, ...]:
    if spacing(file, label_map) is not None:
        return ()
    if tifs.look(file).colour:
        raise DatasetError(f"{named(file)} is a picture in colour, but the dataset's others are stacks. Take it out.")
    name = sidecar(file, label_map).name
    return (f"no {name} beside it gives its spacing, and 1, 1, 1 was taken",)


def _check_tif(file: Path, label_map: bool) -> tuple[str, ...]:
    look = tifs.look(file)
    if look.stack:
        raise DatasetError(
            f"{named(file)} is a tif stack, but nnU-Net would read this dataset's files as pictures, since its first "
            f'is one, or has 3 or 4 pages. Put "overwrite_image_reader_writer": "{STACKS}" into dataset.json if all '
            f"are stacks."
        )
    if look.palette and not label_map:
        raise DatasetError(f"{named(file)} has a palette, whose indices nnU-Net takes for grey values. {CONVERT}.")
    if look.colour and label_map:
        raise DatasetError(f"{named(file)} is in colour, but a label map has one value a pixel. {CONVERT}.")
    return ()


def _check_picture(file: Path, label_map: bool) -> tuple[str, ...]:
    form = pictures.form_of(file)
    if label_map and not form.one_value:
        raise DatasetError(
            f"{named(file)} has {'a palette' if form.palette else 'several channels'}, and nnU-Net would read colours, "
            f"but a label map has one value a pixel. {CONVERT}."
        )
    if form.deep_colours:
        return ("nnU-Net reads 8 of the 16 bits of its colours",)
    return ()


def sidecar(file: Path, label_map: bool = False) -> Path:
    """Where nnU-Net looks for a tif stack's spacing: beside CASE_0000.tif, or a label map CASE.tif, in CASE.json."""
    stem = file.stem if label_map else re.sub(r"_\d{4}$", "", file.stem)
    return file.with_name(f"{stem}.json")


def spacing(file: Path, label_map: bool = False) -> list[float] | None:
    """A tif stack's (z, y, x) in mm; None: no file beside it says it.

    Raises:
        DatasetError: If that file does not hold three positive numbers.
    """
    beside = sidecar(file, label_map)
    if not beside.is_file():
        return None
    try:
        found = [float(v) for v in load_json(beside)["spacing"]]
    except (OSError, ValueError, KeyError, TypeError):
        found = []
    if len(found) != 3 or not (np.isfinite(found).all() and min(found) > 0):
        raise DatasetError(
            f'{named(beside)} must be {{"spacing": [Z, Y, X]}}, three positive numbers in mm. Correct it.'
        )
    return found


def sidecars(file: Path, label_map: bool) -> list[Path]:
    """What goes wherever a file goes: the file beside a tif stack that has its spacing, if there is one."""
    beside = sidecar(file, label_map)
    return [beside] if file.name.lower().endswith(TIFFS) and beside.is_file() else []


def in_world(file: Path, label_map: bool) -> dict[str, Any]:
    """What makes `Grid.from_properties` take a tif stack's spacing for millimetres; nothing, if nobody gave it."""
    zyx = spacing(file, label_map)
    if zyx is None:
        return {}
    return {"sitk_stuff": {"spacing": zyx[::-1], "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}}


def write_stack(label_map: NDArray[np.integer], file: Path, zyx: Sequence[float]) -> None:
    """What nnU-Net's writer of stacks writes, which however declares 3 or 4 pages to be colours.

    Args:
        label_map: (Z, Y, X) integers.
        file: The target, written in place; its spacing goes beside it.
        zyx: Spacing in mm.
    """
    import tifffile

    kind = np.uint8 if np.max(label_map) < 255 else np.uint16
    tifffile.imwrite(file, label_map.astype(kind, copy=False), photometric="minisblack", compression="zlib")
    write_json(sidecar(file, label_map=True), {"spacing": [float(v) for v in zyx]})
