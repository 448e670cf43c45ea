"""What surface metrics of a whole CT cost, against MONAI and DeepMind's surface-distance.

    python benchmarks/surface_metrics.py [--shape 200 512 512] [--repeats 3] [--out results.jsonl]

Six organs and two imperfect label maps of them, one with specks far from any organ; spacing 2.5 x 0.8 x 0.8 mm. The
rivals compute HD, HD95 and NSD at 2 mm from masks that are made beforehand; ours starts at the label maps and computes
all its metrics. Same process, interleaved, one thread, process CPU time, medians; a first round warms up. Memory is the
peak above what was there before, on Linux, each in a process of its own. Checks that the values agree to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import monai
import numpy as np
import surface_distance
import torch
from consensus import LABELS, organs, teacher
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from process_memory import peak_above
from timing import measure

from nnkd.evaluation.metrics import Structures, compare

SPACING, TOLERANCE, PAIRS = (2.5, 0.8, 0.8), 2.0, {"clean": 0, "specks": 40}
INTEGERS = {f"organ{i}": (i,) for i in range(1, LABELS + 1)}
RIVALS = {"monai": "MONAI", "surfel": "surface-distance"}  # by the definition of ours that is theirs

Values = dict[str, dict[str, float]]  # by label and metric
Pair = tuple[np.ndarray, np.ndarray]  # prediction and reference


def label_maps(shape: tuple[int, int, int], specks: int) -> Pair:
    """(Z, Y, X) uint8 each."""
    truth = organs(shape)
    return teacher(truth, 0.028, specks, np.random.default_rng(0)), truth


def ours(pair: Pair, definition: str) -> Values:
    """All metrics, as nnKD_evaluate computes them."""
    structures = [Structures(label_map, INTEGERS, SPACING, definition=definition) for label_map in pair]
    return {name: dict(result.values) for name, result in compare(*structures, tolerance=TOLERANCE).items()}


def masks(pair: Pair) -> Iterator[tuple[str, Pair]]:
    """bool masks by label."""
    for name, (integer,) in INTEGERS.items():
        yield name, (pair[0] == integer, pair[1] == integer)


def of_monai(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Its HD, HD95 and NSD of one label."""
    maps = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    keys = {"include_background": True, "spacing": list(SPACING)}
    return {
        "HD": float(compute_hausdorff_distance(*maps, **keys)),
        "HD95": float(compute_hausdorff_distance(*maps, percentile=95, **keys)),
        "NSD": float(compute_surface_dice(*maps, class_thresholds=[TOLERANCE], **keys)),
    }


def of_surface_distance(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Its HD, HD95 and NSD of one label."""
    found = surface_distance.compute_surface_distances(reference, prediction, SPACING)
    return {
        "HD": surface_distance.compute_robust_hausdorff(found, 100),
        "HD95": surface_distance.compute_robust_hausdorff(found, 95),
        "NSD": surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE),
    }


THEIRS: dict[str, Callable[..., dict[str, float]]] = {"monai": of_monai, "surfel": of_surface_distance}


def difference(mine: Values, theirs: Values) -> float:
    """The largest relative one."""
    return max(
        abs(mine[label][metric] - value) / max(abs(value), 1e-12)
        for label, values in theirs.items()
        for metric, value in values.items()
    )


def benchmark(shape: tuple[int, int, int], name: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds, ratio and largest difference by definition."""
    pair = label_maps(shape, PAIRS[name])
    made = dict(masks(pair))
    found: dict[str, Values] = {}

    def run(key: str, action: Callable[[], Values]) -> Callable[[], object]:
        return lambda: found.__setitem__(key, action())

    ways: dict[str, Callable[[], object]] = {}
    for definition, rival in RIVALS.items():
        theirs = THEIRS[definition]
        ways[definition] = run(definition, lambda definition=definition: ours(pair, definition))
        ways[rival] = run(rival, lambda theirs=theirs: {label: theirs(*both) for label, both in made.items()})
    seconds = {way: statistics.median(times) for way, times in measure(ways, repeats).items()}
    return {
        definition: {
            "rival": seconds[rival],
            "nnkd": seconds[definition],
            "ratio": seconds[rival] / seconds[definition],
            "difference": difference(found[definition], found[rival]),
        }
        for definition, rival in RIVALS.items()
    }


def memory(shape: tuple[int, int, int], name: str, way: str) -> float:
    """MiB that a way's peak lies above what was there before it; in a process of its own."""
    command = [sys.executable, __file__, "--shape", *map(str, shape), "--memory_of", name, way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(shape: tuple[int, int, int], name: str, way: str) -> None:
    """What that process does. Imports and warming up on a small pair do not count, a rival's masks of one label do."""

    def act(pair: Pair) -> None:
        if way in RIVALS:
            ours(pair, way)
            return
        theirs = THEIRS[next(definition for definition, rival in RIVALS.items() if rival == way)]
        for _, both in masks(pair):
            theirs(*both)

    act(label_maps((16, 32, 32), 0))
    pair = label_maps(shape, PAIRS[name])
    print(peak_above(lambda: act(pair)))


def main() -> None:
    """Measure, compare, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--repeats", type=int, default=3, help="after one that warms up (default: 3)")
    parser.add_argument("--out", type=Path, default=None, help="JSONL to append to")
    parser.add_argument("--memory_of", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shape = tuple(options.shape)
    if options.memory_of:
        print_peak(shape, *options.memory_of)
        return
    result = {"benchmark": "surface_metrics", "shape": shape, "monai": monai.__version__}
    for name in PAIRS:
        result[name] = benchmark(shape, name, options.repeats)
        for definition, row in result[name].items():
            rival = RIVALS[definition]
            row["rival_mib"], row["nnkd_mib"] = memory(shape, name, rival), memory(shape, name, definition)
            print(
                f"{name:7s} {rival:17s} {row['rival']:6.2f} s {row['rival_mib']:5.0f} MiB   nnkd {row['nnkd']:5.2f} s "
                f"{row['nnkd_mib']:4.0f} MiB   {row['ratio']:5.1f}x   largest difference {row['difference']:.1e}",
                flush=True,
            )
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
