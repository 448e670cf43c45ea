"""What LiteMedSAM costs an image and a box: torch as published and made ready, ONNX Runtime, OpenVINO.

    python benchmarks/box_runtimes.py [--model litemedsam|FILE] [--folder exported] [--repeats 7] [--out results.jsonl]

Same process, one thread, variants interleaved, medians of the process CPU time. Says how far logits and masks lie from
those of torch as published. Without --folder the model is exported into a temporary one first; with it, an encoder in 8
bits is measured too, if it has one. Needs nnkd[export].
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import torch
from nnkd_litemedsam import weights
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.sizes import SIZE
from timing import measure

from nnkd.boxes.export import made_up_pictures
from nnkd.boxes.model import BoxModelFolder
from nnkd.cli.export import main as export
from nnkd.networks import runtimes
from nnkd.networks.files import Difference, difference

Parts = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], np.ndarray]]


def main() -> None:
    """Export, measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="litemedsam", help="the published weights, or a checkpoint")
    parser.add_argument("--folder", type=Path, default=None, help="what nnKD_export wrote of the same model")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each variant")
    parser.add_argument("--out", type=Path, default=None, help="append the result to this JSONL file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None and export(["--model", options.model, "-o", temporary]):
            raise SystemExit(1)
        run(options, BoxModelFolder.read(folder))


def run(options: argparse.Namespace, described: BoxModelFolder) -> None:
    """Measure an exported model beside torch's."""
    file = Path(options.model) if Path(options.model).is_file() else weights.published()
    ways: dict[str, Parts] = {
        "torch": in_torch(weights.load_model(file)[0].eval()),
        "torch, ready": in_torch(weights.load_model(file)[0].fuse()),
    }
    for runtime in runtimes.installed():
        for precision in described.encoders:
            ways[f"{runtime} {precision}"] = exported(described, runtime, precision)
    image, boxes = made_up_pictures(SIZE)[0]
    embeddings = {name: encode(image) for name, (encode, _) in ways.items()}
    encoding = {name: lambda encode=encode: encode(image) for name, (encode, _) in ways.items()}
    decoding = {
        name: lambda name=name, decode=decode: decode(embeddings[name], boxes[:1]) for name, (_, decode) in ways.items()
    }
    seconds = {
        part: {name: statistics.median(taken) for name, taken in measure(these, options.repeats).items()}
        for part, these in (("encoder", encoding), ("decoder", decoding))
    }
    apart = {name: compared(ways["torch"], way) for name, way in ways.items()}
    show(seconds, apart)
    if options.out:
        result = {
            "benchmark": "box_runtimes",
            "model": described.name,
            "weights": described.weights["sha256"],
            "seconds": seconds,
            "difference": {name: one.note() for name, one in apart.items()},
        }
        with options.out.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(result) + "\n")


def in_torch(network: LiteMedSAM) -> Parts:
    """Encode and decode with torch."""

    def encode(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network.image_encoder(torch.from_numpy(image))[0].numpy()

    def decode(embedding: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network.decode(torch.from_numpy(embedding), torch.from_numpy(boxes)).numpy()

    return encode, decode


def exported(described: BoxModelFolder, runtime: str, precision: str) -> Parts:
    """Encode and decode with what was exported."""
    encoder = runtimes.open_session(described.checked(described.encoder(precision)), runtime, 1)
    decoder = runtimes.open_session(described.checked(described.decoder), runtime, 1)
    return (
        lambda image: encoder.run({"image": image})[0][0],
        lambda embedding, boxes: decoder.run({"embedding": embedding, "boxes": boxes})[0],
    )


def compared(first: Parts, second: Parts) -> Difference:
    """How far two ways lie apart, encoder and decoder together."""
    total = Difference(0.0, 0, 0)
    for image, boxes in made_up_pictures(SIZE):
        answers = [decode(encode(image), boxes) for encode, decode in (first, second)]
        total += difference(*answers)
    return total


def show(seconds: dict[str, dict[str, float]], apart: dict[str, Difference]) -> None:
    """Print a table."""
    slowest = {part: these["torch"] for part, these in seconds.items()}
    print(f"{'':18}{'encoder':>18}{'decoder, a box':>20}   against torch")
    for name in apart:
        cells = [f"{1e3 * seconds[p][name]:8.1f} ms {slowest[p] / seconds[p][name]:5.2f}x" for p in seconds]
        print(f"{name:18}{cells[0]:>18}{cells[1]:>20}   {apart[name]}")


if __name__ == "__main__":
    main()
