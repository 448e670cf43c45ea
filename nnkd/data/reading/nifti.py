"""Whether a NIfTI file is all there. ITK (tried: 5.4) reads a truncated one without a word and fills up with zeros."""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BufferedReader
from pathlib import Path

from nnkd.errors import DatasetError

NIFTI_ENDINGS = (".nii", ".nii.gz")
_TRAILER = 4  # the last bytes of a gzip file: length of what it holds, modulo 2**32


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
