"""Fairness of made-up folders: known answers, clusters, two students, what is hidden."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scored import LABELS, RULES, folder

from nnkd.evaluation.groups.cohort import divide
from nnkd.evaluation.groups.fairness import Fairness
from nnkd.evaluation.groups.files import changes_frame, fairness_json, figures_frame, groups_frame
from nnkd.evaluation.groups.partitions import GroupOptions
from nnkd.evaluation.groups.section import fairness_lines, fairness_section
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.scores import OVERALL, Scores
from nnkd.types import Participant

BOOTSTRAP = Bootstrap(400, 0)


def cohort_of(number=80) -> dict[str, Participant]:
    """By case; sexes and age groups take turns, BMI does not vary within its groups' order."""
    ages, bmis = (25.0, 35.0, 45.0, 55.0), (19.5, 22.5, 26.5)
    return {f"c{i:03d}": Participant(f"p{i:03d}", "FM"[i % 2], ages[(i // 2) % 4], bmis[i % 3]) for i in range(number)}


def scores_of(people, *folders, bootstrap=BOOTSTRAP) -> Scores:
    return Scores(folders, LABELS, list(people), {case: p.identifier for case, p in people.items()}, bootstrap, RULES)


def values(people, gap=0.0, seed=0, drop=0.0) -> dict[str, tuple[float, float]]:
    """DSC by case of liver and spleen; men's liver is worse by `gap`."""
    rng = np.random.default_rng(seed)
    found = {}
    for case, person in people.items():
        liver, spleen = rng.normal(0.85, 0.03, 2) - drop
        found[case] = (liver - gap * (person.sex == "M"), spleen)
    return found


def made(people, *named, options=None) -> Fairness:
    scores = scores_of(people, *(folder(name, found) for name, found in named))
    return Fairness(scores, divide(people, options or GroupOptions()), BOOTSTRAP)


def test_known_answers():
    people = cohort_of()
    dsc = values(people, gap=0.05)
    fairness = made(people, ("student", dsc))
    found = fairness.of("student", "sex", "liver")
    women, men = ([dsc[c][0] for c, p in people.items() if p.sex == sex] for sex in "FM")
    assert [found.means[sex].value for sex in "FM"] == pytest.approx([np.mean(women), np.mean(men)])
    assert found.std.value == pytest.approx(np.std([np.mean(women), np.mean(men)]))
    assert found.gap.value == pytest.approx(np.mean(women) - np.mean(men))
    assert found.gap.low < found.gap.value < found.gap.high
    assert (found.worst, found.best) == ("M", "F")
    mean = np.mean([*women, *men])
    distance = abs(np.mean(women) - mean) + abs(np.mean(men) - mean)
    assert found.equity.value == pytest.approx(mean / (1 + distance))
    assert found.tests.p == pytest.approx(stats.f_oneway(women, men).pvalue)
    assert found.tests.p_kruskal == pytest.approx(stats.kruskal(women, men).pvalue)
    assert found.by_chance < found.std.value / 3


def test_correction_is_for_all_labels_and_attributes_of_a_folder():
    people = cohort_of()
    fairness = made(people, ("student", values(people, gap=0.05)), ("other", values(people, seed=5)))
    family = [f.tests for key, f in fairness.figures.items() if key[0] == "student" and f.tests]
    assert len(family) == len(LABELS) * 3  # neither Overall nor the intersection
    least = min(family, key=lambda tests: tests.p)
    assert least.p_holm == pytest.approx(6 * least.p)
    assert fairness.of("student", "sex", "liver").tests is least
    assert all(t.p_holm >= t.p and t.p_kruskal_holm >= t.p_kruskal for t in family)
    significant = sum(tests.p_holm < 0.05 for tests in family)
    assert f"{significant} of 6 tests significant" in "\n".join(fairness_lines(fairness))


def test_two_scans_of_a_person_are_not_two_people():
    people = cohort_of()
    dsc = values(people, gap=0.02)
    twice = {**people, **{f"{case}_again": person for case, person in people.items()}}
    doubled = {**dsc, **{f"{case}_again": found for case, found in dsc.items()}}
    once, clustered = made(people, ("s", dsc)), made(twice, ("s", doubled))
    for key, found in once.figures.items():
        again = clustered.figures[key]
        assert again.tests == found.tests
        assert again.gap.low == pytest.approx(found.gap.low)
    assert clustered.of("s", "sex", "liver").tests.people == 80


def test_overall_is_of_people_in_whom_all_labels_are_counted():
    people = cohort_of()
    dsc = values(people)
    some = {case: (liver, None if int(case[1:]) < 8 else spleen) for case, (liver, spleen) in dsc.items()}
    found = made(people, ("s", some)).of("s", "sex", OVERALL)
    women = [np.mean(dsc[c]) for c, p in people.items() if p.sex == "F" and int(c[1:]) >= 8]
    assert found.means["F"].value == pytest.approx(np.mean(women))
    assert found.tests is None


@pytest.mark.heavy
def test_a_label_nobody_answers_for_has_no_figures():
    people = cohort_of()
    dsc = {case: (liver, 0.0) for case, (liver, _) in values(people).items()}
    scores = scores_of(people, folder("t", dsc, {case: ["liver"] for case in people}))
    fairness = Fairness(scores, divide(people, GroupOptions()), BOOTSTRAP)
    assert fairness.of("t", "sex", "liver")
    assert fairness.of("t", "sex", "spleen") is None
    assert fairness.of("t", "sex", OVERALL) is None
    fairness_section(fairness, GroupOptions(), ())


def test_a_group_that_is_too_small_for_a_label_is_hidden_there():
    people = cohort_of()
    dsc = {
        case: (liver, spleen if people[case].age != 55.0 or int(case[1:]) < 20 else None)
        for case, (liver, spleen) in values(people).items()
    }  # two or three people of 50-60 have a spleen
    fairness = made(people, ("s", dsc))
    assert set(fairness.of("s", "age", "liver").means) == {"20-30", "30-40", "40-50", "50-60"}
    shown = set(fairness.of("s", "age", "spleen").means)
    assert "50-60" not in shown
    assert len(shown) == 2  # one more, as everybody's mean is known


def test_before_and_after_are_paired():
    people = cohort_of()
    before = values(people, gap=0.06)
    after = {c: (liver + (0.03 if people[c].sex == "M" else -0.001), spleen) for c, (liver, spleen) in before.items()}
    [pair] = made(people, ("before", before), ("after", after)).pairs
    assert (pair.before, pair.after) == ("before", "after")
    found = pair.changes["sex", "liver"]
    assert found.means["M"].value == pytest.approx(0.03)
    assert (found.means["M"].low, found.means["M"].high) == pytest.approx((0.03, 0.03))
    assert found.gap.value == pytest.approx(found.gap_after - found.gap_before) == pytest.approx(-0.031)
    assert found.gap.high < 0
    assert found.std.value == pytest.approx(-0.0155)
    assert pair.accuracy["liver"].verdict == "rose"
    assert pair.accuracy["spleen"].verdict == "no drop shown"
    assert pair.accuracy["spleen"].p == 1.0


def test_a_drop_in_accuracy_is_named():
    people = cohort_of()
    fairness = made(people, ("a", values(people)), ("b", values(people, seed=1, drop=0.02)))
    [pair] = fairness.pairs
    assert {found.verdict for found in pair.accuracy.values()} == {"dropped"}
    difference = fairness._values["b"][:, 0] - fairness._values["a"][:, 0]
    assert pair.accuracy["liver"].change.value == pytest.approx(difference.mean())
    assert pair.accuracy["liver"].p == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert pair.accuracy["liver"].p_holm <= 2 * pair.accuracy["liver"].p + 1e-15
    assert "b against a: accuracy dropped in liver, spleen, Overall" in "\n".join(fairness_lines(fairness))


@pytest.mark.heavy
def test_every_folder_is_compared_with_the_first():
    people = cohort_of(40)
    fairness = made(people, *((name, values(people, seed=i)) for i, name in enumerate("abcdef")))
    assert [(pair.before, pair.after) for pair in fairness.pairs] == [("a", n) for n in "bcdef"]
    section = fairness_section(fairness, GroupOptions(), ())
    assert (len(section["pairs"]), section["more_pairs"], section["left_out"]) == (4, 1, 5)


def test_the_outputs_agree_and_hold_the_papers_digits():
    people = cohort_of()
    fairness = made(people, ("a", values(people, gap=0.05)), ("b", values(people, seed=1)))
    content = fairness_json(fairness, GroupOptions(), (), {"definition": "monai"})
    liver = content["folders"]["a"]["sex"]["liver"]
    row = figures_frame(fairness).query("folder == 'a' and attribute == 'sex' and label == 'liver'").iloc[0]
    assert row["std"] == liver["std"]["value"] == round(fairness.of("a", "sex", "liver").std.value, 4)
    assert row["anova_stars"] == liver["tests"]["anova"]["stars"] == "****"
    groups = groups_frame(fairness).query("folder == 'a' and attribute == 'sex' and label == 'liver'")
    assert dict(zip(groups["group"], groups["people"], strict=True)) == {"F": 40, "M": 40}
    assert content["groups"]["sex"] == {"F": {"people": 40, "few": False}, "M": {"people": 40, "few": False}}
    changes = changes_frame(fairness)
    assert set(changes["what"]) == {"accuracy", "gap", "std", "mean"}
    assert content["changes"][0]["accuracy"]["liver"]["verdict"] in {"rose", "dropped", "no drop shown"}
    for frame in (figures_frame(fairness), groups_frame(fairness), changes):
        numbers = frame.select_dtypes(float).filter(regex="std|gap|mean|change|equity").to_numpy()
        assert np.nanmax(np.abs(numbers * 1e4 - np.round(numbers * 1e4))) < 1e-6
    assert pd.api.types.is_numeric_dtype(changes["change"])


@pytest.mark.heavy
def test_every_output_without_intervals():
    people = cohort_of()
    scores = scores_of(people, folder("a", values(people)), folder("b", values(people, seed=1)), bootstrap=Bootstrap(0))
    fairness = Fairness(scores, divide(people, GroupOptions()), Bootstrap(0))
    assert fairness.of("a", "sex", "liver").gap.low is None
    fairness_json(fairness, GroupOptions(), (), {})
    fairness_section(fairness, GroupOptions(), ())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda i: {"sex": "F"},
            "All evaluated participants are in one group of 'sex', so there is nothing to compare",
        ),
        (
            lambda i: {"sex": "M" if i < 3 else "F"},
            "Fewer than two groups of 'sex' can be shown with at least 5 people",
        ),
        (lambda i: {"sex": None if i < 3 else "FM"[i % 2]}, "Fewer than 5 participants have no sex; they are in none"),
        (lambda i: {"sex": None if i < 12 else "FM"[i % 2]}, "12 participants have no sex"),
        (lambda i: {"age": 75.0 if i < 6 else 25.0 + 10 * (i % 4)}, ""),
        (lambda i: {"age": 75.0 if i < 3 else 25.0 + 10 * (i % 4)}, "age: 2 of 5 groups \\(20-30, outside\\) are not"),
    ],
)
def test_what_a_reader_is_told(change, sentence):
    people = {}
    for i, (case, person) in enumerate(cohort_of().items()):
        known = {"sex": person.sex, "age": person.age, "bmi": person.bmi, **change(i)}
        people[case] = Participant(person.identifier, **known)
    cohort = divide(people, GroupOptions())
    notes = " ".join(note for note in cohort.notes if " x " not in note)
    assert re.search(sentence, notes) if sentence else not notes
    assert any(some.title == "bmi" for some in cohort.partitions)  # the rest goes on


def test_an_unknown_column_is_a_problem_and_the_rest_goes_on():
    cohort = divide(cohort_of(), GroupOptions(("sex", "hieght"), {}))
    assert [some.title for some in cohort.partitions] == ["sex"]
    [problem] = cohort.problems
    assert "column 'hieght'; the columns with values are sex, age, bmi" in problem
