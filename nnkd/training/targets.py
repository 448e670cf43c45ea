"""What a student learns from: where the target of a case comes from, and how a patch of it is looked up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from numpy.typing import NDArray

from nnkd.plugin.aggregators import Aggregator
from nnkd.votes.bits import NO_VOTE, look_up
from nnkd.votes.folder import VotesFolder
from nnkd.weights import pickles

Box = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Patch:
    """A patch's votes (or label map), read and looked up as late as possible: most patches are only cropped by the
    augmentation, to a fraction of what rotating them would need.

    Attributes:
        stored: (c, *S) integers of the whole case, read lazily.
        bbox: Lower and upper bound per axis; may reach outside.
        soften: Any crop of `stored` -> (L [+ weight] [+ ignore], *S') float32 in [0, 1].
        flat: Whether the first axis is a single slice, to be dropped.
    """

    stored: Any
    bbox: Box
    soften: Callable[[NDArray[np.integer]], NDArray[np.float32]]
    flat: bool = False

    def soft(self, centre: Sequence[float] | None = None, size: Sequence[int] = ()) -> torch.Tensor:
        """The soft target, of the whole patch or of a window in it.

        Args:
            centre: Middle of the window in voxels of the patch, as nnU-Net's crop rounds it; None: the whole patch.
            size: Of the window. Leading axes that it lacks stay whole.
        """
        bbox = [list(pair) for pair in self.bbox]
        if centre is not None:
            first = len(bbox) - len(size)
            for axis, (middle, length) in enumerate(zip(centre, size, strict=True), start=first):
                start = bbox[axis][0] + math.floor(middle) - length // 2
                bbox[axis] = [start, start + length]
        soft = self.soften(crop_and_pad_nd(self.stored, bbox, 0))
        return torch.from_numpy(soft[:, 0] if self.flat else soft)


@dataclass(frozen=True)
class Targets:
    """Where the targets of a case come from.

    Attributes:
        labels: The integers of each label (or region), in the order of nnU-Net's heads.
        votes: The votes.
        ignore_label: The integer to leave out of the loss, or None.
        tables: (L, 2**K) float32 by case, for cases that train by votes.
        agreement: (L, 2**K) float32 by case, how much the teachers agree; empty: voxels are not weighted.
        draws: By case, the bits of the teachers to draw from and (k, L) bool what they answer; empty: no drawing.
        manual: Cases that train by their label map.
        hard: Whether targets are cut at one half.
        rows: Which of the votes' labels these are.
    """

    labels: tuple[tuple[int, ...], ...]
    votes: VotesFolder
    ignore_label: int | None = None
    tables: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    agreement: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    draws: Mapping[str, tuple[list[int], NDArray[np.bool_]]] = field(default_factory=dict)
    manual: frozenset[str] = frozenset()
    hard: bool = False
    rows: slice = field(default_factory=partial(slice, None))

    @property
    def weighted(self) -> bool:
        """Whether targets end with a weight channel."""
        return bool(self.agreement)

    def of_patch(self, case: str, bbox: Box, seg: Any, rng: np.random.Generator) -> tuple[Patch, NDArray[np.bool_]]:
        """What the soft target of one patch is made of.

        Args:
            case: Identifier.
            bbox: Lower and upper bound per axis; may reach outside.
            seg: (1, *S) the case's label map, read lazily.
            rng: For the drawn teacher.

        Returns:
            The patch, not yet read, and (L,) bool: which labels have a vote.
        """
        if case in self.manual:
            return Patch(seg, bbox, self._soften_manual), np.ones(len(self.labels), dtype=bool)
        if case in self.draws:
            teachers, answers = self.draws[case]
            drawn = int(rng.integers(len(teachers)))
            answered, soften = answers[drawn], partial(_say_of, teachers[drawn])
        else:
            table = self.tables[case]
            answered = table[:, 0] != NO_VOTE
            soften = partial(look_up, table=np.where(answered[:, None], table, 0).astype(np.float32))
        pickles.check_array(self.votes.file(case))
        return Patch(self.votes.open(case), bbox, partial(self._soften_votes, soften, case)), answered

    def _soften_manual(self, seg: np.ndarray) -> np.ndarray:
        soft = np.stack([np.isin(seg[0], values) for values in self.labels]).astype(np.float32)
        channels = [soft, np.ones_like(soft[:1])] if self.weighted else [soft]
        if self.ignore_label is not None:
            channels.append((seg == self.ignore_label).astype(np.float32))
        return np.concatenate(channels)

    def _soften_votes(self, soften: Callable[[np.ndarray], np.ndarray], case: str, bits: np.ndarray) -> np.ndarray:
        bits = bits[self.rows]
        channels = [soften(bits)]
        if self.weighted:
            agreement = self.agreement[case]
            # a label that nobody answers for is out of the loss, and says nothing about the voxel's other labels
            agreement = np.where(agreement == NO_VOTE, 1, agreement)
            channels.append(look_up(bits, agreement).min(axis=0, keepdims=True))
        if self.ignore_label is not None:
            channels.append(np.zeros_like(channels[0][:1]))
        return np.concatenate(channels) if len(channels) > 1 else channels[0]

    def after_augmentation(self, carried: torch.Tensor, answered: NDArray[np.bool_]) -> torch.Tensor:
        """What the loss sees: (L [+ weight], *S) float32, NO_VOTE where a label stays out."""
        number = len(self.labels)
        target, rest = carried[:number].clamp(0, 1), carried[number:]
        if self.hard:
            target = (target > 0.5).float()
        target[~torch.from_numpy(answered)] = NO_VOTE
        if self.ignore_label is not None:
            target[:, rest[-1] > 0.5] = NO_VOTE
        return torch.cat((target, rest[:1].clamp(0, 1))) if self.weighted else target


def targets_of(
    cases: Sequence[str],
    votes: VotesFolder,
    teachers: Sequence[str],
    aggregator: Aggregator,
    *,
    labels: tuple[tuple[int, ...], ...],
    ignore_label: int | None = None,
    use_manual: bool = True,
    weigh: bool = False,
    hard: bool = False,
    draw_teachers: bool = True,
    label: str | None = None,
) -> Targets:
    """Fit an aggregator to each case.

    Args:
        cases: Identifiers.
        votes: The preprocessed votes.
        teachers: Those to learn from.
        aggregator: From votes to targets.
        labels, ignore_label: See `Targets`.
        use_manual: Whether manual label maps train as a unanimous vote.
        weigh: Whether voxels are weighted by how much the teachers agree.
        hard: Whether targets are cut at one half.
        draw_teachers: Whether an aggregator that draws may do so; otherwise its table (the mean) is used.
        label: The only label to learn; None: all.

    Raises:
        VotesError: If the votes lack one of the teachers.
        NnkdError: If an option of the aggregator names another teacher or label.
    """
    aggregator = aggregator.for_teachers(teachers, votes.index.labels)
    manual = frozenset(votes.index.manual if use_manual else ()) & frozenset(cases)
    voted = [c for c in cases if c not in manual]
    drawing = draw_teachers and aggregator.draws_teacher
    rows = slice(None)
    if label is not None:
        row = votes.index.labels.index(label)
        rows = slice(row, row + 1)
    return Targets(
        labels=labels,
        votes=votes,
        ignore_label=ignore_label,
        tables={} if drawing else {c: votes.table(c, teachers, aggregator)[rows] for c in voted},
        agreement={c: votes.table(c, teachers, _Agreement())[rows] for c in voted} if weigh else {},
        draws={c: _drawable(votes, c, teachers, rows) for c in voted} if drawing else {},
        manual=manual,
        hard=hard or drawing,
        rows=rows,
    )


class _Agreement(Aggregator):
    """How much the answering teachers agree: |2 mean - 1|."""

    def table(self, counts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        teachers = answers.shape[0]
        patterns = np.arange(counts.shape[1])
        yes = (patterns[:, None] >> np.arange(teachers)) & 1
        mean = yes @ answers / np.maximum(answers.sum(0), 1)
        return np.abs(2 * mean.T - 1).astype(np.float32)


def _drawable(votes: VotesFolder, case: str, teachers: Sequence[str], rows: slice) -> tuple[list[int], np.ndarray]:
    """Bits of the teachers that answer for something in this case, and (k, L) bool what."""
    answers = votes.answers(case, teachers)[:, rows]
    some = np.flatnonzero(answers.any(1))
    bits = votes.bits(teachers)
    return [bits[i] for i in some], answers[some]


def _say_of(teacher: int, bits: np.ndarray) -> np.ndarray:
    """Yes and no of the teacher with this bit."""
    return ((bits >> teacher) & 1).astype(np.float32)
