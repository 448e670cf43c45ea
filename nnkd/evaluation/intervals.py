"""Means with bootstrap intervals over participants, paired differences, and who ranks first.

Cases of one person are not independent, so people are drawn and not cases: one draw takes all cases of a person, for
all labels and, in a difference, for both folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = Mapping[str, float]  # by case
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: Number of draws; 0: no intervals.
        seed: The same seed gives the same interval, whatever else is evaluated along.
    """

    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means.

    Attributes:
        value: In the metric's unit.
        low, high: 95 % percentile interval; None where there are fewer than two participants, or none was asked for.
        n_cases: Cases counted (for several labels or folders: in any of them).
        n_participants: People behind them.
    """

    value: float
    low: float | None
    high: float | None
    n_cases: int
    n_participants: int

    @property
    def without_interval(self) -> str:
        """Why there can be none; empty otherwise."""
        return "no interval: one participant" if self.low is None and self.n_participants < 2 else ""


def mean(labels: Sequence[Values], person_of: Mapping[str, str], bootstrap: Bootstrap) -> Estimate | None:
    """Mean over cases; of several labels the mean of their means, each label weighing the same.

    Args:
        labels: Values by case, one mapping a label; labels without any case are passed over.
        person_of: Participant by case.
        bootstrap: How to make the interval.

    Returns:
        None if nothing is counted.
    """
    counted = [values for values in labels if values]
    if not counted:
        return None
    return _estimate([counted], person_of, bootstrap)


def paired_difference(
    first: Sequence[Values], second: Sequence[Values], person_of: Mapping[str, str], bootstrap: Bootstrap
) -> Estimate | None:
    """Difference of two folders' means (first minus second), the same people drawn for both.

    The means are those of `mean`, so that the difference is the one between two cells of a table, provided that both
    are given the same labels and that cases only one of them answers for were left out before.

    Args:
        first: Values by case, one mapping a label.
        second: The same labels of the other folder.
        person_of: Participant by case.
        bootstrap: How to make the interval.

    Returns:
        None if no label is counted in both.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    if not pairs:
        return None
    return _estimate([[a for a, _ in pairs], [b for _, b in pairs]], person_of, bootstrap)


def _estimate(folders: Sequence[Sequence[Values]], person_of: Mapping[str, str], bootstrap: Bootstrap) -> Estimate:
    cases = sorted({case for labels in folders for values in labels for case in values})
    people = sorted({person_of[case] for case in cases})
    columns = [column for labels in folders for values in labels for column in person_sums(values, people, person_of)]
    n_labels = len(folders[0])

    def statistic(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        totals = [column.sum(axis=axis) for column in columns]
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw may hold nobody who has the label
            means = np.stack([totals[i] / totals[i + 1] for i in range(0, len(totals), 2)])
            present = ~np.isnan(means)
            parts = [
                np.where(present[i : i + n_labels], means[i : i + n_labels], 0).sum(axis=0)
                / present[i : i + n_labels].sum(axis=0)
                for i in range(0, len(means), n_labels)
            ]
        return parts[0] - parts[1] if len(parts) == 2 else parts[0]

    value = float(statistic(*columns))
    low, high = _interval(columns, statistic, bootstrap) if len(people) > 1 and bootstrap.resamples else (None, None)
    return Estimate(value, low, high, len(cases), len(people))


def person_sums(
    values: Values, people: Sequence[str], person_of: Mapping[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of a label's values by person, (P,) each: a mean over drawn people is the ratio of their sums."""
    position = {person: index for index, person in enumerate(people)}
    sums, numbers = np.zeros(len(people)), np.zeros(len(people))
    for case, value in values.items():
        sums[position[person_of[case]]] += value
        numbers[position[person_of[case]]] += 1
    return sums, numbers


def _interval(columns: Sequence[np.ndarray], statistic: object, bootstrap: Bootstrap) -> tuple[float, float]:
    drawn = stats.bootstrap(
        columns,
        statistic,
        n_resamples=bootstrap.resamples,
        batch=max(1, 2_000_000 // (columns[0].size * len(columns))),  # 16 MB at a time
        vectorized=True,
        paired=True,
        method="percentile",
        random_state=np.random.default_rng(bootstrap.seed),
    ).bootstrap_distribution
    return limits(drawn)


def limits(drawn: NDArray[np.floating]) -> tuple[float, float]:
    """The percentile interval of draws (R,); NaN are passed over."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(drawn, (tail, 100 - tail))
    return float(low), float(high)


def ranks(values: Mapping[str, float], higher_is_better: bool, digits: int = 3) -> dict[str, int]:
    """Place of each name, 1 for the best. What looks equal when printed shares a place.

    Args:
        values: By name.
        higher_is_better: Which way to rank.
        digits: Decimals that are printed.
    """
    rounded = {name: round(value, digits) * (-1 if higher_is_better else 1) for name, value in values.items()}
    return {name: 1 + sum(other < value for other in rounded.values()) for name, value in rounded.items()}
