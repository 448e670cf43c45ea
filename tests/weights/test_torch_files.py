"""nnkd.weights.torch_files and numpy_state: what a checkpoint's pickle says is believed only where it is true."""

from __future__ import annotations

import io
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from nnkd.errors import WeightsError
from nnkd.weights.checkpoints import load_checkpoint

LOGGED = {
    "numbers": [np.float32(1.5), np.float64(-2), np.int64(3), np.bool_(True)],
    "rows": np.arange(12.0).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "words": np.array(["liver", "ä"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3)),
    "one": np.array(3.0),
}


def checkpoint(file, **more):
    torch.save({"network_weights": {"a": torch.arange(4.0)}, "logging": LOGGED, **more}, file)
    return file


def value(content) -> bytes:
    """As a pickle of protocol 2 has it, without its frame."""
    return pickle.dumps(content, protocol=2)[2:-1]


def written(file, more: bytes, parts=(), compression=zipfile.ZIP_STORED):
    """A checkpoint that holds what the pickle `more` makes."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        text = b"\x80\x02}(" + value("network_weights") + b"}" + value("logging") + more + b"u."
        archive.writestr("checkpoint/data.pkl", text)
        archive.writestr("checkpoint/version", "3\n")
        for name, content in parts:
            archive.writestr(f"checkpoint/data/{name}", content)
    return file


@pytest.mark.parametrize("how", ["numpy 2", "numpy 1", "torch before 1.6"])
def test_what_numpy_wrote_comes_back_equal(tmp_path, how):
    file = checkpoint(tmp_path / "a.pth")
    if how == "torch before 1.6":
        content = torch.load(checkpoint(tmp_path / "b.pth"), weights_only=False)
        torch.save(content, file, _use_new_zipfile_serialization=False)
    if how == "numpy 1":
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name).replace(b"numpy._core", b"numpy.core") for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    found = load_checkpoint(file)["logging"]
    for name, wanted in LOGGED.items():
        np.testing.assert_array_equal(found[name], wanted)
        if name != "numbers":
            assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape)
    assert [type(n) for n in found["numbers"]] == [type(n) for n in LOGGED["numbers"]]
    torch.save(found, tmp_path / "again.pth")
    assert b"nnkd" not in (tmp_path / "again.pth").read_bytes()  # others can read it


def array(code, state, shape, content) -> bytes:
    dtype = b"cnumpy\ndtype\n" + value((code, False, True)) + b"R" + value(state) + b"b"
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + value((0,)) + value(b"b") + b"tR"
    return made + b"(" + value(1) + value(shape) + dtype + value(False) + content + b"tb"


WHOLE = (3, "<", None, None, None, -1, -1, 0)


def test_a_true_state_is_taken(tmp_path):
    file = written(tmp_path / "a.pth", array("f8", WHOLE, (3,), value(np.arange(3.0).tobytes())))
    np.testing.assert_array_equal(load_checkpoint(file)["logging"], [0, 1, 2])


@pytest.mark.parametrize(
    "more",
    [
        array("f8", WHOLE, (2**40,), value(b"A" * 24)),
        array("f8", WHOLE, (-3,), value(b"A" * 24)),
        array("f8", WHOLE, (True,), value(b"A" * 8)),
        array("f8", WHOLE, (3,), value([1.0, 2.0, 3.0])),
        array("O", (3, "|", None, None, None, -1, -1, 63), (1,), value([1])),
        array("V8", (3, "|", None, ("a",), {}, 8, 1, 16), (3,), value(b"A" * 24)),
        array("f8", (3, "<", None, None, None, 2**31 - 1, 8, 0), (3,), value(b"A" * 24)),
        array("S8", (3, "|", None, None, None, 2**31 - 1, 1, 0), (3,), value(b"A" * 24)),
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n" + value(("f8", False, True)) + b"R" + value(b"A") + b"\x86R",  # noqa: E501
        b"cnumpy\nndarray\n" + value((2**40,)) + b"\x81",
        b"cbuiltins\nbytearray\n" + value(2**40) + b"\x85R",
        b"ctorch\nFloatTensor\n" + value(2**40) + b"\x85R",
        b"c_codecs\nencode\n" + value(("aa", "HEX ")) + b"R",
        b"c_codecs\nencode\n" + value("a" * 2**20) + value("latin1") + b"\x86q\xffR" + b"c_codecs\nencode\nh\xffR0" * 2100,  # noqa: E501
    ],
    ids=range(14),
)  # fmt: skip
def test_lies_of_numpy_and_calls_for_memory_are_refused(tmp_path, more):
    with pytest.raises(WeightsError, match=r"'a\.pth'") as caught:
        load_checkpoint(written(tmp_path / "a.pth", more))
    assert len(str(caught.value)) < 400


def test_compressed_parts_and_large_pickles_are_refused(tmp_path, monkeypatch):
    file = written(tmp_path / "a.pth", b"]" + b"N0" * 2**20, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        load_checkpoint(file)
    monkeypatch.setenv("NNKD_MAX_PICKLE", "0.5")
    with pytest.raises(WeightsError, match="NNKD_MAX_PICKLE"):
        load_checkpoint(written(file, b"]" + b"N0" * 2**20))


def test_a_tensor_that_announces_more_than_the_file_is_refused(tmp_path):
    torch.save({"network_weights": {"a": torch.zeros(1).expand(2**40)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="larger than the file"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"network_weights": [1]}, "no tensors by name"),
        ({"init_args": [1]}, "name no configuration"),
        ({"trainer_name": 3}, "no text"),
        ({"inference_allowed_mirroring_axes": (0, 7)}, "no axes"),
    ],
)
def test_a_checkpoint_of_another_form_is_said(tmp_path, more, says):
    with pytest.raises(WeightsError, match=says):
        load_checkpoint(checkpoint(tmp_path / "a.pth", **more))


def test_mutated_checkpoints_load_or_are_refused_in_one_sentence(tmp_path):
    draw, file = random.Random(1), checkpoint(tmp_path / "a.pth")
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    said: list[str] = []
    for _ in range(150):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in parts.items():
                changed = bytearray(content)
                if name.endswith("data.pkl"):
                    for _ in range(draw.randint(1, 3)):
                        changed[draw.randrange(len(changed))] = draw.randrange(256)
                archive.writestr(name, bytes(changed))
        file.write_bytes(stream.getvalue())
        try:
            load_checkpoint(file)
        except WeightsError as error:
            said.append(str(error))
    assert len(said) > 50
    assert max(map(len, said)) < 400
