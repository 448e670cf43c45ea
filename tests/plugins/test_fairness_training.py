"""Whole small trainings with the samplers of nnkd_fairness, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnkd_fairness.rivals import GroupDRO
from nnkd_unet.punet_trainer import nnUNetTrainerPUNet
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, toy_teacher

from nnkd.cli import train
from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, write_recipe
from nnkd.errors import ParticipantsError
from nnkd.training.loader import Draw
from nnkd.training.recipe_trainer import SAMPLER_STATE
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd.weights.checkpoints import load_checkpoint


@pytest.fixture
def cohort(nnunet_folders, monkeypatch):
    """Five women and three men, each with one case; fold 0 trains on seven."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    torch.set_num_threads(1)
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", training=8, labelled=8)
    for name in ("t0", "t1"):
        toy_teacher(dataset, name)
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    folder = preprocessed_folder(dataset)
    cases = [f"toy_{i:03d}" for i in range(8)]
    splits = [{"train": cases[:7], "val": cases[7:]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    rows = [f"{case}\t{'MF'[i % 3 > 0]}\t{37.25 + i}" for i, case in enumerate(cases)]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tsex\tage", *rows]))
    return dataset


def trainer_of(dataset, sampler: Choice, epochs=2, kind=nnUNetTrainerKD):
    folder = preprocessed_folder(dataset)
    options = {"epochs": epochs, "iterations": 3, "val_iterations": 1, "save_every": 1}
    recipe = Recipe("nnUNetPlans", ("t0", "t1"), sampler=sampler, options=options, has_regions=False)
    plans = {**read_plans(folder, write_recipe(folder, recipe)), "continue_training": False}
    trainer = kind(plans, "2d", 0, dict(dataset.spec.json), torch.device("cpu"))
    trainer.drawn = []
    step = trainer.train_step
    trainer.train_step = lambda batch: (trainer.drawn.append(list(batch["keys"])), step(batch))[1]
    return trainer


def texts(trainer) -> str:
    return "".join(p.read_text() for p in sorted(trainer_folder(trainer).glob("*.*")) if p.suffix in (".txt", ".json"))


def trainer_folder(trainer) -> Path:
    return Path(trainer.output_folder)


def killed_after_one_epoch(trainer):
    """Trains, and keeps the checkpoint of the first epoch as if it were the latest."""
    kept = trainer_folder(trainer) / "kept.pth"
    end = trainer.on_epoch_end

    def copy():
        end()
        if trainer.current_epoch == 1:
            shutil.copy(trainer_folder(trainer) / "checkpoint_latest.pth", kept)

    trainer.on_epoch_end = copy
    trainer.run_training()
    return kept


@pytest.mark.heavy
def test_a_training_has_the_samplers_batches_in_order_and_goes_on_where_it_ended(cohort):
    sampler = Choice("balanced", {"attributes": ["sex"]})
    trainer = trainer_of(cohort, sampler)
    kept = killed_after_one_epoch(trainer)
    draw = trainer.draw
    whole = Draw(draw.sampler, draw.participants, 2, slice(None), 0, 1).batches(0)
    assert trainer.drawn == [next(whole) for _ in range(6)]
    sexes = [{draw.participants[case].sex for case in batch} for batch in trainer.drawn]
    assert sexes == [{"F", "M"}] * 6
    text = texts(trainer)
    assert "Sampler balanced: the first epoch has 3 batches of 2 and draws 6 of 7 participants (85.7%)" in text
    assert "Sampler balanced: draws by participants, by stratum: F: <5 by <5; M: <5 by <5" in text
    assert "37.25" not in text  # nobody's age, in no file
    again = trainer_of(cohort, sampler)
    again.initialize()
    again.load_checkpoint(str(kept))
    again.run_training()
    assert again.drawn == trainer.drawn[3:]


@pytest.mark.heavy
def test_group_dro_hears_losses_and_resumes_its_weights(cohort):
    sampler = Choice("group_dro", {"attributes": ["sex"], "step": 0.5})
    trainer = trainer_of(cohort, sampler)
    kept = killed_after_one_epoch(trainer)
    first, last = trainer.logger.get_value(SAMPLER_STATE, None)
    assert sum(last.values()) == pytest.approx(1)
    assert [key.split("/")[1] for key in last] == ["0", "1"]
    assert list(first.values()) != [0.5, 0.5]
    assert load_checkpoint(kept)["logging"][SAMPLER_STATE] == [first]
    again = trainer_of(cohort, sampler)
    again.initialize()
    again.load_checkpoint(str(kept))
    again.on_train_start()
    assert again.draw.sampler.state_dict() == first


@pytest.mark.heavy
def test_results_hold_no_attribute_of_a_person(cohort):
    """Columns without bins: raw cells would be the strata's names."""
    folder = preprocessed_folder(cohort)
    illness = ("rare disease X", "none")
    rows = [f"toy_{i:03d}\tF\t{(23.4375, 61.8125)[i // 2 % 2]}\t{illness[i % 2]}" for i in range(8)]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tsex\tage\tillness", *rows]))
    trainer = trainer_of(cohort, Choice("group_dro", {"attributes": ["age", "illness"], "bins": {}}))
    kept, elsewhere = [], []
    trainer.logger.loggers.append(
        SimpleNamespace(log=lambda key, *_: elsewhere.append(key), update_config=print, log_summary=print)
    )
    trainer.run_training()
    assert "age group 1 illness group 1: " in texts(trainer)
    assert any("debug" in p.name for p in trainer_folder(trainer).iterdir())
    for path in (p for p in trainer_folder(trainer).rglob("*") if p.is_file()):
        data = path.read_bytes() + (repr(load_checkpoint(path)).encode() if path.suffix == ".pth" else b"")
        assert not any(value in data for value in (b"23.43", b"61.81", b"rare disease")), path.name
        kept.append(path.suffix)
    assert {".pth", ".txt", ".json"} <= set(kept)
    assert "train_losses" in elsewhere
    assert SAMPLER_STATE not in elsewhere


@pytest.mark.heavy
def test_a_probabilistic_student_is_weighed_too(cohort, monkeypatch):
    sampler, heard, update = Choice("group_dro", {"attributes": ["sex"]}), [], GroupDRO.update
    monkeypatch.setattr(GroupDRO, "update", lambda self, *told: (heard.extend(told[2]), update(self, *told)))
    trainer = trainer_of(cohort, sampler, epochs=1, kind=nnUNetTrainerPUNet)
    trainer.run_training()
    assert len(heard) == 6
    assert 0 < max(heard) < 5  # a sum over the 256 voxels is about 180
    (state,) = trainer.logger.get_value(SAMPLER_STATE, None)
    first, second = state.values()
    assert first != second
    assert np.isfinite(trainer.logger.get_value("train_losses", 0))


def test_cases_without_participant_are_named_before_the_training(cohort):
    folder = preprocessed_folder(cohort)
    lines = (folder / "participants.tsv").read_text().splitlines()
    (folder / "participants.tsv").write_text("\n".join(lines[:-3]))
    with pytest.raises(ParticipantsError, match="has no row for 2 of 7 cases"):
        trainer_of(cohort, Choice("balanced")).on_train_start()
    (folder / "participants.tsv").unlink()
    with pytest.raises(ParticipantsError, match=r"has no participants.tsv"):
        trainer_of(cohort, Choice("balanced")).on_train_start()


def call(*arguments):
    return train.main(["701", "2d", "0", "-device", "cpu", "--dry_run", *arguments])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["-s", "balanced"], "No participant has a value in the column 'bmi'"),
        (["-s", "balanced", "--set", "balanced.attributes=sex", "batch_size=3"], "Set batch_size to 2 or 4"),
        (["-s", "balanced", "--set", "balanced.attributes=sex,site"], "value in the column 'site'"),
        (["-s", "stratified", "--set", "batch_size=30"], "A batch of 30 different participants"),
        (["-s", "weighted", "-a", "weighted", "--set", "weighted.nonsense=1"], "'weighted' has no option 'nonsense'"),
    ],
)
def test_the_command_refuses_what_cannot_be_drawn(cohort, flags, sentence, capsys):
    before = sorted(preprocessed_folder(cohort).glob("*.json"))
    assert call(*flags) == 1
    assert sentence in capsys.readouterr().err
    assert sorted(preprocessed_folder(cohort).glob("*.json")) == before  # no recipe that cannot be trained


def test_the_command_writes_batch_size_and_options_into_the_recipe(cohort):
    bins = 'balanced.bins={"age": [null, 40, null]}'
    flags = ["-n", "fair", "--set", "balanced.attributes=sex,age", bins, "balanced.tolerance=1", "batch_size=4"]
    assert call("-s", "balanced", *flags) == 0
    plans = read_plans(preprocessed_folder(cohort), "nnUNetPlans_fair")
    assert plans["configurations"]["2d"]["batch_size"] == 4
    assert plans["nnkd"]["sampler"]["options"]["bins"] == {"age": [None, 40.0, None]}
    assert call("-s", "weighted", "-a", "weighted", "-n", "both", "--set", "weighted.attributes=sex") == 0
    assert read_plans(preprocessed_folder(cohort), "nnUNetPlans_both")["nnkd"]["sampler"]["options"] == {
        "attributes": ["sex"]
    }


@pytest.mark.heavy
def test_a_loaders_workers_deal_whole_batches(cohort, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = trainer_of(cohort, Choice("balanced", {"attributes": ["sex"]}), epochs=1)
    trainer.initialize()
    loader, validation = trainer.get_dataloaders()
    try:
        keys = [sorted(next(loader)["keys"]) for _ in range(6)]
    finally:
        loader._finish()
        validation._finish()
    draw = trainer.draw
    expected = Draw(draw.sampler, draw.participants, 2, slice(None), 0, 1).batches(0)
    possible = [sorted(next(expected)) for _ in range(12)]
    assert all(batch in possible for batch in keys)
    assert np.all([{draw.participants[c].sex for c in batch} == {"F", "M"} for batch in keys])
