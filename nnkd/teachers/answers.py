"""One case's masks as a teacher returns them -> one label map, and what to write beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import PredictionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUT = 0.5  # a probability above it is a yes


@dataclass(frozen=True)
class Labelling:
    """One case's answer.

    Attributes:
        label_map: (Z, Y, X) integers as dataset.json has them.
        answers: Labels answered for, in dataset.json's order; the others are abstentions.
        overlaps: Voxels that several labels claimed, by the label that lost them.
    """

    label_map: NDArray[np.unsignedinteger]
    answers: tuple[str, ...]
    overlaps: Mapping[str, int]


def compose(
    returned: Mapping[str, NDArray[np.bool_ | np.floating]], spec: DatasetSpec, shape: tuple[int, ...], teacher: str
) -> Labelling:
    """Make one label map of a teacher's masks.

    Where masks overlap the higher probability wins if every answer is made of probabilities, else the smaller mask.
    Regions (labels made of several integers) may overlap and are painted in dataset.json's order instead.

    Departs: paper 1 scores each organ alone, so that a voxel may belong to two.

    Args:
        returned: bool masks (Z, Y, X), or probabilities in [0, 1], by label.
        spec: The dataset.
        shape: (Z, Y, X) of the volume.
        teacher: Its alias, for messages.

    Raises:
        PredictionError: If the teacher returned something else.
    """
    _check(returned, spec, shape, teacher)
    answers = tuple(name for name in spec.labels if name in returned)
    masks = {name: _mask(returned[name]) for name in answers}
    overlaps: dict[str, int] = {}
    if not spec.has_regions:
        scored = all(returned[name].dtype != bool for name in answers)
        masks, overlaps = _exclusive(masks, returned if scored else {})
    return Labelling(spec.label_map(masks, shape), answers, overlaps)


def _mask(answer: np.ndarray) -> np.ndarray:
    return answer if answer.dtype == bool else answer > CUT


def _exclusive(
    masks: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Give each voxel to one label; also returns how many voxels each label lost."""
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    order = list(masks)
    # The last to be painted wins: big ones first, of equal ones the label that comes first in dataset.json last.
    painted = sorted(order, key=lambda name: (-sizes[name], -order.index(name)))
    owner = np.full(next(iter(masks.values())).shape, -1, dtype=np.int16) if masks else np.empty(0)
    best = np.zeros(owner.shape, dtype=np.float32) if scores else None
    for name in painted:
        wins = masks[name]
        if best is not None:
            wins = wins & (scores[name] >= best)
            best[wins] = scores[name][wins]
        owner[wins] = order.index(name)
    exclusive = {name: owner == index for index, name in enumerate(order)}
    lost = {name: sizes[name] - int(exclusive[name].sum()) for name in order}
    return exclusive, {name: voxels for name, voxels in lost.items() if voxels}


def _check(returned: object, spec: DatasetSpec, shape: tuple[int, ...], teacher: str) -> None:
    if not isinstance(returned, Mapping):
        raise PredictionError(
            f"Teacher '{teacher}' returned a {type(returned).__name__}, but masks by label name are expected. "
            f"Correct its predict()."
        )
    for name, answer in returned.items():
        problem = _problem(name, answer, spec, shape)
        if problem:
            raise PredictionError(f"Teacher '{teacher}' returned {problem}. Correct its predict().")


def _problem(name: object, answer: object, spec: DatasetSpec, shape: tuple[int, ...]) -> str:
    if name not in spec.labels:
        return f"the label '{name}', but was asked for {', '.join(spec.labels)}"
    if not isinstance(answer, np.ndarray):
        return f"a {type(answer).__name__} for '{name}', but a numpy array is expected"
    if answer.shape != tuple(shape):
        return f"the shape {answer.shape} for '{name}', but the volume has {tuple(shape)} (z, y, x)"
    if answer.dtype == bool:
        return ""
    if not np.issubdtype(answer.dtype, np.floating):
        return f"{answer.dtype} for '{name}', but bool or floating-point probabilities are expected"
    low, high = (float(answer.min()), float(answer.max())) if answer.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # written so that NaN is caught too
        return f"values from {low:g} to {high:g} for '{name}', but probabilities lie in [0, 1]"
    return ""
