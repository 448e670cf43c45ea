"""MedSAM2 as a teacher, slice by slice or as a film of slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nnkd.data.intensities import GreyScale, Windows
from nnkd.plugin.networks import Paper
from nnkd.teachers.slice_teacher import BoxedSlice, boxed_slices, picture
from nnkd.types import Prompt, SliceBoxes, TeacherContext, Volume
from nnkd_sam.checkpoints import AS_SAM21, DOUBTFUL
from nnkd_sam.sam2 import Model, SAM2Teacher, Version
from nnkd_sam.sam2_video import Film, build_video, key_boxes
from nnkd_sam.shared import TABLE, Cache

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base


class MedSAM2Teacher(SAM2Teacher):
    """MedSAM2, slice by slice (2024) or as a film (2025): SAM 2's Hiera-T, trained on medical images.

    Source: Ma et al., arXiv 2408.03322, branch MedSAM2 of MedSAM, as paper 1 counts it: each slice at 1024 pixels,
    probabilities are enlarged, not logits; and Ma et al., arXiv 2504.03600 (MedSAM2): the box of one slice, at 512
    pixels, is followed to the first and to the last slice, and the largest connected part is kept.
    Departs: slice by slice every slice has boxes of its own, none is made of the neighbouring slice's mask. In the film
    a label's key slice is the one with the largest boxes, each of which is followed on its own, within the slices that
    have boxes of that label; small holes are not filled. 8 bits are as `nnkd.data.intensities` makes them.
    """

    name = "medsam2"
    says = "MedSAM2"
    papers: ClassVar[Mapping[str, Paper]] = {"hiera_t": Paper(TABLE, "31.42 M", "106.72 G")}
    variants = ("hiera_t",)

    def __init__(
        self,
        context: TeacherContext,
        *,
        weights: Path | None = None,
        mode: Literal["image", "video"] = "image",
        windows: Windows | Path | None = None,
        cache: Cache | None = None,
        licence: str = "",
    ):
        """Load the weights; errors as for `SAM2Teacher`.

        Args:
            context, weights, windows, licence: As for `SAM2Teacher`.
            mode: image (weights of 2024) or video (weights of 2025, SAM 2.1's architecture).
            cache: As for `SAM2Teacher`; None: 0, but 1024 for videos, where each label passes over the slices.
        """
        self.mode = mode
        self.doubt = DOUBTFUL if mode == "image" else AS_SAM21
        kept = cache if cache is not None else 1024 * (mode == "video")
        version: Version = "2.0" if mode == "image" else "2.1"
        super().__init__(
            context, weights=weights, model="hiera_t", version=version, windows=windows, cache=kept, licence=licence
        )

    def _variant(self, model: Model, version: Version) -> Mapping[str, str]:
        return {"mode": self.mode}

    def _build(self, model: Model, version: Version) -> SAM2Base:
        if self.mode == "image":
            return super()._build(model, version)
        return build_video()

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> Mapping[str, NDArray[np.bool_ | np.floating]]:
        """Segment one case: (Z, Y, X) by label, float32 probabilities, or bool masks of a film."""
        if self.mode == "image":
            return super().predict(volume, prompts)
        scales = self._scales(volume, prompts)
        boxed_slices(prompts, scales, volume.shape)  # checks the boxes
        boxes = {label: prompt for label, prompt in prompts.items() if isinstance(prompt, SliceBoxes)}
        answers: dict[str, NDArray[np.bool_]] = {}
        encoded = 0
        with self._computing():
            for scale in dict.fromkeys(scales.values()):
                labels = {label: boxes[label] for label in boxes if scales[label] == scale}
                found, slices = self._film(volume, scale, labels)
                answers |= found
                encoded += slices
        self._note(scales, encoded)
        return answers

    def _film(
        self, volume: Volume, scale: GreyScale, prompts: Mapping[str, SliceBoxes]
    ) -> tuple[dict[str, NDArray[np.bool_]], int]:
        """Masks of the labels that share a grey scale, and how many slices were encoded."""
        answers = {label: np.zeros(volume.shape, dtype=bool) for label in prompts}
        keys = {label: key_boxes(prompt) for label, prompt in prompts.items() if len(prompt.boxes)}
        if not keys:
            return answers, 0
        first, last = min(ends[0] for _, _, ends in keys.values()), max(ends[1] for _, _, ends in keys.values())
        pictures = [picture(volume, BoxedSlice(z, scale)) for z in range(first, last + 1)]
        film = Film(self.network, pictures, first, self._cache)
        for label, (z, boxes, ends) in keys.items():
            for box in boxes:
                answers[label][first : last + 1] |= film.follow(z, box, ends)
        return answers, film.encoded

    def _answer(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        if self.mode == "video":
            return super()._answer(logits, shape)
        return F.interpolate(logits.float().sigmoid(), shape, mode="bilinear", align_corners=False)
