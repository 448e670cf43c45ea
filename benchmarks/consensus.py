"""What STAPLE of six teachers costs on a whole CT, against SimpleITK.

    python benchmarks/consensus.py [--small] [--repeats 5] [--out results.jsonl]

Same process, one thread, process CPU time, medians; SimpleITK runs once, because it takes minutes. Ours is what
nnKD_aggregate does once the label maps are read: count the ballots, fit the rule, estimate the teachers' quality and
the figures of agreement, paint the label map. SimpleITK's STAPLE is called once a label, MultiLabelSTAPLE once; both
only return their consensus. Data are made up: six ellipsoids, and six teachers that deform them
differently (DSC about .81 to .97), two of them with specks far from any organ. Checks that the answers agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import SimpleITK as sitk
from nnkd_basic.multilabel_staple import MultilabelStaple, fit_confusion
from nnkd_basic.staple import Staple
from scipy.ndimage import map_coordinates, zoom

from nnkd.data.dataset import DatasetSpec
from nnkd.votes import bits
from nnkd.votes.ballots import Ballots
from nnkd.votes.panel import Panel

FULL, SMALL, LABELS, TEACHERS = (200, 512, 512), (40, 128, 128), 6, 6
ERRORS = (0.012, 0.020, 0.028, 0.036, 0.046, 0.070)  # deformation, in half edges of the volume
SPECKLED = (1, 4)


def organs(shape: tuple[int, int, int]) -> np.ndarray:
    """(Z, Y, X) uint8 with six ellipsoids that do not touch."""
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    label_map = np.zeros(shape, dtype=np.uint8)
    places = [(-0.4, -0.4, -0.4), (0.4, -0.35, 0.4), (-0.3, 0.4, 0.4), (0.4, 0.4, -0.4), (-0.7, 0.0, 0.7), (0.0, 0, 0)]
    for label, (middle, radius) in enumerate(zip(places, (0.3, 0.28, 0.26, 0.24, 0.2, 0.22), strict=True), start=1):
        away = ((z[:, None, None] - middle[0]) ** 2 + (y[:, None] - middle[1]) ** 2 + (x - middle[2]) ** 2) / radius**2
        label_map[away < 1] = label
    return label_map


def teacher(truth: np.ndarray, error: float, specks: int, rng: np.random.Generator) -> np.ndarray:
    """The truth, deformed smoothly, with some balls of 3 voxels radius anywhere."""
    fields = [zoom(rng.normal(0, 1, (6, 8, 8)), np.array(truth.shape) / (6, 8, 8), order=1) for _ in truth.shape]
    grid = np.meshgrid(*(np.arange(n) for n in truth.shape), indexing="ij", sparse=True)
    moved = [g + field * error * n / 2 for g, field, n in zip(grid, fields, truth.shape, strict=True)]
    result = map_coordinates(truth, np.stack(moved), order=0, mode="nearest")
    for _ in range(specks):
        where = tuple(slice(c - 3, c + 3) for c in (rng.integers(4, n - 4) for n in truth.shape))
        result[where] = rng.integers(1, LABELS + 1)
    return result


def timed(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median CPU seconds, and what came of it."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = action()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), result


def ours(maps: list[np.ndarray], spec: DatasetSpec, rule: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Label map and figures, as nnKD_aggregate makes them of label maps in memory."""
    names = [f"teacher{k}" for k in range(len(maps))]
    panel = Panel(spec, dict.fromkeys(names), {})
    return panel.consensus(maps, np.ones((len(maps), LABELS), dtype=bool), rule, 1.0)


def of_sitk(images: list[sitk.Image]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """SimpleITK's STAPLE of each label: sensitivities and specificities (L, K), and bool masks."""
    sensitivity, specificity, masks = [], [], []
    for label in range(1, LABELS + 1):
        staple = sitk.STAPLEImageFilter()
        staple.SetForegroundValue(label)
        masks.append(sitk.GetArrayFromImage(staple.Execute(images)) > 0.5)
        sensitivity.append(staple.GetSensitivity())
        specificity.append(staple.GetSpecificity())
    return np.array(sensitivity), np.array(specificity), masks


def of_sitk_jointly(images: list[sitk.Image]) -> tuple[np.ndarray, np.ndarray]:
    """SimpleITK's MultiLabelSTAPLE: label map, and confusion matrices (K, 1+L, 1+L)."""
    staple = sitk.MultiLabelSTAPLEImageFilter()
    staple.SetLabelForUndecidedPixels(0)
    label_map = sitk.GetArrayFromImage(staple.Execute(images))
    matrices = [np.array(staple.GetConfusionMatrix(k)).reshape(LABELS + 2, LABELS + 1) for k in range(len(images))]
    return label_map, np.stack(matrices)[:, : LABELS + 1]


def compare_staple(maps: list[np.ndarray], spec: DatasetSpec, reference: Any) -> dict[str, Any]:
    """How far ours is from SimpleITK's STAPLE."""
    sensitivity, specificity, masks = reference
    ballots, answers = Ballots.of(maps), np.ones((len(maps), LABELS), dtype=bool)
    counts = ballots.count_patterns(spec)
    table, found = bits.fit(Staple(), counts, answers), Staple().estimates(counts, answers)
    columns = ballots.columns()
    differing = 0
    for (integer,), row, mask in zip(spec.labels.values(), table, masks, strict=True):
        yes = row[bits.pack_label(columns, (integer,))] > 0.5
        differing += int((ballots.paint(yes) != mask).sum())
    return {
        "sensitivity": float(np.abs(found["sensitivity"].T - sensitivity).max()),
        "specificity": float(np.abs(found["specificity"].T - specificity).max()),
        "voxels": differing,
    }


def compare_jointly(maps: list[np.ndarray], spec: DatasetSpec, mine: np.ndarray, reference: Any) -> dict[str, Any]:
    """How far ours is from SimpleITK's MultiLabelSTAPLE, which stops earlier (1e-5)."""
    label_map, matrices = reference
    ballots, answers = Ballots.of(maps), np.ones((len(maps), LABELS), dtype=bool)
    fitted = fit_confusion(ballots.said(spec, answers), ballots.counts, answers)
    difference = float(np.abs(fitted.matrices - matrices).max())
    return {"confusion": difference, "voxels": int((mine != label_map).sum())}


def main() -> None:
    """Measure, compare, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"a volume of {SMALL} instead of {FULL} voxels")
    parser.add_argument("--repeats", type=int, default=5, help="of ours; the first one warms up and counts too")
    parser.add_argument("--out", type=Path, default=None, help="JSONL to append to")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    shape = SMALL if options.small else FULL
    truth, rng = organs(shape), np.random.default_rng(0)
    maps = [teacher(truth, error, 40 * (k in SPECKLED), rng) for k, error in enumerate(ERRORS)]
    dsc = [float(np.mean([_dsc(truth == label, m == label) for label in range(1, LABELS + 1)])) for m in maps]
    print(f"{shape}, {LABELS} labels, teachers' DSC " + " ".join(f"{value:.3f}" for value in dsc))
    names = {"background": 0, **{f"organ{i}": i for i in range(1, LABELS + 1)}}
    spec = DatasetSpec({"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"}, "benchmark")
    images = [sitk.GetImageFromArray(label_map) for label_map in maps]
    result: dict[str, Any] = {
        "benchmark": "consensus",
        "shape": shape,
        "dsc": dsc,
        "sitk": sitk.Version.VersionString(),
    }
    for name, rule, reference in (
        ("STAPLE", Staple(), lambda: of_sitk(images)),
        ("MultiLabelSTAPLE", MultilabelStaple(), lambda: of_sitk_jointly(images)),
    ):
        mine, (label_map, _) = timed(lambda rule=rule: ours(maps, spec, rule), options.repeats)
        theirs, found = timed(reference, 1)
        same = compare_staple(maps, spec, found) if name == "STAPLE" else compare_jointly(maps, spec, label_map, found)
        print(f"{name:18s} SimpleITK {theirs:8.2f} s   nnkd {mine:7.3f} s   {theirs / mine:6.0f}x   differences {same}")
        result[name] = {"simpleitk": theirs, "nnkd": mine, "ratio": theirs / mine, "differences": same}
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def _dsc(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


if __name__ == "__main__":
    main()
