"""Ballots: what all teachers say about a voxel, all labels at once.

A scan of 50 million voxels has a few thousand distinct ballots. So a case is counted once, whatever the number of
labels: every rule works on the distinct ballots and their numbers, and its outcome is painted by one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.votes import bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
CHUNK = 1 << 22  # voxels at a time: what is made of them stays small
DENSE = 1 << 20  # combinations up to this number are counted in a table, more are sorted


@dataclass(frozen=True)
class Ballots:
    """The ballots of one case.

    Attributes:
        distinct: (R, K) unsigned integers of the label maps; row 0 is background for all, the others differ from it
            and from each other.
        counts: (R,) int64, voxels of each.
        shape: (*S) of the label maps.
        pieces: Of each CHUNK of voxels, where a teacher says anything (groups of voxels that fill 8 bytes), and the row
            of each voxel of these groups.
    """

    distinct: NDArray[np.unsignedinteger]
    counts: NDArray[np.int64]
    shape: tuple[int, ...]
    pieces: Sequence[tuple[NDArray[np.int64], NDArray[np.unsignedinteger]]]

    @classmethod
    def of(cls, label_maps: Sequence[NDArray[np.unsignedinteger]]) -> Ballots:
        """Count the ballots of a case.

        Args:
            label_maps: K arrays (*S), uint8 or uint16, in bit order.

        Raises:
            VotesError: If there are too many teachers, or none.
            GeometryError: If the label maps differ in size.
        """
        bits.check_label_maps(label_maps)
        dtype = np.result_type(*label_maps)
        flat = [np.ascontiguousarray(label_map, dtype).reshape(-1) for label_map in label_maps]
        size = flat[0].size
        found = [_count([f[start : start + CHUNK] for f in flat]) for start in range(0, size, CHUNK)]
        rows = np.concatenate([np.zeros((1, len(flat)), dtype), *(piece.distinct for piece in found)])
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)  # sorted: background for all comes first
        counts = np.zeros(len(distinct), dtype=np.int64)
        place: NDArray[np.unsignedinteger] = inverse.reshape(-1).astype(_smallest(len(distinct)))
        pieces, start = [], 1
        for piece in found:
            mine = place[start : start + len(piece.distinct)]
            np.add.at(counts, mine, piece.counts)
            pieces.append((piece.where, mine[piece.rows]))
            start += len(piece.distinct)
        counts[0] = size - counts[1:].sum()
        return cls(distinct, counts, label_maps[0].shape, pieces)

    def columns(self) -> list[NDArray[np.unsignedinteger]]:
        """K arrays (R,): small label maps that hold each ballot once."""
        return [np.ascontiguousarray(column) for column in self.distinct.T]

    def count_patterns(self, spec: DatasetSpec) -> NDArray[np.int64]:
        """(L, 2**K) int64: how many voxels have each pattern of votes; see `nnkd.votes.bits.count_patterns`."""
        columns = self.columns()
        packed = (bits.pack_label(columns, integers)[None] for integers in spec.labels.values())
        return np.concatenate([bits.count_patterns(p, len(columns), self.counts) for p in packed])

    def count_chosen(self, values: NDArray[np.integer], spec: DatasetSpec) -> NDArray[np.int64]:
        """How many voxels of each pattern of votes a label map gives the label to.

        Args:
            values: (R,) the label map's integer for each ballot; no regions.
            spec: The dataset.

        Returns:
            (L, 2**K) int64.
        """
        columns = self.columns()
        rows = [
            bits.count_patterns(
                bits.pack_label(columns, integers)[None], len(columns), self.counts * np.isin(values, integers)
            )
            for integers in spec.labels.values()
        ]
        return np.concatenate(rows)

    def said(self, spec: DatasetSpec, answers: NDArray[np.bool_]) -> NDArray[np.int64]:
        """What each teacher says in each ballot, by the number of the label.

        Args:
            spec: The dataset; no regions.
            answers: (K, L) bool.

        Returns:
            (R, K) int64: 0 where the teacher gives no label that it answers for, else 1 for the first label and so on.
        """
        said = np.zeros(self.distinct.shape, dtype=np.int64)
        for label, (integer,) in enumerate(spec.labels.values()):
            said[(self.distinct == integer) & answers[:, label]] = label + 1
        return said

    def paint(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """A label map.

        Args:
            values: (R,) its integer for each ballot.

        Returns:
            (*S) of values' dtype.
        """
        size = int(np.prod(self.shape))
        group = 8 // self.distinct.itemsize
        painted = np.full(-(-size // group) * group, values[0], dtype=values.dtype)
        for start, (where, rows) in zip(range(0, size, CHUNK), self.pieces, strict=True):
            painted[start : start + CHUNK].reshape(-1, group)[where] = values[rows].reshape(-1, group)
        return painted[:size].reshape(self.shape)


@dataclass(frozen=True)
class _Piece:
    """Ballots of some of the voxels: `where` and `rows` as in `Ballots.pieces`."""

    distinct: NDArray[np.unsignedinteger]
    counts: NDArray[np.int64]
    where: NDArray[np.int64]
    rows: NDArray[np.int64]


def _count(flat: Sequence[NDArray[np.unsignedinteger]]) -> _Piece:
    """Count K arrays (n,) of one type. Eight bytes are looked at together: most voxels are background for all."""
    group = 8 // flat[0].itemsize
    short = -flat[0].size % group
    words = [(np.pad(f, (0, short)) if short else f).view(np.uint64) for f in flat]
    some = words[0].copy()
    for word in words[1:]:
        some |= word
    where = np.flatnonzero(some)
    said = [word[where].view(flat[0].dtype) for word in words]
    distinct, rows = np.zeros((1, 0), flat[0].dtype), np.zeros(said[0].size, dtype=np.int64)
    waiting: list[int] = []  # teachers whose integers are in `rows` as further digits of one number
    bases: list[int] = []
    for k, mine in enumerate(said):
        base = int(mine.max(initial=0)) + 1
        if waiting and len(distinct) * int(np.prod(bases)) * base > DENSE:
            distinct, rows, _ = _renumber(distinct, rows, bases)
            waiting, bases = [], []
        rows *= base
        rows += mine
        waiting.append(k)
        bases.append(base)
    distinct, rows, counts = _renumber(distinct, rows, bases)
    return _Piece(distinct, counts, where, rows)


def _renumber(
    distinct: NDArray[np.unsignedinteger], numbers: NDArray[np.int64], bases: Sequence[int]
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64], NDArray[np.int64]]:
    """Number consecutively what occurs.

    Args:
        distinct: (R, k) what was said by those counted so far.
        numbers: (n,) int64, a row of it times the bases, plus what the teachers that follow say.
        bases: How many integers each of them may say.

    Returns:
        (R', k + len(bases)) distinct ballots, (n,) the row of each, and (R',) how often each occurs.
    """
    size = len(distinct) * int(np.prod(bases))
    if size <= DENSE:
        counts = np.bincount(numbers, minlength=size)
        seen = np.flatnonzero(counts)
        place = np.zeros(size, dtype=np.int64)
        place[seen] = np.arange(len(seen))
        counts, rows = counts[seen], place[numbers]
    else:
        seen, rows, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    before, *further = np.unravel_index(seen, (len(distinct), *bases))
    return np.column_stack([distinct[before], *further]).astype(distinct.dtype), rows, counts


def _smallest(number: int) -> np.dtype[np.unsignedinteger]:
    return np.min_scalar_type(max(number - 1, 0))
