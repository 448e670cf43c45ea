"""What paper 3's bandit is compared with: FLAD's two, gradient magnitudes, all datasets, none, a random one."""

from __future__ import annotations

import json
from math import exp, inf, log, nan, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_ucb import nnkd_register_auxiliary_schedulers
from nnkd_ucb.flad import Dal
from nnkd_ucb.rivals import Gms, Mtl, Random, TargetOnly, magnitude_similarity

from nnkd.errors import RecipeError, SettingError
from nnkd.plugin.registry import load_class
from nnkd.plugin.validation import Candidate, check

ARMS = ("a", "b", "c")
CHOOSING = [Dal, lambda arms: Dal(arms, algorithm="ucb1", beta=0.7), Gms, Random]


def turn(scheduler, cosines, loss=0.5) -> str:
    for place, name in enumerate(scheduler.unscored(), 1):
        scheduler.score(name, loss, cosines[name], float(place), 2.0)
    name = scheduler.select()
    scheduler.update(name, loss, cosines[name])
    return name


def test_ucb1_is_the_cosine_plus_a_bonus():
    scheduler = Dal(ARMS, algorithm="ucb1", beta=0.5)
    assert scheduler.unscored() == ARMS
    assert turn(scheduler, {"a": 0.1, "b": 0.6, "c": 0.3}) == "b"
    assert scheduler.trace()["bounds"] == pytest.approx({"a": 0.1, "b": 0.6, "c": 0.3})  # ln 1 = 0
    turn(scheduler, {"a": 0.1, "b": 0.2, "c": 0.3})
    found, many = scheduler.trace(), 2 * log(2)
    assert found["bounds"] == pytest.approx({"a": 0.1 + sqrt(many), "b": 0.6 + sqrt(many / 2), "c": 0.3 + sqrt(many)})
    assert (found["dataset"], found["reward"]) == ("b" if 0.6 + sqrt(many / 2) > 0.3 + sqrt(many) else "c", 0.3)


def test_exp3_draws_by_rewards_divided_by_their_chance():
    scheduler = Dal(ARMS, seed=3)
    assert scheduler.unscored() == ()
    chosen = turn(scheduler, dict.fromkeys(ARMS, 0.6))
    assert scheduler.trace()["probabilities"] == pytest.approx(dict.fromkeys(ARMS, 1 / 3))
    rate, total = min(1 / 3, sqrt(log(3) / 6)), 0.6 * 3
    before = min(1 / 3, sqrt(log(3) / 3))
    expected = (1 - 3 * rate) * exp(before * total) / (2 + exp(before * total)) + rate
    assert scheduler.probabilities()[chosen] == pytest.approx(expected)
    assert sum(scheduler.probabilities().values()) == pytest.approx(1)


def test_exp3_comes_to_prefer_the_aligned_arm():
    scheduler = Dal(ARMS)
    for _ in range(600):
        turn(scheduler, {"a": 0.0, "b": 0.9, "c": -0.5})
    assert scheduler.counts["b"] > 400
    assert min(scheduler.counts.values()) > 5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=4), st.integers(0, 99))
def test_exp3s_chances_are_chances(cosines, seed):
    arms = [f"arm {i}" for i in range(len(cosines))]
    scheduler = Dal(arms, seed=seed)
    for _ in range(40):
        turn(scheduler, dict(zip(arms, cosines, strict=True)))
        chances = scheduler.trace()["probabilities"]
        assert sum(chances.values()) == pytest.approx(1)
        assert min(chances.values()) >= 0


def test_the_most_similar_length_is_chosen_once_and_for_all():
    scheduler = Gms(ARMS)
    for name, norm in zip(ARMS, (0.5, 3.0, nan), strict=True):
        scheduler.score(name, 1.0, 0.9, norm, 2.0)
    assert scheduler.unscored() == ()
    assert [turn(scheduler, dict.fromkeys(ARMS, -1.0)) for _ in range(4)] == ["b"] * 4
    assert scheduler.trace()["estimates"] == pytest.approx({"a": 2 / 4.25, "b": 12 / 13, "c": 0})


@pytest.mark.parametrize(
    ("pair", "expected"),
    [((2.0, 2.0), 1), ((1.0, 3.0), 0.6), ((0.0, 0.0), 0), ((0.0, 2.0), 0), ((1e-300, 1e-300), 1), ((1e-200, 1e200), 0)],
)
def test_magnitude_similarity(pair, expected):
    assert magnitude_similarity(*pair) == magnitude_similarity(*pair[::-1]) == pytest.approx(expected)


def test_random_is_uniform_and_the_seed_decides():
    first, other = Random(ARMS, seed=1), Random(ARMS, seed=2)
    names = [[turn(scheduler, dict.fromkeys(ARMS, 0.1)) for _ in range(600)] for scheduler in (first, other)]
    assert names[0] != names[1]
    assert all(160 < scheduler.counts[name] < 240 for scheduler in (first, other) for name in ARMS)


def test_some_are_never_asked():
    assert (TargetOnly(()).trains_on, Mtl(ARMS).trains_on) == ("none", "all")
    for scheduler in (TargetOnly(ARMS), Mtl(ARMS)):
        assert (scheduler.unscored(), scheduler.trace()) == ((), {})
        with pytest.raises(RecipeError, match="selects none"):
            scheduler.select()
        scheduler.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
        with pytest.raises(RecipeError, match="lacks"):
            scheduler.load_state_dict({**scheduler.state_dict(), "datasets": ["a", "b"]})
    with pytest.raises(RecipeError, match="expects at least one"):
        Mtl(())


@pytest.mark.parametrize("make", CHOOSING)
@settings(max_examples=15, deadline=None)
@given(stop=st.integers(0, 20), data=st.data())
def test_resumed_anywhere_they_go_on_as_if_nothing_had_been(make, stop, data):
    cosines = data.draw(
        st.lists(st.fixed_dictionaries(dict.fromkeys(ARMS, st.floats(-1, 1))), min_size=21, max_size=21)
    )
    whole, second = make(ARMS), make(ARMS)
    for now in cosines[:stop]:
        turn(whole, now)
    second.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for now in cosines[stop:]:
        assert turn(whole, now) == turn(second, now)
        assert whole.trace() == second.trace()
    assert sum(whole.counts.values()) == 21


@pytest.mark.parametrize("make", CHOOSING)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_numbers_that_are_not_finite_do_no_harm(make, bad):
    scheduler = make(ARMS)
    for name in scheduler.unscored():
        scheduler.score(name, bad, bad, bad, bad)
    for _ in range(3):
        scheduler.update(scheduler.select(), bad, bad)
        json.dumps(scheduler.trace(), allow_nan=False)
    assert make(("a",)).select() == "a"


@pytest.mark.parametrize("option", [{"algorithm": "exp4"}, {"beta": 0.0}, {"beta": nan}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(SettingError, match=f"The option {next(iter(option))} got"):
        Dal(ARMS, **option)


@pytest.mark.parametrize("entry", nnkd_register_auxiliary_schedulers(), ids=lambda entry: entry.name)
def test_every_entry_passes_the_check_for_authors(entry):
    candidate = Candidate("auxiliary_scheduler", entry, load_class("auxiliary_scheduler", entry))
    assert {c.what: c.detail for c in check(candidate) if c.outcome != "ok"} == {}
