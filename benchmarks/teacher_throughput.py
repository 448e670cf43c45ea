"""Slices a second of LiteMedSAM for one, three and six labels, which share each slice's embedding or do not.

    python benchmarks/teacher_throughput.py [--slices 4] [--repeats 5] [--out results.jsonl]

Same process, one thread, ways interleaved, medians of the process CPU time. With the published weights, on a simulated
CT of noise with a box of every label in every slice: times do not depend on what is in it. "alone" asks the same
teacher for one label after another, which costs an encoder pass for each. Checks that the answers are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
from nnkd_litemedsam.teacher import LiteMedSAMTeacher
from timing import measure

from nnkd.types import SliceBoxes, TeacherContext, Volume

LABELS = ("liver", "spleen", "kidney", "pancreas", "aorta", "inferior vena cava")  # seen in one CT window
NUMBERS = (1, 3, 6)
REACH = 3.0


def case(slices: int) -> Volume:
    """A CT of noise."""
    data = np.random.default_rng(0).normal(40, 100, (1, slices, 256, 256)).astype(np.float32)
    return Volume("noise", data, (3.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3), ("CT",))


def prompts(number: int, slices: int) -> dict[str, SliceBoxes]:
    """A box of every label in every slice."""
    rng = np.random.default_rng(1)
    found = {}
    for label in LABELS[:number]:
        rows = []
        for z in range(slices):
            y, x = rng.integers(10, 150, 2)
            rows.append((z, int(y), int(x), int(y) + 80, int(x) + 80))
        found[label] = SliceBoxes(rows)
    return found


def alone(teacher: LiteMedSAMTeacher, volume: Volume, asked: dict[str, SliceBoxes]) -> dict[str, np.ndarray]:
    """One label after another."""
    answers: dict[str, np.ndarray] = {}
    for label, boxes in asked.items():
        answers |= teacher.predict(volume, {label: boxes})
    return answers


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=4, help="slices of the case (default: 4)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each way")
    parser.add_argument("--out", type=Path, default=None, help="append the result to this JSONL file")
    options = parser.parse_args()
    teacher, volume = LiteMedSAMTeacher(TeacherContext(LABELS)), case(options.slices)
    result: dict[str, object] = {"benchmark": "teacher_throughput", "slices": options.slices}
    print("| labels | slices a second, shared | alone | ratio |\n|---|---|---|---|")
    for number in NUMBERS:
        asked = prompts(number, options.slices)
        ways = {
            "shared": lambda a=asked: teacher.predict(volume, a),
            "alone": lambda a=asked: alone(teacher, volume, a),
        }
        one, other = (way() for way in ways.values())
        difference = max(float(np.abs(one[label] - other[label]).max()) for label in asked)
        seconds = {name: statistics.median(s) for name, s in measure(ways, options.repeats).items()}
        shared, each = (options.slices / seconds[name] for name in ("shared", "alone"))
        wanted = f" (to reach: {REACH:g})" if number == max(NUMBERS) else ""
        print(f"| {number} | {shared:.2f} | {each:.2f} | {shared / each:.2f}{wanted} |", flush=True)
        result[str(number)] = {"seconds": seconds, "difference": difference}
        if difference > 1e-5:
            raise SystemExit(f"The answers differ by {difference:.1e}.")
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
