"""Folds and hold-outs by participant."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.data.splits import default_folds, few_shot_folds, group_counts, hold_out, participant_folds, read_folds
from nnkd.errors import DatasetError, NnkdError, ParticipantsError, SettingError
from nnkd.types import Participant


@st.composite
def cohorts(draw: st.DrawFn) -> dict[str, Participant]:
    """Up to 40 people with one to three cases each."""
    found = {}
    for number in range(draw(st.integers(5, 40))):
        person = Participant(
            f"p{number}",
            draw(st.sampled_from(["F", "M", None])) if number else "F",
            None,
            None,
            {"site": draw(st.sampled_from("ABC"))},
        )
        for scan in range(draw(st.integers(1, 3))):
            found[f"p{number}_{scan}"] = person
    return found


def people(cohort: dict[str, Participant], cases: list[str]) -> set[str]:
    return {cohort[case].identifier for case in cases}


def strata(cohort: dict[str, Participant], names: set[str]) -> Counter:
    persons = {p.identifier: p for p in cohort.values()}
    return Counter((persons[name].sex, persons[name].attributes["site"]) for name in names)


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_folds(cohort: dict[str, Participant], folds: int, seed: int):
    split = participant_folds(cohort, folds, ["sex", "site"], np.random.default_rng(seed))
    assert split == participant_folds(cohort, folds, ["sex", "site"], np.random.default_rng(seed))
    assert sorted(case for fold in split for case in fold["val"]) == sorted(cohort)
    heads = [people(cohort, fold["val"]) for fold in split]
    for fold, head in zip(split, heads, strict=True):
        assert sorted(fold["train"] + fold["val"]) == sorted(cohort)
        assert not people(cohort, fold["train"]) & head
    assert max(map(len, heads)) - min(map(len, heads)) <= 1
    counts = [strata(cohort, head) for head in heads]
    for stratum in set().union(*counts):
        assert max(c[stratum] for c in counts) - min(c[stratum] for c in counts) <= 1


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(cohorts(), st.floats(0.15, 0.8), st.integers(0, 2**32 - 1))
def test_hold_out(cohort: dict[str, Participant], share: float, seed: int):
    rest, away = hold_out(cohort, share, ["sex", "site"], np.random.default_rng(seed))
    assert (rest, away) == hold_out(cohort, share, ["sex", "site"], np.random.default_rng(seed))
    assert sorted(rest + away) == sorted(cohort)
    everybody, held = people(cohort, list(cohort)), people(cohort, away)
    assert not people(cohort, rest) & held
    assert len(held) == round(share * len(everybody))
    total, taken = strata(cohort, everybody), strata(cohort, held)
    for stratum, number in total.items():
        assert abs(taken[stratum] - number * len(held) / len(everybody)) < 1


def full_cohort(number: int, seed: int = 0) -> dict[str, Participant]:
    rng = np.random.default_rng(seed)
    return {
        f"c{i}": Participant(f"c{i}", "FM"[rng.integers(2)], float(rng.uniform(20, 60)), float(rng.normal(23, 3)))
        for i in range(number)
    }


def test_every_column_stays_near_its_share_though_strata_are_tiny():
    bins = {"age": [30, 40, 50], "bmi": [21, 24]}
    cohort = full_cohort(40)
    split = participant_folds(cohort, 3, ["sex", "age", "bmi"], np.random.default_rng(1), bins)
    for column in ("sex", "age", "bmi"):
        counts = group_counts(cohort, [fold["val"] for fold in split], column, bins.get(column))
        assert sum(map(sum, counts.values())) == 40
        assert max(max(row) - min(row) for row in counts.values()) <= 2
    _, away = hold_out(cohort, 13, ["sex", "age", "bmi"], np.random.default_rng(1), bins)
    for column in ("sex", "age", "bmi"):
        for number, taken in group_counts(cohort, [list(cohort), away], column, bins.get(column)).values():
            assert abs(taken - number * 13 / 40) < 1.5


def test_one_person_per_stratum_does_not_sort_a_group_into_one_fold():
    cohort = {}
    for age in (25.0, 35.0, 45.0, 55.0):
        for bmi in (20.0, 22.0, 26.0):
            cohort[f"{age}{bmi}"] = Participant(f"{age}{bmi}", None, age, bmi)
    bins = {"age": [30, 40, 50], "bmi": [21, 24]}
    worst = defaultdict(int)
    for seed in range(20):
        split = participant_folds(cohort, 3, ["age", "bmi"], np.random.default_rng(seed), bins)
        counts = group_counts(cohort, [fold["val"] for fold in split], "bmi", bins["bmi"])
        worst[max(max(row) - min(row) for row in counts.values())] += 1
    assert set(worst) <= {0, 1, 2}
    assert list(counts) == ["<21", "21-24", ">=24"]


def test_seeds_differ():
    cohort = full_cohort(30)
    assert participant_folds(cohort, 5, [], np.random.default_rng(0)) != participant_folds(
        cohort, 5, [], np.random.default_rng(1)
    )


def test_default_folds_are_those_of_nnunet():
    crossval_split = pytest.importorskip("nnunetv2.utilities.crossval_split")
    cases = [f"case_{n:03d}" for n in range(23)]
    theirs = crossval_split.generate_crossval_split(cases, seed=12345, n_splits=5)
    expected = [{side: [str(case) for case in fold[side]] for side in ("train", "val")} for fold in theirs]
    assert default_folds({case: Participant(case) for case in cases[::-1]}) == expected
    assert default_folds({case: Participant(f"sub-{case}") for case in cases}) == expected


def test_default_folds_keep_people_together():
    cases = [f"case_{n:03d}" for n in range(24)]
    cohort = {case: Participant(str(n // 3)) for n, case in enumerate(cases)}
    for fold in default_folds(cohort):
        assert not people(cohort, fold["train"]) & people(cohort, fold["val"])
        assert len(fold["val"]) in (3, 6)


def test_refusals():
    cohort, rng = full_cohort(4), np.random.default_rng(0)
    with pytest.raises(ParticipantsError, match="5 folds need at least 5 participants, but there are 4"):
        participant_folds(cohort, 5, [], rng)
    with pytest.raises(ParticipantsError, match="5 folds"):
        default_folds(cohort)
    with pytest.raises(SettingError, match="at least 2"):
        participant_folds(cohort, 1, [], rng)
    with pytest.raises(ParticipantsError, match="column 'site'"):
        participant_folds(cohort, 2, ["site"], rng)
    with pytest.raises(SettingError, match="not stratified by"):
        participant_folds(cohort, 2, ["sex"], rng, {"age": [30]})
    for everything in (4, 0.99, 0.01, 7):
        with pytest.raises(ParticipantsError, match="both need at least one"):
            hold_out(cohort, everything, [], rng)
    for nonsense in (0, -3, 2.5, float("nan")):
        with pytest.raises(SettingError, match="whole number or a share"):
            hold_out(cohort, nonsense, [], rng)


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_few_shot_folds(cohort: dict[str, Participant], shots: int, folds: int, seed: int):
    split = few_shot_folds(cohort, shots, folds, np.random.default_rng(seed))
    assert split == few_shot_folds(cohort, shots, folds, np.random.default_rng(seed))
    drawn = [people(cohort, fold["train"]) for fold in split]
    assert [len(some) for some in drawn] == [shots] * folds
    for fold, some in zip(split, drawn, strict=True):
        assert sorted(fold["train"] + fold["val"]) == sorted(cohort)
        assert not some & people(cohort, fold["val"])
    counts = Counter(name for some in drawn for name in some)
    number = len(people(cohort, list(cohort)))
    assert max(counts.values()) == -(-shots * folds // number)  # nobody twice before everybody was once


@pytest.mark.parametrize(("number", "shots", "folds"), [(6, 3, 20), (9, 3, 5), (12, 3, 8), (4, 2, 6), (5, 3, 10)])
def test_no_two_few_shot_folds_are_the_same(number: int, shots: int, folds: int):
    cohort = {f"c{i}": Participant(f"p{i}") for i in range(number)}
    for seed in range(5):
        split = few_shot_folds(cohort, shots, folds, np.random.default_rng(seed))
        assert len({tuple(fold["train"]) for fold in split}) == folds


def test_only_labelled_people_are_shots():
    cohort = {f"c{i}": Participant(f"p{i}") for i in range(6)}
    split = few_shot_folds(cohort, 2, 3, np.random.default_rng(0), {"c1", "c4"})
    assert [fold["train"] for fold in split] == [["c1", "c4"]] * 3
    with pytest.raises(ParticipantsError, match="of 6 participants 2 are labelled"):
        few_shot_folds(cohort, 3, 1, np.random.default_rng(0), {"c1", "c4"})
    with pytest.raises(ParticipantsError, match="another one to validate"):
        few_shot_folds(cohort, 6, 1, np.random.default_rng(0))
    with pytest.raises(SettingError, match="0 shots were asked for"):
        few_shot_folds(cohort, 0, 5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train": ["a"], "val": ["b"]}, "holds a dict"),
        ([], "holds no fold"),
        ([["a"]], "has a list as fold 0"),
        ([{"train": ["a"]}], "no list of names of cases as 'val' of fold 0"),
        ([{"train": "a", "val": []}], "no list of names of cases as 'train'"),
        ([{"train": [1], "val": []}], "no list of names of cases as 'train'"),
        ([{"train": ["a", "a"], "val": []}], "names case 'a' twice as 'train' of fold 0"),
        (None, "holds a NoneType"),
    ],
)
def test_a_splits_file_of_another_form_is_one_sentence(tmp_path, content, sentence):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=sentence):
        read_folds(file)


@given(st.text(max_size=40))
def test_whatever_a_splits_file_holds_is_folds_or_a_sentence(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("splits") / "splits_final.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(NnkdError):
        assert read_folds(file)


def test_nnunets_form_is_read_with_what_else_it_says(tmp_path):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a"], "val": ["b"], "test": ["c"]}]))
    assert read_folds(file) == [{"train": ["a"], "val": ["b"]}]
