"""nnkd.data.reading.npz: arrays whose headers are believed only where the file holds as much."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from nnkd.data.reading import npz
from nnkd.errors import DatasetError


def test_numbers_come_back(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array([True, False]), "h": np.ones(2, np.float16), "s": ["x"]}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    assert npz.names(tmp_path / "a.npz") == ["a", "b", "h", "s"]
    found = npz.read(tmp_path / "a.npz", ("a", "b", "h", "nothing"))
    assert [(name, str(array.dtype)) for name, array in found.items()] == [
        ("a", "int64"),
        ("b", "uint8"),
        ("h", "float32"),
    ]
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("array", [np.ones(2, complex), np.array(["x"]), np.zeros(2, [("a", int)]), np.array([None])])
def test_what_is_no_real_number_is_refused(tmp_path, array):
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(DatasetError, match=r"a of 'a\.npz' holds"):
        npz.read(tmp_path / "a.npz", ("a",))


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-4,)", "(True,)", "(4, 99999999999999999999)"])
def test_a_shape_that_the_file_does_not_hold_is_refused(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"
    header = header.ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(
            "a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"x" * 32
        )
    with pytest.raises(DatasetError, match=r"'a\.npz'"):
        npz.read(tmp_path / "a.npz", ("a",))


def test_encrypted_and_broken_ones_are_one_sentence(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, a=np.ones(3))
    content = bytearray(file.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    for broken in (bytes(content), bytes(content)[:100], b"", b"no npz"):
        file.write_bytes(broken)
        with pytest.raises(DatasetError, match=r"'a\.npz' is broken or no npz"):
            npz.read(file, ("a",))
