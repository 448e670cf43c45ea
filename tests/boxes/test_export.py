"""Tests of nnkd.boxes.export, with a box model that thresholds the image inside the box."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from box_graphs import Decoder, Encoder, Whole, graphs
from extras import needs

from nnkd.boxes.export import made_up_pictures, write_box_model
from nnkd.boxes.model import BoxModelFolder, ExportedBoxModel
from nnkd.errors import SettingError, WeightsError
from nnkd.files import sha256
from nnkd.networks import runtimes

pytestmark = [needs("export", "onnx", "onnxscript", "onnxruntime"), pytest.mark.heavy]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box model")
    return folder, write_box_model(graphs(), folder, openvino="openvino" in runtimes.installed())


def test_the_description_names_what_is_there(written):
    folder, lines = written
    content = json.loads((folder / "box_model.json").read_text())
    assert set(content["files"]) == {path.name for path in folder.iterdir()} - {"box_model.json"}
    assert all(sha256(folder / name) == digest for name, digest in content["files"].items())
    assert (content["encoder"]["name"], content["encoder"]["int8"]) == ("conv", None)
    assert content["decoder"]["boxes_shape"] == ["n", 4]
    assert content["weights"]["licence"] == "MIT"
    assert set(content["parity"]) == set(runtimes.installed())
    assert all(one["pixels"] == 0 and one["of"] == 6 * 256 * 256 for one in content["parity"].values())
    assert len(lines) == len(runtimes.installed())
    assert "masks in 0 of 393216 pixels" in lines[0]


@pytest.mark.parametrize("runtime", runtimes.installed())
def test_it_is_read_again_and_segments_any_number_of_boxes(written, runtime):
    described = BoxModelFolder.read(written[0])
    assert described.name == "toy"
    model = ExportedBoxModel(described, runtime)
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    embedding = model.encode(image)
    boxes = np.array([[i, 2 * i, i + 30, 2 * i + 40] for i in range(11)])
    found = model.masks(embedding, boxes, (256, 256))
    assert found.shape == (11, 256, 256)
    outside = np.ones((256, 256), bool)
    outside[3:33, 6:46] = False
    assert not found[3][outside].any()


def test_a_model_says_itself_what_it_sees(tmp_path):
    write_box_model(graphs(size=128, channels=8), tmp_path)
    content = json.loads((tmp_path / "box_model.json").read_text())
    assert (content["size"], content["preprocessing"]["longest_side"]) == (128, 128)
    assert content["decoder"]["embedding_shape"] == [8, 32, 32]
    model = ExportedBoxModel(BoxModelFolder.read(tmp_path), next(iter(runtimes.installed())))
    embedding = model.encode(np.zeros((50, 70, 3), dtype=np.uint8))
    assert embedding.shape == (8, 32, 32)
    assert model.masks(embedding, np.array([[0, 0, 9, 9]]), (50, 70)).shape == (1, 50, 70)


def test_a_network_that_answers_otherwise_is_not_left_behind(tmp_path):
    (tmp_path / "box_model.json").write_text("{}")
    other = replace(graphs(), whole=Whole(Encoder(), Decoder()))
    with pytest.raises(WeightsError, match="The exported 'toy' is not the model"):
        write_box_model(other, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_runtime_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r'Install one of them: pip install "nnkd\[export\]"'):
        write_box_model(graphs(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_pictures_are_always_the_same_and_their_boxes_hold_something():
    for (image, boxes), (again, _) in zip(made_up_pictures(256), made_up_pictures(256), strict=True):
        np.testing.assert_array_equal(image, again)
        assert (image.shape, image.dtype, boxes.shape) == ((1, 3, 256, 256), np.float32, (2, 4))
        assert 0 <= image.min() < image.max() <= 1
        assert boxes.min() >= 0
        assert boxes.max() <= 256
        assert (boxes[:, :2] < boxes[:, 2:]).all()
