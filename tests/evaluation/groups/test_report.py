"""nnKD_evaluate --participants: outputs, privacy, bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored import words
from toy import toy_dataset, two_balls, write_image

from nnkd.cli.evaluate import main
from nnkd.data.dataset import RawDataset
from nnkd.files import read_json

pytestmark = pytest.mark.heavy

CASES = 44
RARE = "Lighthouse"  # two people were scanned there
TABLES = ("fairness.csv", "fairness_groups.csv", "fairness_changes.csv")


def rows(cohort: Path) -> list[dict[str, str]]:
    with (cohort / "participants.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def rewrite(cohort: Path, change) -> None:
    """participants.tsv with every row changed; None leaves a row out."""
    found = [row for row in (change(i, row) for i, row in enumerate(rows(cohort))) if row is not None]
    with (cohort / "participants.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A dataset of 44 people, and two students of which the first is worse for men."""
    folder = tmp_path_factory.mktemp("raw") / "Dataset702_Cohort"
    toy_dataset(folder, training=0, test=0)
    rng = np.random.default_rng(3)
    lines = ["participant_id\tsex\tage\tbmi\tclinic\tweight"]
    for i in range(CASES):
        case = f"toy_{i:03d}"
        truth = two_balls((4, 14, 12), rng)
        write_image(truth, folder / "labelsTs" / f"{case}.nii.gz")
        for name, shift in (("first", (i % 2) + (i % 3 == 0)), ("second", int(i % 3 == 0))):
            write_image(np.roll(truth, shift, axis=1), folder / name / f"{case}.nii.gz")
        age, bmi, weight = 20 + 40 * rng.random(), rng.normal(22.5, 2.5), rng.normal(70, 9)
        clinic = RARE if i in (5, 20) else ("North", "South")[i % 2]
        lines.append(f"sub-{case}\t{'FM'[i % 2]}\t{age:.5f}\t{bmi:.5f}\t{clinic}\t{weight:.5f}")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    evaluate(folder)  # so that the cases need no comparison again
    return folder


def evaluate(folder: Path, *more: str, names=("first", "second"), output="out") -> int:
    return main(
        [
            "-i", *(str(folder / name) for name in names), "-ref", str(folder / "labelsTs"),
            "-o", str(folder / output), "--bootstrap", "40", "-np", "1", *more,
        ]
    )  # fmt: skip


@pytest.fixture
def cohort(template, tmp_path) -> Path:
    folder = tmp_path / "Dataset702_Cohort"
    shutil.copytree(template, folder)
    RawDataset(folder)
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are drawn into nothing, which saves most of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


def outputs(folder: Path, output="out") -> dict[str, str]:
    """Text of every output file; pictures are left out."""
    found = {}
    for file in sorted((folder / output).rglob("*")):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            found[file.name] = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    return found


def test_json_tables_and_page(cohort, capsys):
    assert evaluate(cohort, "--participants", str(cohort / "participants.tsv")) == 0
    said = capsys.readouterr().out
    assert "groups by sex, age, bmi (44 participants; groups of fewer than 5 are hidden)" in said
    content = read_json(cohort / "out" / "fairness.json")
    assert content["definition"] == "monai"
    assert content["bins_from"] == "paper 1"
    assert content["folders"]["first"]["sex"]["liver"]["worst"] == "M"
    gap = content["changes"][0]["groups"]["sex"]["liver"]["gap"]
    assert gap["change"]["high"] < 0
    assert gap["after"] < gap["before"]
    for name in TABLES:
        assert len(pd.read_csv(cohort / "out" / name))
    page = (cohort / "out" / "report.html").read_text(encoding="utf-8")
    text = words(page)
    for sentence in ("Fairness", "paper 1's Table 3", "by chance", "Groups of fewer than 5 people", "largest gap",
                     "second against first", "ANOVA", "Kruskal-Wallis", "equity-scaled DSC"):  # fmt: skip
        assert sentence in text
    assert len(re.findall('alt="DSC of liver by (sex|age|bmi)"', page)) == 3
    assert page.count('alt="Gaps by ') == 3
    assert str(cohort.parent) not in page


def test_nothing_is_compared_unless_asked_for_and_old_files_go(cohort, undrawn):
    assert evaluate(cohort, "--attributes", "sex") == 0
    assert set(read_json(cohort / "out" / "fairness.json")["groups"]) == {"sex"}
    assert evaluate(cohort) == 0
    assert not list((cohort / "out").glob("fairness*"))
    assert 'id="fairness"' not in (cohort / "out" / "report.html").read_text(encoding="utf-8")


def test_no_output_holds_a_persons_attributes(cohort, undrawn):
    everything = ["--attributes", "sex", "age", "bmi", "clinic", "weight"]
    assert evaluate(cohort, "--participants", str(cohort), *everything) == 0
    texts = outputs(cohort)
    assert {"fairness.json", "report.html", "metrics.csv", "summary.json", *TABLES} <= set(texts)
    numbers = {number for text in texts.values() for number in re.findall(r"\d+\.\d+", text)}
    assert len(numbers) > 500
    for row in rows(cohort):
        for column in ("age", "bmi", "weight"):
            spelt = {f"{float(row[column]):.{digits}f}" for digits in (5, 4, 3, 2)}
            assert not spelt & numbers, f"a person's {column}"
    for name, text in texts.items():
        assert RARE not in text
        assert "sub-toy" not in text
        if name.startswith("fairness"):
            assert "toy_0" not in text  # groups and cases never stand in one file


def groups_in(found: object) -> list[dict]:
    """Every mapping of a group's name to its figures."""
    if not isinstance(found, dict):
        return [g for item in found for g in groups_in(item)] if isinstance(found, list) else []
    here = [found["groups"]] if isinstance(found.get("groups"), dict) else []
    return here + [g for value in found.values() for g in groups_in(value)]


@pytest.mark.parametrize("smallest", [5, 9])
def test_groups_of_few_people_are_nowhere(cohort, smallest, undrawn):
    few = 3

    def change(i, row):
        return {**row, "sex": "M" if i < few else "F", "age": "61.5" if i < few else f"{25 + 10 * (i % 3)}"}

    rewrite(cohort, change)
    options = ("--attributes", "sex", "age", "clinic", "--smallest_group", str(smallest))
    assert evaluate(cohort, "--participants", str(cohort), *options) == 0
    content = read_json(cohort / "out" / "fairness.json")
    assert content["smallest_group"] == smallest
    assert "Fewer than two groups of 'sex' can be shown" in " ".join(content["notes"])
    assert "sex" not in content["groups"]
    for title, groups in content["groups"].items():
        assert all(found["people"] >= smallest for found in groups.values())
        counted = sum(found["people"] for found in groups.values())
        assert CASES - counted == 0 or CASES - counted >= smallest, title
    assert groups_in(content["folders"])
    assert not any("outside" in found or RARE in found for found in groups_in(content))
    frame = pd.read_csv(cohort / "out" / "fairness_groups.csv")
    assert (frame["people"] >= smallest).all()
    page = words((cohort / "out" / "report.html").read_text(encoding="utf-8"))
    assert f"Groups of fewer than {smallest} people are neither shown nor tested" in page


def test_group_sizes_do_not_tell_who_lacks_a_label(cohort, undrawn):
    for name in ("first", "labelsTs"):
        (cohort / name / "toy_000.nii.gz").unlink()
        write_image(np.zeros((4, 14, 12), np.uint8), cohort / name / "toy_000.nii.gz")
    assert evaluate(cohort, "--attributes", "sex", names=("first",)) == 0
    frame = pd.read_csv(cohort / "out" / "fairness_groups.csv")
    assert set(frame["people"]) == {CASES // 2}  # in every label; metrics.csv says which case has none
    assert set(pd.read_csv(cohort / "out" / "fairness.csv")["people"].dropna()) == {CASES - 1}


def age_190(i, row):
    return {**row, "age": "190"} if i == 7 else row


def bmi_2(i, row):
    return {**row, "bmi": "2"} if i == 7 else row


def one_sex(i, row):
    return {**row, "sex": "F"}


def odd_sex(i, row):
    return {**row, "sex": "Q"} if i == 7 else row


def one_less(i, row):
    return None if i == 7 else row


def twice(i, row):
    return {**row, "participant_id": "sub-toy_000"} if i == 7 else row


@pytest.mark.parametrize(
    ("change", "code", "sentence", "left"),
    [
        (age_190, 3, "Line 9 of participants.tsv of Dataset702_Cohort has a age outside 0 to 120 years", "sex age bmi"),
        (bmi_2, 3, "Line 9 of participants.tsv of Dataset702_Cohort has a bmi outside 8 to 100 kg/m2", "sex age bmi"),
        (odd_sex, 3, "Line 9 of participants.tsv of Dataset702_Cohort spells sex in a way", "sex age bmi"),
        (one_less, 3, "has no row for 1 of 44 cases ('toy_007'). Add the rows", "sex age bmi"),
        (twice, 3, "names 'toy_000' more than once", None),
        (
            one_sex,
            0,
            "All evaluated participants are in one group of 'sex', so there is nothing to compare.",
            "age bmi",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_the_rest_is_reported(cohort, capsys, undrawn, change, code, sentence, left):
    rewrite(cohort, change)
    assert evaluate(cohort, "--participants", str(cohort)) == code
    said = capsys.readouterr()
    assert sentence in said.out + said.err
    assert "44 cases; mean overall" in said.out
    assert not re.search(r"(?<![\d.-])190(?!\d)", said.out + said.err)  # the folder may be called pytest-190
    content = read_json(cohort / "out" / "fairness.json")
    assert sentence in " ".join([*content["problems"], *content["notes"]])
    page = words((cohort / "out" / "report.html").read_text(encoding="utf-8")).replace("&#39;", "'")
    assert sentence in page
    found = {title for title in content.get("groups", {}) if " x " not in title}
    assert found == set((left or "").split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--participants", "nowhere/participants.tsv"), "There is no 'participants.tsv' (--participants)"),
        (("--participants", "OTHER"), "has no participants.tsv, so there are no groups"),
        (("--participants", "MISNAMED"), "'people.tsv' (--participants) is not named participants.tsv. Rename it."),
        (("--attributes", "sex", "hieght"), "No evaluated participant has a value in the column 'hieght'; the columns"),
        (("--attributes", "clinic", "--bins", '{"clinic": [1, 2, 3]}'), "edges for the column 'clinic', but it holds"),
    ],
)
def test_wrong_places_and_columns_are_one_sentence_and_the_rest_is_reported(
    cohort, capsys, options, sentence, tmp_path
):
    (tmp_path / "other").mkdir()
    shutil.copy(cohort / "participants.tsv", cohort / "people.tsv")
    places = {"OTHER": str(tmp_path / "other"), "MISNAMED": str(cohort / "people.tsv")}
    assert evaluate(cohort, *(places.get(option, option) for option in options)) == 3
    said = capsys.readouterr()
    assert sentence in said.err
    assert "44 cases; mean overall" in said.out
    assert json.dumps(sentence)[1:-1] in (cohort / "out" / "fairness.json").read_text(encoding="utf-8")
    assert not any(str(tmp_path) in text for text in outputs(cohort).values())


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--smallest_group", "1"), 1, "--smallest_group is 1"),
        (("--bins", '{"age": [30, 20, 40]}'), 1, "three or more rising edges"),
        (("--attributes", "sex", "--bins", '{"age": [20, 30, 40]}'), 1, "edges for 'age', but --attributes has sex"),
        (("--bins", "age=20,30"), 2, "is no JSON"),
    ],
)
def test_wrong_options_stop_before_anything_is_compared(cohort, capsys, options, code, sentence):
    try:
        found = evaluate(cohort, *options, output="new")
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert sentence in capsys.readouterr().err
    assert not (cohort / "new").exists()


def test_a_folder_with_cases_alone_says_whose_case_is_whose(cohort, undrawn, tmp_path):
    (tmp_path / "other").mkdir()
    lines = ["case\tparticipant_id", *(f"toy_{i:03d}\tp{i // 2}" for i in range(CASES))]
    (tmp_path / "other" / "cases.tsv").write_text("\n".join(lines) + "\n")
    assert evaluate(cohort, "--participants", str(tmp_path / "other")) == 0
    assert not (cohort / "out" / "fairness.json").exists()
    assert pd.read_csv(cohort / "out" / "means.csv")["participants"].max() == CASES // 2


def test_bins_and_columns_of_ones_own(cohort, undrawn):
    bins = '{"age": [null, 40, null]}'
    assert evaluate(cohort, "--attributes", "age", "clinic", "--bins", bins, "--participants", str(cohort)) == 0
    content = read_json(cohort / "out" / "fairness.json")
    assert content["bins"] == {"age": [None, 40, None]}
    assert set(content["groups"]["age"]) == {"<40", ">=40"}


def test_cases_of_one_person_count_once(cohort, undrawn):
    lines = ["case\tparticipant_id", *(f"toy_{i:03d}\tsub-toy_{i // 2 * 2:03d}" for i in range(CASES))]
    (cohort / "cases.tsv").write_text("\n".join(lines) + "\n")
    rewrite(cohort, lambda i, row: {**row, "clinic": "North" if i % 4 else "South"})
    assert evaluate(cohort, "--participants", str(cohort), "--attributes", "clinic", "age") == 0
    content = read_json(cohort / "out" / "fairness.json")
    assert sum(found["people"] for found in content["groups"]["clinic"].values()) == CASES // 2
