"""nnkd.boxes.cache: exported once, kept by the weights' sha256."""

from __future__ import annotations

import json

import pytest

from nnkd.boxes.cache import exported, is_exported, kept, weights_of
from nnkd.boxes.model import DESCRIPTION
from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.weights.store import of_teacher

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("nnKD_cache", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder, digest=DIGEST):
    described = {
        "kind": "box_model", "version": 1, "name": "toy", "size": 256, "files": {}, "weights": {"sha256": digest},
        "encoder": {"file": "encoder.onnx"}, "decoder": {"file": "decoder.onnx"},
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")


def test_a_model_is_exported_once(cache):
    asked = []

    def export(model, folder):
        asked.append(model)
        write(folder)

    for _ in range(2):
        found = exported("toy.pth", DIGEST, export)
        assert (found.name, found.folder) == ("toy", kept(DIGEST))
    assert asked == ["toy.pth"]
    assert is_exported(str(kept(DIGEST)))
    assert [p.name for p in (cache / "box_models").iterdir()] == [DIGEST[:16]]


def test_what_fails_leaves_nothing(cache):
    def export(model, folder):
        raise WeightsError("no")

    with pytest.raises(WeightsError, match="no"):
        exported("toy.pth", DIGEST, export)
    with pytest.raises(WeightsError, match=r"names the weights 000000000000\.\.\., but abababababab\.\.\. were asked"):
        exported("toy.pth", DIGEST, lambda _, folder: write(folder, "0" * 64))
    assert list((cache / "box_models").iterdir()) == []


def test_another_process_may_be_faster():
    def export(model, folder):
        write(folder)
        kept(DIGEST).mkdir(parents=True)
        write(kept(DIGEST))

    assert exported("toy.pth", DIGEST, export).folder == kept(DIGEST)


def test_whose_weights(tmp_path):
    (tmp_path / "toy.pth").write_bytes(b"x")
    assert weights_of(str(tmp_path / "toy.pth")) == sha256(tmp_path / "toy.pth")
    published = of_teacher("litemedsam")
    assert weights_of("litemedsam") == (published.sha256 if published else "")
    assert weights_of("no_such_model") == ""
