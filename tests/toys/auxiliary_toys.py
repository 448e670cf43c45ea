"""A toy target with a few labelled cases, and auxiliary datasets for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, write_image

from nnkd.auxiliary import preprocessing
from nnkd.auxiliary.tasks import Target
from nnkd.data.dataset import RawDataset
from nnkd.types import StepReport

LABELS = {"background": 0, "liver": 1, "spleen": 2}
CONFIGURATIONS = {
    "2d": ((16, 16), (1.0, 1.0)),
    "3d_fullres": ((8, 16, 16), (2.0, 1.0, 1.0)),
}
SPLIT = [{"train": ["toy_000", "toy_001"], "val": ["toy_002"]}]


def few_shot_target(folder: Path, name: str = "2d", binary: bool = False, **keywords: Any) -> tuple[RawDataset, Target]:
    """Dataset701_Toy with three labelled cases of which two train, without teachers.

    Args:
        folder: Where nnU-Net's rooms are.
        name: Of the configuration.
        binary: Whether it has one label instead of two.
        keywords: As `toy_dataset`.
    """
    given = {"training": 3, "labelled": 3, "shape": (6, 20, 18), **keywords}
    given |= {"labels": {"background": 0, "liver": 1}} if binary else {}
    dataset = toy_dataset(folder / "nnUNet_raw" / "Dataset701_Toy", **given)
    for case in dataset.images().cases() if binary else ():
        (label_map,), _ = dataset.spec.reader.read_seg(str(dataset.label_file(case)))
        write_image((label_map > 0).astype(np.uint8), dataset.label_file(case))
    patch, spacing = CONFIGURATIONS[name]
    plans = make_plans(dataset, {name: configuration(name, patch, spacing, len(dataset.spec.channel_names))})
    preprocess(dataset, plans, name)
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(SPLIT))
    return dataset, target_of(dataset, plans, name)


def target_of(dataset: RawDataset, plans: dict, name: str) -> Target:
    return Target(preprocessed_folder(dataset), plans, name, plans["configurations"][name], dataset.spec.channel_names)


def auxiliary(folder: Path, number: int, seed: int = 1, **keywords: Any) -> RawDataset:
    """Dataset8XX_Other with two labelled cases of another size, other spacing and other intensities."""
    given = {"training": 2, "labelled": 2, "shape": (5, 14, 16), "channels": ("MRI",), "seed": seed, **keywords}
    return toy_dataset(folder / "nnUNet_raw" / f"Dataset{number}_Other", **given)


def prepared(names: Sequence[str], target: Target, most: int = 30) -> StepReport:
    """Preprocess auxiliaries in this process."""
    report = StepReport()
    preprocessing.preprocess(names, target, most, 1, report)
    return report


def case_of(target: Target, dataset: str, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Preprocessed images (C, *S) and label map (*S)."""
    import blosc2

    folder = target.folder / dataset
    arrays = [blosc2.open(urlpath=str(folder / f"{case}{end}.b2nd"), mode="r")[:] for end in ("", "_seg")]
    return arrays[0], arrays[1][0]
