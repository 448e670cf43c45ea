"""STAPLE for several labels at once: a voxel's label and each teacher's confusion of labels are estimated together.

Voxels with the same ballot share one posterior, so expectation maximisation runs on the distinct ballots: a few
thousand instead of 50 million voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nnkd import JointAggregator

CONVERGED = 1e-7  # no entry of a confusion matrix moved by more; ITK stops at 1e-5
MAX_ITERATIONS = 10_000
IMPOSSIBLE = -1e6  # log of probability 0, finite, so that sums of it never become NaN


@dataclass(frozen=True)
class Confusion:
    """What multi-label STAPLE finds out in one case; number 0 is background, 1 the first label, and so on.

    Attributes:
        matrices: (K, 1+L, 1+L) float64, how often teacher k says d where the truth is t; columns [:, :, t] sum to 1,
            or to 0 where no voxel is t.
        weights: (R, 1+L) float64, probability of each truth for each ballot; 0 where all are impossible.
    """

    matrices: NDArray[np.floating]
    weights: NDArray[np.floating]


class MultilabelStaple(JointAggregator):
    """The probability of each label given what all teachers say, each teacher's confusion matrix being estimated from
    how it agrees with the others, per case. Unlike `staple` it knows that labels exclude each other, and that a teacher
    that mistakes the spleen for the liver says something about the spleen.

    Source: Warfield, Zou, Wells, IEEE TMI 2004, section on several labels; Rohlfing, Russakoff, Maurer, IEEE TMI 2004.
    Start and prior as in ITK's MultiLabelSTAPLEImageFilter: the confusion with the label that most teachers say (voxels
    where two labels are said as often do not count), and the mean share of each label over teachers. Equally probable
    labels give background.
    Departs: iterates to 1e-7, not 1e-5. SimpleITK 2.5.7 counts the voxels in which votes are tied as background of the
    teacher's next label when it starts. From three teachers on that find the same organs the estimates end at the same
    values all the same (36 of 37 random cases); for teachers near chance they need not (1 of 39), and with two its
    matrices differ (the label map does not: what both say). Of two teachers nobody can tell which is right: their
    sensitivity and specificity are left out. A teacher that does not answer for a label says "none of
    mine" there: its share counts neither in that label's prior nor in its start.
    """

    def joint_table(
        self, said: NDArray[np.int64], counts: NDArray[np.int64], answers: NDArray[np.bool_]
    ) -> NDArray[np.floating]:
        """Fit the rule to one case; see `nnkd.JointAggregator.joint_table`."""
        return fit_confusion(said, counts, answers).weights[:, 1:]

    def joint_estimates(
        self, said: NDArray[np.int64], counts: NDArray[np.int64], answers: NDArray[np.bool_]
    ) -> Mapping[str, NDArray[np.floating]]:
        """Sensitivity and specificity of each teacher; see `nnkd.JointAggregator.joint_estimates`."""
        fitted = fit_confusion(said, counts, answers)
        mass = counts @ fitted.weights  # (1+L,) voxels of each truth
        says = fitted.matrices * mass  # (K, 1+L, 1+L) voxels
        right = says.diagonal(axis1=1, axis2=2)[:, 1:]
        wrong = says.sum(axis=2)[:, 1:] - right
        elsewhere = mass.sum() - mass[1:]
        nowhere = np.full(right.shape, np.nan)
        return {
            "sensitivity": np.divide(right, mass[1:], out=nowhere.copy(), where=mass[1:] > 0),
            "specificity": 1 - np.divide(wrong, elsewhere, out=nowhere, where=elsewhere > 0),
        }


def fit_confusion(
    said: NDArray[np.int64], counts: NDArray[np.int64], answers: NDArray[np.bool_], converged: float = CONVERGED
) -> Confusion:
    """Expectation maximisation on the ballots that occur.

    Args:
        said: (R, K) int64, see `nnkd.JointAggregator.joint_table`.
        counts: (R,) int64.
        answers: (K, L) bool.
        converged: Ends when no entry of a confusion matrix moves by this or more.
    """
    teachers, classes = answers.shape[0], answers.shape[1] + 1
    columns = said + classes * np.arange(teachers)  # each teacher and what it says: one of K * (1+L)
    ones = sparse.csr_array(
        (np.ones(said.size), columns.reshape(-1), np.arange(0, said.size + 1, teachers)),
        shape=(len(said), teachers * classes),
    )
    voxels = counts.astype(np.float64)
    matrices, prior = _start(ones, voxels, answers)
    for _ in range(MAX_ITERATIONS):
        weights = _posterior(ones, matrices, prior)
        before, matrices = matrices, _normalised(ones.T @ (voxels[:, None] * weights), teachers)
        if np.abs(matrices - before).max() < converged:
            break
    weights = _posterior(ones, matrices, prior)
    return Confusion(matrices.reshape(teachers, classes, classes), weights)


def _start(ones: sparse.csr_array, voxels: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K * (1+L), 1+L) confusion with the plurality of votes, rows summing to 1, and (1+L,) prior."""
    teachers = len(answers)
    answering = np.column_stack([np.ones(teachers), answers])  # all have something to say about background
    of_label = answering / np.maximum(answering.sum(axis=0), 1)
    shares = ones @ np.concatenate([np.diag(row) for row in of_label])  # (R, 1+L)
    first = shares.argmax(axis=1)
    decided = np.partition(shares, -2, axis=1)[:, -2] < shares.max(axis=1) - 1e-9
    winner = np.eye(shares.shape[1])[first] * (voxels * decided)[:, None]
    matrices = ones.T @ winner
    total = matrices.sum(axis=1, keepdims=True)
    prior = voxels @ shares
    return np.divide(matrices, total, out=np.zeros_like(matrices), where=total > 0), prior / max(prior.sum(), 1)


def _posterior(ones: sparse.csr_array, matrices: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(R, 1+L) probability of each truth."""
    likely = ones @ _log(matrices) + _log(prior)
    best = likely.max(axis=1, keepdims=True)
    weights = np.exp(likely - best)
    return np.where(best > IMPOSSIBLE / 2, weights / weights.sum(axis=1, keepdims=True), 0)


def _normalised(voxels: np.ndarray, teachers: int) -> np.ndarray:
    """(K * (1+L), 1+L) voxels that a teacher gives a label where the truth is another -> shares of each truth."""
    by_teacher = voxels.reshape(teachers, -1, voxels.shape[1])
    total = by_teacher.sum(axis=1, keepdims=True)
    return np.divide(by_teacher, total, out=np.zeros_like(by_teacher), where=total > 0).reshape(voxels.shape)


def _log(probability: np.ndarray) -> np.ndarray:
    return np.log(probability, out=np.full(probability.shape, IMPOSSIBLE), where=probability > 0)
