"""Tests of nnkd_basic.staple: SimpleITK's answers, and what must hold for any votes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nnkd_basic.staple import Staple, fit_binary, posterior

from nnkd.errors import SettingError
from nnkd.plugin.options import parse_options
from nnkd.plugin.registry import installed
from nnkd.votes import bits as votes
from nnkd.votes.agreement import pattern_bits


@pytest.fixture(autouse=True)
def no_warning():
    """Divisions by nothing are foreseen, not silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def ball(shape=(6, 30, 32)) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (grid**2).sum(0) < 0.5


def masks(k: int, rng: np.random.Generator) -> np.ndarray:
    """(K, *S) bool: a ball that each teacher gets wrong in its own way."""
    truth = ball()
    return np.stack(
        [
            np.where(truth, rng.random(truth.shape) > rng.uniform(0.02, 0.5), rng.random(truth.shape) < wrong)
            for wrong in rng.uniform(0.0001, 0.1, k)
        ]
    )


def case_of(said: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, *S) bool -> patterns (*S), counts (1, 2**K) and answers (K, 1)."""
    packed = votes.pack_label(list(said.astype(np.uint8)), (1,))
    return packed, votes.count_patterns(packed[None], len(said)), np.ones((len(said), 1), dtype=bool)


def random_case(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of teachers that are mostly right, as organs are: far more background than foreground."""
    rng = np.random.default_rng(seed)
    truth = rng.random(4000) < rng.uniform(0.02, 0.4)
    said = truth[None] ^ (rng.random((k, 4000)) < rng.uniform(0.01, 0.2, (k, 1)))
    return case_of(said)[1:]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_it_is_simpleitks(seed, weight):
    rng = np.random.default_rng(seed)
    said = masks(int(rng.integers(2, 9)), rng)
    reference = sitk.STAPLEImageFilter()
    reference.SetConfidenceWeight(weight)
    expected = sitk.GetArrayFromImage(reference.Execute([sitk.GetImageFromArray(m.astype(np.uint8)) for m in said]))
    packed, counts, answers = case_of(said)
    rule = Staple(confidence_weight=weight)
    probability = votes.fit(rule, counts, answers)[0][packed]
    found = rule.estimates(counts, answers)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    np.testing.assert_array_equal(probability > 0.5, expected > 0.5)
    np.testing.assert_allclose(found["sensitivity"][:, 0], reference.GetSensitivity(), atol=1e-5)
    np.testing.assert_allclose(found["specificity"][:, 0], reference.GetSpecificity(), atol=1e-5)


def test_the_first_step_and_the_prior_by_hand():
    # Two teachers, 10 voxels: both yes in 2, only the first in 2, none in 6. The mean vote starts as 1, 1/2, 0.
    bits, counts = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), np.array([6.0, 2.0, 2.0])
    fitted = fit_binary(bits, counts, 0.5)
    assert fitted.prior == pytest.approx(0.5 * (4 / 10 + 2 / 10) / 2)
    # what it ends at satisfies its own equations
    foreground = posterior(bits, fitted)
    np.testing.assert_allclose(
        fitted.sensitivity, bits @ (counts * foreground) / (counts * foreground).sum(), atol=1e-5
    )
    background = counts * (1 - foreground)
    np.testing.assert_allclose(fitted.specificity, (1 - bits) @ background / background.sum(), atol=1e-5)


@pytest.mark.parametrize("region", ["volume", "voted"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_nobody_everybody_and_one(region, k):
    rule, answers = Staple(region=region), np.ones((k, 1), dtype=bool)
    counts = np.zeros((1, 1 << k), dtype=np.int64)
    for pattern, number in ((0, 0), (0, 50), (-1, 50)):
        counts[:] = 0
        counts[0, pattern] = number
        table = rule.table(counts, answers)[0]
        assert np.isfinite(table).all()
        if number:
            assert table[pattern] == (pattern == -1)
    counts[0, 0] = counts[0, -1] = 50  # all agree, and are right
    assert rule.table(counts, answers)[0, [0, -1]].tolist() == [0, 1]
    assert (rule.estimates(counts, answers)["sensitivity"] == 1).all()


def test_sixteen_teachers_and_a_voxel_against_all_odds():
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < 0.01
    said = np.repeat(truth[None], 16, axis=0)
    said[:, :3] = np.array([1] * 8 + [0] * 8)[:, None]  # half of sixteen perfect teachers are wrong together
    packed, counts, answers = case_of(said[:, None, None])
    table = votes.fit(Staple(), counts, answers)
    assert np.isfinite(table).all()
    np.testing.assert_array_equal(table[0][packed[0, 0]][3:] > 0.5, truth[3:])


def test_teachers_that_abstain_are_left_out():
    said = masks(4, np.random.default_rng(3))
    _, few, answers = case_of(said[[0, 2, 3]])
    _, many, _ = case_of(said)
    silent = np.array([[True], [False], [True], [True]])
    table = votes.fit(Staple(), many, silent)
    np.testing.assert_allclose(votes.expand(votes.fit(Staple(), few, answers), [0, 2, 3], 4), table, atol=1e-6)
    found = Staple().estimates(votes.clear_abstentions(many, silent), silent)
    assert np.isnan(found["sensitivity"][1]).all()
    assert (votes.fit(Staple(), many, ~silent & False) == votes.NO_VOTE).all()


@pytest.mark.heavy
@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_the_order_of_teachers_does_not_matter(k, seed):
    counts, answers = random_case(k, seed)
    order = np.random.default_rng(seed).permutation(k)
    table, found = Staple().table(counts, answers), Staple().estimates(counts, answers)
    turned = votes.merge(counts, order)
    np.testing.assert_allclose(votes.expand(Staple().table(turned, answers), order, k), table, atol=2e-5)
    for name, values in Staple().estimates(turned, answers).items():
        np.testing.assert_allclose(values, found[name][order], atol=2e-5)


@pytest.mark.heavy
@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.sampled_from(["volume", "voted"]))
def test_another_yes_of_a_good_teacher_never_makes_it_less_likely(k, seed, region):
    counts, answers = random_case(k, seed)
    rule = Staple(region=region)
    table = rule.table(counts, answers)[0]
    found = rule.estimates(counts, answers)
    patterns = np.arange(1 << k)
    for teacher in range(k):
        if found["sensitivity"][teacher, 0] + found["specificity"][teacher, 0] > 1:
            without = patterns[(patterns >> teacher) & 1 == 0]
            assert (table[without | (1 << teacher)] >= table[without] - 1e-6).all()


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_unanimous_teachers_stay_what_they_are_however_many(k, seed):
    yes = int(np.random.default_rng(seed).integers(1, 900))
    counts = np.zeros((1, 1 << k), dtype=np.int64)
    counts[0, 0], counts[0, -1] = 1000 - yes, yes
    np.testing.assert_allclose(Staple().table(counts, np.ones((k, 1), dtype=bool))[0, [0, -1]], [0, 1], atol=1e-6)


@pytest.mark.heavy
@settings(max_examples=20)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_a_region_of_voted_voxels_is_the_volume_without_the_others(k, seed):
    counts, answers = random_case(k, seed)
    assume(counts[0, 1:].sum())
    cropped = counts.copy()
    cropped[:, 0] = 0
    table = Staple(region="voted").table(counts, answers)
    np.testing.assert_array_equal(table[:, 1:], Staple().table(cropped, answers)[:, 1:])
    assert table[0, 0] == 0
    counts[0, 0] += 10**7  # more background changes nothing
    np.testing.assert_array_equal(Staple(region="voted").table(counts, answers), table)


def test_labels_are_fitted_one_by_one():
    one, answers = random_case(3, 1)
    other, _ = random_case(3, 2)
    both = Staple().table(np.concatenate([one, other]), np.concatenate([answers, answers], axis=1))
    np.testing.assert_array_equal(both, np.concatenate([Staple().table(c, answers) for c in (one, other)]))


def test_all_patterns_have_a_value_also_those_that_do_not_occur():
    counts = np.zeros((1, 8), dtype=np.int64)
    counts[0, [0, 7]] = 90, 10
    table = Staple().table(counts, np.ones((3, 1), dtype=bool))
    assert ((table >= 0) & (table <= 1)).all()
    assert pattern_bits(3).shape[1] == table.shape[1]


def test_its_options():
    staple = installed().load("aggregator", "staple")
    assert parse_options(staple, {"region": "voted"}, "staple") == {"region": "voted", "confidence_weight": 1.0}
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(SettingError, match=r"more than 0 and at most 1"):
            Staple(confidence_weight=wrong)
