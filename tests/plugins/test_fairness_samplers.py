"""The samplers of nnkd_fairness."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_fairness import balanced
from nnkd_fairness.balanced import Balanced
from nnkd_fairness.balanced_paper import BalancedPaper
from nnkd_fairness.plan import largest_plan
from nnkd_fairness.rivals import GroupDRO, Stratified, Weighted

from nnkd.errors import ParticipantsError, SettingError
from nnkd.training.loader import Draw
from nnkd.types import Participant

ALL = (Balanced, BalancedPaper, Stratified, Weighted, GroupDRO)


def papers_cohort(number: int = 351, seed: int = 0) -> dict[str, Participant]:
    """Paper 1's marginals, attributes independent."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(2, number, p=[411 / 702, 291 / 702])
    age = rng.choice(4, number, p=[0.437, 0.222, 0.167, 0.174])
    bmi = rng.choice(3, number, p=[0.288, 0.392, 0.320])
    return {
        f"c{i:03d}": Participant(f"p{i:03d}", "FM"[sex[i]], 20.0 + 10 * age[i], (18.0, 22.0, 27.0)[bmi[i]])
        for i in range(number)
    }


@st.composite
def cohorts(draw: st.DrawFn) -> dict[str, Participant]:
    """Small ones in which both sexes and two scanners occur; some people have two cases."""
    people = [Participant(f"p{i}", "FM"[i % 2], attributes={"scanner": "AB"[i // 2]}) for i in range(4)]
    for i in range(4, draw(st.integers(4, 14))):
        sex, scanner = draw(st.sampled_from("FFM")), draw(st.sampled_from("AAB"))
        people.append(Participant(f"p{i}", sex, attributes={"scanner": scanner}))
    cases = {f"{person.identifier}_0": person for person in people}
    return {**cases, **{f"{p.identifier}_1": p for p in people if draw(st.booleans())}}


def epoch(sampler, cases, size, seed=0, number=0) -> list[list[str]]:
    return list(sampler.epoch(cases, size, seed, number))


def people_of(cases, batches) -> list[str]:
    return [cases[case].identifier for batch in batches for case in batch]


# --- balanced ---------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@settings(max_examples=12, deadline=None)
@given(cohorts(), st.sampled_from([2, 4]), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_every_batch_obeys_the_rule_and_nobody_is_twice_in_an_epoch(cases, size, seed, number):
    sampler = Balanced(attributes=("sex", "scanner"), tolerance=1.0)
    batches = epoch(sampler, cases, size, seed, number)
    assert len(batches) == sampler.epoch_length(cases, size)
    for batch in batches:
        assert len(batch) == size
        for column in ("sex", "scanner"):
            assert set(Counter(cases[case].value(column) for case in batch).values()) == {size // 2}
    assert max(Counter(people_of(cases, batches)).values()) == 1
    assert epoch(Balanced(attributes=("scanner", "sex"), tolerance=1.0), dict(cases), size, seed, number) is not None
    assert epoch(Balanced(attributes=("sex", "scanner"), tolerance=1.0), dict(reversed(cases.items())), size, seed,
                 number) == batches  # fmt: skip


def test_papers_cohort():
    cases, sampler = papers_cohort(), Balanced()
    batches = epoch(sampler, cases, 24)
    assert len(batches) == 8
    for batch in batches:
        people = [cases[case] for case in batch]
        assert Counter(p.sex for p in people) == {"F": 12, "M": 12}
        assert Counter(p.age for p in people) == dict.fromkeys((20, 30, 40, 50), 6)
        assert Counter(p.bmi for p in people) == dict.fromkeys((18, 22, 27), 8)
    assert epoch(sampler, cases, 24, seed=1) != batches
    report = "\n".join(sampler.report(cases, 24, 0))
    assert "8 batches of 24 and draws 192 of 351 participants (54.7%)" in report
    assert "sex 1.00 (1.00); age 1.00 (1.00); bmi 1.00 (1.00); within the rule 8 of 8" in report
    assert "missing=exclude" in report
    assert "p000" not in report


@pytest.mark.heavy
def test_those_left_out_come_first_in_the_next_epoch():
    cases, sampler = papers_cohort(), Balanced()
    strata = sampler.strata(cases)
    drawn: Counter[str] = Counter()
    for number in range(12):
        before = Counter(drawn)
        now = people_of(cases, epoch(sampler, cases, 24, seed=3, number=number))
        drawn.update(now)
        for people in strata.people:
            chosen = [before[p] for p in people if p in now]
            waiting = [before[p] for p in people if p not in now]
            assert not chosen or not waiting or max(chosen) <= min(waiting)
    seen = next(line for line in sampler.report(cases, 24, 3) if "every participant" in line)
    assert f"in {7} epochs" in seen
    assert set(drawn) == {p.identifier for p in cases.values()}


def test_plans_spread_over_a_stratum():
    """A plan at a corner would take all young people from one BMI group, and make age and BMI one."""
    sampler, cases = Balanced(), papers_cohort()
    strata = sampler.strata(cases)
    share = sampler.turns(strata, 24).plans[0].draws / strata.sizes
    assert share.min() > 0.05


@pytest.mark.heavy
def test_no_group_stands_where_foreground_is_forced_more_often():
    cases, sampler = papers_cohort(), Balanced()
    last = Counter()
    for number in range(60):
        for batch in epoch(sampler, cases, 24, number=number):
            last.update((column, cases[case].value(column)) for case in batch[16:] for column in ("sex", "age", "bmi"))
    total = 60 * 8 * 8
    for column, groups in (("sex", 2), ("age", 4), ("bmi", 3)):
        share = 1 / groups
        for (name, group), count in last.items():
            if name == column:
                assert abs(count - total * share) < 5 * np.sqrt(total * share * (1 - share)), (name, group)


@pytest.mark.heavy
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_epoch_has_the_same_batches_for_any_number_of_workers(workers):
    cases, sampler = papers_cohort(), Balanced()
    draw = pickle.loads(pickle.dumps(Draw(sampler, cases, 24, slice(None), 0, workers)))
    dealt = []
    for worker in range(workers):
        dealt += islice(draw.batches(worker), 24 // workers)
    expected = [batch for number in range(3) for batch in epoch(sampler, cases, 24, number=number)]
    assert sorted(dealt) == sorted(expected)
    if workers == 1:
        assert dealt == expected


def test_ranks_share_a_batch_and_a_continued_training_jumps():
    cases, sampler = papers_cohort(), Balanced()
    whole = list(islice(Draw(sampler, cases, 24, slice(None), 0, 1).batches(0), 30))
    parts = [islice(Draw(sampler, cases, 24, part, 0, 1).batches(0), 30) for part in (slice(0, 12), slice(12, 24))]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert next(Draw(sampler, cases, 24, slice(None), 0, 1, start=21).batches(0)) == whole[21]
    next(Draw(sampler, cases, 24, slice(None), 0, 1, start=10**9).batches(0))  # would take hours one by one


def test_window_balances_over_consecutive_batches():
    cases, sampler = papers_cohort(), Balanced(window=3)
    batches = epoch(sampler, cases, 8)
    assert {len(batch) for batch in batches} == {8}
    for first in range(0, len(batches), 3):
        ages = Counter(cases[case].age for batch in batches[first : first + 3] for case in batch)
        assert set(ages.values()) == {6}
    report = "\n".join(sampler.report(cases, 8, 0))
    assert "balanced over 3 consecutive batches of 8, not in each" in report
    assert "within the rule 8 of 8" in report


def test_all_epochs_are_equally_long_where_plans_are_not_proven(monkeypatch):
    """A later plan that finds fewer batches takes no turn: a continued training counts on equal epochs."""
    cases, found = papers_cohort(), []

    def worse(rule, sizes, drawn):
        plan = largest_plan(rule, sizes, drawn)
        found.append(plan)
        return plan if len(found) < 3 else replace(plan, batches=plan.batches[:1])

    monkeypatch.setattr(balanced, "largest_plan", worse)
    sampler = Balanced(tolerance={"age": 1.1, "bmi": 1.1})
    assert len(sampler.turns(sampler.strata(cases), 24).plans) == 2
    assert {len(epoch(sampler, cases, 24, number=n)) for n in range(5)} == {sampler.epoch_length(cases, 24)}


@pytest.mark.heavy
def test_a_participants_cases_take_turns_at_random():
    people = {name: Participant(name, sex) for name, sex in (("a", "F"), ("b", "M"))}
    cases = {f"{name}{i}": person for name, person in people.items() for i in range(3)}
    drawn = Counter(case for n in range(200) for case in epoch(Balanced(attributes=("sex",)), cases, 2, number=n)[0])
    assert set(drawn) == set(cases)
    assert min(drawn.values()) > 30


# --- what participants.tsv may hold -----------------------------------------------------------------------------


def with_missing() -> dict[str, Participant]:
    cases = {f"c{i}": Participant(f"p{i}", "FM"[i % 2], age=25.0 + 10 * (i % 3 == 0)) for i in range(24)}
    cases["none"] = Participant("none", "F")
    cases["old"] = Participant("old", "M", age=70.0)
    return cases


@pytest.mark.parametrize(
    ("options", "left_out", "groups", "said"),
    [
        ({}, {"none"}, ("20-30", "30-40", "outside"), "<5 participants without age are left out (missing=exclude)"),
        ({"outside": "exclude"}, {"none", "old"}, ("20-30", "30-40"), "outside all bins are left out"),
        ({"missing": "stratum"}, set(), ("20-30", "30-40", "missing", "outside"), "without age are a group"),
        ({"missing": "match"}, set(), ("20-30", "30-40", "outside"), "put into a group at random (missing=match)"),
    ],
)
def test_missing_values_and_values_outside_the_bins(options, left_out, groups, said):
    strata = Balanced(attributes=("sex", "age"), **options).strata(with_missing())
    assert set(with_missing()) - {f"c{i}" for i in range(24)} - set(strata.stratum_of) == left_out
    assert strata.groups == (("F", "M"), groups)
    assert said in "\n".join(strata.notes)
    assert "Warning: nobody is in age 40-50, 50-60" in "\n".join(strata.notes)


def test_any_column_with_any_number_of_groups():
    cases = {f"c{i}": Participant(f"p{i}", attributes={"site": "ABCDE"[i % 5], "dose": f"{i}"}) for i in range(40)}
    batches = epoch(Balanced(attributes=("site",)), cases, 5)
    assert len(batches) == 8
    assert all(len({cases[case].value("site") for case in batch}) == 5 for batch in batches)
    dose = Balanced(attributes=("dose",), bins={"dose": [None, 10, 20, None]}).strata(cases)
    assert dose.groups == (("<10", "10-20", ">=20"),)
    assert len(Balanced(attributes=("dose",)).strata(cases).groups[0]) == 4  # quartiles


@pytest.mark.parametrize(
    ("sampler", "cases", "size", "sentence"),
    [
        (Balanced(), papers_cohort(), 8, r"No batch of 8 can be .* Set batch_size to 12, or .* window=3\."),
        (Balanced(), papers_cohort(), 16, r"Set batch_size to 12 or 24"),
        (Balanced(window=2), papers_cohort(), 8, r"No 2 batches of 8 can be balanced together .*12 or 24 participants"),
        (Balanced(), papers_cohort(20), 24, "batch of 24 different participants .* there are 20"),
        (Balanced(), papers_cohort(30), 24, "Not one balanced batch of 24 .* smallest groups are sex F with"),
        (Balanced(attributes=("sex", "scanner")), papers_cohort(), 24, "value in the column 'scanner'.*sex, age, bmi"),
        (Balanced(), {"a": Participant("a", "F")}, 1, "No participant has a value in the column 'age'"),
        (
            Balanced(),
            {case: person for case, person in papers_cohort().items() if person.sex == "F"},
            24,
            r"All participants fall into one group of 'sex' \(F\)",
        ),
        (Balanced(bins={"sex": [1, 2, 3]}), papers_cohort(), 24, "has edges for the column 'sex', but it holds text"),
        (
            Balanced(attributes=("sex", "age")),
            {"a": Participant("a", sex="F"), "b": Participant("b", age=30.0)},
            2,
            "Not one of 2 participants has a value in all of sex, age",
        ),
        (
            Balanced(attributes=("age",), missing="match"),
            {"a": Participant("a", age=70.0), "b": Participant("b"), "c": Participant("c", age=80.0)},
            2,
            "nobody's age is in the bins. Choose other bins, or missing=exclude",
        ),
        (
            Balanced(),
            {**papers_cohort(), "old": Participant("old", "F", 60.0, 22.0)},
            24,
            "<5 participants with age outside all bins .* set outside=exclude",
        ),
        (
            Balanced(),
            {**papers_cohort(), "old": Participant("old", "F", 60.0, 22.0)},
            60,
            "Not one balanced batch .* <5 participants with age outside all bins .* set outside=exclude",
        ),
        (BalancedPaper(), papers_cohort(), 7, "cannot have equal parts of 2 groups"),
        (BalancedPaper(), papers_cohort(24), 24, "Not one batch of 24 could be balanced by replacements"),
        (Stratified(), papers_cohort(4), 6, "batch of 6 different participants"),
    ],
)
def test_one_sentence_each(sampler, cases, size, sentence):
    with pytest.raises((SettingError, ParticipantsError), match=sentence) as caught:
        sampler.report(cases, size, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Balanced(attributes=()), "expects one or more columns"),
        (lambda: Balanced(attributes=("sex", "sex")), "each once"),
        (lambda: Balanced(bins={"age": [30, 20, 10]}), "rising edges"),
        (lambda: Balanced(bins={"age": [20, 30]}), "three or more"),
        (lambda: Balanced(bins={"age": [20, None, 30]}), "rising edges"),
        (lambda: Balanced(tolerance=0.9), "ratio of at least 1"),
        (lambda: Balanced(tolerance={"scanner": 2.0}), "for each of sex, age, bmi"),
        (lambda: Balanced(window=0), "at least 1 batch"),
        (lambda: Balanced(tolerance=float("inf")), "at least 1 and at most"),
        (lambda: Balanced(tolerance={"age": float("nan")}), "at least 1 and at most"),
        (lambda: Balanced(bins={"aeg": [20, 30, 40]}), "edges for aeg, but expects .* sex, age, bmi"),
        (lambda: Stratified(bins={"age": [20, 30, 40]}), "edges for age, but expects .* sex"),
        (lambda: Balanced(equal=("sxe",)), "equal got sxe"),
        (lambda: BalancedPaper(refinements=-1), "and at least 0"),
        (lambda: BalancedPaper(tolerance=float("inf")), "expect 1 to"),
        (lambda: GroupDRO(step=-1.0), "at least 0"),
    ],
)
def test_options_are_checked(make, sentence):
    with pytest.raises(SettingError, match=sentence):
        make()


# --- the paper's procedure, and the rivals ----------------------------------------------------------------------


@pytest.mark.heavy
def test_papers_procedure_finds_no_more_than_the_plan():
    cases, sampler = papers_cohort(), BalancedPaper()
    most = Balanced().epoch_length(cases, 24)
    for number in range(5):
        batches = epoch(sampler, cases, 24, number=number)
        assert 1 <= len(batches) <= most
        assert max(Counter(people_of(cases, batches)).values()) == 1
        for batch in batches:
            assert Counter(cases[case].sex for case in batch) == {"F": 12, "M": 12}
            for column in ("age", "bmi"):
                counts = Counter(cases[case].value(column) for case in batch).values()
                assert max(counts) <= 1.1 * min(counts)
    assert epoch(sampler, cases, 24) == epoch(BalancedPaper(), cases, 24)


def test_papers_procedure_ends_where_nothing_can_be_balanced():
    cases = papers_cohort()
    sampler = BalancedPaper(refinements=30)
    assert epoch(sampler, cases, 8)
    assert "Warning: no batch of 8 can be balanced, so each ends after 30" in sampler.report(cases, 8, 0)[-1]


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ALL)
def test_equal_seeds_give_equal_batches_of_training_cases(kind):
    cases = papers_cohort()
    first, again = (list(kind().batches(cases, 24, np.random.default_rng(5))) for _ in range(2))
    assert first == again
    assert {len(batch) for batch in first} == {24}
    assert {case for batch in first for case in batch} <= set(cases)
    assert kind.needs_participants


@settings(max_examples=30, deadline=None)
@given(cohorts(), st.integers(1, 4), st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_stratified_draws_each_group_equally(cases, size, seed, number):
    sampler = Stratified(attribute="scanner")
    batches = epoch(sampler, cases, size, seed, number)
    assert len(batches) == sampler.epoch_length(cases, size)
    sizes = Counter(person.value("scanner") for person in {p.identifier: p for p in cases.values()}.values())
    for batch in batches:
        counts = Counter(cases[case].value("scanner") for case in batch)
        assert max(counts.get(group, 0) for group in "AB") - min(counts.get(group, 0) for group in "AB") <= 1
        if all(counts[group] <= sizes[group] for group in counts):
            assert len({cases[case].identifier for case in batch}) == size


def test_stratified_begins_where_the_last_epoch_ended():
    cases, sampler = papers_cohort(60), Stratified()
    drawn = Counter(p for number in range(6) for p in people_of(cases, epoch(sampler, cases, 4, number=number)))
    for sex in "FM":
        counts = [drawn[person.identifier] for person in cases.values() if person.sex == sex]
        assert max(counts) - min(counts) <= 1


def test_weighted_draws_strata_equally_often():
    cases, sampler = papers_cohort(), Weighted(attributes=("age",))
    ages = Counter(cases[c].age for n in range(20) for batch in epoch(sampler, cases, 9, number=n) for c in batch)
    total = sum(ages.values())
    assert all(abs(count - total / 4) < 5 * np.sqrt(total * 3 / 16) for count in ages.values())
    assert all(len(set(batch)) == 9 for batch in epoch(sampler, cases, 9))


def test_group_dro_weighs_strata_with_large_losses():
    cases = {"a": Participant("a", "F"), "b": Participant("b", "M"), "c": Participant("c", "M")}
    sampler = GroupDRO(attributes=("sex",), step=0.5)
    assert sampler.weights(cases, ["a", "b", "c"]) == [1, 1, 1]
    sampler.update(cases, ["a", "b", "c"], [1.0, 2.0, 4.0])
    q = np.exp(0.5 * np.array([1.0, 3.0]))
    np.testing.assert_allclose(sampler.weights(cases, ["a", "b"]), 2 * q / q.sum())
    again = GroupDRO(attributes=("sex",), step=0.5)
    again.load_state_dict(sampler.state_dict())
    assert again.weights(cases, ["a", "b"]) == sampler.weights(cases, ["a", "b"])
    sampler.update(cases, ["a", "b"], [float("nan"), float("inf")])
    assert again.weights(cases, ["a", "b"]) == pytest.approx(sampler.weights(cases, ["a", "b"]))


def test_group_dro_begins_anew_with_other_strata():
    cases = {"a": Participant("a", "F"), "b": Participant("b", "M")}
    sampler, other = GroupDRO(attributes=("sex",), step=0.5), {**cases, "c": Participant("c", "F", 30.0)}
    sampler.update(cases, ["a", "b"], [1.0, 3.0])
    again = GroupDRO(attributes=("sex", "age"), missing="stratum")
    again.load_state_dict(sampler.state_dict())
    assert again.weights(other, ["a", "b", "c"]) == [1, 1, 1]


@pytest.mark.parametrize("kind", [Balanced, BalancedPaper, Weighted, GroupDRO])
def test_columns_without_bins_are_not_spelled_in_reports(kind):
    sampler = kind(attributes=("age", "illness"), bins={})
    cases = {
        f"c{i}": Participant(
            f"p{i}", age=(23.41, 77.77)[i % 2], attributes={"illness": ("no", "rare disease X")[i // 2 % 2]}
        )
        for i in range(24)
    }
    text = "\n".join(sampler.report(cases, 4, 0))
    assert "age group 2 illness group 2: " in text
    assert not any(value in text for value in ("23.41", "77.77", "rare"))
    strata = sampler.strata(cases)
    assert "rare disease X" in strata.groups[1]
    few = "\n".join(sampler.report(dict(list(cases.items())[:9]), 4, 0))
    assert "by <5" in few
    assert not any(f"by {n};" in few for n in range(1, 5))


def test_plans_are_those_of_the_integer_programme():
    cases, sampler = papers_cohort(), Balanced()
    strata = sampler.strata(cases)
    turns = sampler.turns(strata, 24)
    assert {plan.number for plan in turns.plans} == {8}
    assert all((plan.draws <= strata.sizes).all() for plan in turns.plans)
    assert largest_plan.__module__ == "nnkd_fairness.plan"
