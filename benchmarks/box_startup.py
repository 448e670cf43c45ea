"""From start to the first mask of a 256 x 256 picture: nnKD_segment_boxes as a whole process, with torch and without.

    python benchmarks/box_startup.py [--model litemedsam] [--runtimes openvino onnxruntime] [--repeats 7] [--out F]

One thread, processes in turns, medians of the CPU seconds and of the wall time of whole processes. A first round, in
which the model is exported and compiled for later, is not counted. Says in how many pixels the masks differ.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

RUN = "import sys; from nnkd.cli.segment_boxes import main; sys.exit(main(sys.argv[1:]))"
BOX = [60, 70, 190, 200]
IMPORTS = {"openvino": "import openvino", "onnxruntime": "import onnxruntime", "torch": "import torch"}


def picture(file: Path) -> None:
    """A bright ellipse in noise."""
    rows, columns = np.mgrid[:256, :256]
    inside = ((rows - 125) / 60) ** 2 + ((columns - 135) / 60) ** 2 < 1
    noise = np.random.default_rng(0).normal(70, 15, (256, 256))
    Image.fromarray(np.clip(noise + 90 * inside, 0, 255).astype(np.uint8)).save(file)


def timed(words: list[str]) -> tuple[float, float]:
    """CPU seconds and wall seconds of a process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="litemedsam", help="name or checkpoint (default: %(default)s)")
    parser.add_argument("--runtimes", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--repeats", type=int, default=7, help="timed processes of each kind")
    parser.add_argument("--out", type=Path, default=None, help="append the result to this JSONL file")
    options = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    ways = [*options.runtimes, "torch"]
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in (*ways, *(IMPORTS[way] for way in ways))}
    masks = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "in").mkdir()
        picture(here / "in" / "one.png")
        (here / "boxes.json").write_text(json.dumps({"one": {"ellipse": [BOX]}}), encoding="utf-8")
        for repeat in range(options.repeats + 1):
            for way in ways:
                target = here / f"{way}_{repeat}"
                words = [sys.executable, "-c", RUN, "-i", str(here / "in"), "-o", str(target), "--threads", "1"]
                words += ["--boxes", str(here / "boxes.json"), "--model", options.model, "--runtime", way]
                both = timed(words), timed([sys.executable, "-c", IMPORTS[way]])
                masks[way] = np.asarray(Image.open(target / "one.png"))
                if repeat:
                    seconds[way].append(both[0])
                    seconds[IMPORTS[way]].append(both[1])
    medians = {way: [statistics.median(column) for column in zip(*s, strict=True)] for way, s in seconds.items()}
    for way, (cpu, wall) in medians.items():
        print(f"{way:20} {cpu:6.2f} s CPU {wall:6.2f} s wall")
    for way in options.runtimes:
        cpu, wall = (statistics.median(t[i] / o[i] for t, o in zip(seconds["torch"], seconds[way], strict=True))
                     for i in (0, 1))  # fmt: skip
        print(f"torch / {way}: {cpu:.2f} of CPU, {wall:.2f} of wall time; pixels that differ: "
              f"{int((masks[way] != masks['torch']).sum())} of {masks[way].size}")  # fmt: skip
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"benchmark": "box_startup", "model": Path(options.model).name, "seconds": medians,
                                   "repeats": options.repeats}) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
