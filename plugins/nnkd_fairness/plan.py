"""How many balanced batches a cohort holds, and which: a small integer programme over the joint strata.

A batch is a vector of counts, one for each stratum that has participants. It is balanced if, for each attribute, the
most represented group has at most `tolerance` times as many as the least represented one. These conditions are linear,
so the largest number of batches is bounded by one programme over their sum alone. But not every such sum is a sum of
balanced batches: with two sexes, ages and BMI groups and batches of two, one participant each in the strata 001, 010,
100 and 111 is none. Therefore batches are split off one kind after another, each as often as possible, such that the
bound for the rest stays where it has to be. Where that fails, a programme with variables for each single batch decides,
if it is small enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, gcd

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

EPS = 1e-9  # ratios are compared as floats: 11 is at most 1.1 times 10
SEGMENTS = 4  # pieces of the convex cost that spreads draws within a stratum
VARIABLES = 1500  # of the programme with each single batch
NODES = 20000  # of a branch-and-bound tree; a limit in seconds would let processes disagree


@dataclass(frozen=True)
class Rule:
    """When a batch is balanced.

    Attributes:
        size: Participants in a batch.
        strata: (C, A) int, the group of each stratum by attribute; groups count from 0, all occur.
        tolerances: (A,) largest allowed ratio of the most to the least represented group, at least 1.
    """

    size: int
    strata: NDArray[np.integer]
    tolerances: tuple[float, ...]

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Number of groups, by attribute."""
        return tuple(int(n) + 1 for n in self.strata.max(axis=0))

    @cached_property
    def marginals(self) -> tuple[NDArray[np.floating], ...]:
        """By attribute: (G, C) 0 or 1, whether a stratum belongs to a group."""
        return tuple((self.strata[:, a] == np.arange(n)[:, None]).astype(float) for a, n in enumerate(self.groups))

    def holds(self, counts: NDArray[np.integer]) -> bool:
        """Whether counts (C,) are one balanced batch."""
        if counts.min() < 0 or counts.sum() != self.size:
            return False
        sums = [marginal @ counts for marginal in self.marginals]
        return all(m.max() <= t * m.min() + EPS for m, t in zip(sums, self.tolerances, strict=True))

    @cached_property
    def _ratios(self) -> np.ndarray:
        """(R, C), such that balanced counts have products of at most 0: no group above `tolerance` times another."""
        rows = [
            marginal[high] - tolerance * marginal[low]
            for marginal, tolerance in zip(self.marginals, self.tolerances, strict=True)
            for high in range(len(marginal))
            for low in range(len(marginal))
            if high != low
        ]
        return np.array(rows).reshape(-1, len(self.strata))

    @cached_property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(G, C) all marginals, and the least and most that each may be in a batch of whole participants."""
        low, high = [], []
        for number, tolerance in zip(self.groups, self.tolerances, strict=True):
            least, most = _range(self.size, number, tolerance)
            low += [least] * number
            high += [most] * number
        return np.vstack(self.marginals), np.array(low, float), np.array(high, float)

    def constraints(
        self, batches: float | None
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Conditions on the sum of a number of balanced batches: matrix, lower and upper bounds. None: the number is
        one more variable, the last."""
        marginals, low, high = self._ranges
        ratios = self._ratios
        one = np.ones((1, ratios.shape[1]))
        if batches is not None:
            matrix = np.vstack([ratios, one, marginals])
            size = self.size * batches
            lower = np.concatenate([np.full(len(ratios), -np.inf), [size], low * batches])
            return matrix, lower, np.concatenate([np.zeros(len(ratios)), [size], high * batches])
        number = np.concatenate([np.zeros(len(ratios)), [-self.size], -low, -high])[:, None]
        matrix = np.hstack([np.vstack([ratios, one, marginals, marginals]), number])
        zeros, free = np.zeros(len(low)), np.full(len(low), np.inf)
        lower = np.concatenate([np.full(len(ratios), -np.inf), [0], zeros, -free])
        return matrix, lower, np.concatenate([np.zeros(len(ratios)), [0], free, zeros])


@dataclass(frozen=True)
class Plan:
    """The batches of an epoch.

    Attributes:
        batches: How often which counts (C,) int are drawn.
        bound: No plan has more batches. Equal to `number` except where the rest was too large to decide.
        proven: Whether no plan has more than `number`.
    """

    batches: tuple[tuple[int, NDArray[np.integer]], ...]
    bound: int
    proven: bool

    @property
    def number(self) -> int:
        """Batches in an epoch."""
        return sum(times for times, _ in self.batches)

    @property
    def draws(self) -> NDArray[np.integer]:
        """(C,) int, participants drawn in an epoch, by stratum."""
        return np.sum([times * counts for times, counts in self.batches], axis=0)


def possible(size: int, groups: Sequence[int], tolerances: Sequence[float]) -> bool:
    """Whether whole participants can make a balanced batch at all, everybody being available.

    Args:
        size: Participants in a batch.
        groups: Number of groups, by attribute.
        tolerances: By attribute.
    """
    return all(size <= n * floor(t * (size // n) + EPS) for n, t in zip(groups, tolerances, strict=True))


def nearest_sizes(size: int, groups: Sequence[int], tolerances: Sequence[float]) -> list[int]:
    """The next possible batch size below, if there is one, and above."""
    common = 1
    for number in groups:
        common = common * number // gcd(common, number)  # equal groups: always possible
    sizes = (range(size - 1, 0, -1), range(size + 1, size + common + 1))
    found = (next((s for s in some if possible(s, groups, tolerances)), None) for some in sizes)
    return [s for s in found if s is not None]


def _range(size: int, number: int, tolerance: float) -> tuple[int, int]:
    """The least and the most that one group may have in a batch."""
    least = size // number
    while least > 1 and least - 1 + (number - 1) * floor(tolerance * (least - 1) + EPS) >= size:
        least -= 1
    most = ceil(size / number)
    while most + 1 + (number - 1) * ceil((most + 1) / tolerance - EPS) <= size:
        most += 1
    return least, most


def largest_plan(rule: Rule, available: NDArray[np.integer], drawn: NDArray[np.integer] | None = None) -> Plan:
    """As many balanced batches as there are, no participant twice.

    Args:
        rule: When a batch is balanced; its size is possible.
        available: (C,) int, participants by stratum.
        drawn: (C,) int, how many draws each stratum had so far; strata with fewer draws a participant are preferred.
    """
    available = np.asarray(available)
    drawn = np.zeros_like(available) if drawn is None else drawn
    bound = _bound(rule, available)
    most, least = bound + 1, 0  # there is no plan of `most` batches that could be found; there is one of `least`
    best: list[tuple[int, np.ndarray]] = []
    proven = True
    while most - least > 1:  # down by 1, 2, 4 ..., and then halving: a plan less a batch is a plan
        number = (most + least) // 2 if best else max(most - max(bound + 1 - most, 1), 1)
        found, certain = _plan_of(rule, available, drawn, number)
        if found is None:
            most, proven = number, certain
        else:
            best, least = found, number
    return Plan(tuple(best), bound, proven)


def _plan_of(
    rule: Rule, available: np.ndarray, drawn: np.ndarray, number: int
) -> tuple[list[tuple[int, np.ndarray]] | None, bool]:
    """So many batches, or None and whether it is certain that there are none."""
    wanted = _spread(rule, available, drawn, number)
    found = None if wanted is None else _split(rule, wanted, number) or _split(rule, available, number)
    return (found, True) if found is not None else _each(rule, available, number)


def _solve(
    cost: np.ndarray,
    constraints: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    upper: np.ndarray,
    whole: np.ndarray,
    gap: float,
) -> OptimizeResult:
    """scipy's milp with variables from 0 to `upper`."""
    return milp(
        cost,
        integrality=whole,
        bounds=Bounds(np.zeros(len(upper)), upper),
        constraints=[LinearConstraint(sparse.csr_array(matrix), low, high) for matrix, low, high in constraints],
        options={"mip_rel_gap": gap, "node_limit": NODES},
    )


def _bound(rule: Rule, available: np.ndarray) -> int:
    """The largest number of batches by their sum alone."""
    most = int(available.sum()) // rule.size
    upper = np.append(available, most).astype(float)
    cost = np.zeros(len(upper))
    cost[-1] = -1
    found = _solve(cost, [rule.constraints(None)], upper, np.ones(len(upper)), 0.0)
    return most if found.mip_dual_bound is None else min(most, floor(-found.mip_dual_bound + 1e-6))


def _spread(rule: Rule, available: np.ndarray, drawn: np.ndarray, number: int) -> np.ndarray | None:
    """The sum of `number` batches that takes least from participants who were drawn most: strata pay by how often
    their participants have been drawn, each further part of a stratum more than the one before."""
    count = len(available)
    whole = np.concatenate([np.ones(count), np.zeros(count * SEGMENTS)])
    steps = (np.arange(SEGMENTS) + 0.5) / SEGMENTS
    prices = (drawn / available)[:, None] + steps
    cost = np.concatenate([np.zeros(count), prices.ravel()])
    upper = np.concatenate([available, np.repeat(available / SEGMENTS, SEGMENTS)])
    parts = np.hstack([np.eye(count), -np.kron(np.eye(count), np.ones(SEGMENTS))])
    matrix, low, high = rule.constraints(number)
    matrix = np.hstack([matrix, np.zeros((len(matrix), count * SEGMENTS))])
    found = _solve(cost, [(matrix, low, high), (parts, np.zeros(count), np.zeros(count))], upper, whole, 0.01).x
    return None if found is None else np.round(found[:count]).astype(int)


def _split(rule: Rule, available: np.ndarray, number: int) -> list[tuple[int, np.ndarray]] | None:
    """`number` balanced batches out of what is available, kind by kind; None if this way leads nowhere."""
    batches: list[tuple[int, np.ndarray]] = []
    left, times = available.copy(), number
    while number:
        times = min(times, number)
        counts = _kind(rule, left, number, times)
        if counts is not None:
            batches.append((times, counts))
            left, number = left - times * counts, number - times
            times = number
        elif times == 1:
            return None
        else:
            times //= 2
    return batches


def _kind(rule: Rule, available: np.ndarray, number: int, times: int) -> np.ndarray | None:
    """A balanced batch to be drawn so many times, such that the bound for the rest is not below number - times."""
    count = len(available)
    matrix, low, high = rule.constraints(1)
    rest, rest_low, rest_high = rule.constraints(number - times)
    zeros, wide = np.zeros_like(matrix), np.zeros_like(rest)
    both = np.hstack([times * np.eye(count), np.eye(count)])
    constraints = [
        (np.hstack([matrix, zeros]), low, high),
        (np.hstack([wide, rest]), rest_low, rest_high),
        (both, np.full(count, -np.inf), available.astype(float)),
    ]
    upper = np.concatenate([available // times, available]).astype(float)
    found = _solve(np.zeros(2 * count), constraints, upper, np.ones(2 * count), 1.0).x
    counts = None if found is None else np.round(found[:count]).astype(int)
    return counts if counts is not None and rule.holds(counts) else None


def _each(rule: Rule, available: np.ndarray, number: int) -> tuple[list[tuple[int, np.ndarray]] | None, bool]:
    """The same with variables for each single batch, and whether its answer is certain: slow, but its no is a proof."""
    count, size = len(available), number * len(available)
    if size > VARIABLES:
        return None, False
    matrix, low, high = rule.constraints(1)
    constraints = [
        (np.kron(np.eye(number), matrix), np.tile(low, number), np.tile(high, number)),
        (np.tile(np.eye(count), number), np.full(count, -np.inf), available.astype(float)),
    ]
    found = _solve(np.zeros(size), constraints, np.tile(available, number).astype(float), np.ones(size), 1.0)
    if found.x is None:
        return None, found.status == 2  # infeasible; otherwise a limit was reached
    batches = np.round(found.x).astype(int).reshape(number, count)
    return ([(1, counts) for counts in batches], True) if all(rule.holds(b) for b in batches) else (None, False)
