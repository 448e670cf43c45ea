"""nnkd_fairness.plan: the largest number of balanced batches, against trying everything."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_fairness import plan
from nnkd_fairness.plan import Rule, largest_plan, nearest_sizes, possible

PAPERS = (2, 4, 3)
TOLERANCES = (1.0, 1.1, 1.1)


def all_strata(groups):
    return np.array(list(itertools.product(*map(range, groups))))


@st.composite
def small_cohorts(draw: st.DrawFn) -> tuple[Rule, np.ndarray]:
    groups = draw(st.sampled_from([(2,), (3,), (2, 2), (2, 3), (2, 2, 2)]))
    tolerances = tuple(draw(st.sampled_from([1.0, 1.1, 1.5, 2.0])) for _ in groups)
    sizes = [size for size in range(1, 7) if possible(size, groups, tolerances)]
    strata = all_strata(groups)
    kept = draw(st.lists(st.booleans(), min_size=len(strata), max_size=len(strata)))
    for attribute, number in enumerate(groups):  # a group that nobody is in is no group
        for group in range(number):
            if not any(k and row[attribute] == group for k, row in zip(kept, strata, strict=True)):
                kept[int(np.flatnonzero(strata[:, attribute] == group)[0])] = True
    strata = strata[kept]
    available = draw(st.lists(st.integers(1, 3), min_size=len(strata), max_size=len(strata)))
    return Rule(draw(st.sampled_from(sizes)), strata, tolerances), np.array(available)


def most_by_trying(rule: Rule, available: np.ndarray) -> int:
    ranges = (range(min(n, rule.size) + 1) for n in available)
    kinds = [np.array(k) for k in itertools.product(*ranges) if sum(k) == rule.size and rule.holds(np.array(k))]

    @lru_cache(None)
    def most(left: tuple[int, ...], first: int) -> int:
        some = np.array(left)
        fitting = (i for i in range(first, len(kinds)) if (kinds[i] <= some).all())
        return max((1 + most(tuple(some - kinds[i]), i) for i in fitting), default=0)

    return most(tuple(available), 0)


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(small_cohorts())
def test_the_number_of_batches_is_the_largest(cohort):
    rule, available = cohort
    found = largest_plan(rule, available)
    assert found.number == most_by_trying(rule, available)
    assert found.proven
    assert all(rule.holds(counts) for _, counts in found.batches)
    assert found.number == 0 or (found.draws <= available).all()


def test_a_balanced_sum_that_is_no_sum_of_balanced_batches():
    rule = Rule(2, np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]), (1.0, 1.0, 1.0))
    found = largest_plan(rule, np.ones(4, int))
    assert (found.number, found.bound, found.proven) == (0, 2, True)


def test_without_the_proof_the_plan_says_so(monkeypatch):
    monkeypatch.setattr(plan, "VARIABLES", 0)
    rule = Rule(2, np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]), (1.0, 1.0, 1.0))
    assert not largest_plan(rule, np.ones(4, int)).proven


@pytest.mark.parametrize("most", [0, 1, 2, 3, 617, 998, 999, 1000])
@pytest.mark.parametrize("certain", [False, True])
def test_few_numbers_are_tried(most, certain, monkeypatch):
    """Where only few batches can be found, numbers are not tried one by one from the bound."""
    rule, tried = Rule(2, np.array([[0], [1]]), (1.0,)), []

    def found(_rule, _available, _drawn, number):
        tried.append(number)
        return ([(number, np.ones(2, int))], True) if number <= most else (None, certain)

    monkeypatch.setattr(plan, "_plan_of", found)
    best = largest_plan(rule, np.full(2, 1000))
    assert (best.number, best.bound) == (most, 1000)
    assert best.proven == (certain or most == 1000)
    assert len(tried) == len(set(tried)) <= 22


def test_many_batches_are_planned_kind_by_kind():
    rng = np.random.default_rng(0)
    rule = Rule(24, all_strata(PAPERS), TOLERANCES)
    available = rng.integers(20_000, 60_000, 24)
    found = largest_plan(rule, available)
    assert found.number == found.bound
    assert found.number > 20_000
    assert len(found.batches) < 60
    assert all(rule.holds(counts) for _, counts in found.batches)
    assert (found.draws <= available).all()


def test_strata_that_were_drawn_most_come_last():
    rule = Rule(2, np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (1.0, 9.0))
    drawn = np.array([5, 0, 0, 5])
    # all four strata could make the two batches alone; the second attribute is free within a batch
    assert largest_plan(Rule(2, rule.strata, (1.0, 1.0)), np.ones(4, int), drawn).number == 2
    single = largest_plan(Rule(4, rule.strata[[0, 1, 2, 3]], (1.0, 3.0)), np.array([3, 3, 3, 3]), drawn)
    assert single.draws[[1, 2]].sum() >= single.draws[[0, 3]].sum()


@pytest.mark.parametrize("size", range(2, 49, 2))
def test_papers_batch_sizes(size):
    listed = {12, 24, 32, 36, 40, 42, 44, 48}  # by trying all counts of all groups
    assert possible(size, PAPERS, TOLERANCES) == (size in listed or _possible_by_trying(size))
    assert possible(size, PAPERS, TOLERANCES) == _possible_by_trying(size)


def _possible_by_trying(size: int) -> bool:
    def some(number, tolerance):
        low = range(1, size // number + 1)
        return any(
            any(
                sum(m) == size
                for m in itertools.combinations_with_replacement(range(n, int(n * tolerance + 1e-9) + 1), number)
            )
            for n in low
        )

    return all(some(n, t) for n, t in zip(PAPERS, TOLERANCES, strict=True))


def test_the_nearest_sizes_that_work():
    assert nearest_sizes(8, PAPERS, TOLERANCES) == [12]
    assert nearest_sizes(16, PAPERS, TOLERANCES) == [12, 24]
    assert nearest_sizes(23, (2, 5, 7), (1.0, 1.0, 1.0)) == [70]
