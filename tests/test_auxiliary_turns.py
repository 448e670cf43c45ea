"""The record of a few-shot training, its plots and its section of the report."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from nnkd_ucb.flad import Dal
from nnkd_ucb.rivals import Gms
from nnkd_ucb.rivals import Random as Uniform
from nnkd_ucb.ucb import Ucb

from nnkd.auxiliary_plots import MOST_COLUMNS, chosen_shares
from nnkd.auxiliary_section import auxiliary_section
from nnkd.auxiliary_turns import Turns, read_turns, reasons, table
from nnkd.errors import FolderError, RecipeError

ARMS = ("801", "803:liver", "804:spleen")
WORTH = {"801": 0.8, "803:liver": 0.3, "804:spleen": 0.1}


def played(scheduler, number: int) -> list[dict]:
    """What a training writes."""
    rng, rows = random.Random(0), []
    for _ in range(number):
        for name in scheduler.unscored():
            scheduler.score(name, 0.5, WORTH[name], 1.0, WORTH[name])
        name = scheduler.select()
        scheduler.update(name, 0.5 + rng.random() / 10, WORTH[name])
        rows.append(scheduler.trace())
    return rows


def written(file, rows) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_written_is_read(tmp_path):
    rows = played(Ucb(ARMS), 30)
    written(tmp_path / "turns.jsonl", rows)
    turns = read_turns(tmp_path / "turns.jsonl")
    assert list(turns.rows) == rows
    assert turns.datasets[0] == "801"
    assert sum(number for _, number, _ in table(turns)) == 30


def test_of_turns_that_were_done_again_the_later_ones_count(tmp_path):
    rows = played(Ucb(ARMS), 12)
    again = {**rows[7], "loss": 9.0}
    written(tmp_path / "turns.jsonl", [*rows[:10], again, *rows[8:]])
    turns = read_turns(tmp_path / "turns.jsonl")
    assert [row["turn"] for row in turns.rows] == list(range(1, 13))
    assert turns.rows[7]["loss"] == 9.0


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    rows = played(Ucb(ARMS), 3)
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"turn": 4, "data')
    assert len(read_turns(tmp_path / "turns.jsonl").rows) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no finished turn"),
        ('{"a": 1}\n{"b": 1}\n', "Line 1 of"),
        ("[1]\n{}\n", "Line 1 of"),
        ("x", "no fin"),
    ],
)
def test_other_files_are_refused(tmp_path, content, said):
    (tmp_path / "turns.jsonl").write_text(content)
    with pytest.raises(RecipeError, match=said):
        read_turns(tmp_path / "turns.jsonl")
    with pytest.raises(FolderError, match=r"There is no 'other\.jsonl'"):
        read_turns(tmp_path / "other.jsonl")


def test_words_say_whether_it_was_the_estimate_or_the_bonus():
    liked, other = (dict(zip(ARMS, numbers, strict=True)) for numbers in ((0.9, 0.5, 0.0), (0.4, 0.5, 0.1)))
    rows, counts = [], dict.fromkeys(ARMS, 0)
    for turn, estimates in enumerate([liked, liked, liked, other], 1):
        counts["801"] += 1
        bounds = {**estimates, "801": estimates["801"] + 0.2}
        rows.append(
            {"turn": turn, "dataset": "801", "loss": 0.25, "cosine": 0.75, "estimates": estimates, "bounds": bounds,
             "counts": dict(counts)}
        )  # fmt: skip
    said = reasons(Turns(tuple(rows)))
    assert said == [
        "801 trained along in 4 of 4 turns (100%), half of them by turn 2: in 75% of these because its estimate was "
        "the highest, otherwise as it had been tried little. Its mean cosine 0.75, mean loss 0.25.",
        "Never chosen: 803:liver, 804:spleen.",
        "In turn 4, the last, 801 had the bound 0.600 (estimate 0.400, bonus 0.200); next came 803:liver with 0.500 "
        "(estimate 0.500, bonus 0.000).",
    ]


@pytest.mark.parametrize(
    ("make", "said"),
    [(Uniform, "it was drawn by chance."), (Dal, "which was 33.3% in the first turn"), (Gms, "once, before training")],
)
def test_words_for_schedulers_without_bounds(make, said):
    turns = Turns(tuple(played(make(ARMS), 20)))
    assert said in reasons(turns)[0]
    section = auxiliary_section({"fold 0": turns})["trainings"][0]
    assert len(section["plots"]) == 2


def test_turns_without_finite_numbers_are_no_turns_of_a_mean():
    scheduler = Ucb(("a",))
    scheduler.update(scheduler.select(), float("nan"), 0.5)
    turns = Turns((scheduler.trace(),))
    assert turns.mean("a", "loss") is None
    assert table(turns) == [("a", 1, ["—", "0.500", "—", "100%"])]
    assert len(auxiliary_section({"fold 0": turns})["trainings"][0]["plots"]) == 3


@pytest.mark.parametrize("number", [1, 37, MOST_COLUMNS + 50])
def test_columns_share_the_turns_out(number):
    turns = Turns(tuple(played(Uniform(ARMS), number)))
    shares = chosen_shares(turns)
    assert shares.shape == (3, min(number, MOST_COLUMNS))
    assert shares.sum(axis=0) == pytest.approx(np.ones(shares.shape[1]))
    assert shares[0].mean() == pytest.approx(turns.rows[-1]["counts"][turns.datasets[0]] / number, abs=0.05)


def test_the_page_shows_every_training():
    from jinja2 import Environment, PackageLoader

    section = auxiliary_section({"fold 0": Turns(tuple(played(Ucb(ARMS), 40)))})
    environment = Environment(loader=PackageLoader("nnkd"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("auxiliaries.html").render(auxiliaries=section)
    assert page.count('<img src="data:image/png') == 3
    assert "<th>803:liver</th>" in page
    assert "801 trained along in" in page
    assert auxiliary_section({}) is None
