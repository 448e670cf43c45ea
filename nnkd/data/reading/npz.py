"""npz files from outside: plain arrays of numbers, whose headers are believed only where the file holds as much."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from nnkd import limits
from nnkd.errors import DatasetError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PICKLED = "holds pickled objects, which could run any program and are never loaded. Save plain arrays of numbers"


def names(file: Path) -> list[str]:
    """The arrays of an npz.

    Raises:
        DatasetError: If it is none.
    """
    with _open(file) as archive:
        return [member.filename.removesuffix(".npy") for member in archive.infolist()]


def read(file: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of an npz: bool becomes uint8, float16 float32.

    Args:
        file: The npz.
        wanted: Which; those that it has not are left out.

    Raises:
        DatasetError: If it is no npz, encrypted or truncated, an array holds complex numbers, text, records or objects,
            has no number, or is larger than the file or the memory allow.
    """
    try:
        with _open(file) as archive:
            there = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            return {name: _array(archive, there[name], file, name) for name in wanted if name in there}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise DatasetError(f"'{file.name}' is broken or no npz ({in_one_line(error)}). Copy it again.") from error


def _open(file: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"'{file.name}' is broken or no npz ({in_one_line(error)}). Copy it again.") from error
    members = archive.infolist()
    if len(members) > limits.MEMBERS.value:
        archive.close()
        raise DatasetError(f"'{file.name}' has {len(members)} arrays. {limits.MEMBERS.raised}")
    return archive


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, name: str) -> NDArray[Any]:
    what = f"{name} of '{file.name}'"
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
    if dtype.hasobject:
        raise DatasetError(f"{what} {PICKLED}.")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DatasetError(f"{what} holds {str(dtype)[:40]}, but real numbers are expected. Convert it.")
    needed = math.prod(shape) * dtype.itemsize
    if needed > member.file_size:
        raise DatasetError(f"{what} announces the shape {shape}, but the file holds less. Copy it again.")
    problem = limits.too_large(needed, member.compress_size)
    if problem:
        raise DatasetError(f"{what} of the shape {shape} {problem}")
    with archive.open(member) as stream:
        found: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.kind == "b":
        return found.astype(np.uint8)
    return found.astype(np.float32) if dtype.itemsize == 2 and dtype.kind == "f" else found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in READERS:
        raise ValueError(f"an array of version {version}")
    shape, _, dtype = READERS[version](stream)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array of the shape {shape}")
    return shape, dtype
