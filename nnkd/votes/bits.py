"""Votes: which teachers say yes to a label in a voxel, one bit each, and what an aggregator makes of them.

K teachers give 2**K patterns per label, so every voxelwise rule is a table of that length: fitted once per case on how
often each pattern occurs, applied by look-up. Bit k of a pattern is teacher k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nnkd.errors import BrokenPluginError, GeometryError, NnkdError, VotesError
from nnkd.plugin.aggregators import Aggregator, JointAggregator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from nnkd.data.dataset import DatasetSpec
    from nnkd.data.predictions import CaseRecord

MAX_TEACHERS = 16
EQUAL = 1e-9  # probabilities of two labels that differ by less are the same, computed in another order
NO_VOTE = -1.0  # in tables and probabilities: nobody answers for this label in this case
Scalar = TypeVar("Scalar", bound=np.generic)
CHUNK = 1 << 22  # np.bincount and np.take widen patterns to 8 bytes: 32 MiB at a time instead of 8 bytes a voxel


def bit_dtype(k: int) -> np.dtype[np.unsignedinteger]:
    """The unsigned integer that holds one bit per teacher.

    Raises:
        VotesError: If there are no teachers, or more than MAX_TEACHERS.
    """
    if not 1 <= k <= MAX_TEACHERS:
        raise VotesError(f"{k} teachers came, but 1 to {MAX_TEACHERS} can vote together. Choose them with -t.")
    return np.dtype(np.uint8 if k <= 8 else np.uint16)


def pack_label(label_maps: Sequence[NDArray[np.integer]], integers: Sequence[int]) -> NDArray[np.unsignedinteger]:
    """Votes for one label.

    Args:
        label_maps: K integer arrays (*S).
        integers: What the label is made of; a region has several, and a yes to one of them is a yes.

    Returns:
        (*S) unsigned, bit k set where teacher k says yes.

    Raises:
        VotesError: If there are too many teachers, or none.
        GeometryError: If the label maps differ in size.
    """
    dtype = check_label_maps(label_maps)
    packed = np.zeros(label_maps[0].shape, dtype)
    for k, label_map in enumerate(label_maps):
        for integer in integers:
            packed |= (label_map == integer).astype(dtype) << dtype.type(k)
    return packed


def check_label_maps(label_maps: Sequence[NDArray[np.integer]]) -> np.dtype[np.unsignedinteger]:
    """`bit_dtype` of label maps that vote together.

    Raises:
        VotesError: If there are too many teachers, or none.
        GeometryError: If the label maps differ in size.
    """
    dtype = bit_dtype(len(label_maps))
    if len({label_map.shape for label_map in label_maps}) > 1:
        sizes = ", ".join("x".join(map(str, label_map.shape)) for label_map in label_maps)
        raise GeometryError(f"Label maps of {sizes} voxels cannot vote together. Bring them onto one grid first.")
    return dtype


def pack(label_maps: Sequence[NDArray[np.integer]], spec: DatasetSpec) -> NDArray[np.unsignedinteger]:
    """Votes for all labels. An ignore label in a teacher's map is a "no" to every label.

    Args:
        label_maps: K integer arrays (*S), in bit order.
        spec: Its `labels` give the order of L.

    Returns:
        (L, *S) unsigned, bit k set where teacher k says yes.

    Raises:
        VotesError: If there are too many teachers, or none.
        GeometryError: If the label maps differ in size.
    """
    return np.stack([pack_label(label_maps, integers) for integers in spec.labels.values()])


def unpack(votes: NDArray[np.unsignedinteger], k: int) -> NDArray[np.bool_]:
    """(L, *S) unsigned -> (K, L, *S) bool."""
    return np.stack([(votes >> votes.dtype.type(bit)) & votes.dtype.type(1) for bit in range(k)]).astype(bool)


def count_patterns(
    votes: NDArray[np.unsignedinteger], k: int, times: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """How many voxels have each pattern.

    Args:
        votes: (L, *S) unsigned.
        k: Number of teachers.
        times: (*S) int64, how often each voxel counts; None: once.

    Returns:
        (L, 2**k) int64.
    """
    counts = np.zeros((len(votes), 1 << k), dtype=np.int64)
    for row, label in zip(counts, votes, strict=True):
        flat = label.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            piece = slice(start, start + CHUNK)
            weights = None if times is None else times.reshape(-1)[piece]  # exact: below 2**53 voxels
            row += np.bincount(flat[piece], weights, minlength=1 << k).astype(np.int64)
    return counts


def merge(counts: NDArray[Scalar], keep: Sequence[int]) -> NDArray[Scalar]:
    """Pattern counts of some of the teachers: what counting only their votes would have given.

    Args:
        counts: (L, 2**K) of all teachers.
        keep: Their bits; bit j of the result is bit keep[j].

    Returns:
        (L, 2**len(keep)) of counts' dtype.
    """
    return _fold(counts, _projection(counts.shape[1], keep), 1 << len(keep))


def expand(table: NDArray[Scalar], keep: Sequence[int], k: int) -> NDArray[Scalar]:
    """A table fitted on some of the teachers, for votes stored for all k of them.

    Args:
        table: (L, 2**len(keep)), bit j being teacher keep[j].
        keep: The bits of those teachers in the stored votes.
        k: Number of teachers in the stored votes.

    Returns:
        (L, 2**k).
    """
    return table[:, _projection(1 << k, keep)]


def look_up(votes: NDArray[np.unsignedinteger], table: NDArray[np.floating]) -> NDArray[np.float32]:
    """Apply a table to votes.

    Args:
        votes: (L, *S) unsigned.
        table: (L, 2**K), values in [0, 1], or NO_VOTE.

    Returns:
        (L, *S) float32.
    """
    table = np.ascontiguousarray(table, dtype=np.float32)
    result = np.empty(votes.shape, dtype=np.float32)
    for label, row, out in zip(votes, table, result, strict=True):
        flat, flat_out = label.reshape(-1), out.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            piece = slice(start, start + CHUNK)
            np.take(row, flat[piece], out=flat_out[piece], mode="clip")  # "raise" would buffer the output
    return result


def answers_matrix(records: Mapping[str, CaseRecord | None], labels: Iterable[str]) -> NDArray[np.bool_]:
    """Which teacher answers for which label of a case.

    Args:
        records: The case's record by teacher, in bit order; None where the teacher did not segment the case.
        labels: Names in the order of L.

    Returns:
        (K, L) bool.
    """
    names = list(labels)
    rows = [[record is not None and name in record.answers for name in names] for record in records.values()]
    return np.array(rows, dtype=bool).reshape(len(rows), len(names))


def clear_abstentions(counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pattern counts in which the bit of a teacher that abstains is never set.

    Args:
        counts: (L, 2**K) int64.
        answers: (K, L) bool.

    Returns:
        (L, 2**K) int64 with the same sums.
    """
    seen = _answered_patterns(answers)
    return np.stack([_fold(row[None], patterns, row.size)[0] for row, patterns in zip(counts, seen, strict=True)])


def fit(aggregator: Aggregator, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fit an aggregator to one case and check what it returns.

    The bit of a teacher that abstains means nothing (with regions, a yes to a part sets it for the whole): it is
    cleared before the aggregator sees the counts, and the table gives the same value whether it is set or not.

    Args:
        aggregator: The rule.
        counts: (L, 2**K) int64.
        answers: (K, L) bool.

    Returns:
        (L, 2**K) float32 in [0, 1]; NO_VOTE in the rows of labels that nobody answers for.

    Raises:
        BrokenPluginError: If the aggregator fails or its table has another shape, type or range.
    """
    answered: NDArray[np.bool_] = np.any(answers, axis=0)
    cleared = clear_abstentions(counts, answers)
    table = _called(aggregator, lambda: aggregator.table(cleared, answers))
    table = _checked(aggregator, table, counts.shape, "labels, patterns", answered[:, None]).astype(np.float32)
    table = np.take_along_axis(table, _answered_patterns(answers), axis=1)
    table[~answered] = NO_VOTE
    return table


def fit_joint(
    aggregator: JointAggregator, said: NDArray[np.int64], counts: NDArray[np.int64], answers: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Fit a joint aggregator to one case and check what it returns.

    Args:
        aggregator: The rule.
        said: (R, K) int64, see `nnkd.JointAggregator.joint_table`.
        counts: (R,) int64.
        answers: (K, L) bool.

    Returns:
        (R, L) float64 in [0, 1]; 0 for labels that nobody answers for.

    Raises:
        BrokenPluginError: If the aggregator fails or its table has another shape, type or range.
    """
    answered: NDArray[np.bool_] = np.any(answers, axis=0)
    table = _called(aggregator, lambda: aggregator.joint_table(said, counts, answers))
    table = _checked(aggregator, table, (len(said), answers.shape[1]), "ballots, labels", answered[None])
    table[:, ~answered] = 0
    return table


def joint_label_map(table: NDArray[np.floating], spec: DatasetSpec) -> NDArray[np.unsignedinteger]:
    """The integer that each ballot becomes: the label with the highest probability if that is also more than what is
    left for background; 0 where two are equal.

    Args:
        table: (R, L) float in [0, 1].
        spec: The dataset; no regions.

    Returns:
        (R,) uint8, or uint16 if a label's integer needs it.
    """
    shares = np.column_stack([1 - table.sum(axis=1), table])
    first = shares.argmax(axis=1)
    second = np.partition(shares, -2, axis=1)[:, -2]
    decided = shares.max(axis=1) > second + EQUAL
    masks = {label: decided & (first == index + 1) for index, label in enumerate(spec.labels)}
    return spec.label_map(masks, first.shape)


def found_out(
    aggregator: Aggregator, answers: NDArray[np.bool_], estimate: Callable[[], Mapping[str, ArrayLike]]
) -> dict[str, NDArray[np.float64]]:
    """What an aggregator found out about the teachers of a case, checked.

    Args:
        aggregator: The rule.
        answers: (K, L) bool.
        estimate: Its `estimates` or `joint_estimates`, called with the case.

    Returns:
        By name: (K, L) float64, NaN where nothing is known, or too few teachers answer to know it.

    Raises:
        BrokenPluginError: If it fails or returns something else.
    """
    found = _called(aggregator, lambda: {name: np.asarray(values) for name, values in estimate().items()})
    for name, values in found.items():
        if values.shape != answers.shape or values.dtype.kind not in "fiub":
            raise BrokenPluginError(
                f"The aggregator {type(aggregator).__name__} estimates '{name}' as {values.dtype} of shape "
                f"{values.shape}, but numbers of shape {answers.shape} (teachers, labels) are expected. Correct the "
                f"plugin."
            )
    told = answers & (answers.sum(axis=0) >= aggregator.estimates_from)
    return {name: np.where(told, values, np.nan) for name, values in found.items()}


def to_label_map(probabilities: NDArray[np.floating], spec: DatasetSpec) -> NDArray[np.unsignedinteger]:
    """The label map that probabilities stand for: a voxel gets the label with the highest probability, if that is
    more than 0.5; the earlier label if two are equal. Regions are cut at 0.5 and painted in regions_class_order.

    Args:
        probabilities: (L, Z, Y, X) float in [0, 1], or NO_VOTE.
        spec: The dataset.

    Returns:
        (Z, Y, X) uint8, or uint16 if a label's integer needs it.
    """
    return _painted(probabilities, probabilities.shape[1:], spec)


def apply_to_label_maps(
    label_maps: Sequence[NDArray[np.integer]], table: NDArray[np.floating], spec: DatasetSpec
) -> NDArray[np.unsignedinteger]:
    """`to_label_map(look_up(pack(...)))` one label at a time: 100 labels of a whole-body CT do not fit into memory.

    Args:
        label_maps: K integer arrays (Z, Y, X), in bit order.
        table: (L, 2**K).
        spec: The dataset.

    Returns:
        (Z, Y, X) uint8, or uint16 if a label's integer needs it.
    """
    rows = zip(spec.labels.values(), table, strict=True)
    looked_up = (look_up(pack_label(label_maps, integers)[None], row[None])[0] for integers, row in rows)
    return _painted(looked_up, label_maps[0].shape, spec)


def _painted(
    probabilities: Iterable[NDArray[np.floating]], shape: tuple[int, ...], spec: DatasetSpec
) -> NDArray[np.unsignedinteger]:
    if spec.has_regions:
        return spec.label_map({name: p > 0.5 for name, p in zip(spec.labels, probabilities, strict=True)}, shape)
    best = np.full(shape, 0.5, dtype=np.float32)
    painted = spec.label_map({}, shape)
    for (integer,), p in zip(spec.labels.values(), probabilities, strict=True):
        better = p > best  # strict: 0.5 is no label, and of equals the earlier one stays
        painted[better] = integer
        best[better] = p[better]
    return painted


def _projection(patterns: int, keep: Sequence[int]) -> NDArray[np.int64]:
    """For each pattern of all teachers, the pattern of those kept; (patterns,) int64."""
    every = np.arange(patterns, dtype=np.int64)
    projected = np.zeros(patterns, dtype=np.int64)
    for bit, teacher in enumerate(keep):
        projected |= ((every >> teacher) & 1) << bit
    return projected


def _fold(counts: NDArray[Scalar], target: NDArray[np.int64], size: int) -> NDArray[Scalar]:
    """Sum columns of (L, n) into the columns `target` (n,) names; exact, unlike np.bincount with float weights."""
    folded = np.zeros((len(counts), size), dtype=counts.dtype)
    for row, out in zip(counts, folded, strict=True):
        np.add.at(out, target, row)
    return folded


def _answered_patterns(answers: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K, L) bool -> (L, 2**K) int64: each pattern without the bits of teachers that abstain."""
    answering: NDArray[np.int64] = (answers.astype(np.int64) << np.arange(len(answers))[:, None]).sum(axis=0)
    return np.arange(1 << len(answers), dtype=np.int64)[None] & answering[:, None]


def _called(aggregator: Aggregator, call: Callable[[], Any]) -> Any:
    """What a plugin's method returns, an array or arrays by name."""
    try:
        result = call()
        return result if isinstance(result, dict) else np.asarray(result)
    except NnkdError:
        raise
    except Exception as error:  # a plugin raises whatever it likes
        name = type(aggregator).__name__
        raise BrokenPluginError(f"The aggregator {name} failed ({type(error).__name__}: {error}).") from error


def _checked(
    aggregator: Aggregator, table: np.ndarray, shape: tuple[int, ...], axes: str, counts: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The aggregator's table as a float64 copy, refused if it is not what the interface asks for; `counts` is False
    where it may hold anything."""
    name = type(aggregator).__name__
    if table.shape != shape:
        raise BrokenPluginError(
            f"The aggregator {name} returned a table of shape {table.shape}, but {shape} ({axes}) is "
            f"expected. Correct the plugin."
        )
    if table.dtype.kind not in "fb":
        raise BrokenPluginError(f"The aggregator {name} returned {table.dtype} values, but float32 is expected.")
    values = table[np.broadcast_to(counts, shape)]
    if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():  # also false for NaN
        raise BrokenPluginError(
            f"The aggregator {name} returned values from {values.min():g} to {values.max():g}, but probabilities "
            f"in [0, 1] are expected. Correct the plugin."
        )
    return np.nan_to_num(table.astype(np.float64)).clip(0, 1)
