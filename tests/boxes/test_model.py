"""nnkd.boxes.model: exported box models, read, checked and computed without torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
from box_toys import WEIGHTS, toy_box_model
from extras import needs

from nnkd.boxes.model import AT_ONCE, DESCRIPTION, BoxModelFolder, ExportedBoxModel, TeacherBoxModel
from nnkd.errors import SettingError, WeightsError
from nnkd.networks import runtimes

RUNTIME = pytest.mark.parametrize(
    "runtime",
    [pytest.param(r, marks=needs("export", r)) for r in runtimes.RUNTIMES],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnx", reason='needs onnx: pip install "nnkd[export]"')
    return toy_box_model(tmp_path_factory.mktemp("boxes") / "toy", int8=True)


def changed(folder, target, **values):
    """A copy of the folder with another description."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    (target / DESCRIPTION).write_text(json.dumps({**content, **values}), encoding="utf-8")
    return target


@RUNTIME
def test_an_image_and_boxes_become_masks(folder, runtime):
    model = ExportedBoxModel(BoxModelFolder.read(folder), runtime)
    image = np.zeros((100, 80, 3), np.uint8)
    image[20:60, 10:50] = 255
    embedding = model.encode(image)
    assert embedding.shape == (256, 64, 64)
    assert embedding.dtype == np.float32
    boxes = np.array([[20, 10, 60, 50], [0, 0, 40, 80], [70, 60, 90, 80]] * AT_ONCE)
    found = model.masks(embedding, boxes, (100, 80))
    assert found.shape == (len(boxes), 100, 80)
    assert found.dtype == bool
    bright = image[..., 0] > 0
    above = np.arange(100)[:, None] < 40
    for number, expected in enumerate((bright, bright & above, bright & False)):
        assert (found[number] != expected).mean() < 0.02, number
    np.testing.assert_array_equal(found[:3], found[-3:])


@RUNTIME
def test_grey_is_embedded_once_not_three_times(folder, runtime):
    model = ExportedBoxModel(BoxModelFolder.read(folder), runtime, precision="int8")
    grey = np.random.default_rng(0).integers(0, 256, (300, 40)).astype(np.uint8)
    view = np.broadcast_to(grey[..., None], (300, 40, 3))
    np.testing.assert_allclose(model.encode(view), model.encode(view.copy()), atol=1e-6)


def test_what_the_folder_says(folder):
    found = BoxModelFolder.read(folder)
    assert (found.name, found.weights) == ("toy", WEIGHTS)
    assert found.encoder("int8") == "encoder_int8.onnx"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "student"}, "describes no box model"),
        ({"version": 2}, "is of version 2, but this nnkd reads version 1"),
        ({"weights": None, "decoder": {}}, r"lacks weights, decoder\.file"),
        ({"encoder": {"file": "../encoder.onnx"}}, r"lacks encoder\.file"),
        ({"encoder": {"file": "encoder.onnx", "int8": "/tmp/encoder.onnx"}}, r"lacks encoder\.int8"),
        ({"size": 0}, "lacks size"),
        ({"size": 1024}, "of a model that sees 1024 pixels, but 256 are expected"),
    ],
)
def test_a_wrong_description_is_one_sentence(folder, tmp_path, values, words):
    with pytest.raises(WeightsError, match=words):
        BoxModelFolder.read(changed(folder, tmp_path / "other", **values))


def test_no_description_and_a_list(tmp_path):
    with pytest.raises(WeightsError, match=r"'box_model\.json' is missing.*what nnKD_export writes"):
        BoxModelFolder.read(tmp_path)
    (tmp_path / DESCRIPTION).write_text("[]", encoding="utf-8")
    with pytest.raises(WeightsError, match="describes no box model"):
        BoxModelFolder.read(tmp_path)


def test_a_changed_or_missing_network_and_no_int8(folder, tmp_path):
    other = changed(folder, tmp_path / "other", encoder={"file": "encoder.onnx", "int8": None})
    with pytest.raises(SettingError, match="was exported without int8, only as fp32"):
        ExportedBoxModel(BoxModelFolder.read(other), "onnxruntime", precision="int8")
    (other / "decoder.onnx").write_bytes(b"another")
    with pytest.raises(WeightsError, match=r"'decoder\.onnx' in other is not the file that box_model\.json describes"):
        ExportedBoxModel(BoxModelFolder.read(other), "onnxruntime")
    (other / "decoder.onnx").unlink()
    with pytest.raises(WeightsError, match=r"There is no 'decoder\.onnx' in other"):
        ExportedBoxModel(BoxModelFolder.read(other), "onnxruntime")


@needs("export", "onnxruntime")
def test_networks_that_changed_places_are_refused(folder, tmp_path):
    other = changed(folder, tmp_path / "other", encoder={"file": "decoder.onnx"}, decoder={"file": "encoder.onnx"})
    with pytest.raises(WeightsError, match=r"'decoder\.onnx' has the inputs embedding, boxes, but image are expected"):
        ExportedBoxModel(BoxModelFolder.read(other), "onnxruntime")


def test_a_teacher_gets_slices_of_its_own_and_few_boxes_at_once():
    class Teacher:
        def encode(self, image):
            assert image.flags["C_CONTIGUOUS"]
            return image.astype(np.float32)

        def decode(self, embedding, boxes, shape):
            assert 0 < len(boxes) <= AT_ONCE
            return boxes[:, :1, None] / 20 * np.ones((1, *shape), np.float32)

    model = TeacherBoxModel(Teacher())
    embedding = model.encode(np.broadcast_to(np.ones((4, 5, 1), np.uint8), (4, 5, 3)))
    boxes = np.array([[row, 0, 20, 5] for row in range(20)])
    found = model.masks(embedding, boxes, (4, 5))
    assert found.shape == (20, 4, 5)
    assert found.all(axis=(1, 2)).tolist() == [row > 10 for row in range(20)]
