"""Toys for the tests of box models: a model that says yes to what is bright in a box, as code and as exported files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nnkd.boxes.model import DESCRIPTION
from nnkd.files import sha256

WEIGHTS = {"name": "toy.pth", "sha256": "0" * 64, "licence": "CC0-1.0"}


class Bright:
    """Says yes to what is bright in a box; counts what it is asked."""

    def __init__(self):
        self.encoded = self.decoded = 0

    def encode(self, image):
        self.encoded += 1
        return image.mean(axis=-1, dtype=np.float32) / 255

    def masks(self, embedding, boxes, shape):
        assert embedding.shape == shape
        found = np.zeros((len(boxes), *shape), dtype=bool)
        for one, (y0, x0, y1, x1) in zip(found, boxes, strict=True):
            one[y0:y1, x0:x1] = embedding[y0:y1, x0:x1] > 0.5
        self.decoded += len(boxes)
        return found


def toy_box_model(folder: Path, int8: bool = False) -> Path:
    """What nnKD_export would write of such a model; needs onnx."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)

    def save(name, nodes, inputs, outputs, constants):
        infos = [
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in values.items()]
            for values in (inputs, outputs)
        ]
        tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
        graph = helper.make_graph(nodes, "toy", *infos, tensors)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(made)
        onnx.save(made, folder / name)

    encoder = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["small", "mix"], ["embedding"]),
    ]
    names = ["encoder.onnx", "decoder.onnx", *(["encoder_int8.onnx"] if int8 else [])]
    for name in (names[0], *names[2:]):
        save(
            name, encoder, {"image": [1, 3, 256, 256]}, {"embedding": [1, 256, 64, 64]},
            {"mix": np.full((256, 3, 1, 1), 1 / 3, np.float32)},
        )  # fmt: skip
    pixel = np.arange(256, dtype=np.float32) + 0.5
    constants = {
        "four": np.array([1, 1, 4, 4], np.float32), "none": np.array([], np.float32), "scale": np.float32(40),
        "shift": np.float32(-12), "x": pixel[None, None], "y": pixel[None, :, None], "sides": np.array([1, 2]),
        "axis": np.array([0]),
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceMean", ["embedding"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["image"]),
        helper.make_node("Resize", ["image", "none", "four"], ["large"], mode="nearest"),
        helper.make_node("Squeeze", ["large", "axis"], ["grey"]),
        helper.make_node("Mul", ["grey", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["bright"]),
    ]
    for number, (side, first, second) in enumerate(
        (("x0", "x", "x0_"), ("y0", "y", "y0_"), ("x1", "x1_", "x"), ("y1", "y1_", "y"))
    ):
        constants[f"i{number}"] = np.array(number)
        nodes += [
            helper.make_node("Gather", ["boxes", f"i{number}"], [side], axis=1),
            helper.make_node("Unsqueeze", [side, "sides"], [f"{side}_"]),
            helper.make_node("Sub", [first, second], [f"in_{side}"]),
        ]
    nodes.append(helper.make_node("Min", ["bright", *(f"in_{s}" for s in ("x0", "y0", "x1", "y1"))], ["logits"]))
    inputs = {"embedding": [256, 64, 64], "boxes": ["n", 4]}
    save("decoder.onnx", nodes, inputs, {"logits": ["n", 256, 256]}, constants)
    described = {
        "kind": "box_model", "version": 1, "name": "toy", "size": 256, "weights": WEIGHTS,
        "encoder": {
            "file": "encoder.onnx", "int8": "encoder_int8.onnx" if int8 else None, "input_shape": [1, 3, 256, 256],
        },
        "decoder": {"file": "decoder.onnx"}, "files": {name: sha256(folder / name) for name in names},
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")
    return folder
