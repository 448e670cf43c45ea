"""What it costs to bring logits to the image's grid: nnkd's exporter against nnU-Net's default.

    python benchmarks/export.py [--runs 3] [--out results.jsonl]

Seven heads, (100, 256, 256) -> (200, 512, 512), float16 logits as nnU-Net's predictor hands them on: smooth random
fields, so that labels are blobs. One thread, process CPU time, both interleaved, medians. Peak memory beyond what the
logits and the imports take: each exporter once in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from process_memory import peak_above
from scipy.ndimage import zoom

from nnkd.inference.label_maps import label_map

HEADS, SOURCE, TARGET = 7, (100, 256, 256), (200, 512, 512)
LABELS = LabelManager({"background": 0, **{f"organ{i}": i for i in range(1, HEADS)}}, None)
PLANS = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
DEFAULT = {
    "spacing": [2.0, 2.0, 2.0],
    "architecture": {},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
PROPERTIES = {
    "spacing": [1.0, 1.0, 1.0],
    "shape_before_cropping": TARGET,
    "shape_after_cropping_and_before_resampling": TARGET,
    "bbox_used_for_cropping": [[0, n] for n in TARGET],
}


def logits() -> np.ndarray:
    """(heads, *SOURCE) float16."""
    rng = np.random.default_rng(0)
    coarse = (13, 32, 32)
    factors = [n / m for n, m in zip(SOURCE, coarse, strict=True)]
    return np.stack([zoom(rng.normal(0, 5, coarse), factors, order=1).astype(np.float16) for _ in range(HEADS)])


def nnunet(array: np.ndarray) -> np.ndarray:
    """nnU-Net's default."""
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        array, PLANS, ConfigurationManager(DEFAULT), LABELS, PROPERTIES, num_threads_torch=1
    )


def nnkd(array: np.ndarray) -> np.ndarray:
    """nnkd's."""
    return label_map(array, PLANS, ConfigurationManager(DEFAULT), LABELS, PROPERTIES, 1)


EXPORTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"nnunet": nnunet, "nnkd": nnkd}


def memory(name: str) -> float:
    """MiB that an exporter's peak lies above what was there before it, label map included; in a process of its own."""
    command = [sys.executable, __file__, "--memory_of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_of(name: str) -> None:
    """What that process does."""
    array = logits()
    importlib.import_module("nnunetv2.preprocessing.resampling.default_resampling")
    print(peak_above(lambda: EXPORTERS[name](array)))


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each exporter")
    parser.add_argument("--out", type=Path, default=None, help="JSONL to append to")
    parser.add_argument("--memory_of", choices=EXPORTERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        peak_of(options.memory_of)
        return
    array = logits()
    seconds: dict[str, list[float]] = {name: [] for name in EXPORTERS}
    label_maps = {}
    for _ in range(options.runs):
        for name, export in EXPORTERS.items():
            start = time.process_time()
            label_maps[name] = export(array)
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peaks = {name: memory(name) for name in EXPORTERS}
    for name in EXPORTERS:
        print(f"  {name:8s} {medians[name]:7.2f} s   {peaks[name]:7.0f} MiB")
    differing = float((label_maps["nnunet"] != label_maps["nnkd"]).mean())
    ratios = {"time": medians["nnunet"] / medians["nnkd"], "memory": peaks["nnunet"] / peaks["nnkd"]}
    print(f"{ratios['time']:.1f}x faster, {ratios['memory']:.1f}x less memory; {differing:.1e} of the voxels differ")
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            found = {"seconds": medians, "mebibytes": peaks, "ratios": ratios, "differing": differing}
            file.write(json.dumps({"benchmark": "export", "runs": options.runs, **found}) + "\n")


if __name__ == "__main__":
    main()
