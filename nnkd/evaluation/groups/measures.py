"""Figures of groups of people: means, spread, gap, equity, tests and effect sizes. Arrays in, numbers out.

A person counts once: whoever has several cases enters with the mean over them. NaN means that nothing was counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nnkd.evaluation.intervals import Bootstrap, limits, person_sums

STARS = ((0.0001, "****"), (0.001, "***"), (0.01, "**"), (0.05, "*"))
NOT_SIGNIFICANT = "N.S."
ELEMENTS = 2_000_000  # drawn at a time: 16 MB


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % percentile interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GroupTests:
    """Whether groups differ, and how much.

    Attributes:
        people: Counted in all groups together.
        f, p: One-way analysis of variance; None where it has no answer (all values are equal).
        eta2, omega2: Share of the variance that lies between the groups; omega2 is corrected for chance, not below 0.
        h, p_kruskal: Kruskal-Wallis.
        epsilon2: Its effect size, H / (n - 1).
        p_holm, p_kruskal_holm: Corrected for all tests of a family.
    """

    people: int
    f: float | None
    p: float | None
    eta2: float | None
    omega2: float | None
    h: float | None
    p_kruskal: float | None
    epsilon2: float | None
    p_holm: float | None = None
    p_kruskal_holm: float | None = None


def person_means(values: dict[str, float], person_of: dict[str, str], people: Sequence[str]) -> NDArray[np.float64]:
    """Mean over each person's cases.

    Args:
        values: By case.
        person_of: Person by case.
        people: In the order of the result.

    Returns:
        (P,) float; NaN for people without a counted case.
    """
    sums, numbers = person_sums(values, people, person_of)
    with np.errstate(invalid="ignore"):
        return sums / numbers


def counts(values: NDArray[np.floating], groups: Sequence[NDArray[np.integer]]) -> NDArray[np.int_]:
    """(G, M) int: people counted in each group; values (P, M), groups as indices of people."""
    return np.array([(~np.isnan(values[group])).sum(axis=0) for group in groups], dtype=int)


def means(values: NDArray[np.floating], groups: Sequence[NDArray[np.integer]]) -> NDArray[np.floating]:
    """(G, M) means of the groups; values (P, M), groups as indices of people. NaN where nobody is counted."""
    sums = np.array([np.nansum(values[group], axis=0) for group in groups])
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / counts(values, groups)


def drawn_means(
    values: NDArray[np.floating], groups: Sequence[NDArray[np.integer]], bootstrap: Bootstrap
) -> NDArray[np.float64]:
    """Means of the groups when their people are drawn again, with replacement, within each group.

    Args:
        values: (P, M) by person and column; the same people are drawn for all columns.
        groups: Indices of people.
        bootstrap: Resamples and seed; equal groups and seeds give equal draws.

    Returns:
        (R, G, M); NaN where a draw holds nobody who is counted.
    """
    rng = np.random.default_rng(bootstrap.seed)
    found = np.full((bootstrap.resamples, len(groups), values.shape[1]), np.nan)
    for index, group in enumerate(groups):
        if not len(group):
            continue
        there = ~np.isnan(values[group])
        numbers, sums = there.astype(float), np.where(there, values[group], 0.0)
        size = max(1, ELEMENTS // len(group))
        for start in range(0, bootstrap.resamples, size):
            rows = slice(start, min(start + size, bootstrap.resamples))
            drawn = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=rows.stop - rows.start)
            with np.errstate(invalid="ignore", divide="ignore"):
                found[rows, index] = (drawn @ sums) / (drawn @ numbers)
    return found


def figure(value: SupportsFloat, drawn: NDArray[np.floating]) -> Figure:
    """A number with the interval of its draws (R,); without draws, or with NaN alone, it has none."""
    return Figure(float(value)) if np.isnan(drawn).all() else Figure(float(value), *limits(drawn))


def spread(group_means: NDArray[np.floating]) -> NDArray[np.floating]:
    """Standard deviation over group means (..., G); dividing by the number of groups.

    Source: Li et al. 2025, Table 3.
    Departs: the paper does not say by what it divides.
    """
    return group_means.std(axis=-1)


def spread_by_chance(samples: Sequence[NDArray[np.floating]]) -> float | None:
    """What `spread` comes to on average if no group differs from another: means of few people scatter anyway.

    The root of the expected square: group means of variance s_g^2 / n_g scatter by (k - 1) / k^2 times their sum.

    Args:
        samples: Values by group; None comes back if a group has fewer than two.
    """
    if any(len(sample) < 2 for sample in samples):
        return None
    k = len(samples)
    variances = [float(np.var(sample, ddof=1)) / len(sample) for sample in samples]
    return float(np.sqrt((k - 1) / k**2 * sum(variances)))


def gap(group_means: NDArray[np.floating]) -> NDArray[np.floating]:
    """Highest minus lowest group mean, of (..., G)."""
    return group_means.max(axis=-1) - group_means.min(axis=-1)


def equity_scaled(group_means: NDArray[np.floating], numbers: NDArray[np.integer]) -> NDArray[np.floating]:
    """Mean over all people, divided by 1 + the sum of the groups' distances from it.

    Source: Tian et al. 2024 (FairSeg), equity-scaled segmentation performance.

    Args:
        group_means: (..., G), where 1 is best and 0 worst.
        numbers: (G,) people by group.
    """
    overall = (group_means * numbers).sum(axis=-1, keepdims=True) / numbers.sum()
    return overall[..., 0] / (1 + np.abs(group_means - overall).sum(axis=-1))


def group_tests(samples: Sequence[NDArray[np.floating]]) -> GroupTests:
    """One-way ANOVA as in paper 1's Figure 2, Kruskal-Wallis, and effect sizes.

    Args:
        samples: One value per person, by group; two or more groups of two or more.
    """
    whole = np.concatenate(samples)
    n, k = len(whole), len(samples)
    if np.ptp(whole) == 0 or n <= k:
        return GroupTests(n, None, None, None, None, None, None, None)
    between = sum(len(sample) * (sample.mean() - whole.mean()) ** 2 for sample in samples)
    within = sum(((sample - sample.mean()) ** 2).sum() for sample in samples)
    omega2 = (between - (k - 1) * within / (n - k)) / (between + within + within / (n - k))
    with np.errstate(all="ignore"):
        anova, kruskal = stats.f_oneway(*samples), stats.kruskal(*samples)
    exact = bool(np.isfinite(anova.statistic))
    return GroupTests(
        people=n,
        f=float(anova.statistic) if exact else None,  # infinite where nothing varies within the groups
        p=float(anova.pvalue),
        eta2=float(between / (between + within)),
        omega2=float(max(0.0, omega2)),
        h=float(kruskal.statistic),
        p_kruskal=float(kruskal.pvalue),
        epsilon2=float(kruskal.statistic / (n - 1)),
    )


def wilcoxon(differences: NDArray[np.floating]) -> float:
    """p of Wilcoxon's signed-rank test, two-sided; 1 where nothing differs. One value per person."""
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number.

    Source: Holm 1979: the i-th smallest of m is multiplied by m - i + 1, and none falls below a smaller one's.

    Args:
        values: Not corrected; None takes no part.
    """
    order = sorted((p, index) for index, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    highest = 0.0
    for place, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - place)))
        found[index] = highest
    return found


def stars(p: float | None) -> str:
    """As under paper 1's Figure 2, N.S. from 0.05 on; nothing where there is no p.

    Departs: **** begins below 0.0001; the paper prints 0.001 for both *** and ****.
    """
    if p is None:
        return ""
    return next((mark for limit, mark in STARS if p < limit), NOT_SIGNIFICANT)


def box(sample: NDArray[np.floating]) -> tuple[float, float, float, float, float]:
    """10, 25, 50, 75 and 90 percentiles for a box plot, none of them one person's value.

    Harrell and Davis' quantiles are weighted means of all values. Ordinary ones are, or lie beside, the values of
    single people, and these stand in metrics.csv beside their cases: a box would tell in which group a person is.

    Args:
        sample: One value per person.
    """
    quantiles = stats.mstats.hdquantiles(sample, (0.1, 0.25, 0.5, 0.75, 0.9))
    lowest, lower, middle, upper, highest = (float(q) for q in quantiles)
    return lowest, lower, middle, upper, highest
