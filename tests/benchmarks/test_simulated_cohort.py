"""The simulated cohort of benchmarks/fairness.py, and its tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnkd.data.participants import read_participants
from nnkd.data.phantoms.cohort import PhantomParticipant

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def cohort(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import simulated_cohort

    return simulated_cohort


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import fairness_tables

    return fairness_tables


def person(sex="F", age=25.0, bmi=20.0):
    return PhantomParticipant("sim_0001", sex, age, bmi)


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_people_scans_and_answers(cohort, tmp_path):
    import SimpleITK as sitk

    first = cohort.write_cohort(tmp_path / "a", 3, 5)
    cohort.write_cohort(tmp_path / "b", 2, 5)
    assert cohort.write_cohort(tmp_path / "b", 3, 5) == first  # a larger number adds to a smaller one
    files = sorted((tmp_path / "a").rglob("*.nii.gz"))
    assert len(files) == 3 * (2 + len(cohort.TEACHERS))
    for file in files:
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, other)))
    assert cohort.write_cohort(tmp_path / "c", 1, 6) != {"sim_0001": first["sim_0001"]}


def test_the_participants_file_is_read_as_any(cohort, tmp_path):
    people = cohort.write_cohort(tmp_path, 2, 0)
    (tmp_path / "participants_simulated.tsv").rename(tmp_path / "participants.tsv")
    read = read_participants(tmp_path)
    assert {n: (p.sex, p.age, p.bmi) for n, p in read.items()} == {n: (p.sex, p.age, p.bmi) for n, p in people.items()}


def test_group_bounds_are_the_papers(cohort):
    assert cohort.group_names(person(age=29.9, bmi=20.9)) == {"sex": "F", "age": "20-30", "bmi": "<21"}
    assert cohort.group_names(person("M", 30.0, 21.0)) == {"sex": "M", "age": "30-40", "bmi": "21-24"}
    assert cohort.group_names(person(age=50.0, bmi=24.0)) == {"sex": "F", "age": "50-60", "bmi": ">=24"}


def test_contrast_falls_with_age_and_livers_darken_with_bmi(cohort):
    def level(organ, **attributes):
        scans = [cohort.draw_scan(person(**attributes), np.random.default_rng(seed)) for seed in range(3)]
        value = 1 + cohort.ORGANS.index(organ)
        return np.mean([np.median(image[label_map == value]) for image, label_map in scans])

    assert level("kidney", age=59.0) < level("kidney", age=21.0) - 60
    assert level("kidney", sex="M") < level("kidney", sex="F") - 5
    assert level("liver", bmi=34.0) < level("liver", bmi=23.0) - 30
    assert level("spleen", bmi=34.0) > level("spleen", bmi=23.0) - 10


@pytest.mark.parametrize(
    ("teacher", "easy", "hard"),
    [
        ("young", {"age": 21.0}, {"age": 59.0}),
        ("lean", {"bmi": 20.0}, {"bmi": 33.0}),
        ("female", {"sex": "F"}, {"sex": "M"}),
    ],
)
def test_each_biased_teacher_errs_more_in_its_group(cohort, teacher, easy, hard):
    _, truth = cohort.draw_scan(person(), np.random.default_rng(3))
    wrong = [
        np.mean(cohort.ask(cohort.TEACHERS[teacher], person(**who), truth, np.random.default_rng(0)) != truth)
        for who in (easy, hard)
    ]
    assert 0 < 1.3 * wrong[0] < wrong[1]


def write_rows(file, scores_by_row):
    groups = {
        f"c{i}": {"sex": "FM"[i % 2], "age": ("20-30", "30-40", "40-50", "50-60")[i // 2 % 4], "bmi": "<21"}
        for i in range(16)
    }
    key = {"seed": 0, "participants": 32, "epochs": 1}
    rows = [{**key, "row": "cohort", "groups": groups}]
    for row, score in scores_by_row.items():
        values = {case: score(of) for case, of in groups.items()}
        by_label = dict.fromkeys(("liver", "kidney", "spleen"), values)
        rows.append({**key, "row": row, "scores": {"DSC": by_label, "HD": by_label}})
    file.write_text("\n".join(map(json.dumps, rows)))


def test_spread_is_the_standard_deviation_of_the_group_means(tables, tmp_path):
    write_rows(tmp_path / "a.jsonl", {"PUNet": lambda of: 0.9 if of["sex"] == "F" else 0.7})
    row = tables.load(tmp_path / "a.jsonl", 1, 32)["PUNet"]
    assert row.spread(0, row.once)[0] == pytest.approx(0.1)
    assert row.spread(1, row.once)[0] == pytest.approx(0)
    assert np.all(row.draws.sum(1) == 16)


def test_tables_pair_samplers_with_uniform_batches_and_say_simulated(tables, tmp_path):
    scores = {
        "mean of the teachers": lambda of: 0.6,
        "PUNet": lambda of: 0.9 if of["sex"] == "F" else 0.7,
        "PUNet, balanced": lambda of: 0.85 if of["sex"] == "F" else 0.75,
    }
    write_rows(tmp_path / "a.jsonl", scores)
    text = tables.tables(tmp_path / "a.jsonl", 1, 32)
    assert all("simulated" in line.lower() for line in text.splitlines() if line.startswith("###"))
    line = next(line for line in text.splitlines() if line.startswith("| PUNet, balanced | PUNet | 1 |"))
    assert line.count("| -0.0500 (-0.0500 to -0.0500) |") == 1  # in the spread over sex, whoever is drawn
    assert "| PUNet | mean of the teachers | 1 | +0.2000" in text
    assert tables.tables(tmp_path / "a.jsonl", 2, 32).startswith("No rows with --epochs 2")
