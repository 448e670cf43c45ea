"""STAPLE: the truth and each teacher's sensitivity and specificity are estimated together, without ground truth.

Voxels with the same pattern of votes share one posterior, so expectation maximisation runs on how often each pattern
occurs: milliseconds where the voxelwise form needs half a minute, so it is always run until it has converged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from nnkd import Aggregator
from nnkd.errors import SettingError
from nnkd.votes.agreement import pattern_bits

CONVERGED = 1e-7  # no sensitivity or specificity moved by more: ITK's rule
MAX_ITERATIONS = 10_000  # far more than the 10 to 50 of real masks; 0.2 s
IMPOSSIBLE = -1e6  # log of probability 0, finite, so that the side with fewer impossible votes wins and no NaN arises
UNKNOWN = 0.99999  # of a teacher that had no chance to show its sensitivity (no foreground) or specificity


@dataclass(frozen=True)
class Performance:
    """What STAPLE finds out about the teachers of one label in one case.

    Attributes:
        sensitivity, specificity: (K,) float64 in [0, 1]; NaN where there is no foreground, or no background.
        prior: Share of foreground.
    """

    sensitivity: NDArray[np.floating]
    specificity: NDArray[np.floating]
    prior: float


class Staple(Aggregator):
    """The probability of a label given all votes, each teacher's sensitivity and specificity being estimated from
    how it agrees with the others, per case and label.

    Source: Warfield, Zou, Wells, IEEE TMI 2004; start, prior and end as in ITK's STAPLEImageFilter: the first weights
    are the mean vote, the prior is its mean over voxels, and it ends when nothing moved by more than 1e-7.
    Departs: sensitivity and specificity are reported from three answering teachers on, as two that differ do not tell
    which is right; teachers that do not answer are left out; where ITK returns NaN (nobody says yes, or everybody does
    everywhere) this gives 0 or 1.

    Args:
        region: Which voxels count. "volume": all, as in ITK; background dominates, so all specificities are near 1 and
            a lone yes weighs heavily. "voted": only voxels that an answering teacher gave the label to; all
            others are no.
        confidence_weight: The prior is the mean vote times this; less than 1 makes the consensus smaller.

    Raises:
        SettingError: If confidence_weight is not in (0, 1].
    """

    def __init__(self, *, region: Literal["volume", "voted"] = "volume", confidence_weight: float = 1.0):
        if not 0 < confidence_weight <= 1:
            raise SettingError(
                f"'staple.confidence_weight' got {confidence_weight}, but more than 0 and at most 1 is expected."
            )
        self.region, self.confidence_weight = region, confidence_weight

    def table(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.floating]:
        """Fit the rule to one case; see `nnkd.Aggregator.table`."""
        every = pattern_bits(len(answers)).astype(np.float64)
        result = np.zeros(counts.shape, dtype=np.float32)
        for row, label_counts, who in zip(result, counts, answers.T, strict=True):
            if who.any():
                row[:] = posterior(every[who], self._fit(label_counts, who))
        if self.region == "voted":
            result[:, 0] = 0
        return result

    def estimates(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> Mapping[str, NDArray[np.floating]]:
        """Sensitivity and specificity of each teacher; see `nnkd.Aggregator.estimates`."""
        found = {name: np.full(answers.shape, np.nan) for name in ("sensitivity", "specificity")}
        for label, (label_counts, who) in enumerate(zip(counts, answers.T, strict=True)):
            if who.any():
                fitted = self._fit(label_counts, who)
                found["sensitivity"][who, label] = fitted.sensitivity
                found["specificity"][who, label] = fitted.specificity
        return found

    def _fit(self, counts: np.ndarray, who: np.ndarray) -> Performance:
        there = np.flatnonzero(counts)
        if self.region == "voted":
            there = there[there > 0]
        bits = ((there[None] >> np.flatnonzero(who)[:, None]) & 1).astype(np.float64)
        return fit_binary(bits, counts[there].astype(np.float64), self.confidence_weight)


def fit_binary(bits: NDArray[np.floating], counts: NDArray[np.floating], confidence_weight: float = 1.0) -> Performance:
    """Expectation maximisation on the patterns of votes that occur.

    Args:
        bits: (K, n) float64, 1 where teacher k says yes in pattern n.
        counts: (n,) float64, voxels of each pattern.
        confidence_weight: See `Staple`.
    """
    voxels = counts.sum()
    sensitivity, specificity = np.full(len(bits), np.nan), np.full(len(bits), np.nan)
    if not voxels:
        return Performance(sensitivity, specificity, 0.0)
    prior = float((bits @ counts).mean() / voxels * confidence_weight)
    foreground = bits.mean(axis=0)
    for iteration in range(MAX_ITERATIONS):
        yes, no = counts * foreground, counts * (1 - foreground)
        before = sensitivity, specificity
        sensitivity = _share(bits @ yes, yes.sum(), sensitivity)
        specificity = _share((1 - bits) @ no, no.sum(), specificity)
        foreground = posterior(bits, Performance(sensitivity, specificity, prior))
        moved = np.nan_to_num(np.abs(np.concatenate((sensitivity - before[0], specificity - before[1]))))
        if iteration and moved.max() <= CONVERGED:
            break
    return Performance(sensitivity, specificity, prior)


def posterior(bits: NDArray[np.floating], fitted: Performance) -> NDArray[np.floating]:
    """Probability of the label for patterns of votes.

    Args:
        bits: (K, n) float64, 0 or 1.
        fitted: Of the K teachers.

    Returns:
        (n,) float64 in [0, 1], never NaN.
    """
    sensitivity, specificity = (np.nan_to_num(p, nan=UNKNOWN) for p in (fitted.sensitivity, fitted.specificity))
    hit, missed = _log(sensitivity), _log(1 - sensitivity)
    right, wrong = _log(specificity), _log(1 - specificity)
    of_no = missed.sum() - right.sum() + _log(np.array(fitted.prior)) - _log(np.array(1 - fitted.prior))
    return expit((hit - missed - wrong + right) @ bits + of_no)


def _share(part: np.ndarray, whole: float, otherwise: np.ndarray) -> np.ndarray:
    return np.clip(part / whole, 0, 1) if whole > 0 else otherwise


def _log(probability: np.ndarray) -> np.ndarray:
    return np.log(probability, out=np.full(np.shape(probability), IMPOSSIBLE), where=probability > 0)
