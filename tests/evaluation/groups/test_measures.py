"""Figures of groups: against scipy, hand-made answers and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnkd.evaluation.groups.measures import (
    Figure,
    box,
    counts,
    drawn_means,
    equity_scaled,
    figure,
    gap,
    group_tests,
    holm,
    means,
    person_means,
    spread,
    spread_by_chance,
    stars,
    wilcoxon,
)
from nnkd.evaluation.intervals import Bootstrap

BOOTSTRAP = Bootstrap(500, 0)


def samples(*centres, n=30, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(centre, 0.1, n + 3 * i) for i, centre in enumerate(centres)]


def test_analysis_of_variance_and_its_effect_sizes_by_hand():
    found = group_tests([np.array([1.0, 2, 3]), np.array([2.0, 3, 4]), np.array([5.0, 6, 7])])
    # between 26, within 6, so that F = (26 / 2) / (6 / 6)
    assert found.f == pytest.approx(13)
    assert found.p == pytest.approx(stats.f.sf(13, 2, 6))
    assert found.eta2 == pytest.approx(26 / 32)
    assert found.omega2 == pytest.approx((26 - 2 * 1) / (32 + 1))
    assert found.people == 9


def test_both_tests_are_scipys():
    groups = samples(0.8, 0.85, 0.9)
    found = group_tests(groups)
    anova, kruskal = stats.f_oneway(*groups), stats.kruskal(*groups)
    assert (found.f, found.p) == pytest.approx((anova.statistic, anova.pvalue))
    assert (found.h, found.p_kruskal) == pytest.approx((kruskal.statistic, kruskal.pvalue))
    n = sum(len(group) for group in groups)
    assert found.epsilon2 == pytest.approx(kruskal.statistic * (n + 1) / (n**2 - 1))


def test_equal_values_have_no_test_and_no_warning(recwarn):
    found = group_tests([np.ones(5), np.ones(6)])
    assert (found.people, found.f, found.p, found.p_kruskal, found.eta2) == (11, None, None, None, None)
    apart = group_tests([np.zeros(5), np.ones(6)])
    assert (apart.f, apart.p, apart.eta2) == (None, 0.0, 1.0)
    assert not recwarn.list


def test_no_effect_is_not_below_zero():
    assert group_tests([np.array([1.0, 2, 3]), np.array([1.0, 2, 3])]).omega2 == 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12))
def test_holms_properties(values):
    found = holm(values)
    pairs = sorted((p, q) for p, q in zip(values, found, strict=True) if p is not None)
    assert [q is None for q in found] == [p is None for p in values]
    assert all(p <= q <= min(1.0, len(pairs) * p + 1e-12) for p, q in pairs if p > 0)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)


@pytest.mark.parametrize(
    ("p", "mark"),
    [(0.05, "N.S."), (0.049, "*"), (0.01, "*"), (0.009, "**"), (0.0009, "***"), (0.00009, "****"), (None, "")],
)
def test_stars_of_figure_2(p, mark):
    assert stars(p) == mark


def test_table_3_gap_and_equity_by_hand():
    centre, numbers = np.array([0.9, 0.8]), np.array([30, 10])
    assert spread(centre) == pytest.approx(0.05)
    assert gap(centre) == pytest.approx(0.1)
    assert equity_scaled(centre, numbers) == pytest.approx(0.875 / (1 + 0.025 + 0.075))
    assert equity_scaled(np.array([0.8, 0.8]), numbers) == pytest.approx(0.8)


def test_spread_by_chance_is_what_equal_groups_scatter_by():
    rng = np.random.default_rng(0)
    sizes, squares, said = (20, 40, 80), [], []
    for _ in range(800):
        groups = [rng.normal(0.8, 0.1, n) for n in sizes]
        squares.append(spread(np.array([g.mean() for g in groups])) ** 2)
        said.append(spread_by_chance(groups) ** 2)
    assert np.mean(said) == pytest.approx(np.mean(squares), rel=0.1)
    assert spread_by_chance([np.ones(1), np.ones(5)]) is None


def test_a_person_counts_once():
    values = {"a1": 0.2, "a2": 0.4, "b": 0.9}
    found = person_means(values, {"a1": "A", "a2": "A", "b": "B", "c": "C"}, ["A", "B", "C"])
    assert found[:2] == pytest.approx([0.3, 0.9])
    assert np.isnan(found[2])


def test_the_interval_is_the_textbooks():
    [sample] = samples(0.8, n=60)
    drawn = drawn_means(sample[:, None], [np.arange(60)], Bootstrap(4000, 1))[:, 0, 0]
    found = figure(sample.mean(), drawn)
    half = 1.96 * sample.std() / np.sqrt(60)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_the_same_people_are_drawn_for_all_columns_and_calls():
    first = np.concatenate(samples(0.7, 0.9))
    values = np.stack([first, first - 0.01], axis=1)
    groups = [np.arange(30), np.arange(30, 63)]
    drawn = drawn_means(values, groups, BOOTSTRAP)
    assert drawn.shape == (500, 2, 2)
    assert np.ptp(drawn[..., 0] - drawn[..., 1]) < 1e-12
    assert drawn_means(values[:, :1], groups, BOOTSTRAP) == pytest.approx(drawn[..., :1])


def test_many_people_are_drawn_in_parts(monkeypatch):
    values, groups = np.concatenate(samples(0.7, 0.9))[:, None], [np.arange(30), np.arange(30, 63)]
    whole = drawn_means(values, groups, BOOTSTRAP)
    monkeypatch.setattr("nnkd.evaluation.groups.measures.ELEMENTS", 700)
    assert drawn_means(values, groups, BOOTSTRAP) == pytest.approx(whole)


def test_people_without_the_label_are_not_counted():
    values = np.array([[0.2, np.nan], [0.4, 0.6], [0.9, np.nan]])
    groups = [np.array([0, 1]), np.array([2])]
    assert counts(values, groups).tolist() == [[2, 1], [1, 0]]
    assert means(values, groups)[:, 0] == pytest.approx([0.3, 0.9])
    assert np.isnan(means(values, groups)[1, 1])
    drawn = drawn_means(values, groups, BOOTSTRAP)[:, 0, 1]
    assert set(drawn[~np.isnan(drawn)].round(9)) == {0.6}


def test_without_draws_there_is_no_interval():
    assert figure(0.5, np.empty(0)) == Figure(0.5)
    assert drawn_means(np.ones((4, 1)), [np.arange(4)], Bootstrap(0)).shape == (0, 1, 1)


def test_wilcoxon_is_scipys_and_nothing_differs_is_1():
    difference = samples(0.02)[0]
    assert wilcoxon(difference) == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert wilcoxon(np.zeros(7)) == 1.0


@given(st.lists(st.floats(0.1, 1), min_size=5, max_size=30))
def test_a_boxs_marks_rise_within_the_values(values):
    found = np.array(box(np.array(values)))
    assert (np.diff(found) >= -1e-9).all()
    assert min(values) - 1e-9 <= found[0]
    assert found[-1] <= max(values) + 1e-9


@pytest.mark.parametrize("n", [5, 9, 21, 101])
def test_no_mark_of_a_box_is_one_persons_value(n):
    values = np.sort(np.random.default_rng(n).gamma(2, 0.1, n))
    assert np.median(values) in values  # an ordinary box would show it
    found = box(values)
    for person in range(n):
        moved = values.copy()
        moved[person] += 1e-3
        assert box(moved) != found
    assert min(abs(mark - value) for mark in found for value in values) > 1e-6
