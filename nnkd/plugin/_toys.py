"""Toys on which plugins are tried: a volume, prompts, vote counts, participants and plans. All made here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnkd.plugin.networks import plain_unet
from nnkd.types import Participant, Prompt, SliceBoxes, TextPrompt, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = ("liver", "spleen")
SEXES: tuple[Literal["F"], Literal["M"]] = ("F", "M")


def toy_volume(slices: int, seed: int = 0) -> Volume:
    """Two bright balls on a dark ground: CT numbers, 3 mm slices.

    Args:
        slices: Z; 1 makes a 2D case.
        seed: Of the noise.

    Returns:
        A volume of shape (1, slices, 32, 28).
    """
    rng = np.random.default_rng(seed)
    shape = (slices, 32, 28)
    z, y, x = np.indices(shape)
    data = rng.normal(-50, 10, shape)
    for value, (cy, cx) in ((60, (10, 9)), (120, (21, 18))):
        inside = ((z - slices // 2) / 3) ** 2 + ((y - cy) / 6) ** 2 + ((x - cx) / 6) ** 2 <= 1
        data[inside] = value + rng.normal(0, 5, int(inside.sum()))
    return Volume(
        case="toy_000",
        data=data[None].astype(np.float32),
        spacing=(3.0, 1.5, 1.5),
        origin=(0.0, 0.0, 0.0),
        direction=np.eye(3),
        channel_names=("CT",),
        files=(Path("toy_000_0000.nii.gz"),),
    )


def toy_prompts(prompt: str, volume: Volume) -> dict[str, Prompt]:
    """What a teacher is told about the toy volume: nothing, each label's name, or one box a slice."""
    if prompt == "text":
        return {label: TextPrompt(label) for label in LABELS}
    if prompt == "box":
        corners = ((4, 3, 17, 16), (15, 12, 28, 25))
        slices = range(volume.shape[0])
        return {
            label: SliceBoxes([(z, *corner) for z in slices]) for label, corner in zip(LABELS, corners, strict=True)
        }
    return {}


def toy_counts(teachers: int, silent: Iterable[int], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How often each vote pattern occurs in a made-up case of two labels.

    Args:
        teachers: K.
        silent: Teachers that abstain for the second label.
        seed: Of the counts.

    Returns:
        counts (2, 2**K) int64 and answers (K, 2) bool.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (2, 2**teachers))
    counts[:, 0] += 1000  # most voxels are background for everybody
    answers = np.ones((teachers, 2), dtype=bool)
    answers[list(silent), 1] = False
    for teacher in silent:  # the bit of one that does not answer is never set
        counts[1, (np.arange(2**teachers) >> teacher) & 1 == 1] = 0
    return counts.astype(np.int64), answers


def toy_ballots(
    teachers: int, silent: Iterable[int], seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """What all teachers say, and how often, in a made-up case of two labels.

    Args:
        teachers: K.
        silent: Teachers that abstain for the second label.
        seed: Of the counts.

    Returns:
        said (3**K, K) int64 (0 neither, 1 or 2 the label), counts (3**K,) int64 and answers (K, 2) bool.
    """
    said = np.indices((3,) * teachers).reshape(teachers, -1).T.copy()
    counts = np.random.default_rng(seed).integers(0, 50, len(said))
    counts[0] += 1000  # most voxels are background for everybody
    answers = np.ones((teachers, 2), dtype=bool)
    answers[list(silent), 1] = False
    said[(said == 2) & ~answers[:, 1]] = 0
    return said, counts, answers


def toy_participants() -> dict[str, Participant]:
    """Twelve cases of twelve people, by case: both sexes, ages 25 to 80, bmi 19 to 35."""
    return {
        f"toy_{i:03d}": Participant(
            identifier=f"sub-{i:02d}", sex=SEXES[i % 2], age=25.0 + 5 * i, bmi=19.0 + 5 * (i % 4)
        )
        for i in range(12)
    }


def toy_plans(dimensions: int) -> dict[str, Any]:
    """nnU-Net's plans with one configuration, 2d or 3d_fullres: patches of (32,) 64, 64, and a U-Net of three levels.

    Args:
        dimensions: 2 or 3.
    """
    patch = [32, 64, 64][-dimensions:]
    configuration = {
        "data_identifier": "toy",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [1.0] * dimensions,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": plain_unet([4] * 3, [[3] * dimensions] * 3, [[1] * dimensions, *[[2] * dimensions] * 2], 1),
    }
    return {
        "dataset_name": "Dataset000_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [32, 64, 64],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d" if dimensions == 2 else "3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }
