"""Any image file -> voxels, where they lie, and what was done to get there; and the way back."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading import itk, memory, nifti, pictures
from nnkd.data.reading.geometry import TOLERANCE, Grid
from nnkd.data.reading.image import FREESURFER, WITHOUT_WORLD, Image, check_finite, ending_of, nowhere, without_nan
from nnkd.errors import DatasetError, GeometryError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("nnkd")
FULL = 1 << 20  # bytes: where fewer are free, a file that was cut short was so for want of room
NIFTI = (*nifti.NIFTI_ENDINGS, *nifti.PAIRS)


def read(file: Path, label_map: bool = False) -> Image:
    """Read an image file of any kind but DICOM.

    Args:
        file: A NIfTI, NRRD, MetaImage, FreeSurfer or picture file.
        label_map: Whether its values are labels; of pictures with a palette the indices are taken then, else colours.

    Raises:
        DatasetError: If it is missing, empty, truncated or unreadable, or holds what is no image of one value (or
            red, green and blue) a voxel.
        GeometryError: If its axes are not at right angles.
    """
    where = f"'{file.name}' in {file.parent.name}"
    if not file.is_file():
        raise DatasetError(f"{where} is missing. Copy it again or take the case out.")
    memory.check_announced(file)  # first: a few MiB may unpack to hundreds of GiB
    nifti.check_whole(file)
    ending = ending_of(file)
    try:
        if ending in WITHOUT_WORLD:
            return pictures.read(file, label_map)
        if ending in FREESURFER:
            return _freesurfer(file)
        if ending in NIFTI:
            return _nifti(file, label_map)
        return _itk(file)
    except DatasetError:
        raise
    except (RuntimeError, OSError, ValueError, SyntaxError, EOFError) as error:  # ITK, nibabel
        why = in_one_line(error, last=True).replace(str(file), file.name)
        raise DatasetError(
            f"{where} cannot be read ({why}). It may be truncated or of another format; "
            f"copy or convert it again, or take the case out."
        ) from error


def write(image: Image, file: Path) -> None:
    """Write an image, or a label map that lies on its grid, in place (see `nnkd.files.atomic`).

    Args:
        image: Its header, if it has one, goes into a NIfTI file.
        file: The target; its ending says the format.

    Raises:
        DatasetError: If the target's path is no UTF-8.
        OSError: If it could not be written whole (disk full, no permission), or the format does not hold the values.
    """
    sitk = itk.simpleitk()
    path = itk.path_of(file)
    array = image.array[:, 0] if image.flat else image.array
    array = np.moveaxis(array, 0, -1) if len(array) > 1 else array[0]
    if image.flat:
        made = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=len(image.array) > 1)
    else:
        made = itk.with_grid(array, image.grid)
    try:
        sitk.WriteImage(made, path, useCompression=True)
        if image.header is not None and ending_of(file) in nifti.NIFTI_ENDINGS:
            nifti.copy_header(file, image.header)
        if ending_of(file) in nifti.NIFTI_ENDINGS:
            nifti.check_whole(file)
            return
        written = read(file)
    except RuntimeError as error:  # what SimpleITK raises, also on a full disk
        raise OSError(str(error).strip().splitlines()[-1]) from error
    except DatasetError as error:  # ITK's NIfTI writer cuts the file short and says nothing (ITK 5.4)
        raise OSError(cut_short(file)) from error
    if not np.array_equal(written.array, image.array, equal_nan=image.array.dtype.kind == "f"):
        raise OSError("the format does not hold the values")


def cut_short(file: Path) -> str:
    """Why a file just written is not whole: the disk is full, if it is."""
    free = shutil.disk_usage(file.parent).free
    if free < FULL:
        return "the disk is full"
    return f"it was cut short, though {free / 2**30:.3g} GiB are free: a quota, or the file system, may be the reason"


def say(file: Path, said: tuple[str, ...]) -> None:
    """Log what was done to read a file, once a file."""
    for sentence in said:
        log.warning("'%s' in %s: %s.", file.name, file.parent.name, sentence)


def look(file: Path) -> nifti.Header | None:
    """Look at a volume's header without reading its voxels; None: ITK does not know the file.

    Raises:
        DatasetError: If it is no image of one value (or several channels) a voxel.
        GeometryError: If its axes are not at right angles.
    """
    if ending_of(file) in NIFTI:
        return nifti.read_header(file)
    seen = itk.information(file)
    return None if seen is None else _header(file, seen)


def _nifti(file: Path, label_map: bool) -> Image:
    header = nifti.read_header(file)
    array = _checked(nifti.read_voxels(file), file)
    what = f"'{file.name}' in {file.parent.name}"
    if label_map:
        check_finite(array, what)
    else:
        array, said = without_nan(array, what)
        header = replace(header, said=(*header.said, *said))
    return _placed(_channels_first(array, file), header, flat=array.ndim == 2)


def _placed(array: NDArray[Any], header: nifti.Header, flat: bool) -> Image:
    grid = nowhere(array.shape[1:]) if flat else header.grid
    as_is = header.exact and not (header.misread or header.said)
    return Image(array, grid, flat, False, header.said, header.stored, flat or header.known, as_is)


def _freesurfer(file: Path) -> Image:
    image = nifti.opened(file)
    array = _channels_first(_checked(np.asanyarray(image.dataobj).T, file), file)
    grid, off = Grid.from_affine(array.shape[1:], nifti.TO_LPS @ np.asarray(image.affine))
    if off >= TOLERANCE:  # its header has cosines of its own: they can be wrong
        raise GeometryError(_not_right_angled(file, off))
    # Its flag says whether these cosines are meant; nibabel looks at it and takes FreeSurfer's own axes otherwise
    known = bool(image.header["goodRASFlag"] > 0)
    said = () if known else ("its header does not say where it lies: FreeSurfer's axes were taken",)
    return Image(array, grid, said=said, known=known)


def _itk(file: Path) -> Image:
    seen = itk.information(file)
    array = _checked(itk.read_voxels(file), file)  # says why, where it cannot be read
    if seen is None:
        raise DatasetError(f"'{file.name}' in {file.parent.name} is of a format that is not known. Convert it.")
    header = _header(file, seen)
    axes = len(seen.shape)
    if seen.components > 1:
        if axes not in (2, 3):
            raise DatasetError(_too_many(file, axes + 1))
        array = array[:, None] if axes == 2 else array
        if itk.is_layered(seen.texts):
            array = itk.one_layer(array, seen.texts, f"'{file.name}' in {file.parent.name}")
    else:
        array = _channels_first(array, file)
    return _placed(array, header, flat=axes == 2)


def _header(file: Path, seen: itk.Information) -> nifti.Header:
    """What is known of a file that is not NIfTI."""
    if any(seen.texts.get(key) in itk.COLOURS for key in seen.texts if key.startswith("NRRD_kinds")):
        raise DatasetError(_coloured(file))
    x, y, z = (*seen.shape, 1)[:3]
    grid, off = Grid.from_affine((z, y, x), seen.affine)
    if off >= TOLERANCE:
        raise GeometryError(_not_right_angled(file, off))
    said: tuple[str, ...] = ()
    if off > nifti.SAME:
        said = (f"axes that are not at right angles were made so (corners move by {off:.2g} voxels)",)
    known = ending_of(file) not in itk.NRRD or len(seen.shape) < 3 or itk.is_anatomical(seen.texts)
    if not known:
        said += (
            "its header does not say which side is left (no space): its axes were taken for left, posterior, superior, "
            "as ITK takes them",
        )
    misread = "its channels are not its fourth axis" if seen.components > 1 or len(seen.shape) > 4 else ""
    return nifti.Header(seen.shape, grid, said, known, misread, not misread and off <= nifti.SAME, None)


def _not_right_angled(file: Path, off: float) -> str:
    return (
        f"The axes of '{file.name}' in {file.parent.name} are not at right angles: made so, a corner would move by "
        f"{off:.3g} voxels, and {TOLERANCE:g} are allowed. Resample it onto right-angled axes, with the label maps "
        f"that belong to it."
    )


def _checked(array: NDArray[Any], file: Path) -> NDArray[Any]:
    if array.dtype.names is not None:
        raise DatasetError(_coloured(file))
    if array.dtype.kind not in "iufb":
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} holds complex numbers, but one real value a voxel is expected. Save "
            f"its magnitude."
        )
    if not array.size:
        raise DatasetError(f"'{file.name}' in {file.parent.name} holds no voxel ({array.shape}). Convert it again.")
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8)
    if kind == "f" and size not in (4, 8):  # halves and long doubles: ITK knows neither
        return array.astype(np.float32 if size < 4 else np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _channels_first(array: NDArray[Any], file: Path) -> NDArray[Any]:
    """(Y, X), (Z, Y, X) or (C, Z, Y, X), whatever is around being of length 1 -> (C, Z, Y, X)."""
    if array.ndim > 4:  # NIfTI's vectors: the fourth axis is time, the fifth the channel
        behind = tuple(n for n in array.shape[:-3] if n > 1)
        if len(behind) > 1:
            raise DatasetError(_too_many(file, array.ndim))
        array = array.reshape(*(behind or (1,)), *array.shape[-3:])
    if array.ndim not in (2, 3, 4):
        raise DatasetError(_too_many(file, array.ndim))
    return array[None, None] if array.ndim == 2 else array[None] if array.ndim == 3 else array


def _coloured(file: Path) -> str:
    return (
        f"'{file.name}' in {file.parent.name} is in colour, but one value a voxel is expected. Save each channel as a "
        f"file of its own."
    )


def _too_many(file: Path, axes: int) -> str:
    return (
        f"'{file.name}' in {file.parent.name} has {axes} axes, but at most four (x, y, z, channel) are expected. Split "
        f"it."
    )
