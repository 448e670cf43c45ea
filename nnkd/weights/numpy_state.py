"""numpy's scalars and arrays in a checkpoint, made of what its pickle says only where that is true.

numpy itself believes the state of a pickled dtype: of 1,500 with lies in them one ended the process and 150 asked for
all memory. What stands here takes the place of numpy's own functions while a checkpoint is read.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

PLAIN = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)|[SU][1-9]\d{0,5}")  # no object, no record, no date
ORDERS = ("<", ">", "|", "=")
AXES = 32


class DType:
    """A dtype of plain numbers or text, as numpy.dtype(code, align, copy) with its state."""

    def __init__(self, code: Any = None, align: Any = False, copy: Any = True):
        if not (isinstance(code, str) and PLAIN.fullmatch(code)):
            raise ValueError(f"a dtype {str(code)[:20]!r} of numpy")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the order of the bytes; all else must be what numpy writes for such a dtype.

        Raises:
            ValueError: If it is not.
        """
        sizes = ((-1, -1), (self.numpy.itemsize, self.numpy.alignment))
        endings = [(None, None, None, *size, self.numpy.flags) for size in sizes]
        whole = isinstance(state, tuple) and len(state) == 8
        if not (whole and state[0] == 3 and state[1] in ORDERS and state[2:] in endings):
            raise ValueError("a state of a dtype that numpy does not write")
        self.numpy = self.numpy.newbyteorder(state[1])


class Array(np.ndarray):
    """An array whose state is compared with its bytes first. It is pickled as any array."""

    def __setstate__(self, state: Any) -> None:
        """Take a shape, a dtype and as many bytes as these need.

        Raises:
            ValueError: If they contradict each other, or are none.
        """
        if not (isinstance(state, tuple) and len(state) == 5):
            raise ValueError("an array without a state")
        version, shape, dtype, fortran, content = state
        _check(dtype, content)
        if version != 1 or not (isinstance(shape, tuple) and len(shape) <= AXES and isinstance(fortran, bool)):
            raise ValueError("an array of a form that numpy does not write")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array without a shape")
        if math.prod(shape) * dtype.numpy.itemsize != len(content):
            raise ValueError("an array of more or fewer bytes than its shape says")
        super().__setstate__((1, shape, dtype.numpy, fortran, content))  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        """As numpy's."""
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As numpy's."""
        return self.view(np.ndarray).__reduce_ex__(protocol)


def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """numpy's _reconstruct: an empty array, which gets its state later.

    Raises:
        ValueError: If it is asked for anything else.
    """
    if kind is not Array or shape != (0,) or code not in (b"b", "b"):
        raise ValueError("an array of a form that numpy does not write")
    return np.empty(0, np.int8).view(Array)


def from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """numpy's _frombuffer, of pickles of protocol 5.

    Raises:
        ValueError: If the bytes are not those of the shape and dtype.
    """
    made = np.empty(0, np.int8).view(Array)
    made.__setstate__((1, shape, dtype, order == "F", bytes(content) if isinstance(content, bytearray) else content))
    return made


def scalar(dtype: Any, content: Any) -> Any:
    """numpy's scalar: one value.

    Raises:
        ValueError: If its bytes are not those of its dtype.
    """
    _check(dtype, content)
    if len(content) != dtype.numpy.itemsize:
        raise ValueError("a number of more or fewer bytes than its dtype says")
    return np.frombuffer(content, dtype.numpy)[0]


def no_bytes() -> bytes:
    """The bytes of an array without values; the pickle calls them bytes()."""
    return b""


def _check(dtype: Any, content: Any) -> None:
    if not (isinstance(dtype, DType) and isinstance(content, bytes)):
        raise ValueError("a value of numpy without dtype or bytes")


# By the name in the pickle: numpy 2's, and numpy 1's
STAND_INS: dict[str, Any] = {
    "builtins.bytes": no_bytes,
    "__builtin__.bytes": no_bytes,
    "numpy.dtype": DType,
    "numpy.ndarray": Array,
    "numpy._core.multiarray._reconstruct": reconstruct,
    "numpy.core.multiarray._reconstruct": reconstruct,
    "numpy._core.multiarray.scalar": scalar,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.numeric._frombuffer": from_buffer,
    "numpy.core.numeric._frombuffer": from_buffer,
}
