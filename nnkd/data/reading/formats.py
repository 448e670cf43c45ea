"""Any image file -> voxels, where they lie, and what was done to get there; and the way back."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading import nifti, pictures
from nnkd.data.reading.geometry import TOLERANCE, Grid
from nnkd.data.reading.image import FREESURFER, WITHOUT_WORLD, Image, ending_of, nowhere
from nnkd.errors import DatasetError, GeometryError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("nnkd")


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
    nifti.check_whole(file)
    ending = ending_of(file)
    try:
        if ending in WITHOUT_WORLD:
            return pictures.read(file, label_map)
        if ending in FREESURFER:
            return _freesurfer(file)
        if ending in (*nifti.NIFTI_ENDINGS, ".img", ".hdr"):
            return _nifti(file)
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
        OSError: If it could not be written whole (disk full, no permission), or the format does not hold the values.
    """
    sitk = _simpleitk()

    array = image.array[:, 0] if image.flat else image.array
    array = np.moveaxis(array, 0, -1) if len(array) > 1 else array[0]
    made = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=len(image.array) > 1)
    if not image.flat:
        made.SetSpacing([float(v) for v in image.grid.spacing[::-1]])
        made.SetOrigin([float(v) for v in image.grid.origin])
        made.SetDirection(np.ravel(np.asarray(image.grid.direction, dtype=float)).tolist())
    try:
        sitk.WriteImage(made, str(file), useCompression=True)
        if image.header is not None and ending_of(file) in nifti.NIFTI_ENDINGS:
            nifti.copy_header(file, image.header)
        if ending_of(file) in nifti.NIFTI_ENDINGS:
            nifti.check_whole(file)
            return
        written = read(file)
    except RuntimeError as error:  # what SimpleITK raises, also on a full disk
        raise OSError(str(error).strip().splitlines()[-1]) from error
    except DatasetError as error:  # ITK's NIfTI writer cuts the file short and says nothing (ITK 5.4)
        raise OSError("the disk is full") from error
    if not np.array_equal(written.array, image.array, equal_nan=image.array.dtype.kind == "f"):
        raise OSError("the disk is full, or the format does not hold the values")


def say(file: Path, said: tuple[str, ...]) -> None:
    """Log what was done to read a file, once a file."""
    for sentence in said:
        log.warning("'%s' in %s: %s.", file.name, file.parent.name, sentence)


def _nifti(file: Path) -> Image:
    header = nifti.read_header(file)
    array = _checked(_voxels(file, header.right_angled), file)
    flat = array.ndim == 2
    volume = _channels_first(array, file)
    grid = replace(header.grid, in_world=not flat)
    return Image(volume, grid, flat, said=header.said, header=header.stored)


def _voxels(file: Path, by_itk: bool) -> NDArray[Any]:
    sitk = _simpleitk()

    if by_itk:
        try:
            image = sitk.ReadImage(str(file))
        except RuntimeError:  # NIfTI-2, and what nibabel understands beside
            return nifti.read_voxels(file)
        if image.GetNumberOfComponentsPerPixel() > 1:
            raise DatasetError(_coloured(file))
        array: NDArray[Any] = sitk.GetArrayFromImage(image)
        return array
    return nifti.read_voxels(file)


def _freesurfer(file: Path) -> Image:
    image = nifti.opened(file)
    array = _channels_first(_checked(np.asanyarray(image.dataobj).T, file), file)
    grid, off = Grid.from_affine(array.shape[1:], nifti.TO_LPS @ np.asarray(image.affine))
    if off >= TOLERANCE:  # its header has cosines of its own: they can be wrong
        raise GeometryError(f"The axes of '{file.name}' are not at right angles. Convert it again.")
    return Image(array, grid)


def _itk(file: Path) -> Image:
    sitk = _simpleitk()

    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    components, axes = image.GetNumberOfComponentsPerPixel(), image.GetDimension()
    _checked(array, file)
    if components > 1:  # layered segmentations and RGB volumes
        array = np.moveaxis(array, -1, 0)
        array = array[:, None] if axes == 2 else array
        if axes not in (2, 3):
            raise DatasetError(_too_many(file, axes + 1))
    else:
        array = _channels_first(array, file)
    if axes == 2:
        return Image(array, nowhere(array.shape[1:]), flat=True)
    affine = np.eye(4)
    direction = np.asarray(image.GetDirection(), dtype=float).reshape(axes, axes)[:3, :3]
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    grid, off = Grid.from_affine(array.shape[1:], affine)
    if off >= TOLERANCE:
        raise GeometryError(f"The axes of '{file.name}' are not at right angles (corners move by {off:.3g} voxels).")
    return Image(array, grid)


def _simpleitk() -> Any:
    """The module, which has no types."""
    import SimpleITK

    return SimpleITK


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
    return array


def _channels_first(array: NDArray[Any], file: Path) -> NDArray[Any]:
    """(Y, X), (Z, Y, X) or (C, Z, Y, X), whatever follows being 1 -> (C, Z, Y, X)."""
    while array.ndim > 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim > 4 and array.shape[1] == 1:  # NIfTI's vectors: the fourth axis is time
        array = array[:, 0]
    if array.ndim not in (2, 3, 4):
        raise DatasetError(_too_many(file, array.ndim))
    return array[None, None] if array.ndim == 2 else array[None] if array.ndim == 3 else array


def _coloured(file: Path) -> str:
    return f"'{file.name}' in {file.parent.name} is in colour, but one value a voxel is expected. Save each channel."


def _too_many(file: Path, axes: int) -> str:
    return (
        f"'{file.name}' in {file.parent.name} has {axes} axes, but at most four (x, y, z, channel) are expected. Split "
        f"it."
    )
