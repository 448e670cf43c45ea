"""Paper 3's bandit."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from math import exp, inf, log, nan, sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_ucb.ucb import PRESETS, Ucb

from nnkd.errors import RecipeError, SettingError
from nnkd.plugin.options import options_of, parse_options

ARMS = ("a", "b", "c")
FIRST = {"a": (0.9, 0.2), "b": (0.6, 0.3), "c": (1.3, 0.9)}  # loss, cosine
THEN = (
    {"a": (0.8, 0.25), "b": (0.55, 0.35), "c": (1.1, 0.8)},
    {"a": (0.7, 0.3), "b": (0.5, 0.4), "c": (0.3, 0.95)},
    {"a": (0.6, 0.2), "b": (0.45, 0.45), "c": (0.8, 0.95)},
)


def turn(scheduler, after, before=None) -> str:
    """One whole turn; `before` is what arms to be scored give, `after` what the chosen one does."""
    for name in scheduler.unscored():
        scheduler.score(name, *(before or after)[name], 1.0, 1.0)
    name = scheduler.select()
    scheduler.update(name, *after[name])
    return name


def play(scheduler, turns: Sequence[dict[str, tuple[float, float]]]) -> list[str]:
    return [turn(scheduler, now) for now in turns]


# --- the formulas, against numbers worked out by hand -------------------------------------------------------------


def test_the_first_scores_count_half_and_half_and_the_first_bonus_is_not_zero():
    scheduler = Ucb(ARMS, preset="paper")
    assert scheduler.unscored() == ARMS
    for name in ARMS:
        scheduler.score(name, *FIRST[name], 1.0, 1.0)
    assert scheduler.unscored() == ()
    assert scheduler.estimates() == pytest.approx({"a": -0.35, "b": -0.15, "c": -0.2})
    assert scheduler.bounds() == pytest.approx(
        {name: e + sqrt(2 * log(4)) for name, e in scheduler.estimates().items()}
    )
    assert scheduler.select() == scheduler.select() == "b"


def test_of_equal_bounds_the_first_arm_is_chosen():
    assert play(Ucb(("z", "a", "m"), preset="paper"), [dict.fromkeys("azm", (0.5, 0.5))] * 3) == ["z", "a", "m"]


def test_only_the_chosen_arm_is_heard_under_the_papers_rule():
    scheduler = Ucb(ARMS, preset="paper")
    assert turn(scheduler, THEN[0], FIRST) == "b"
    found = scheduler.trace()
    assert (found["turn"], found["dataset"], found["alpha"]) == (1, "b", 1.0)
    assert found["reward"] == pytest.approx(-0.55)
    assert found["counts"] == {"a": 0, "b": 1, "c": 0}
    assert scheduler.estimates() == pytest.approx({"a": -0.35, "b": 0.1 * -0.15 + 0.9 * -0.55, "c": -0.2})
    assert scheduler.bounds()["b"] == pytest.approx(-0.51 + sqrt(2 * log(5) / 2))
    assert scheduler.bounds()["c"] == pytest.approx(-0.2 + sqrt(2 * log(5)))
    assert scheduler.unscored() == ()


def test_the_arithmetic_of_the_authors_log():
    """Worked out in decimals: bonus 0.1 sqrt(2 ln(t + K) / n), alpha exp(-0.1 (t - 1)), beta 0.9, all arms heard."""
    bounds = (
        ("b", -0.5500000000, 1.0000000000, -0.1834890778, 0.0165109222, -0.0334890778),
        ("b", -0.4143536762, 0.9048374180, -0.5755877422, -0.3831363759, -0.8305877422),
        ("c", -0.4827788179, 0.8187307531, -0.4305518289, -0.3146248361, -0.0746402480),
    )
    scheduler, before = Ucb(ARMS, preset="log"), FIRST
    for expected, after in zip(bounds, THEN, strict=True):
        turn(scheduler, after, before)
        found, before = scheduler.trace(), after
        assert found["dataset"] == expected[0]
        assert (found["reward"], found["alpha"]) == pytest.approx(expected[1:3], rel=0, abs=1e-9)
        assert [found["bounds"][name] for name in ARMS] == pytest.approx(expected[3:], rel=0, abs=1e-9)
    for name in scheduler.unscored():
        scheduler.score(name, *THEN[2][name], 1.0, 1.0)
    assert list(scheduler.estimates().values()) == pytest.approx(
        [-0.4714715098, -0.3005637409, -0.4608951456], rel=0, abs=1e-9
    )


def test_decoupled_mixes_means_with_the_alpha_of_the_turn_to_come():
    scheduler = Ucb(ARMS, preset="decoupled", alpha_decay=0.5, beta=0.9)
    turn(scheduler, THEN[0], FIRST)
    assert scheduler.trace()["estimates"] == pytest.approx({"a": -0.9, "b": -0.6, "c": -1.3})  # alpha 1
    alpha = exp(-0.5)
    assert scheduler.estimates() == pytest.approx(
        {
            "a": -0.9 * alpha + 0.2 * (1 - alpha),
            "b": -0.555 * alpha + 0.345 * (1 - alpha),
            "c": -1.3 * alpha + 0.9 * (1 - alpha),
        }
    )


def test_an_arm_that_was_bad_early_starves_under_the_papers_rule_and_not_when_decoupled():
    """With the published log's constant c = 0.1: the arm with the largest loss has the best cosine."""
    now = {"a": (0.5, 0.5), "b": (0.5, 0.4), "c": (2.0, 0.8)}
    starved, heard = Ucb(ARMS, preset="paper", c=0.1), Ucb(ARMS, preset="decoupled")
    play(starved, [now] * 200)
    play(heard, [now] * 200)
    assert starved.counts["c"] == 0
    assert heard.counts["c"] > 100


def test_presets_have_their_own_beta():
    assert [Ucb(ARMS, preset=preset).beta for preset in ("paper", "log", "decoupled")] == [0.9, 0.9, 0.1]
    assert Ucb(ARMS).beta == 0.1
    assert Ucb(ARMS, beta=0.3).beta == 0.3


def test_losses_are_scaled():
    scheduler = Ucb(("a",), loss_scaling=3.0, preset="paper")
    turn(scheduler, {"a": (0.5, 0.9)})
    assert scheduler.trace()["reward"] == pytest.approx(-1.5)


def test_arms_are_scored_again_but_for_the_one_just_heard():
    scheduler = Ucb(ARMS, preset="log", rescore_every=2)
    turn(scheduler, THEN[0], FIRST)
    assert scheduler.unscored() == ()
    chosen = turn(scheduler, THEN[1])
    due = tuple(name for name in ARMS if name != chosen)
    assert scheduler.unscored() == due
    before = scheduler.estimates()
    scheduler.score(due[0], 0.5, 0.5, 1.0, 1.0)
    assert scheduler.unscored() == due[1:]
    alpha = exp(-0.1)  # still the finished turn's
    assert scheduler.estimates()[due[0]] == pytest.approx(0.1 * before[due[0]] + 0.9 * (0.5 - alpha))
    scheduler.score(due[1], 0.5, 0.5, 1.0, 1.0)
    scheduler.update(scheduler.select(), 0.1, 0.1)
    assert set(scheduler.trace()["scores"]) == set(due)


# --- numbers that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(nan, 0.5), (0.5, nan), (inf, 0.5), (-inf, nan)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_turn_that_overflowed_counts_but_teaches_nothing(preset, bad):
    scheduler = Ucb(ARMS, preset=preset)
    turn(scheduler, THEN[0], FIRST)
    for name in scheduler.unscored():
        scheduler.score(name, *THEN[0][name], 1.0, 1.0)
    chosen = scheduler.select()
    means = json.dumps(scheduler.state_dict()["means"])
    scheduler.update(chosen, *bad)
    assert json.dumps(scheduler.state_dict()["means"]) == means
    assert scheduler.counts[chosen] + 1 == 2 + (chosen == "b")
    assert "reward" not in scheduler.trace()
    json.dumps(scheduler.trace(), allow_nan=False)


def test_an_arm_without_a_finite_score_has_the_lowest_estimate_of_the_others():
    scheduler = Ucb(ARMS, preset="paper")
    for name in ARMS:
        scheduler.score(name, nan if name == "a" else 1.0, {"a": 0.0, "b": 0.1, "c": 0.9}[name], 1.0, 1.0)
    assert scheduler.estimates() == pytest.approx({"a": -0.45, "b": -0.45, "c": -0.05})
    assert scheduler.select() == "c"


def test_cosines_that_rounding_put_outside_are_cut():
    scheduler = Ucb(("a",), preset="paper", alpha_decay=50.0)
    play(scheduler, [{"a": (0.0, 1.002)}] * 2)
    assert scheduler.trace()["cosine"] == 1.0


def test_one_arm_is_chosen_always():
    scheduler = Ucb(("a",), preset="log")
    assert play(scheduler, [{"a": (1.0, -0.5)}] * 5) == ["a"] * 5


# --- bad input ----------------------------------------------------------------------------------------------------


def test_no_arms_and_equal_names_are_refused():
    with pytest.raises(RecipeError, match="expects at least one"):
        Ucb(())
    with pytest.raises(RecipeError, match="'a' is given 2 times"):
        Ucb(("a", "b", "a"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("c", -1.0), ("c", nan), ("beta", 0.0), ("beta", 1.1), ("alpha_decay", -0.1), ("loss_scaling", inf),
     ("rescore_every", -1), ("preset", "best")],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(SettingError, match=f"The option {name} got"):
        Ucb(ARMS, **{name: value})


def test_options_are_read_from_text():
    given = {"preset": "log", "c": "0.5", "rescore_every": "none", "beta": "1"}
    scheduler = Ucb(ARMS, **parse_options(Ucb, given, "ucb"))
    assert (scheduler.c, scheduler.rescore_every, scheduler.beta, scheduler.decoupled) == (0.5, 1, 1.0, False)
    with pytest.raises(SettingError, match="preset"):
        parse_options(Ucb, {"preset": "best"}, "ucb")


def test_the_table_of_options_is_the_codes():
    text = (Path(__file__).parents[2] / "docs" / "few_shot.md").read_text(encoding="utf-8")
    mine = next(part for part in text.split("\n\n") if "| `preset` |" in part)
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", mine, flags=re.MULTILINE))
    assert table == {name: str(option.default).lower() for name, option in options_of(Ucb).items()}


def test_results_and_scores_of_the_wrong_arm_are_refused():
    scheduler = Ucb(ARMS)
    with pytest.raises(RecipeError, match="none was selected"):
        scheduler.update("a", 1.0, 1.0)
    with pytest.raises(RecipeError, match="'z', but of these one was expected: a, b, c"):
        scheduler.score("z", 1.0, 1.0, 1.0, 1.0)
    chosen = scheduler.select()
    with pytest.raises(RecipeError, match=f"'{chosen}' was selected"):
        scheduler.update("z", 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datasets": ["a", "b", "d"]}, "has d, which are not here and lacks c"),
        ({"datasets": ["b", "a", "c"]}, "in another order"),
        ({"rule": "Random"}, "is of Random, but Ucb is expected"),
        ({"counts": {"a": 1}}, "incomplete or broken"),
        ({"means": None}, "incomplete or broken"),
        ({"turn": "many"}, "incomplete or broken"),
    ],
)
def test_a_state_of_others_is_refused_and_changes_nothing(change, said):
    scheduler = Ucb(ARMS)
    play(scheduler, THEN)
    mine = scheduler.state_dict()
    with pytest.raises(RecipeError, match=said):
        scheduler.load_state_dict({**mine, **change})
    assert scheduler.state_dict() == mine


# --- properties ---------------------------------------------------------------------------------------------------

LOSSES, COSINES = st.floats(0, 1), st.floats(-1, 1)
OPTIONS = st.sampled_from(
    [{"preset": "paper"}, {"preset": "log"}, {"preset": "log", "rescore_every": 3}, {"preset": "decoupled"}]
)


@st.composite
def games(draw):
    """Arms, and what each would bring in every turn."""
    arms = tuple(f"arm {i}" for i in range(draw(st.integers(1, 5))))
    observation = st.fixed_dictionaries({name: st.tuples(LOSSES, COSINES) for name in arms})
    number = draw(st.integers(1, 25))
    return arms, draw(st.lists(observation, min_size=number, max_size=number))


@pytest.mark.heavy
@settings(max_examples=40, deadline=None)
@given(games(), OPTIONS)
def test_counts_sum_to_turns_and_estimates_stay_within_what_was_seen(game, options):
    arms, turns = game
    scheduler = Ucb(arms, **options)
    for number, now in enumerate(turns, 1):
        turn(scheduler, now)
        found = scheduler.trace()
        assert sum(found["counts"].values()) == found["turn"] == number
        assert all(-1 - 1e-9 <= estimate <= 1 + 1e-9 for estimate in found["estimates"].values())
        assert all(found["bounds"][name] > found["estimates"][name] for name in arms)
        assert found["bounds"][found["dataset"]] == max(found["bounds"].values())


@pytest.mark.heavy
@settings(max_examples=40, deadline=None)
@given(games(), OPTIONS, st.data())
def test_resumed_anywhere_it_goes_on_as_if_nothing_had_been(game, options, data):
    arms, turns = game
    whole, first = Ucb(arms, **options), Ucb(arms, **options)
    traces = []
    for now in turns:
        turn(whole, now)
        traces.append(whole.trace())
    stop, part = data.draw(st.integers(0, len(turns) - 1)), data.draw(st.sampled_from(["start", "scores", "chosen"]))
    play(first, turns[:stop])
    for name in first.unscored()[: {"start": 0, "scores": 2, "chosen": None}[part]]:
        first.score(name, *turns[stop][name], 1.0, 1.0)
    if part == "chosen":
        first.select()
    second = Ucb(arms, **options)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    again = []
    for now in turns[stop:]:
        turn(second, now)
        again.append(second.trace())
    assert again == traces[stop:]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.heavy
@settings(max_examples=40, deadline=None)
@given(games(), OPTIONS, st.randoms(use_true_random=False))
def test_other_names_and_another_order_change_nothing_but_names(game, options, rng):
    arms, turns = game
    new = dict(zip(arms, rng.sample([f"other {i}" for i in range(len(arms))], len(arms)), strict=True))
    scheduler, renamed = Ucb(arms, **options), Ucb([new[name] for name in arms], **options)
    shuffled = Ucb(rng.sample(arms, len(arms)), **options)
    for now in turns:
        chosen = turn(scheduler, now)
        assert turn(renamed, {new[name]: values for name, values in now.items()}) == new[chosen]
        same = turn(shuffled, now)
        if same != chosen:
            bounds = scheduler.trace()["bounds"]
            assert bounds[same] == bounds[chosen]  # a tie, which the order decides
            return


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_arm_is_chosen_at_least_once_under_the_papers_rule(number, seed, unfairness):
    """With rewards in [-1, 1] an untried arm's bound is at least sqrt(2 ln t) - 1, so above 1.8 from turn 50 on, and
    that of one chosen 49 times at most 1 + sqrt(2 ln 205 / 50) < 1.5."""
    rng, arms = random.Random(seed), [f"arm {i}" for i in range(number)]
    scheduler = Ucb(arms, preset="paper")
    for _ in range(200):
        now = {name: (rng.random(), rng.uniform(-1, 1)) for name in arms}
        if rng.random() < unfairness:
            now = {name: (1.0, -1.0) if name == arms[-1] else (0.0, 1.0) for name in arms}
        turn(scheduler, now)
    assert min(scheduler.counts.values()) >= 1
