"""NIfTI headers: whether a file is all there, where its voxels lie, and how what belongs to it is written.

ITK (tried: 5.4) reads a truncated file without a word and fills up with zeros; takes the qform where nibabel takes the
sform; and refuses axes that are off a right angle by 1e-4.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.geometry import TOLERANCE, Grid, farthest
from nnkd.errors import DatasetError, GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NIFTI_ENDINGS = (".nii", ".nii.gz")
MILLIMETRES = 2  # NIfTI's code
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TRAILER = 4  # the last bytes of a gzip file: length of what it holds, modulo 2**32


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says of space.

    Attributes:
        shape: Of the stored array, (x, y, z, ...).
        grid: Where the voxels lie; right-angled.
        said: What was chosen or changed to get there, as sentences without the file's name; empty: nothing.
        right_angled: Whether ITK, and so nnU-Net, reads the file at all.
        exact: Whether ITK would read the same grid.
        stored: qform, sform (4, 4 nested lists), their codes, pixdim's sign and units: what is copied into the header
            of whatever lies on the same grid.
    """

    shape: tuple[int, ...]
    grid: Grid
    said: tuple[str, ...]
    right_angled: bool
    exact: bool
    stored: dict[str, Any]

    @property
    def needed(self) -> bool:
        """Whether ITK would write another header for this grid than the image has."""
        forms = [self.stored["qform"], self.stored["sform"]]
        if None in forms or self.stored["codes"] != [1, 1] or self.stored["units"] != MILLIMETRES:
            return True
        z, y, x = self.grid.shape
        return any(farthest(TO_LPS @ np.asarray(f), self.grid.affine, (z, y, x)) > 1e-5 for f in forms)


def read_header(file: Path) -> Header:
    """Look at a header; voxels are not read.

    The sform is where the voxels lie; without one the qform; without either, nothing but the spacing is known, and
    axes are those of the world, from the origin on, as ITK and nnU-Net have it.

    Args:
        file: NIfTI-1 or -2, one file or a pair of .hdr and .img.

    Raises:
        DatasetError: If it is no NIfTI file.
        GeometryError: If its axes are not at right angles, by a tenth of a voxel or more at a corner.
    """
    header, shape = _header(file)
    codes = int(header["qform_code"]), int(header["sform_code"])
    qform = header.get_qform() if codes[0] > 0 else None
    sform = header.get_sform() if codes[1] > 0 else None
    spatial = (*shape[:3], 1, 1, 1)[:3]
    shape3 = (spatial[2], spatial[1], spatial[0])
    chosen = sform if sform is not None else qform
    said: list[str] = []
    if chosen is None:
        chosen = TO_LPS @ np.diag([*(abs(float(v)) or 1.0 for v in header["pixdim"][1:4]), 1.0])
    try:
        grid, off = Grid.from_affine(shape3, TO_LPS @ chosen)
    except GeometryError as error:
        raise GeometryError(f"'{file.name}' in {file.parent.name} lies nowhere: {error}") from error
    if off >= TOLERANCE:
        raise GeometryError(
            f"The axes of '{file.name}' in {file.parent.name} are not at right angles (in its "
            f"{'sform' if sform is not None else 'qform'}): made so, a corner would move by {off:.3g} voxels, and "
            f"{TOLERANCE:g} are allowed. Resample it onto right-angled axes, with the label maps that belong to it."
        )
    if off > 1e-3:
        said.append(f"axes that are not at right angles were made so (corners move by {off:.2g} voxels)")
    right_angled = any(_right_angled(form) for form in (sform, qform, chosen) if form is not None)
    exact = off < 1e-3 and _right_angled(chosen)
    if qform is not None and sform is not None:
        apart = farthest(qform, sform, shape3)
        if apart >= TOLERANCE:
            apart_mm = max(float(v) for v in np.abs(_corners(shape3) @ (qform - sform).T[:, :3]).max(0))
            said.append(
                f"its qform and its sform put corners {apart_mm:.3g} mm ({apart:.3g} voxels) apart: the sform was taken"
            )
        exact &= apart < 1e-3
    stored = {
        "qform": None if qform is None else qform.tolist(),
        "sform": None if sform is None else sform.tolist(),
        "codes": list(codes),
        "pixdim": [float(v) for v in header["pixdim"][:4]],
        "units": int(header["xyzt_units"]) & 7,
    }
    return Header(shape, grid, tuple(said), right_angled, exact, stored)


def read_voxels(file: Path) -> NDArray[np.integer | np.floating]:
    """Voxels as nibabel reads them, with slope and intercept applied, as (..., Z, Y, X).

    Raises:
        DatasetError: If they cannot be read.
    """
    try:
        found: NDArray[np.integer | np.floating] = np.asanyarray(opened(file).dataobj).T
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"'{file.name}' in {file.parent.name} cannot be read ({error}). Copy it again.") from error
    return found


def copy_header(file: Path, stored: Mapping[str, Any]) -> None:
    """Give a NIfTI file, whose voxels are stored as an image's, that image's own header.

    Args:
        file: The file, which is written again unless its header says the same already.
        stored: `Header.stored` of the image.
    """
    import nibabel

    image = opened(file)
    header = image.header.copy()
    qform, sform = (None if stored[k] is None else np.asarray(stored[k], dtype=float) for k in ("qform", "sform"))
    header["pixdim"][:4] = stored["pixdim"]
    header["xyzt_units"] = (int(header["xyzt_units"]) & ~7) | stored["units"]
    header.set_qform(qform, int(stored["codes"][0]), strip_shears=True)
    header.set_sform(sform, int(stored["codes"][1]))
    if header.binaryblock == image.header.binaryblock:
        return
    new_image: Callable[..., Any] = nibabel.Nifti1Image
    nibabel.save(new_image(np.asanyarray(image.dataobj), None, header), file)


def opened(file: Path) -> Any:
    """nibabel's image, whose voxels are not read yet.

    Raises:
        DatasetError: If nibabel does not know the file.
    """
    import nibabel

    try:
        return nibabel.load(file)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise DatasetError(f"'{file.name}' in {file.parent.name} cannot be read ({error}). Copy it again.") from error


def _header(file: Path) -> tuple[Any, tuple[int, ...]]:
    image = opened(file)
    if not hasattr(image.header, "get_sform"):
        raise DatasetError(f"'{file.name}' in {file.parent.name} is no NIfTI file. Convert it.")
    return image.header, tuple(int(n) for n in image.shape)


def _right_angled(affine: NDArray[np.floating]) -> bool:
    """Whether ITK takes an affine as it is: it compares cosines with a tolerance of its own (1e-5, tried)."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-6)


def _corners(shape: tuple[int, int, int]) -> NDArray[np.floating]:
    z, y, x = (float(n - 1) for n in shape)
    return np.array([(i, j, k, 1.0) for i in (0.0, x) for j in (0.0, y) for k in (0.0, z)])


def check_whole(file: Path) -> None:
    """Refuse a NIfTI file that holds fewer voxels than its header says; other formats pass.

    A few microseconds: only the header is unpacked, and the length is taken from the gzip trailer. Where that is not
    the expected one (several gzip members, bytes behind the voxels) the file is unpacked as a whole.

    Raises:
        DatasetError: If it is empty or truncated, or has a NIfTI ending and is no NIfTI file.
    """
    if file.stat().st_size == 0:
        raise DatasetError(f"'{file.name}' in {file.parent.name} is empty (0 bytes). Copy or convert it again.")
    if not file.name.lower().endswith(NIFTI_ENDINGS):
        return
    try:
        needed = _needed_bytes(file)
        there = _length(file, needed)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is truncated or no NIfTI file ({error}). Copy or convert it again."
        ) from error
    if there < needed:
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is truncated: {there} of {needed} bytes are there. "
            f"Copy or convert it again."
        )


def _needed_bytes(file: Path) -> int:
    """Length of the unpacked file by its header."""
    with _open(file) as stream:
        header = stream.read(540)
    order = "<" if struct.unpack_from("<i", header)[0] in (348, 540) else ">"
    version = struct.unpack_from(f"{order}i", header)[0]
    if version == 348:
        dimensions = struct.unpack_from(f"{order}8h", header, 40)
        bits: int = struct.unpack_from(f"{order}h", header, 72)[0]
        offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
    elif version == 540:  # NIfTI-2
        dimensions = struct.unpack_from(f"{order}8q", header, 16)
        bits = struct.unpack_from(f"{order}h", header, 14)[0]
        offset = struct.unpack_from(f"{order}q", header, 168)[0]
    else:
        raise ValueError("its header is not NIfTI's")
    voxels = 1
    for size in dimensions[1 : dimensions[0] + 1]:
        voxels *= max(1, size)
    return offset + voxels * bits // 8


def _length(file: Path, needed: int) -> int:
    """Length of the unpacked file; exact only where it could be too short."""
    if not file.name.lower().endswith(".gz"):
        return file.stat().st_size
    with open(file, "rb") as raw:
        raw.seek(-_TRAILER, 2)
        stated = struct.unpack("<I", raw.read(_TRAILER))[0]
    if stated == needed % 2**32:
        return needed
    length = 0
    with gzip.open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            length += len(chunk)
    return length


def _open(file: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb")
