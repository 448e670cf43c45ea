"""The record of a few-shot training, its plots and its section of the report."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from functools import partial

import numpy as np
import pytest
from nnkd_ucb.flad import Dal
from nnkd_ucb.rivals import Gms
from nnkd_ucb.rivals import Random as Uniform
from nnkd_ucb.ucb import Ucb

from nnkd.auxiliary.plots import MOST_COLUMNS, chosen_shares
from nnkd.auxiliary.record import carried, carry
from nnkd.auxiliary.section import HEADS, section_of_folders, training_section
from nnkd.auxiliary.turns import PlayedTurns, read_turns, reasons, table
from nnkd.errors import FolderError, RecipeError
from nnkd.weights.checkpoints import TrainedModel

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
    said = reasons(PlayedTurns(tuple(rows)))
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
    turns = PlayedTurns(tuple(played(make(ARMS), 20)))
    assert said in reasons(turns)[0]
    assert len(training_section("fold 0", turns)["plots"]) == 2


def test_words_for_the_only_dataset():
    assert "a trained along in 3 of 3 turns (100%): there was no other." in reasons(
        PlayedTurns(tuple({"turn": n, "dataset": "a", "counts": {"a": n}, "estimates": {"a": 0.5}} for n in (1, 2, 3)))
    )


def test_turns_without_finite_numbers_are_no_turns_of_a_mean():
    scheduler = Ucb(("a",))
    scheduler.update(scheduler.select(), float("nan"), 0.5)
    turns = PlayedTurns((scheduler.trace(),))
    assert turns.mean("a", "loss") is None
    assert table(turns) == [("a", 1, ["—", "0.500", "—", "100%"])]
    assert len(training_section("fold 0", turns)["plots"]) == 3


@pytest.mark.parametrize("number", [1, 37, MOST_COLUMNS + 50])
def test_columns_share_the_turns_out(number):
    turns = PlayedTurns(tuple(played(Uniform(ARMS), number)))
    shares = chosen_shares(turns)
    assert shares.shape == (3, min(number, MOST_COLUMNS))
    assert shares.sum(axis=0) == pytest.approx(np.ones(shares.shape[1]))
    assert shares[0].mean() == pytest.approx(turns.rows[-1]["counts"][turns.datasets[0]] / number, abs=0.05)


@pytest.mark.heavy
def test_the_page_shows_every_training():
    from jinja2 import Environment, PackageLoader

    training = training_section("fold 0", PlayedTurns(tuple(played(Ucb(ARMS), 40))))
    section = {"heads": HEADS, "trainings": [training], "notes": []}
    environment = Environment(
        loader=PackageLoader("nnkd.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("auxiliaries.html").render(auxiliaries=section)
    assert page.count('<img src="data:image/png') == 3
    assert "<th>803:liver</th>" in page
    assert "801 trained along in" in page
    assert section_of_folders({}) is None


# --- in prediction folders ------------------------------------------------------------------------------------------


def student(folder, *folds, name="few", turns=5):
    """A model folder in which each of these folds has a record of its own length."""
    model = folder / f"nnUNetTrainerKD__{name}__2d"
    for number, fold in enumerate(folds):
        (model / f"fold_{fold}").mkdir(parents=True)
        written(model / f"fold_{fold}" / "auxiliaries.jsonl", played(Ucb(ARMS), turns + number))
    return TrainedModel(model, folds)


def damaged(folder, name="fold_0", content=b"{}"):
    """A copy that is not what was written."""
    (folder / "auxiliaries").mkdir(parents=True, exist_ok=True)
    (folder / "auxiliaries" / f"{name}.jsonl.gz").write_bytes(content)
    return folder


@pytest.mark.heavy
def test_predictions_carry_the_records_of_their_folds(tmp_path):
    model = student(tmp_path, "0", "1", "all")
    carry([model], tmp_path / "p")
    assert list(carried(tmp_path / "p")) == ["fold_0", "fold_1", "fold_all"]
    section = section_of_folders({"a": tmp_path / "p"})
    assert [t["name"] for t in section["trainings"]] == ["a, fold_0", "a, fold_1", "a, fold_all"]
    assert [t["turns"] for t in section["trainings"]] == [5, 6, 7]
    assert section["notes"] == []
    shutil.rmtree(model.folder / "fold_all")  # as a model that was handed on, with nnU-Net's files alone
    carry([TrainedModel(model.folder, ("1", "all"))], tmp_path / "p")
    assert list(carried(tmp_path / "p")) == ["fold_1"]


def test_students_of_single_labels_are_told_apart(tmp_path):
    carry([student(tmp_path, "0", name=f"few_{label}") for label in ("liver", "spleen")], tmp_path / "p")
    assert list(carried(tmp_path / "p")) == ["few_liver_fold_0", "few_spleen_fold_0"]


@pytest.mark.heavy
def test_two_folders_of_one_student_show_its_training_once(tmp_path):
    model = student(tmp_path, "0")
    for name in ("plain", "mirrored"):
        carry([model], tmp_path / name)
    section = section_of_folders({name: tmp_path / name for name in ("plain", "mirrored")})
    assert [t["name"] for t in section["trainings"]] == ["plain, fold_0; mirrored, fold_0"]


def test_folders_without_a_record_have_no_section(tmp_path):
    (tmp_path / "empty" / "auxiliaries").mkdir(parents=True)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "auxiliaries").write_text("a file")
    folders = {name: tmp_path / name for name in ("empty", "file", "missing")}
    carry([TrainedModel(tmp_path / "a__b__c", ("0",))], tmp_path / "missing")
    assert section_of_folders(folders) is None
    assert not (tmp_path / "missing").exists()


packed = partial(gzip.compress, mtime=0)  # names of tests hold it: processes must agree on them
PACKED = packed(json.dumps({"turn": 1, "dataset": "a", "counts": {"a": 1}}).encode() * 9)
STRANGE = {"turn": 1, "dataset": "a", "counts": {"a": 1}, "estimates": {"b": "high"}, "loss": 0.1}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no finished turn"),
        (b"no archive", "cannot be read: it is cut off or damaged (Not a gzipped file"),
        (PACKED[:-12], "cannot be read: it is cut off or damaged"),
        (packed(b"\xff\xfe"), "cannot be read"),
        (packed(b'"cosine turn"\n{}\n'), "Line 1 of 'fold_0.jsonl.gz' is no turn"),
        (packed(json.dumps(STRANGE).encode()), "'fold_0.jsonl.gz' is not as it was written (KeyError: 'a')"),
        (packed(b'{"turn": 1, "cosine": 0.5, "loss": 1}'), "so that nothing was chosen"),
    ],
)
def test_a_record_that_cannot_be_shown_is_one_sentence(tmp_path, caplog, content, said):
    carry([student(tmp_path, "0")], tmp_path / "whole")
    folders = {"whole": tmp_path / "whole", "broken": damaged(tmp_path / "broken", content=content)}
    section = section_of_folders(folders)
    assert [t["name"] for t in section["trainings"]] == ["whole, fold_0"]
    (note,) = section["notes"]
    assert note.startswith("broken, fold_0: ")
    assert said in note
    assert str(tmp_path) not in note
    assert note.count("\n") == 0
    assert [record.getMessage() for record in caplog.records] == [f"Auxiliary datasets of {note}"]


def test_the_page_says_what_it_cannot_show(tmp_path):
    from jinja2 import Environment, PackageLoader

    section = section_of_folders({"<b>": damaged(tmp_path)})
    page = Environment(loader=PackageLoader("nnkd.evaluation"), autoescape=True).get_template("auxiliaries.html")
    shown = page.render(auxiliaries=section)
    assert "&lt;b&gt;, fold_0: " in shown
    assert "Estimate: the running mean" not in shown
