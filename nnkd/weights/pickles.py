"""nnU-Net's pickles, read by an unpickler that knows numpy alone: any other one runs what the file says."""

from __future__ import annotations

import pickle
import pickletools
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from nnkd.errors import FileError, in_one_line
from nnkd.weights.numpy_state import STAND_INS

# Marks in the header of a file of Blosc2 that holds code, or an address of its numbers elsewhere, instead of numbers
NOT_NUMBERS = (b"\xa3b2o", b"\xa9LazyArray", b"\xacproxy-source", b"\xa7vlarray", b"\xaabatcharray")
LENGTH = slice(11, 15)  # where the header says how long it is, big-endian


class _OfNumpy(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in STAND_INS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}")
        return STAND_INS[f"{module}.{name}"]


def load(file: Path) -> Any:
    """What a pickle of numbers, texts, containers and numpy arrays holds.

    Raises:
        FileError: If it is missing, broken, or wants anything else.
    """
    try:
        with open(file, "rb") as opened:
            _check_numbering(opened)
            opened.seek(0)
            return _OfNumpy(opened).load()
    except FileNotFoundError:
        raise FileError(f"'{file.name}' is missing in {file.parent.name}. Preprocess again.") from None
    except Exception as error:  # a broken pickle may raise anything
        raise FileError(
            f"'{file.name}' in {file.parent.name} is not read ({in_one_line(error)}): it is broken, or holds more than "
            f"the numbers and arrays that nnU-Net writes. Preprocess again; do not trust where it came from."
        ) from error


def _check_numbering(opened: IO[bytes]) -> None:
    """A pickle numbers what it refers to again from 0 on; memory is taken for the highest number."""
    for count, (code, argument, _) in enumerate(pickletools.genops(opened)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise pickle.UnpicklingError(f"it numbers {argument} values, but holds fewer")


def check_case(folder: Path, case: str) -> None:
    """Refuse a preprocessed case of nnU-Net's that would run something when it is opened; once for each version of its
    files.

    Raises:
        FileError: If it would.
    """
    _check_once(str(folder), case, tuple(_stamp(file) for file in _files(folder, case)))


def _files(folder: Path, case: str) -> list[Path]:
    return [folder / f"{case}{ending}" for ending in (".pkl", ".b2nd", "_seg.b2nd")]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        seen = file.stat()
    except OSError:  # nnU-Net says so
        return 0, 0
    return seen.st_mtime_ns, seen.st_size


@lru_cache(maxsize=100_000)
def _check_once(folder: str, case: str, stamps: tuple[tuple[int, int], ...]) -> None:
    pickled, *arrays = _files(Path(folder), case)
    load(pickled)
    for file in arrays:
        check_array(file)


def check_array(file: Path) -> None:
    """Refuse an array of Blosc2 that holds an expression or code, or is a folder, as nnkd and nnU-Net write none; one
    that is missing passes.

    Raises:
        FileError: If it is such.
    """
    if file.is_dir() or (file.is_file() and any(mark in _header(file) for mark in NOT_NUMBERS)):
        raise FileError(
            f"'{file.name}' in {file.parent.name} holds an expression to be computed, not numbers, and is not "
            f"opened. Preprocess again, and do not trust the folder it came from."
        )


def _header(file: Path) -> bytes:
    with open(file, "rb") as opened:
        start = opened.read(LENGTH.stop)
        return start + opened.read(max(0, int.from_bytes(start[LENGTH], "big") - len(start)))
