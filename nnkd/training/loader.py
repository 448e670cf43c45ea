"""nnU-Net's data loader, with votes as the target.

The bits are cropped, turned into soft targets by one look-up in the spatial transform and carried on as
batchgeneratorsv2's `regression_target`; the label map itself is carried only where a transform needs it. Never K maps:
six cost five times one. nnU-Net's own loader would drop the key, hence `generate_train_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from threadpoolctl import threadpool_limits

from nnkd.plugin.samplers import Sampler
from nnkd.training.losses import pool_target
from nnkd.training.targets import Patch, Targets
from nnkd.types import Participant


@dataclass(frozen=True)
class Draw:
    """Which cases form a batch: a sampler's epochs, dealt to the loader's workers and to the ranks.

    Attributes:
        sampler: The rule.
        participants: By training case.
        batch_size: Of all ranks together.
        rank_slice: This rank's part of a batch.
        seed: Equal seeds give equal batches.
        workers: How many loader processes share the batches.
        start: How many batches the training has had already. It goes on where it ended; where epochs differ in length
            (no `epoch_length`), with an epoch that it cannot have had, instead of drawing all batches again.
    """

    sampler: Sampler
    participants: Mapping[str, Participant] = field(repr=False)  # nnU-Net writes its trainer's attributes to a file
    batch_size: int
    rank_slice: slice
    seed: int
    workers: int
    start: int = 0

    def batches(self, worker: int) -> Iterator[list[str]]:
        """This worker's batches, for ever: every `workers`-th of one common sequence."""
        length = self.sampler.epoch_length(self.participants, self.batch_size) if self.start else None
        # every epoch has a batch or more, so `start` of them cannot have reached the epoch of that number
        first, skipped = divmod(self.start, length) if length else (self.start, 0)
        index = -skipped
        for epoch in count(first):
            drawn = 0
            # an epoch depends on the seed and its number alone, so that every worker sees the same sequence
            for batch in self.sampler.epoch(self.participants, self.batch_size, self.seed, epoch):
                drawn += 1
                if index >= 0 and index % self.workers == worker:
                    yield batch[self.rank_slice]
                index += 1
            if not drawn:
                raise RuntimeError(f"{type(self.sampler).__name__} gave an epoch without batches")


def in_background(loader: Any, workers: int, pin_memory: bool) -> Any:
    """A loader's batches, made by worker processes; in this process where nnUNet_n_proc_DA is 0.

    Args:
        loader: Yields batches; its `draw` is None in validation.
        workers: How many, at least one.
        pin_memory: Whether batches go to a GPU.
    """
    if get_allowed_n_proc_DA() == 0:
        return SingleThreadedAugmenter(loader, None)
    workers = max(1, workers)
    augmenter = NonDetMultiThreadedAugmenter(
        data_loader=loader,
        transform=None,
        num_processes=workers,
        num_cached=max(6 if loader.draw else 3, workers // 2),
        seeds=None,
        pin_memory=pin_memory,
        wait_time=0.002,
    )
    augmenter.restart()  # start the workers now, not in the first iteration
    return augmenter


class DrawnDataLoader(nnUNetDataLoader):
    """nnU-Net's loader, with a sampler deciding which cases form a batch.

    Args:
        draw: The sampler and how its batches are dealt; None: nnU-Net's own uniform choice.
        focus: The labels that patches are centred on where nnU-Net forces foreground; None: any.
    """

    def __init__(self, *arguments: Any, draw: Draw | None = None, focus: Sequence[int] | None = None, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.draw = draw
        self.focus = focus
        self._batches: Iterator[list[str]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}  # generators do not pickle; made anew in each worker

    def get_indices(self) -> Sequence[str]:
        """The cases of the next batch."""
        if self.draw is None:
            return super().get_indices()
        if self._batches is None:
            self._batches = self.draw.batches(self.thread_id)
        return next(self._batches)

    def get_bbox(
        self, data_shape: Any, force_fg: bool, class_locations: dict | None, *more: Any, **keywords: Any
    ) -> tuple[list[int], list[int]]:
        """nnU-Net's patch, centred on nothing but labels in focus."""
        if self.focus is not None and class_locations is not None:
            class_locations = {key: found for key, found in class_locations.items() if key in self.focus}
        return super().get_bbox(data_shape, force_fg, class_locations, *more, **keywords)


class VotesDataLoader(DrawnDataLoader):
    """nnU-Net's loader with soft targets.

    Args:
        targets: Where they come from.
        scales: Deep supervision scales; None without.
        keep_seg: Whether a transform needs the label map (cascade, masked normalisation).
    """

    def __init__(
        self,
        *arguments: Any,
        targets: Targets,
        scales: Sequence[Sequence[float]] | None = None,
        keep_seg: bool = False,
        **keywords: Any,
    ):
        super().__init__(*arguments, **keywords)
        self.targets = targets
        self.transforms: ComposeTransforms = with_votes(self.transforms or ComposeTransforms([]))
        self.scales = scales
        self.keep_seg = keep_seg
        self._rng: np.random.Generator | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rng": None}

    def generate_train_batch(self) -> dict[str, Any]:
        """Returns "data" (B, C, *S) float32, "target" (B, L, *S) float32 or a list of them, and "keys"."""
        cases = self.get_indices()
        with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
            samples = [self._sample(case, self.get_do_oversample(j)) for j, case in enumerate(cases)]
        data = torch.stack([sample[0] for sample in samples])
        target = torch.stack([sample[1] for sample in samples])
        if self.scales is None:
            return {"data": data, "target": target, "keys": cases}
        shape = target.shape[2:]
        sizes = [tuple(round(n * s) for n, s in zip(shape, scale, strict=True)) for scale in self.scales]
        return {"data": data, "target": [pool_target(target, size) for size in sizes], "keys": cases}

    def _sample(self, case: str, force_foreground: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if self._rng is None:
            self._rng = np.random.default_rng()  # entropy of this process: workers must not draw alike
        data, seg, previous, properties = self._data.load_case(case)
        lower, upper = self.get_bbox(data.shape[1:], force_foreground, properties["class_locations"])
        bbox = [list(pair) for pair in zip(lower, upper, strict=True)]
        crops = {"image": torch.from_numpy(crop_and_pad_nd(data, bbox, 0)).float()}
        patch, answered = self.targets.of_patch(case, bbox, seg, self._rng)
        if self.keep_seg:
            seg_crop = crop_and_pad_nd(seg, bbox, -1, cast_cropped_to=np.int16)
            crops["segmentation"] = _needed(seg_crop, previous, bbox)
        if self.patch_size_was_2d:
            crops, patch = {key: value[:, 0] for key, value in crops.items()}, replace(patch, flat=True)
        crops = self.transforms(**crops, votes=patch)
        if "votes" in crops:  # no spatial transform took them: validation
            crops["regression_target"] = patch.soft()
        return crops["image"], self.targets.after_augmentation(crops["regression_target"], answered)


class SpatialTransformOfVotes(SpatialTransform):
    """batchgeneratorsv2's spatial transform, where votes become soft targets: after the crop if it only crops, before
    the interpolation otherwise. Six teachers then cost no more than one label map (benchmarks/votes_loader.py)."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Takes "votes" (a Patch) out of the sample and puts "regression_target" in."""
        patch: Patch = data_dict.pop("votes")
        if params["grid"] is None:
            data_dict = super().apply(data_dict, **params)
            soft = patch.soft(params["center_location_in_pixels"], self.patch_size)
            data_dict["regression_target"] = self._in_image_shape(soft, data_dict)
            return data_dict
        data_dict["regression_target"] = self._in_image_shape(patch.soft(), data_dict)
        return super().apply(data_dict, **params)

    def _in_image_shape(self, soft: torch.Tensor, data_dict: dict[str, Any]) -> torch.Tensor:
        """3D patches that are transformed slice by slice have their slices as channels here."""
        if soft.ndim - 1 == len(self.patch_size):
            return soft
        data_dict["nchannels_regr_trg"] = soft.shape[0]
        return soft.flatten(0, 1)


def with_votes(transforms: ComposeTransforms) -> ComposeTransforms:
    """The same transforms, with the spatial one taking votes along."""
    for index, transform in enumerate(transforms.transforms):
        if type(transform) is SpatialTransform:
            taken = SpatialTransformOfVotes.__new__(SpatialTransformOfVotes)
            taken.__dict__.update(transform.__dict__)
            transforms.transforms[index] = taken
    return transforms


def _needed(seg: np.ndarray, previous: Any, bbox: Sequence[Sequence[int]]) -> torch.Tensor:
    """Where the image is (0) and is not (-1), and the previous stage's label map: all that transforms look at."""
    channels = [np.minimum(seg, 0)]
    if previous is not None:
        channels.append(crop_and_pad_nd(previous, bbox, -1, cast_cropped_to=np.int16)[None])
    return torch.from_numpy(np.concatenate(channels)).to(torch.int16)
