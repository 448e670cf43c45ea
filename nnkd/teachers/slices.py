"""Axial slices as models prompted by boxes see them: which ones have boxes, and each one as an 8-bit picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnkd.data.intensities import GreyScale, is_colour, to_uint8
from nnkd.errors import PredictionError
from nnkd.types import Prompt, SliceBoxes, Volume


@dataclass
class BoxedSlice:
    """One slice that must be looked at in one grey scale, and the boxes in it.

    Attributes:
        z: Its index in the volume.
        scale: How its intensities become 8 bits.
        labels: The label of each box.
        boxes: (n, 4) int, rows (y0, x0, y1, x1) in voxels, upper bounds excluded.
    """

    z: int
    scale: GreyScale
    labels: list[str] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)


def boxed_slices(
    prompts: Mapping[str, Prompt], scales: Mapping[str, GreyScale], shape: Sequence[int]
) -> list[BoxedSlice]:
    """Sort boxes by slice and grey scale, so that each slice is encoded once for all labels that share a scale.

    Args:
        prompts: `SliceBoxes` by label.
        scales: Grey scale by label.
        shape: (Z, Y, X) of the volume.

    Returns:
        Slices with at least one box, from feet to head.

    Raises:
        PredictionError: If a prompt is no `SliceBoxes`, or a box leaves the volume or has no area.
    """
    found: dict[tuple[int, GreyScale], BoxedSlice] = {}
    for label, prompt in prompts.items():
        if not isinstance(prompt, SliceBoxes):
            raise PredictionError(f"'{label}' is prompted by a {type(prompt).__name__}, but boxes are expected.")
        for row in prompt.boxes:
            z, y0, x0, y1, x1 = (int(v) for v in row)
            if not (0 <= z < shape[0] and 0 <= y0 < y1 <= shape[1] and 0 <= x0 < x1 <= shape[2]):
                raise PredictionError(
                    f"The box {[z, y0, x0, y1, x1]} for '{label}' leaves the volume of {'x'.join(map(str, shape))} "
                    f"voxels (z, y, x), or has no area. Correct it."
                )
            one = found.setdefault((z, scales[label]), BoxedSlice(z, scales[label]))
            one.labels.append(label)
            one.boxes.append((y0, x0, y1, x1))
    return sorted(found.values(), key=lambda one: one.z)


def picture(volume: Volume, one: BoxedSlice) -> np.ndarray:
    """A slice as (H, W, 3) uint8: colour if the volume has it, else its first channel three times."""
    data = volume.data[:, one.z] if is_colour(volume.channel_names) else volume.data[:1, one.z]
    grey = to_uint8(data, one.scale)
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(grey, 0, -1), (*grey.shape[1:], 3)))


def empty_answers(prompts: Mapping[str, Prompt], shape: Sequence[int]) -> dict[str, np.ndarray]:
    """A float32 zero for each voxel of each prompted label; memory is taken only where something is written."""
    return {label: np.zeros(tuple(shape), dtype=np.float32) for label in prompts}


def join(answers: Mapping[str, np.ndarray], one: BoxedSlice, probabilities: np.ndarray) -> None:
    """Put a slice's answers where they belong; several boxes of one label are joined by their maximum.

    Args:
        answers: (Z, Y, X) float32 by label, changed in place.
        one: The slice.
        probabilities: (n, H, W) float32, one for each of its boxes.
    """
    for label, values in zip(one.labels, probabilities, strict=True):
        np.maximum(answers[label][one.z], values, out=answers[label][one.z])
