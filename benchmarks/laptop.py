"""Segmenting in boxes on a laptop: LiteMedSAM as it was published, and the ways to the same masks in less time.

    python benchmarks/laptop.py DATA WORK [--repvit CHECKPOINT] [--slices 6] [--repeats 3] [--only CASE ...]
                                [--out laptop.jsonl]
    python benchmarks/laptop.py --table laptop.jsonl

DATA holds white_blood_cells/, recist_npz/ and trunk_ct/. Every measurement is a process of its own with one thread:
start, load, segment one case; ways take turns, and medians of the processes' CPU time are printed. "reference" is what
the published programs do: the image is encoded again for every object, eagerly. The others embed a slice once for all
objects. Networks: LiteMedSAM with its published weights; with RepViT as image encoder from CHECKPOINT, else with random
weights, whose times are the same. 3D: the middle --slices slices, from each object's middle slice outwards.

Checks the masks against the same network's reference: a way that differs in more than 0.01 % of the voxels is marked.
Runs append to the JSONL and those that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

WAYS = ("reference", "torch", "torch, fused", "onnxruntime", "openvino")  # all but the first encode a slice once
NETWORKS = {"tinyvit": "LiteMedSAM", "repvit": "RepViT"}
KEY = ("case", "network", "way", "repeat", "slices")
EQUAL = 1e-4  # share of voxels


class TorchModel:
    """LiteMedSAM in torch: a `nnkd.boxes.propagation.BoxModel`."""

    def __init__(self, checkpoint: Path, fused: bool):
        import torch
        from nnkd_litemedsam.weights import load_model

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self.network = load_model(checkpoint)[0].eval()
        if fused:
            self.network.fuse()

    def encode(self, image: np.ndarray) -> object:
        """Embed a slice."""
        import torch
        from nnkd_litemedsam.sizes import SIZE

        from nnkd.boxes.pixels import prepare

        return self.network.image_encoder(torch.from_numpy(prepare(image, SIZE))[None])[0]

    def masks(self, embedding: object, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Segment boxes in it."""
        import torch
        from nnkd_litemedsam.sizes import SIZE

        from nnkd.boxes.pixels import masks_of_logits, scaled_boxes

        logits = self.network.decode(embedding, torch.from_numpy(scaled_boxes(boxes, shape, SIZE)))
        return masks_of_logits(logits.numpy(), shape)


class Timed:
    """A model with the CPU seconds of its parts: where several processes share a core, a clock on the wall misleads."""

    def __init__(self, model: object):
        self.model, self.cpu = model, {"encode": 0.0, "decode": 0.0}

    def encode(self, *arguments: object) -> object:
        """The model's."""
        return self._timed("encode", self.model.encode, arguments)

    def masks(self, *arguments: object) -> np.ndarray:
        """The model's."""
        return self._timed("decode", self.model.masks, arguments)

    def _timed(self, part: str, call: Callable, arguments: tuple) -> object:
        begun = time.process_time()
        found = call(*arguments)
        self.cpu[part] += time.process_time() - begun
        return found


class EncodeAlways:
    """The same, encoding the image again for every object."""

    def __init__(self, model: Timed):
        self.model = model

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Nothing yet."""
        return image

    def masks(self, image: np.ndarray, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """One box after another."""
        return np.concatenate([self.model.masks(self.model.encode(image), box[None], shape) for box in boxes])


def load(way: str, checkpoint: Path, exported: Path) -> object:
    """The model of a way."""
    if way in ("reference", "torch", "torch, fused"):
        return TorchModel(checkpoint, fused=way.endswith("fused"))
    from nnkd.boxes.model import BoxModelFolder, ExportedBoxModel

    return ExportedBoxModel(BoxModelFolder.read(exported), way, threads=1)


def child(way: str, checkpoint: Path, exported: Path, case: Path, masks: Path) -> None:
    """One measurement: prints its figures as JSON."""
    from process_memory import peak

    from nnkd.boxes.propagation import BoxedObject, segment

    with np.load(case, allow_pickle=False) as found:
        images, boxes = found["images"], found["boxes"]
    timed = Timed(load(way, checkpoint, exported))
    model = EncodeAlways(timed) if way == "reference" else timed
    loaded = time.process_time()
    objects = [BoxedObject(i + 1, tuple(int(v) for v in box)) for i, box in enumerate(boxes)]
    found = segment(model, lambda _, z: images[z], images.shape[:3], objects)  # type: ignore[arg-type]
    cpu = time.process_time() - loaded
    np.savez_compressed(masks, label_map=found.label_map)
    print(json.dumps({
        "load": loaded, "cpu": cpu, **timed.cpu, "slices_seen": found.encoded, "boxes": found.decoded,
        "peak_mib": peak(),
    }))  # fmt: skip


def checkpoints(repvit: Path | None, work: Path) -> dict[str, Path]:
    """By network; a RepViT of random weights shares LiteMedSAM's decoder."""
    from nnkd_litemedsam.weights import published

    if repvit is None:
        repvit = work / "repvit_random.pth"
        if not repvit.is_file():
            import torch
            from nnkd_litemedsam.networks.encoders import build_encoder
            from nnkd_litemedsam.weights import load_model

            torch.manual_seed(0)
            network = load_model(published())[0]
            network.image_encoder = build_encoder("repvit")
            torch.save({"model": network.state_dict()}, repvit)
    return {"tinyvit": published(), "repvit": repvit}


def export(checkpoint: Path, folder: Path) -> Path:
    """A network as nnKD_export writes it."""
    from nnkd.boxes.model import DESCRIPTION
    from nnkd.cli.export import main as nnkd_export

    if not (folder / DESCRIPTION).is_file() and nnkd_export(["--model", str(checkpoint), "-o", str(folder)]):
        raise SystemExit("nnKD_export failed")
    return folder


def measure(options: argparse.Namespace, done: set[tuple], record: Callable[[dict], None]) -> None:
    """All that is missing."""
    from laptop_cases import CASES

    options.work.mkdir(parents=True, exist_ok=True)
    files = checkpoints(options.repvit, options.work)
    models = {name: (file, export(file, options.work / f"exported_{file.stem}")) for name, file in files.items()}
    for name in options.only or CASES:
        file = options.work / f"{name.replace(' ', '_').replace(',', '')}_{options.slices}.npz"
        if not file.is_file():
            images, boxes = CASES[name](options.data, options.slices)
            np.savez(file, images=images, boxes=boxes)
        for repeat in range(options.repeats):
            for network, (checkpoint, exported) in models.items():
                for way in WAYS:
                    if (name, network, way, repeat, options.slices) not in done:
                        masks = options.work / f"{file.stem}_{checkpoint.stem}_{way.replace(', ', '_')}.npz"
                        row = {"case": name, "network": network, "way": way, "repeat": repeat, "slices": options.slices}
                        row |= {"trained": network == "tinyvit" or options.repvit is not None}
                        record(row | run(way, checkpoint, exported, file, masks) | compare(masks, way))


def run(way: str, *files: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--child", way, *map(str, files)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def compare(masks: Path, way: str) -> dict[str, float]:
    """Share of voxels that differ from the same network's reference."""
    reference = masks.with_name(masks.name.replace(way.replace(", ", "_"), "reference"))
    with np.load(masks) as mine, np.load(reference) as theirs:
        return {"differing": float((mine["label_map"] != theirs["label_map"]).mean())}


def table(rows: list[dict]) -> str:
    """Markdown: medians, and how many times as fast; of the number of slices that was measured last."""
    found: dict[tuple[str, str, str], list[dict]] = defaultdict(list)
    for row in (r for r in rows if r["slices"] == rows[-1]["slices"]):
        found[row["case"], row["network"], row["way"]].append(row)
    middle = {key: {k: statistics.median(r[k] for r in some) for k in FIGURES} for key, some in found.items()}
    lines = []
    for case in dict.fromkeys(key[0] for key in middle):
        lines += ["", f"**{case}**", "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
        published = middle[case, "tinyvit", "reference"]
        for (name, network, way), m in middle.items():
            if name == case:
                own = middle[case, network, "reference"]
                differ = f"{m['differing'] * 100:.3f} %" + (" (!)" if m["differing"] > EQUAL else "")
                cells = [NETWORKS[network], way, f"{m['cpu']:.2f}", f"{own['cpu'] / m['cpu']:.1f}",
                         f"{published['cpu'] / m['cpu']:.1f}", f"{m['encode']:.2f}", f"{m['decode']:.2f}",
                         f"{m['cpu'] - m['encode'] - m['decode']:.2f}", f"{m['load']:.2f}", f"{m['peak_mib']:.0f}",
                         "" if way == "reference" else differ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


FIGURES = ("load", "cpu", "encode", "decode", "peak_mib", "differing")
HEAD = (
    "network",
    "way",
    "CPU s",
    "x own reference",
    "x published",
    "encode s",
    "decode s",
    "else s",
    "start and load s",
    "peak MiB",
    "voxels that differ",
)


def main() -> None:
    """Measure what is missing, print the table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(Path, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--repvit", type=Path, help="checkpoint of a LiteMedSAM with RepViT")
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="CASE")
    parser.add_argument("--out", type=Path, default=Path("laptop.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of these runs")
    options = parser.parse_args()
    file = options.table or options.out
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if options.table is None:
        if options.work is None:
            parser.error("DATA and WORK are needed, or --table")

        def record(row: dict) -> None:
            rows.append(row)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")

        measure(options, {tuple(r[k] for k in KEY) for r in rows}, record)
    print(table(rows))


if __name__ == "__main__":
    main()
