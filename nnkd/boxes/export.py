"""Box models written as folders of networks that run without torch, once these answer as torch does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkd.boxes.model import DESCRIPTION, KIND, VERSION
from nnkd.boxes.pixels import SMALLEST
from nnkd.data.predictions import versions
from nnkd.errors import WeightsError
from nnkd.files import sha256, write_json
from nnkd.networks import runtimes
from nnkd.networks.files import Difference, check_packages, difference, write_onnx, write_openvino
from nnkd.plugin.networks import BoxGraphs

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
TOLERANCE = 1e-4  # of logits, as a share of the largest one
POSTPROCESSING = {
    "crop": "the padding off the logits",
    "resize": "logits to the image's size, linear between the middles of pixels",
    "mask": "logits > 0",
    "probabilities": "1 / (1 + exp(-logits))",
}


def write_box_model(graphs: BoxGraphs, folder: Path, openvino: bool = False) -> list[str]:
    """Write a box model and compare it with torch on pictures made for that.

    Args:
        graphs: The model.
        folder: Made if need be; an older box model in it is replaced.
        openvino: Whether to write OpenVINO's own files beside ONNX.

    Returns:
        What to tell the user.

    Raises:
        SettingError: If a package that this needs is not installed.
        WeightsError: If a written network's logits differ by more than `TOLERANCE`; nothing is left in the folder.
    """
    import torch

    check_packages(openvino)
    forget_box_model(folder)
    folder.mkdir(parents=True, exist_ok=True)
    image, embedding = torch.zeros(1, 3, graphs.size, graphs.size), torch.zeros(*_embedding(graphs))
    boxes = torch.tensor([[0.0625, 0.0625, 0.5, 0.375], [0.25, 0.125, 0.9375, 1.0]]) * graphs.size
    write_onnx(graphs.encoder, {"image": image}, "embedding", folder / ENCODER)
    write_onnx(graphs.decoder, {"embedding": embedding, "boxes": boxes}, "logits", folder / DECODER, {"boxes": "n"})
    files = [folder / ENCODER, folder / DECODER]
    if openvino:
        for file in tuple(files):
            write_openvino(file, file.with_suffix(".xml"))
            files += [file.with_suffix(".xml"), file.with_suffix(".bin")]
    try:
        found = {name: _compared(graphs, folder, name) for name in runtimes.installed()}
    except WeightsError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    write_json(folder / DESCRIPTION, _description(graphs, files, found, openvino))
    return [f"{name}: {one} (PyTorch against {name}, {PICTURES} pictures)" for name, one in found.items()]


def forget_box_model(folder: Path) -> None:
    """Take a description away, so that an export that is killed leaves nothing that looks whole."""
    (folder / DESCRIPTION).unlink(missing_ok=True)


def _description(
    graphs: BoxGraphs, files: Sequence[Path], found: Mapping[str, Difference], openvino: bool
) -> dict[str, Any]:
    size, embedding = graphs.size, _embedding(graphs)
    encoder: dict[str, Any] = {"file": ENCODER, "int8": None, "name": graphs.encoder_name}
    encoder |= {"input": "image", "output": "embedding"}
    encoder |= {"input_shape": [1, 3, size, size], "output_shape": [1, *embedding]}
    decoder: dict[str, Any] = {"file": DECODER, "inputs": ["embedding", "boxes"], "output": "logits"}
    decoder |= {"embedding_shape": embedding, "boxes_shape": ["n", 4], "output_shape": ["n", size, size]}
    decoder["boxes"] = f"rows x0, y0, x1, y1, float32, in pixels of {size}"
    if openvino:
        encoder["openvino"], decoder["openvino"] = (Path(n).with_suffix(".xml").name for n in (ENCODER, DECODER))
    return {
        "kind": KIND,
        "version": VERSION,
        "name": graphs.name,
        "size": size,
        "encoder": encoder,
        "decoder": decoder,
        "preprocessing": _preprocessing(size),
        "postprocessing": POSTPROCESSING,
        "weights": dict(graphs.weights),
        "parity": {name: one.note() for name, one in found.items()},
        "versions": versions("torch", "onnx"),
        "files": {file.name: sha256(file) for file in files},
    }


def _embedding(graphs: BoxGraphs) -> list[int]:
    return [graphs.channels, graphs.grid, graphs.grid]


def _preprocessing(size: int) -> dict[str, Any]:
    return {
        "pixels": "8 bits: red, green and blue, or one grey three times",
        "longest_side": size,
        "smaller": "means over areas, rounded to 8 bits",
        "larger": "linear between the middles of pixels, rounded to 8 bits",
        "scale": "(x - lowest) / max(highest - lowest, smallest) of the resized image",
        "smallest": SMALLEST,
        "pad": "zeros at the right and the bottom, after scaling",
        "boxes": f"floor(corner * {size} / longest side), upper bounds excluded",
    }


# --- comparing ------------------------------------------------------------------------------------------------------

PICTURES, DRAWN_IN = 3, 256  # pixels of a side in which their objects are thought out


def made_up_pictures(size: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Always the same pictures (1, 3, size, size) float32 in [0, 1], and boxes (2, 4) float32 around their objects."""
    rng = np.random.default_rng(2024)
    rows, columns = np.mgrid[:size, :size] * (DRAWN_IN / size)
    made = []
    for _ in range(PICTURES):
        image, boxes = rng.normal(0.3, 0.05, (size, size)), []
        for _ in range(2):
            (y, x), (a, b) = rng.integers(60, 196, 2), rng.integers(15, 55, 2)
            image[((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1] += rng.uniform(0.2, 0.5)
            boxes.append(np.array([x - b, y - a, x + b, y + a]) * (size / DRAWN_IN))
        grey = np.clip(image, 0, 1).astype(np.float32)
        made.append((np.stack([grey] * 3)[None], np.array(boxes, dtype=np.float32)))
    return made


def _compared(graphs: BoxGraphs, folder: Path, runtime: str) -> Difference:
    import torch

    encoder = runtimes.open_session(folder / ENCODER, runtime, 1)
    decoder = runtimes.open_session(folder / DECODER, runtime, 1)
    total, largest = Difference(0.0, 0, 0), 0.0
    for image, boxes in made_up_pictures(graphs.size):
        with torch.inference_mode():
            expected = graphs.whole(torch.from_numpy(image), torch.from_numpy(boxes)).numpy()
        embedding = encoder.run({"image": image})[0][0]
        total += difference(expected, decoder.run({"embedding": embedding, "boxes": boxes})[0])
        largest = max(largest, float(np.abs(expected).max()))
    if total.logits > TOLERANCE * largest:
        raise WeightsError(
            f"The exported '{graphs.name}' is not the model: on {runtime} {total}, and at most "
            f"{TOLERANCE * largest:.1e} is let through. Try another version of torch or {runtime}."
        )
    return total
