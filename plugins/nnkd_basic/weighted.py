"""The weighted vote: teachers count as much as the user says, or as much as they agree with the majority."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nnkd import Aggregator
from nnkd.errors import SettingError, UnknownNameError
from nnkd.votes.agreement import dsc_with_consensus, pattern_bits
from nnkd_basic.aggregators import Majority

Weights = dict[str, float | dict[str, float]]


class Weighted(Aggregator):
    """The weighted share of the answering teachers that say yes.

    Source: the agreement weights of Majority's ties, carried through to every pattern of votes.

    Args:
        weights: By teacher a weight of 0 or more, or one by label; 1 for teachers and labels that are not named. JSON,
            such as {"atlas": 0.5, "sat": {"liver": 2}}. None: estimated anew for each case and label, as the teacher's
            DSC with the majority (1 where both found nothing), to the power of `sharpness`; from three answering
            teachers on. Two weigh the same: the majority of two is what both say, and would favour the smaller mask.
        sharpness: 0: all weigh the same (the mean); 1: the DSC itself; higher: the best agreeing teachers decide. Only
            for estimated weights.

    Raises:
        SettingError: If a weight is negative or no number, or the sharpness is.
    """

    def __init__(self, *, weights: Weights | None = None, sharpness: float = 1.0):
        if not (math.isfinite(sharpness) and sharpness >= 0):
            raise SettingError(f"'weighted.sharpness' got {sharpness}, but 0 or more is expected.")
        for teacher, value in (weights or {}).items():
            for weight in value.values() if isinstance(value, Mapping) else [value]:
                if not (math.isfinite(weight) and weight >= 0):
                    raise SettingError(f"'weighted.weights' gives {teacher} {weight}, but 0 or more is expected.")
        self.weights, self.sharpness = weights, sharpness
        self.estimates_from = 3 if weights is None else 1  # weights that the user gives need no estimate
        self._given: np.ndarray | None = None

    def for_teachers(self, teachers: Sequence[str], labels: Sequence[str]) -> Weighted:
        """The rule with its weights in bit order; see `nnkd.Aggregator.for_teachers`.

        Raises:
            UnknownNameError: If `weights` names a teacher or a label that does not exist.
            SettingError: If all teachers have the weight 0 for a label.
        """
        if self.weights is None:
            return self
        _check_names(self.weights, teachers, labels)
        made = copy.copy(self)
        made._given = np.array([[_weight(self.weights.get(t, 1.0), label) for label in labels] for t in teachers])
        silent = [label for label, total in zip(labels, made._given.sum(axis=0), strict=True) if total == 0]
        if silent:
            raise SettingError(
                f"'weighted.weights' gives every teacher the weight 0 for {silent[0]}, so nobody would vote. Give one "
                f"of {', '.join(teachers)} more."
            )
        return made

    def table(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.floating]:
        """Fit the rule to one case; see `nnkd.Aggregator.table`. Where only teachers of weight 0 answer: no."""
        weights = self._weights(counts, answers)
        total = weights.sum(axis=0)
        share = weights / np.where(total > 0, total, 1)
        return (share.T @ pattern_bits(len(answers))).clip(0, 1).astype(np.float32)

    def estimates(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> Mapping[str, NDArray[np.floating]]:
        """Each teacher's share of the vote; see `nnkd.Aggregator.estimates`."""
        weights = self._weights(counts, answers)
        total = weights.sum(axis=0)
        return {"weight": np.where(answers, weights / np.where(total > 0, total, 1), np.nan)}

    def _weights(self, counts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """(K, L) float64, 0 for teachers that abstain."""
        if self._given is not None:
            return self._given * answers
        if self.weights is not None:
            raise SettingError("'weighted.weights' goes by name, so call for_teachers before table.")
        dsc = dsc_with_consensus(counts, answers, counts * (Majority().table(counts, answers) > 0.5))
        weights = np.nan_to_num(dsc, nan=1.0) ** self.sharpness * answers
        nobody = weights.sum(axis=0) == 0  # each found something else: all weigh the same
        too_few = answers.sum(axis=0) < self.estimates_from
        return np.where(nobody | too_few, answers, weights)


def _weight(value: float | Mapping[str, float], label: str) -> float:
    return value.get(label, 1.0) if isinstance(value, Mapping) else value


def _check_names(weights: Weights, teachers: Sequence[str], labels: Sequence[str]) -> None:
    for teacher, value in weights.items():
        if teacher not in teachers:
            raise UnknownNameError(
                f"'weighted.weights' names the teacher '{teacher}', but those that vote are {', '.join(teachers)}."
            )
        for label in value if isinstance(value, Mapping) else ():
            if label not in labels:
                raise UnknownNameError(
                    f"'weighted.weights' names the label '{label}' for {teacher}, but the dataset has "
                    f"{', '.join(labels)}."
                )
