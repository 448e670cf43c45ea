"""NIfTI: whether a file is all there, where its voxels lie, its voxels, and how what belongs to it is written.

ITK (tried: 5.4) reads a truncated file without a word and fills up with zeros; takes the qform where nibabel takes the
sform, and the spacing of neither; and refuses axes that are off a right angle by 1e-4. nibabel takes any unit for mm.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnkd.data.reading import itk
from nnkd.data.reading.geometry import TOLERANCE, Grid, farthest
from nnkd.errors import DatasetError, GeometryError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

NIFTI_ENDINGS = (".nii", ".nii.gz")
PAIRS = {".hdr": ".img", ".img": ".hdr"}
MILLIMETRES = 2  # NIfTI's code
UNITS = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}  # mm; no unit at all is taken for mm, as everybody does
COMPLEX, COLOURS = (32, 1792, 2048), (128, 2304)  # NIfTI's codes of data types
SAME = 1e-3  # voxels within which nothing needs to be said
ENDIAN: tuple[Literal["little", "big"], ...] = ("little", "big")
SPACINGS = "its sform and its pixdim are of different spacings"
LEVEL = 6  # of gzip; nibabel's own, 1, makes label maps three times as large as ITK's
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TRAILER = 4  # the last bytes of a gzip file: length of what it holds, modulo 2**32


@dataclass(frozen=True)
class Header:
    """What a volume's header says of space.

    Attributes:
        shape: Of the stored array, (x, y, z, ...).
        grid: Where the voxels lie; right-angled.
        said: What was chosen or changed to get there, as sentences without the file's name; empty: nothing.
        known: Whether the file says where its voxels lie.
        misread: Why nnU-Net itself does not read the same voxels and spacing, as half a sentence; empty: it does.
        exact: Whether ITK would read the same voxels on the same grid.
        stored: qform, sform (4, 4 nested lists), their codes, pixdim's sign and units: what is copied into the header
            of whatever lies on the same grid. None: no NIfTI file.
        real: Whether voxels of a NIfTI file may be no whole numbers, and so NaN or infinite, which ITK reads as 0.
    """

    shape: tuple[int, ...]
    grid: Grid
    said: tuple[str, ...]
    known: bool
    misread: str
    exact: bool
    stored: dict[str, Any] | None
    real: bool = False

    @property
    def needed(self) -> bool:
        """Whether ITK would write another header for this grid than the image has."""
        if self.stored is None:
            return False
        forms = [self.stored["qform"], self.stored["sform"]]
        if None in forms or self.stored["codes"] != [1, 1] or self.stored["units"] != MILLIMETRES:
            return True
        return any(farthest(TO_LPS @ np.asarray(f), self.grid.affine, self.grid.shape) > 1e-5 for f in forms)


def read_header(file: Path) -> Header:
    """Look at a header; voxels are not read.

    The sform is where the voxels lie; without one the qform; without either, nothing but the spacing is known, and
    axes are those of the world, from the origin on, as ITK and nnU-Net have it.

    Args:
        file: NIfTI-1 or -2, one file or a pair of .hdr and .img.

    Raises:
        DatasetError: If it is no NIfTI file, or holds complex numbers or colours.
        GeometryError: If its axes are not at right angles, by a tenth of a voxel or more at a corner, or its spacing
            is not given.
    """
    where = f"'{file.name}' in {file.parent.name}"
    header, shape = _header(file)
    _check_type(int(header["datatype"]), where)
    spatial = (*shape[:3], 1, 1, 1)[:3]
    shape3 = (spatial[2], spatial[1], spatial[0])
    said: list[str] = []
    qform, bad = _qform(header)
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    if bad and sform is None:
        raise GeometryError(
            f"{where} lies nowhere: its qform is no rotation, and it has no sform. Correct the header, with its images "
            f"and label maps."
        )
    chosen = sform if sform is not None else qform
    if sform is None:
        _check_steps(header, spatial, where)
    if chosen is None:
        steps = np.abs(np.asarray(header["pixdim"][1:4], dtype=float))
        chosen = TO_LPS @ np.diag([*np.where(np.isfinite(steps) & (steps > 0), steps, 1.0), 1.0])
        said.append(
            "its header does not say where it lies, nor which side is left (no qform, no sform): its axes were taken "
            "for left, posterior, superior, as ITK takes them"
        )
    unit, scale = UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if unit:
        said.append(f"its header counts in {unit}, which were made millimetres")
    to_mm = TO_LPS @ np.diag([scale, scale, scale, 1.0])
    chosen = _completed(chosen, spatial)
    try:
        grid, off = Grid.from_affine(shape3, to_mm @ chosen)
    except GeometryError as error:
        raise GeometryError(f"{where} lies nowhere: {error}") from error
    if off >= TOLERANCE:
        raise GeometryError(
            f"The axes of {where} are not at right angles (in its {'sform' if sform is not None else 'qform'}): made "
            f"so, a corner would move by {off:.3g} voxels, and {TOLERANCE:g} are allowed. Resample it onto "
            f"right-angled axes, with the label maps that belong to it."
        )
    if off > SAME:
        said.append(f"axes that are not at right angles were made so (corners move by {off:.2g} voxels)")
    said += _disagreement(qform, sform, shape3, scale)
    if bad:
        said.append("its qform is no rotation: the sform was taken")
    misread, exact = _as_itk(file, header, shape, grid)
    if misread == SPACINGS:
        said.append(f"{misread}: the sform was taken")
    stored = {
        "qform": None if qform is None else qform.tolist(),
        "sform": None if sform is None else sform.tolist(),
        "codes": [0 if qform is None else int(header["qform_code"]), max(0, int(header["sform_code"]))],
        "pixdim": [float(v) for v in header["pixdim"][:4]],
        "units": int(header["xyzt_units"]) & 7,
    }
    known = qform is not None or sform is not None
    real = header.get_data_dtype().kind == "f" or not np.isfinite([header["scl_slope"], header["scl_inter"]]).all()
    return Header(shape, grid, tuple(said), known, misread, exact, stored, real)


def read_voxels(file: Path) -> NDArray[Any]:
    """Voxels with slope and intercept applied, as (..., Z, Y, X). A slope of 0 or NaN is none, as NIfTI says.

    Raises:
        DatasetError: If they cannot be read.
    """
    image = opened(file)
    try:
        found: NDArray[Any] = np.asanyarray(image.dataobj).T
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(file, error) from error
    stored = np.dtype(image.get_data_dtype())
    exactly = stored.itemsize <= (4 if stored.kind == "f" else 2)  # float32 holds it, and is what ITK makes of it
    return found.astype(np.float32) if found.dtype.kind == "f" and exactly else found


def copy_header(file: Path, stored: Mapping[str, Any]) -> None:
    """Give a NIfTI file, whose voxels are stored as an image's, that image's own header.

    Args:
        file: The file, which is written again unless its header says the same already.
        stored: `Header.stored` of the image.
    """
    before, _ = _header(file)
    header = before.copy()
    qform, sform = (None if stored[k] is None else np.asarray(stored[k], dtype=float) for k in ("qform", "sform"))
    header["pixdim"][:4] = stored["pixdim"]
    header["xyzt_units"] = (int(header["xyzt_units"]) & ~7) | stored["units"]
    header.set_qform(qform, int(stored["codes"][0]), strip_shears=True)
    header.set_sform(sform, int(stored["codes"][1]))
    if header.binaryblock == before.binaryblock:
        return
    with _open(file) as stream:  # voxels stay as they are, byte by byte
        content = header.binaryblock + stream.read()[len(header.binaryblock) :]
    if file.name.lower().endswith(".gz"):
        content = gzip.compress(content, LEVEL, mtime=0)
    file.write_bytes(content)


def opened(file: Path) -> Any:
    """nibabel's image, whose voxels are not read yet.

    Raises:
        DatasetError: If nibabel does not know the file.
    """
    import nibabel

    its_own = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        return nibabel.load(file, mmap=False)
    except (OSError, EOFError, ValueError, zlib.error, *its_own) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DatasetError:
    why = in_one_line(error).replace(str(file.parent) + "/", "")
    return DatasetError(f"'{file.name}' in {file.parent.name} cannot be read ({why}). Copy it again.")


def _header(file: Path) -> tuple[Any, tuple[int, ...]]:
    """nibabel's header as it is stored (opening an image, nibabel makes a spacing of 0 one of 1), and the shape."""
    import nibabel

    half = _partner(file, ".hdr") if file.suffix.lower() == ".img" else file
    try:
        with _open(half) as stream:
            block = stream.read(540)
        new: Any = (
            nibabel.Nifti2Header if 540 in (int.from_bytes(block[:4], o) for o in ENDIAN) else nibabel.Nifti1Header
        )
        header = new(block[: new.sizeof_hdr], check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
    except (OSError, EOFError, ValueError, zlib.error, nibabel.wrapstruct.WrapStructError) as error:
        raise _unreadable(file, error) from error
    if header["magic"].item() not in (header.pair_magic, header.single_magic):
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is an Analyze file or the like, not NIfTI: which side is left, it "
            f"does not say. Convert it to NIfTI with a program that knows where it comes from."
        )
    return header, shape


def _check_type(code: int, where: str) -> None:
    if code in COMPLEX:
        raise DatasetError(
            f"{where} holds complex numbers, but one real value a voxel is expected. Save its magnitude."
        )
    if code in COLOURS:
        raise DatasetError(
            f"{where} is in colour, but one value a voxel is expected. Save each channel as a file of its own."
        )


def _qform(header: Any) -> tuple[NDArray[np.floating] | None, bool]:
    """The qform, where there is one that is a rotation; and whether there is one that is none."""
    if int(header["qform_code"]) <= 0:
        return None, False
    found = header.copy()
    found["pixdim"][1:4] = np.where(np.abs(found["pixdim"][1:4]) > 0, np.abs(found["pixdim"][1:4]), 1.0)
    if found["pixdim"][0] not in (-1, 1):
        found["pixdim"][0] = 1
    try:
        form: NDArray[np.floating] = found.get_qform()
    except ValueError:
        return None, True
    return (form, False) if np.isfinite(form).all() else (None, True)


def _check_steps(header: Any, spatial: tuple[int, ...], where: str) -> None:
    """Refuse a header whose spacing is 0 or no number, where nothing else says it."""
    steps = [abs(float(v)) for v in header["pixdim"][1:4]]
    lost = [a for a, n, step in zip("xyz", spatial, steps, strict=True) if n > 1 and not 0 < step < np.inf]
    if lost:
        raise GeometryError(
            f"{where} does not say its spacing along {' and '.join(lost)} (pixdim {', '.join(f'{s:g}' for s in steps)})"
            f". Correct the header, with that of the label maps that belong to it."
        )


def _completed(affine: NDArray[np.floating], spatial: tuple[int, ...]) -> NDArray[np.floating]:
    """The affine of a single slice whose third axis has no length: as long as 1, at right angles to the others."""
    if spatial[2] > 1 or np.any(affine[:3, 2]) or not np.any(affine[:3, :2]):
        return affine
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    found = affine.copy()
    found[:3, 2] = normal / np.linalg.norm(normal)
    return found


def _disagreement(
    qform: NDArray[np.floating] | None, sform: NDArray[np.floating] | None, shape: tuple[int, int, int], scale: float
) -> list[str]:
    if qform is None or sform is None or np.linalg.matrix_rank(qform) < 4 or np.linalg.matrix_rank(sform) < 4:
        return []
    apart = farthest(qform, sform, shape)
    if apart < TOLERANCE:
        return []
    mm = float(np.abs(_corners(shape) @ (qform - sform).T[:, :3]).max()) * scale
    return [f"its qform and its sform put corners {mm:.3g} mm ({apart:.3g} voxels) apart: the sform was taken"]


def _as_itk(file: Path, header: Any, shape: Sequence[int], grid: Grid) -> tuple[str, bool]:
    """Why nnU-Net would not read the same voxels and spacing; and whether it would read the same grid."""
    seen = itk.information(file)
    if seen is None:
        newer = int(header["sizeof_hdr"]) == 540
        return "it is NIfTI-2" if newer else "its axes are a little off a right angle", False
    if seen.components > 1 or len(seen.shape) > 4:
        return "its channels are not its fourth axis", False
    if float(header["scl_slope"]) == 0 and float(header["scl_inter"]) != 0:
        return "its slope is 0, and its intercept is not", False
    own = np.asarray(grid.spacing[::-1])
    steps = np.maximum(np.asarray((*shape[:3], 1, 1)[:3]) - 1, 1)
    if (np.abs(seen.spacing - own) / np.minimum(seen.spacing, own) * steps)[: min(3, len(shape))].max() >= TOLERANCE:
        return SPACINGS, False
    apart = np.abs(_corners(grid.shape) @ (seen.affine - grid.affine).T[:, :3]).max()
    return "", len(seen.shape) == 2 or bool(apart < SAME * own.min())


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
    other = PAIRS.get(file.suffix.lower())
    if other is None and not file.name.lower().endswith(NIFTI_ENDINGS):
        return
    header = voxels = file
    if other is not None:
        partner = _partner(file, other)
        header, voxels = (file, partner) if other == ".img" else (partner, file)
    try:
        needed = _needed_bytes(header)
        there = _length(voxels, needed)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is truncated or no NIfTI file ({error}). Copy or convert it again."
        ) from error
    if there < needed:
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is truncated: {there} of {needed} bytes are there. "
            f"Copy or convert it again."
        )


def _partner(file: Path, ending: str) -> Path:
    """The other half of a pair."""
    for found in (file.with_suffix(ending), file.with_suffix(ending.upper())):
        if found.is_file():
            return found
    raise DatasetError(
        f"'{file.name}' in {file.parent.name} is one half of a pair, and '{file.stem}{ending}' is not there. Copy both."
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
