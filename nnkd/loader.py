"""nnU-Net's data loader, with votes as the target.

The bits are cropped, turned into soft targets by one look-up and carried through the augmentation as
batchgeneratorsv2's `regression_target`; the label map itself is carried only where a transform needs it. Never K maps:
six cost five times one. nnU-Net's own loader would drop the key, hence `generate_train_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from threadpoolctl import threadpool_limits

from nnkd.interfaces import Sampler
from nnkd.losses import pool_target
from nnkd.participants import Participant
from nnkd.votes import NO_VOTE, look_up
from nnkd.votes_folder import VotesFolder


@dataclass(frozen=True)
class Targets:
    """Where the targets of a case come from.

    Attributes:
        labels: The integers of each label (or region), in the order of nnU-Net's heads.
        ignore_label: The integer to leave out of the loss, or None.
        votes: The votes; None if all cases are manual.
        tables: (L, 2**K) float32 by case, for cases that train by votes.
        agreement: (L, 2**K) float32 by case, how much the teachers agree; empty: voxels are not weighted.
        draws: By case, the bits of the teachers to draw from and (k, L) bool what they answer; empty: no drawing.
        manual: Cases that train by their label map.
        hard: Whether targets are cut at one half.
    """

    labels: tuple[tuple[int, ...], ...]
    ignore_label: int | None = None
    votes: VotesFolder | None = None
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)
    agreement: Mapping[str, np.ndarray] = field(default_factory=dict)
    draws: Mapping[str, tuple[list[int], np.ndarray]] = field(default_factory=dict)
    manual: frozenset[str] = frozenset()
    hard: bool = False

    @property
    def weighted(self) -> bool:
        """Whether targets end with a weight channel."""
        return bool(self.agreement)

    def of_crop(
        self, case: str, bbox: Sequence[Sequence[int]], seg: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, np.ndarray]:
        """The soft target of one patch, before augmentation.

        Args:
            case: Identifier.
            bbox: Lower and upper bound per axis; may reach outside.
            seg: (1, *S) int16 crop of the label map.
            rng: For the drawn teacher.

        Returns:
            (L [+ weight] [+ ignore], *S) float32 in [0, 1], and (L,) bool: which labels have a vote.
        """
        if case in self.manual:
            soft = np.stack([np.isin(seg[0], values) for values in self.labels]).astype(np.float32)
            channels, answered = [soft], np.ones(len(self.labels), dtype=bool)
            weight = np.ones((1, *seg.shape[1:]), dtype=np.float32)
        else:
            bits = crop_and_pad_nd(self.votes.open(case), bbox, 0)
            soft, answered = self._vote(case, bits, rng)
            channels = [soft]
            if self.weighted:
                weight = look_up(bits, self.agreement[case]).min(axis=0, keepdims=True)
        if self.weighted:
            channels.append(weight)
        if self.ignore_label is not None:
            channels.append((seg == self.ignore_label).astype(np.float32))
        return torch.from_numpy(np.concatenate(channels)), answered

    def _vote(self, case: str, bits: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if case in self.draws:
            teachers, answers = self.draws[case]
            drawn = int(rng.integers(len(teachers)))
            return ((bits >> teachers[drawn]) & 1).astype(np.float32), answers[drawn]
        table = self.tables[case]
        answered = table[:, 0] != NO_VOTE
        return look_up(bits, np.where(answered[:, None], table, 0).astype(np.float32)), answered

    def after_augmentation(self, carried: torch.Tensor, answered: np.ndarray) -> torch.Tensor:
        """What the loss sees: (L [+ weight], *S) float32, NO_VOTE where a label stays out."""
        number = len(self.labels)
        target, rest = carried[:number].clamp(0, 1), carried[number:]
        if self.hard:
            target = (target > 0.5).float()
        target[~torch.from_numpy(answered)] = NO_VOTE
        if self.ignore_label is not None:
            target[:, rest[-1] > 0.5] = NO_VOTE
        return torch.cat((target, rest[:1].clamp(0, 1))) if self.weighted else target


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
    """

    sampler: Sampler
    participants: Mapping[str, Participant]
    batch_size: int
    rank_slice: slice
    seed: int
    workers: int

    def batches(self, worker: int) -> Iterator[list[str]]:
        """This worker's batches, for ever: every `workers`-th of one common sequence."""
        index = 0
        for epoch in count():
            drawn = 0
            # the generator's seed holds the epoch, so that every worker sees the same sequence
            for batch in self.sampler.batches(
                self.participants, self.batch_size, np.random.default_rng((self.seed, epoch))
            ):
                drawn += 1
                if index % self.workers == worker:
                    yield batch[self.rank_slice]
                index += 1
            if not drawn:
                raise RuntimeError(f"{type(self.sampler).__name__} gave an epoch without batches")


class DrawnDataLoader(nnUNetDataLoader):
    """nnU-Net's loader, with a sampler deciding which cases form a batch.

    Args:
        draw: The sampler and how its batches are dealt; None: nnU-Net's own uniform choice.
    """

    def __init__(self, *arguments: Any, draw: Draw | None = None, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.draw = draw
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
        seg_crop = crop_and_pad_nd(seg, bbox, -1, cast_cropped_to=np.int16)
        carried, answered = self.targets.of_crop(case, bbox, seg_crop, self._rng)
        crops["regression_target"] = carried
        if self.keep_seg:
            crops["segmentation"] = _needed(seg_crop, previous, bbox)
        if self.patch_size_was_2d:
            crops = {key: value[:, 0] for key, value in crops.items()}
        if self.transforms is not None:
            crops = self.transforms(**crops)
        return crops["image"], self.targets.after_augmentation(crops["regression_target"], answered)


def _needed(seg: np.ndarray, previous: Any, bbox: Sequence[Sequence[int]]) -> torch.Tensor:
    """Where the image is (0) and is not (-1), and the previous stage's label map: all that transforms look at."""
    channels = [np.minimum(seg, 0)]
    if previous is not None:
        channels.append(crop_and_pad_nd(previous, bbox, -1, cast_cropped_to=np.int16)[None])
    return torch.from_numpy(np.concatenate(channels)).to(torch.int16)
