"""Image files of all kinds as SimpleITK images; whatever is wrong with a file becomes one sentence."""

from __future__ import annotations

import locale
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.nifti import check_whole
from nnkd.errors import DatasetError, in_one_line
from nnkd.files import split_ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TIFFS = (".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
SLICE_TOLERANCE = 0.02  # of the distance between slices; scanners write positions with a few digits


def ending_of(path: Path) -> str:
    """The file's ending in small letters, ".nii.gz" kept whole."""
    return split_ending(path.name)[1].lower()


def case_name(path: Path) -> str:
    """The file's name without its ending, with what file systems or nnU-Net dislike replaced."""
    return clean(split_ending(path.name)[0])


def clean(name: str) -> str:
    """A name with everything but letters, digits, "-", "_" and "." replaced by "_"."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def read(path: Path) -> sitk.Image:
    """Read an image file: (X, Y), (X, Y, Z) or (X, Y, Z, channel); RGB as a vector image.

    Raises:
        DatasetError: If it is missing, empty, truncated or unreadable.
    """
    if not path.is_file():
        raise DatasetError(f"'{path.name}' is missing in {path.parent.name}. Download it again or take the case out.")
    if path.stat().st_size == 0:
        raise DatasetError(f"'{path.name}' in {path.parent.name} is empty (0 bytes). Download it again.")
    check_whole(path)
    try:
        if ending_of(path) in (*PICTURES, *TIFFS):
            return _picture(path)
        return sitk.ReadImage(str(path))
    except (RuntimeError, OSError, ValueError, SyntaxError) as error:  # what ITK, Pillow and tifffile raise
        raise DatasetError(
            f"'{path.name}' in {path.parent.name} cannot be read ({in_one_line(error, last=True)}). It may be "
            f"truncated or of another format; download it again or take the case out."
        ) from error


def _picture(path: Path) -> sitk.Image:
    if ending_of(path) in TIFFS:
        from skimage import io

        array = io.imread(path)
    else:
        from PIL import Image

        with Image.open(path) as picture:
            # Colour palettes of masks hold labels, which are the indices; a grey palette's are its grey values
            grey = picture.mode == "P" and _is_grey(picture.getpalette() or [])
            array = np.asarray(picture.convert("L") if grey or picture.mode in ("1", "LA") else picture)
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return sitk.GetImageFromArray(np.ascontiguousarray(array[..., :3]), isVector=True)
    return sitk.GetImageFromArray(array)


def _is_grey(palette: Sequence[int]) -> bool:
    return list(palette[0::3]) == list(palette[1::3]) == list(palette[2::3])


def read_series(files: Sequence[str]) -> sitk.Image:
    """Read one DICOM series, whose files are in the order of their slices.

    Raises:
        DatasetError: If a file is unreadable, or slices are missing or unevenly spaced (ITK would only warn, and
            squeeze the volume together).
    """
    name = Path(files[0]).parent.name
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(list(files))
    reader.MetaDataDictionaryArrayUpdateOn()
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        why = in_one_line(error, last=True)
        raise DatasetError(f"The DICOM series in {name} cannot be read ({why}). Export it again.") from error
    finally:
        locale.setlocale(locale.LC_CTYPE, before)  # ITK leaves the C locale behind
    if len(files) > 2 and all(reader.HasMetaDataKey(k, "0020|0032") for k in range(len(files))):
        texts = [reader.GetMetaData(k, "0020|0032") for k in range(len(files))]
        positions = np.array([[float(v) for v in text.split("\\")] for text in texts])
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        if np.ptp(steps) > SLICE_TOLERANCE * np.median(steps):
            raise DatasetError(
                f"The DICOM series in {name} lacks slices or is unevenly spaced ({steps.min():.2f} to "
                f"{steps.max():.2f} mm between slices). Export it again."
            )
    return image


def channels(image: sitk.Image) -> list[sitk.Image]:
    """The channels of a vector image or a 4D image, each a scalar image of its own."""
    if image.GetDimension() == 4:
        return [image[:, :, :, k] for k in range(image.GetSize()[3])]
    count = image.GetNumberOfComponentsPerPixel()
    return [image] if count == 1 else [sitk.VectorIndexSelectionCast(image, k) for k in range(count)]


def grid_of(image: sitk.Image) -> Grid:
    """The image's grid; that of a 2D image has Z = 1 and lies nowhere in the world."""
    shape = tuple(reversed(image.GetSize()))
    if image.GetDimension() == 2:
        return Grid((1, *shape), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3), in_world=False)
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    return Grid(shape, tuple(reversed(image.GetSpacing())), image.GetOrigin(), direction)


def integers(image: sitk.Image, what: str) -> NDArray[np.int32]:
    """A label map's values, (Z, Y, X) or (Y, X) int32; of a picture with three equal channels the first.

    Args:
        image: The label map.
        what: What it is, for messages.

    Raises:
        DatasetError: If its channels differ, or it holds fractions.
    """
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        if (array != array[..., :1]).any():
            raise DatasetError(f"{what} is a colour picture, but a label map has one value a pixel. Export it as grey.")
        array = array[..., 0]
    rounded = array.astype(np.int32)
    if not np.array_equal(rounded, array):
        raise DatasetError(f"{what} holds fractions, but a label map holds integers. Re-export it.")
    return rounded
