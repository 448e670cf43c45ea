"""Tests of nnkd_basic.aggregators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_basic.aggregators import Majority, Mean, RandomTeacher, agreement_weights

from nnkd.plugin.options import parse_options
from nnkd.plugin.registry import installed
from nnkd.votes import bits


def counts_of(patterns: dict[int, int], k: int) -> np.ndarray:
    """(1, 2**k) counts from {pattern: voxels}."""
    counts = np.zeros((1, 1 << k), dtype=np.int64)
    for pattern, number in patterns.items():
        counts[0, pattern] = number
    return counts


@pytest.mark.heavy
@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_mean_and_majority_of_what_numpy_counts(k, seed):
    rng = np.random.default_rng(seed)
    answers = rng.random((k, 2)) < 0.8
    counts = rng.integers(0, 50, (2, 1 << k))
    mean, no, yes = (bits.fit(a, counts, answers) for a in (Mean(), Majority(ties="no"), Majority(ties="yes")))
    by_agreement = bits.fit(Majority(), counts, answers)
    for label in range(2):
        for pattern in range(1 << k):
            said = [(pattern >> teacher) & 1 for teacher in range(k) if answers[teacher, label]]
            expected = np.mean(said) if said else bits.NO_VOTE
            assert mean[label, pattern] == pytest.approx(expected)
            if not said:
                continue
            assert no[label, pattern] == (expected > 0.5)
            assert yes[label, pattern] == (expected >= 0.5)
            assert by_agreement[label, pattern] in ({0.0, 1.0} if expected == 0.5 else {float(expected > 0.5)})


@pytest.mark.parametrize("ties", ["agreement", "no", "yes"])
def test_an_odd_number_of_teachers_has_no_ties(ties):
    table = Majority(ties=ties).table(np.ones((1, 8), dtype=np.int64), np.ones((3, 1), dtype=bool))
    np.testing.assert_array_equal(table, [[0, 0, 0, 1, 0, 1, 1, 1]])


def test_a_tie_goes_to_the_side_that_agrees_more():
    # Teachers 0 and 1 found the same 100 voxels; 2 and 3 each something of their own, 20 of them shared with 0 and 1.
    counts = counts_of({0b0000: 1000, 0b0011: 80, 0b0111: 10, 0b1011: 10, 0b0100: 50, 0b1000: 50}, 4)
    answers = np.ones((4, 1), dtype=bool)
    weights = agreement_weights(counts, answers)[:, 0]
    # by hand: DSC(0,1) = 1; DSC(0,2) = 2 * 10 / 160 = DSC(0,3); DSC(2,3) = 0
    np.testing.assert_allclose(weights, [(1 + 0.25) / 3, (1 + 0.25) / 3, 0.25 / 3, 0.25 / 3])
    table = Majority().table(counts, answers)[0]
    assert table[0b0011] == 1  # the heavier side says yes
    assert table[0b1100] == 0  # the heavier side says no
    assert table[0b0101] == 0  # both sides weigh the same: no
    assert table[0b0111] == 1
    assert table[0b1000] == 0


def test_two_teachers_always_weigh_the_same_so_ties_are_no():
    table = Majority().table(counts_of({0b01: 5, 0b10: 7, 0b11: 90}, 2), np.ones((2, 1), dtype=bool))
    np.testing.assert_array_equal(table, [[0, 0, 0, 1]])


def test_two_failures_do_not_outweigh_two_teachers_that_found_the_organ():
    counts = counts_of({0b0000: 1000, 0b0011: 90, 0b0001: 5, 0b0010: 5}, 4)  # 2 and 3 found nothing
    weights = agreement_weights(counts, np.ones((4, 1), dtype=bool))[:, 0]
    assert weights[2] == weights[3] == 0
    assert Majority().table(counts, np.ones((4, 1), dtype=bool))[0, 0b0011] == 1


def test_abstention_turns_four_into_three():
    answers = np.array([[True], [True], [True], [False]])
    table = bits.fit(Majority(), np.ones((1, 16), dtype=np.int64), answers)[0]
    assert table[0b0011] == table[0b1011] == 1
    assert table[0b0001] == table[0b1001] == 0


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_teachers_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(4)
    counts, answers = rng.integers(0, 99, (3, 16)), rng.random((4, 3)) < 0.9
    table = Majority().table(bits.clear_abstentions(counts, answers), answers)
    turned = Majority().table(bits.merge(bits.clear_abstentions(counts, answers), order), answers[order])
    np.testing.assert_array_equal(bits.expand(turned, order, 4), table)


def test_random_teacher_is_the_mean_on_average():
    counts, answers = np.ones((1, 8), dtype=np.int64), np.ones((3, 1), dtype=bool)
    assert RandomTeacher.draws_teacher
    np.testing.assert_array_equal(RandomTeacher().table(counts, answers), Mean().table(counts, answers))


def test_they_are_installed_with_their_options():
    registry = installed()
    assert {"mean", "majority", "random_teacher"} <= set(registry.names("aggregator"))
    majority = registry.load("aggregator", "majority")
    assert parse_options(majority, {"ties": "no"}, "majority") == {"ties": "no"}
    with pytest.raises(Exception, match=r"majority\.ties"):
        parse_options(majority, {"ties": "maybe"}, "majority")
