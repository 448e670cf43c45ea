"""nnU-Net's pickles are read without running what they say."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from nnkd.errors import FileError
from nnkd.weights import pickles

PROPERTIES = {
    "class_locations": {1: np.arange(12).reshape(3, 4), (1, 2): [], 2: np.zeros((0, 4), np.int64)},
    "spacing": [np.float64(1.5), np.float32(2.0), 3],
    "sitk_stuff": {"direction": (1.0, 0.0), "name": "a"},
    "bbox": [[np.int64(0), 3]],
}


class Evil:
    def __init__(self, call=os.system, argument="false"):
        self.does = call, (argument,)

    def __reduce__(self):
        return self.does


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_nnunet_writes_is_read_as_pickle_reads_it(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(PROPERTIES, protocol))
    np.testing.assert_equal(pickles.load(tmp_path / "a.pkl"), PROPERTIES)


def test_numpy_1s_names(tmp_path):
    text = pickle.dumps(np.arange(3), 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.pkl").write_bytes(text)
    assert pickles.load(tmp_path / "a.pkl").tolist() == [0, 1, 2]


@pytest.mark.parametrize("call", [os.system, eval, exec, __import__, np.load, np.fromfile, getattr])
def test_nothing_else_is_called(tmp_path, monkeypatch, call):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": [np.zeros(2), Evil(call, "x")]}))
    with pytest.raises(FileError, match=r"'a\.pkl' in .* is not read \(it wants"):
        pickles.load(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", pickle.dumps([1, 2])[:-1]])
def test_broken_and_missing(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(FileError, match="is broken"):
        pickles.load(tmp_path / "a.pkl")
    with pytest.raises(FileError, match="is missing"):
        pickles.load(tmp_path / "b.pkl")


def test_a_case_is_looked_at_again_when_it_changed(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(PROPERTIES))
    pickles.check_case(tmp_path, "a")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FileError, match="it wants"):
        pickles.check_case(tmp_path, "a")


def test_an_array_that_is_an_expression_is_not_opened(tmp_path, monkeypatch):
    blosc2 = pytest.importorskip("blosc2")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(PROPERTIES))
    monkeypatch.chdir(tmp_path)  # where blosc2 puts what an expression needs
    array = blosc2.asarray(np.ones((4, 4)), urlpath="x.b2nd", mode="w")
    blosc2.asarray(np.ones((4, 4)), urlpath=str(tmp_path / "a.b2nd"), mode="w")
    pickles.check_case(tmp_path, "a")
    os.remove(tmp_path / "a.b2nd")
    (array + 1).save(urlpath=str(tmp_path / "a.b2nd"))
    with pytest.raises(FileError, match="expression to be computed"):
        pickles.check_case(tmp_path, "a")


def test_numpys_state_is_not_believed(tmp_path):
    dtype = b"cnumpy\ndtype\n(Vf8\nI00\nI01\ntR(I3\nV<\nNNNI2147483647\nI-1\nI0\ntb"  # of 2 GiB a value
    whole = pickle.dumps(np.arange(3.0), 3)
    for lie in (dtype + b".", whole.replace(b"K\x03\x85", b"K\x63\x85"), whole.replace(b"f8", b"O8")):
        assert lie != whole
        (tmp_path / "a.pkl").write_bytes(lie)
        with pytest.raises(FileError, match="is broken, or holds more"):
            pickles.load(tmp_path / "a.pkl")


def test_memory_is_not_taken_for_numbers_of_values_that_are_not_there(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03]r\xff\xff\xff\x7f.")  # 34 GB
    with pytest.raises(FileError, match="numbers 2147483647 values"):
        pickles.load(tmp_path / "a.pkl")
