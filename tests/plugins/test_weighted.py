"""Tests of nnkd_basic.weighted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnkd_basic.aggregators import Majority, Mean
from nnkd_basic.weighted import Weighted

from nnkd.errors import SettingError, UnknownNameError
from nnkd.plugin.options import parse_options
from nnkd.plugin.registry import installed
from nnkd.votes import bits
from nnkd.votes.agreement import dsc_with_consensus

TEACHERS, LABELS = ["atlas", "sat", "mine"], ["liver", "spleen"]


def case(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    answers = rng.random((k, 2)) < 0.8
    return bits.clear_abstentions(rng.integers(0, 50, (2, 1 << k)), answers), answers


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(0.1, 5))
def test_equal_weights_are_the_mean(k, seed, weight):
    counts, answers = case(k, seed)
    names = [f"t{i}" for i in range(k)]
    expected = bits.fit(Mean(), counts, answers)
    given = Weighted(weights=dict.fromkeys(names, weight)).for_teachers(names, LABELS)
    for rule in (given, Weighted(sharpness=0)):
        np.testing.assert_allclose(bits.fit(rule, counts, answers), expected, atol=1e-6)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(0, 9))
def test_probabilities_grow_with_each_yes_and_reach_from_none_to_all(k, seed, sharpness):
    counts, answers = case(k, seed)
    table = bits.fit(Weighted(sharpness=sharpness), counts, answers)
    patterns = np.arange(1 << k)
    for label in np.flatnonzero(answers.any(axis=0)):
        np.testing.assert_allclose(table[label, [0, -1]], [0, 1], atol=1e-6)
        for teacher in range(k):
            without = patterns[(patterns >> teacher) & 1 == 0]
            assert (table[label, without | (1 << teacher)] >= table[label, without]).all()


def test_weights_are_the_dsc_with_the_majority_to_a_power():
    counts = np.array([[1000, 10, 0, 60, 5, 0, 0, 80]])  # 0 and 1 agree; 2 misses some and adds some
    answers = np.ones((3, 1), dtype=bool)
    majority = counts * (Majority().table(counts, answers) > 0.5)
    dsc = dsc_with_consensus(counts, answers, majority)[:, 0]
    found = Weighted(sharpness=3).estimates(counts, answers)["weight"][:, 0]
    np.testing.assert_allclose(found, dsc**3 / (dsc**3).sum())
    assert found[2] < found[0] < found[1]
    table = Weighted(sharpness=3).table(counts, answers)[0]
    np.testing.assert_allclose(table[[1, 2, 4]], found, atol=1e-6)


def test_who_found_nothing_like_the_majority_weighs_in_full():
    counts = np.zeros((1, 8), dtype=np.int64)
    counts[0, [0, 1]] = 100, 7  # a lone yes: the majority is empty
    answers = np.ones((3, 1), dtype=bool)
    assert Weighted().table(counts, answers)[0, 1] == 0
    counts[0, [0, 1, 2, 4]] = 100, 7, 7, 7  # each found something else: all weigh the same
    np.testing.assert_allclose(Weighted().table(counts, answers)[0, [1, 2, 4]], 1 / 3, atol=1e-6)


def test_given_weights_by_teacher_and_label():
    rule = Weighted(weights={"atlas": 0.5, "sat": {"liver": 2}}).for_teachers(TEACHERS, LABELS)
    counts, answers = np.ones((2, 8), dtype=np.int64), np.ones((3, 2), dtype=bool)
    table = bits.fit(rule, counts, answers)
    np.testing.assert_allclose(table[0, [1, 2, 4]], np.array([0.5, 2, 1]) / 3.5, atol=1e-6)
    np.testing.assert_allclose(table[1, [1, 2, 4]], np.array([0.5, 1, 1]) / 2.5, atol=1e-6)
    answers[1, 0] = False  # sat does not answer for the liver
    np.testing.assert_allclose(bits.fit(rule, counts, answers)[0, [1, 4]], np.array([0.5, 1]) / 1.5, atol=1e-6)


def test_only_teachers_without_weight_answer():
    rule = Weighted(weights={"atlas": 0}).for_teachers(TEACHERS, LABELS)
    answers = np.array([[True, True], [False, True], [False, True]])
    table = bits.fit(rule, np.ones((2, 8), dtype=np.int64), answers)
    assert (table[0] == 0).all()
    assert table[1, 1] == 0
    assert table[1, 2] == 0.5


def test_wrong_names_are_answered_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"teacher 'sam', but those that vote are atlas, sat, mine"):
        Weighted(weights={"sam": 1}).for_teachers(TEACHERS, LABELS)
    with pytest.raises(UnknownNameError, match=r"label 'lung' for sat, but the dataset has liver, spleen"):
        Weighted(weights={"sat": {"lung": 1}}).for_teachers(TEACHERS, LABELS)
    with pytest.raises(SettingError, match=r"every teacher the weight 0 for spleen"):
        Weighted(weights={t: {"spleen": 0} for t in TEACHERS}).for_teachers(TEACHERS, LABELS)
    with pytest.raises(SettingError, match=r"goes by name, so call for_teachers"):
        Weighted(weights={"sat": 1}).table(np.ones((2, 8), dtype=np.int64), np.ones((3, 2), dtype=bool))


@pytest.mark.parametrize(
    "options", [{"weights": {"a": -1.0}}, {"weights": {"a": {"b": float("nan")}}}, {"sharpness": -1}]
)
def test_weights_are_numbers_from_zero(options):
    with pytest.raises(SettingError, match="0 or more is expected"):
        Weighted(**options)


def test_options_come_as_json():
    weighted = installed().load("aggregator", "weighted")
    text = '{"atlas": 0.5, "sat": {"liver": 2}}'
    assert parse_options(weighted, {"weights": text}, "weighted") == {
        "weights": {"atlas": 0.5, "sat": {"liver": 2}},
        "sharpness": 1.0,
    }
    for wrong in ("atlas=1", '{"atlas": "much"}'):
        with pytest.raises(SettingError, match=r"weighted\.weights"):
            parse_options(weighted, {"weights": wrong}, "weighted")
