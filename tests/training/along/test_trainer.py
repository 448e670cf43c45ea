"""Tests of nnkd.training.along and nnkd.auxiliary.record."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from auxiliary_toys import auxiliary, few_shot_target, prepared
from nnkd_unet.punet_trainer import nnUNetTrainerPUNet
from planned import preprocess
from processes import on_two
from toy import toy_teacher
from two_ranks import one_of_two, total
from two_ranks import trainer_of as trainer_of_rank

from nnkd.auxiliary import record as auxiliary_record
from nnkd.auxiliary.turns import read_turns
from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, write_recipe
from nnkd.errors import DatasetError, RecipeError, TrainingError
from nnkd.training import divergence
from nnkd.training.along.loader import AuxiliaryBatches, AuxiliaryCases
from nnkd.training.file_safety import FileSafeTrainer
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd.weights.checkpoints import load_checkpoint

SHORT = {"epochs": 1, "iterations": 3, "val_iterations": 1}
NAMES = ("Dataset801_Other:liver", "Dataset802_Other")


@pytest.fixture
def target(nnunet_folders, monkeypatch):
    return made(nnunet_folders, monkeypatch)


def made(folder, monkeypatch, name="2d", **keywords):
    """A target and two preprocessed auxiliaries."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    torch.set_num_threads(1)
    _, target = few_shot_target(folder, name, **keywords)
    for number in (801, 802):
        auxiliary(folder, number, seed=number)
    assert prepared(["801", "802"], target).failures == []
    return target


def trainer_of(target, scheduler="ucb", kind=nnUNetTrainerKD, names=NAMES, choice=None, **options):
    recipe = Recipe(
        "nnUNetPlans",
        options={**SHORT, **options},
        has_regions=False,
        auxiliaries=names,
        auxiliary_scheduler=Choice(scheduler, choice or {}),
    )
    plans = {**read_plans(target.preprocessed, write_recipe(target.preprocessed, recipe)), "continue_training": False}
    dataset_json = json.loads((target.preprocessed / "dataset.json").read_text())
    return kind(plans, target.configuration, 0, dataset_json, torch.device("cpu"))


def started(trainer):
    """Ready for its first step, without what nnU-Net writes at the start."""
    if not trainer.was_initialized:
        trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSafeTrainer, "on_train_start", lambda self: None)
        trainer.on_train_start()
    return trainer


def rows(trainer):
    file = Path(trainer.output_folder) / auxiliary_record.RECORD
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("scheduler", ["ucb", "gms", "random", "dal"])
def test_a_step_trains_along_what_the_scheduler_chose(target, scheduler):
    trainer = started(trainer_of(target, scheduler))
    heads = trainer.auxiliaries.second.heads
    before = heads[-1].weight.detach().clone()
    for _ in range(2):
        assert trainer.train_step(next(trainer.dataloader_train))["loss"].dtype == np.float32
    assert not torch.equal(before, heads[-1].weight)
    first, second = rows(trainer)
    assert (first["turn"], second["turn"]) == (1, 2)
    assert {first["dataset"], second["dataset"]} <= set(NAMES)
    assert -1 <= first["cosine"] <= 1
    assert first["loss"] > 0
    assert first["epoch"] == 0
    assert first["target_loss"] > 0
    assert set(first["scores"]) == (set(NAMES) if scheduler in ("ucb", "gms") else set())
    assert second["scores"] == {}


def test_all_in_mixed_batches(target):
    trainer = started(trainer_of(target, "mtl"))
    trainer.train_step(next(trainer.dataloader_train))
    (row,) = rows(trainer)
    assert "dataset" not in row
    assert row["turn"] == 1
    assert -1 <= row["cosine"] <= 1
    loader = trainer.auxiliaries.batches._loader
    tasks = {key[0] for _ in range(20) for key in loader.batch((0, 1))["keys"]}
    assert tasks == {"0", "1"}


@pytest.mark.parametrize("teachers", [(), ("t0",)])
def test_its_loss_is_nnunets_for_the_labels_it_is_given(target, teachers):
    trainer = trainer_of(target)
    trainer.recipe = replace(trainer.recipe, teachers=teachers)
    recipe, labels = trainer.recipe, trainer.label_manager
    one = trainer._one_foreground(ignores=True)
    loss = trainer.auxiliary_loss(one)
    assert loss.loss.ce.ignore_index == one.ignore_label == 2
    assert (trainer.recipe, trainer.label_manager) == (recipe, labels)
    assert labels.ignore_label is None
    punet = nnUNetTrainerPUNet.auxiliary_loss(trainer_of(target, kind=nnUNetTrainerPUNet), one)
    assert type(punet) is type(loss.loss)  # of one output


def test_none_is_plain_training(target):
    trainer = started(trainer_of(target, "none"))
    assert trainer.auxiliaries is None
    assert len(trainer.optimizer.param_groups) == 1
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert not (Path(trainer.output_folder) / auxiliary_record.RECORD).exists()


def test_the_gradient_is_the_sum_and_is_clipped_once(target, monkeypatch):
    trainer = started(trainer_of(target))
    seen = []

    def clip(parameters, most):
        parameters = list(parameters)
        seen.append((len(parameters), most))
        return torch.zeros(())

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    trainer.train_step(next(trainer.dataloader_train))
    number = len(list(trainer.network.parameters())) + len(list(trainer.auxiliaries.second.heads.parameters()))
    assert seen == [(number, 12)]


def test_a_turn_may_be_an_epoch(target):
    trainer = started(trainer_of(target, turn="epoch"))
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)]
    assert not (Path(trainer.output_folder) / auxiliary_record.RECORD).exists()
    trainer.on_train_epoch_end(outputs)
    (row,) = rows(trainer)
    assert sum(row["counts"].values()) == 1
    assert row["target_loss"] == pytest.approx(np.mean([o["loss"] for o in outputs]), rel=1e-5)
    assert trainer.auxiliaries.scheduler.turn == 1


@pytest.mark.heavy
def test_a_binary_target_shares_its_head(nnunet_folders, monkeypatch):
    target = made(nnunet_folders, monkeypatch, binary=True)
    for kind in (nnUNetTrainerKD, *_students()):
        trainer = started(trainer_of(target, kind=kind))
        assert trainer.auxiliaries.second.heads is None
        assert len(trainer.optimizer.param_groups) == 1
        trainer.train_step(next(trainer.dataloader_train))
        assert -1 <= rows(trainer)[0]["cosine"] <= 1


def _students():
    from nnkd.plugin.registry import installed

    return [installed().load("student", "nnUNetTrainerUNet"), nnUNetTrainerPUNet]


@pytest.mark.heavy
@pytest.mark.parametrize("number", [0, 1])
def test_students_of_one_output_with_several_labels(target, number):
    kind = _students()[number]
    trainer = started(trainer_of(target, kind=kind))
    (head,) = trainer.auxiliaries.second.heads
    assert head.out_channels == 2
    trainer.train_step(next(trainer.dataloader_train))
    assert np.isfinite(rows(trainer)[0]["loss"])


def test_regions_have_one_auxiliary_output(nnunet_folders, monkeypatch):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    target = made(nnunet_folders, monkeypatch, labels=labels, regions_class_order=[1, 2])
    trainer = started(trainer_of(target))
    assert {head.out_channels for head in trainer.auxiliaries.second.heads} == {1}
    trainer.train_step(next(trainer.dataloader_train))
    assert -1 <= rows(trainer)[0]["cosine"] <= 1


@pytest.mark.heavy
def test_distillation_with_auxiliaries_in_3d(nnunet_folders, monkeypatch):
    target = made(nnunet_folders, monkeypatch, "3d_fullres")
    from nnkd.data.dataset import RawDataset

    raw = RawDataset.open("701")
    for index in range(2):
        toy_teacher(raw, f"t{index}", shift=index)
    preprocess(raw, dict(target.plans), "3d_fullres")
    recipe = Recipe(
        "nnUNetPlans", ("t0", "t1"), options=SHORT, has_regions=False, auxiliaries=NAMES,
        auxiliary_scheduler=Choice("ucb"),
    )  # fmt: skip
    plans = {**read_plans(target.preprocessed, write_recipe(target.preprocessed, recipe)), "continue_training": False}
    trainer = started(nnUNetTrainerKD(plans, "3d_fullres", 0, dict(raw.spec.json), torch.device("cpu")))
    trainer.train_step(next(trainer.dataloader_train))
    assert -1 <= rows(trainer)[0]["cosine"] <= 1


class OwnStep(nnUNetTrainerKD):
    """A student that trains in its own way."""

    def train_step(self, batch):
        return {"loss": np.float32(1)}


class NoNumber(torch.nn.Module):
    """The loss of a task that went astray."""

    def forward(self, output, target):
        return (output[0] if isinstance(output, list | tuple) else output).sum() * float("nan")


class WithBadTask(nnUNetTrainerKD):
    """All its auxiliaries' losses are NaN."""

    def auxiliary_loss(self, labels):
        return NoNumber()


@pytest.mark.parametrize("kind", [nnUNetTrainerKD, WithBadTask])
def test_a_training_along_stops_at_nan_of_either_loss(target, kind):
    trainer = started(trainer_of(target, "ucb", kind))
    divergence.watch(trainer)
    batch = next(trainer.dataloader_train)
    if kind is nnUNetTrainerKD:
        batch["data"][0] = float("nan")
    if kind is WithBadTask:
        trainer.train_step(batch)  # the task's loss reaches the weights, and so the next step
    with pytest.raises(TrainingError, match="the training was stopped"):
        trainer.train_step(batch)
    with pytest.raises(TrainingError, match="weights that are no numbers"):
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["nnUNetTrainerUNet", "nnUNetTrainerPUNet", "nnUNetTrainerHSNet"])
def test_every_student_stops_at_nan(target, name):
    from nnkd.plugin.registry import installed

    trainer = trainer_of(target, "none", installed().load("student", name))
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    divergence.watch(trainer)
    batch = next(trainer.get_dataloaders()[0])
    batch["data"][0] = float("nan")
    with pytest.raises(TrainingError, match=r"epoch 0, iteration 0 .* No checkpoint was left"):
        trainer.train_step(batch)


def test_a_student_that_leaves_auxiliaries_out_is_noticed(target):
    trainer = started(trainer_of(target, kind=OwnStep))
    with pytest.raises(RecipeError, match="OwnStep has a train_step of its own, which leaves auxiliaries out"):
        trainer.on_train_epoch_end([trainer.train_step({})])


# --- whole trainings, checkpoints -----------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_whole_training_continues_to_the_bit(target, tmp_path):
    trainer = trainer_of(target, save_every=1, epochs=2)
    trainer.run_training()
    folder = Path(trainer.output_folder)
    assert [row["turn"] for row in rows(trainer)] == list(range(1, 7))
    assert len(read_turns(folder / auxiliary_record.RECORD).rows) == 6
    assert {p.name for p in folder.glob("auxiliaries_*.png")} == {
        f"auxiliaries_{name}.png" for name in ("chosen", "turns", "bounds")
    }
    final = folder / "checkpoint_final.pth"
    content = load_checkpoint(final)
    assert not [name for name in content["network_weights"] if "auxiliar" in name]
    assert content["network_weights"].keys() == trainer.network.state_dict().keys()
    auxiliary_record.append(folder / auxiliary_record.RECORD, {"turn": 7, "loss": float("nan")})

    again = trainer_of(target, save_every=1, epochs=2)
    again.load_checkpoint(str(final))
    mine, theirs = trainer.auxiliaries.state_dict(), again.auxiliaries.state_dict()
    assert (mine["turns"], mine["scheduler"]) == (theirs["turns"], theirs["scheduler"])
    for name, tensor in mine["heads"].items():
        assert torch.equal(tensor, theirs["heads"][name])
    assert [len(g["params"]) for g in again.optimizer.param_groups] == [
        len(g["params"]) for g in trainer.optimizer.param_groups
    ]
    assert len(rows(again)) == 7  # validating does not touch the record
    started(again)
    assert [row["turn"] for row in rows(again)] == list(range(1, 7))
    again.train_step(next(again.dataloader_train))
    assert rows(again)[-1]["turn"] == 7
    assert rows(again)[-1]["scores"] == {}


def one_rank(rank: int, folder: str) -> None:
    """A training that ends after one epoch, and its continuation."""
    preprocessed, chosen = Path(folder) / "nnUNet_preprocessed" / "Dataset701_Toy", []
    with one_of_two(rank, Path(folder)):
        for epochs in (1, 2):
            trainer = trainer_of_rank(preprocessed, "nnUNetTrainerKD", "nnUNetPlans_two", continued=epochs == 2)
            trainer.num_epochs = epochs
            if epochs == 2:
                trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
            trainer.initialize() if not trainer.was_initialized else None
            along = trainer.auxiliaries
            update = along.scheduler.update
            along.scheduler.update = lambda name, *heard, to=update: chosen.append((name, *heard)) or to(name, *heard)
            trainer.run_training()
            torch.distributed.barrier()  # so that the checkpoint is there
        found = {
            "chosen": chosen,
            "total": total(trainer.network, along.second.heads),
            "scheduler": along.scheduler.state_dict(),
            "writes": along.record is not None,
        }
        (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))


@pytest.mark.heavy
def test_two_ranks_choose_the_same_and_one_writes_the_record(target):
    trainer = trainer_of(target, epochs=2, iterations=2, val_iterations=1)
    plans = dict(trainer.plans_manager.plans)
    (target.preprocessed / "nnUNetPlans_two.json").write_text(json.dumps({**plans, "plans_name": "nnUNetPlans_two"}))
    folder = target.preprocessed.parents[1]
    on_two(one_rank, str(folder))
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first.pop("writes"), second.pop("writes")) == (True, False)
    assert first["total"] == pytest.approx(second.pop("total"), rel=1e-6)
    assert (first["chosen"], first["scheduler"]) == (second["chosen"], second["scheduler"])
    model = folder / "nnUNet_results" / "Dataset701_Toy" / "nnUNetTrainerKD__nnUNetPlans_two__2d"
    lines = (model / "fold_0" / auxiliary_record.RECORD).read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert [row["turn"] for row in written] == [1, 2, 3, 4]
    assert [[row["dataset"], row["loss"], row["cosine"]] for row in written] == first["chosen"]
    assert [bool(row["scores"]) for row in written] == [True, False, False, False]  # the bandit went on, not anew
    assert load_checkpoint(model / "fold_0" / "checkpoint_final.pth")["current_epoch"] == 2


def test_a_checkpoint_of_other_auxiliaries_is_refused(target, tmp_path):
    trainer = trainer_of(target)
    trainer.initialize()
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    other = trainer_of(target, names=NAMES[::-1])
    with pytest.raises(RecipeError, match="is of the same datasets in another order"):
        other.load_checkpoint(str(file))
    plain = trainer_of(target, "none")
    plain.initialize()
    plain.save_checkpoint(str(file))
    with pytest.raises(RecipeError, match="of a training without auxiliaries"):
        trainer_of(target).load_checkpoint(str(file))
    trainer.save_checkpoint(str(file))
    with pytest.raises(RecipeError, match="of a training with auxiliaries, but the recipe has none that train along"):
        trainer_of(target, "none").load_checkpoint(str(file))


def test_the_record_is_cut_and_numbers_that_are_not_finite_are_null(tmp_path):
    file = tmp_path / auxiliary_record.RECORD
    auxiliary_record.cut(file, 0)
    assert not file.exists()
    for turn in range(1, 4):
        auxiliary_record.append(file, {"turn": turn, "loss": float("inf"), "all": [1.0, float("nan")]})
    with file.open("a") as record:
        record.write('{"turn": 4, "lo')
    auxiliary_record.cut(file, 2)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"turn": turn, "loss": None, "all": [1.0, None]} for turn in (1, 2)
    ]
    assert auxiliary_record.draw(file) == []


# --- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_of_the_task_alone(target):
    tasks = target.prepare(["801:liver", "801:spleen", "801"])
    cases = AuxiliaryCases(tasks)
    liver, spleen, whole = (cases.load_case(f"{number}/toy_000") for number in range(3))
    window = (slice(None),) * 4
    np.testing.assert_array_equal(liver[1][window] + spleen[1][window], whole[1][window])
    assert liver[1][window].max() == 1
    assert [sorted(case[3]["class_locations"]) for case in (liver, spleen, whole)] == [[1], [2], [1, 2]]


@pytest.mark.heavy
def test_batches_made_by_another_process(target, monkeypatch):
    trainer = started(trainer_of(target))
    here = trainer.auxiliaries.batches
    loader = pickle.loads(pickle.dumps(here._loader))
    expected = here.take((1,))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    batches = AuxiliaryBatches(loader, 1)
    found = [batches.take((1,)) for _ in range(2)]
    batches.close()
    for batch in found:
        assert batch["data"].shape == expected["data"].shape
        assert [t.shape for t in batch["target"]] == [t.shape for t in expected["target"]]
        assert {key[0] for key in batch["keys"]} == {"1"}
    assert not torch.equal(found[0]["data"], found[1]["data"])


@pytest.mark.parametrize("name", ["toy_000.b2nd", "toy_000_seg.b2nd", "toy_000.pkl"])
def test_a_damaged_case_is_one_sentence(target, name):
    (task,) = target.prepare(["801"])
    file = task.folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(DatasetError, match=r"'toy_000' of the auxiliary Dataset801_Other cannot be read \(.*Remove"):
        AuxiliaryCases([task]).load_case("0/toy_000")


@pytest.mark.heavy
def test_a_training_that_fails_ends_its_loaders(target, monkeypatch):
    trainer = trainer_of(target)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")

    def failed(batch):
        raise DatasetError("no")

    monkeypatch.setattr(trainer, "train_step", failed)
    with pytest.raises(DatasetError):
        trainer.run_training()
    assert trainer.dataloader_train._processes == []
    with pytest.raises(RuntimeError, match="after shutdown"):
        trainer.auxiliaries.batches.take((0,))


def test_a_target_that_overflowed_begins_no_turn(target):
    trainer = started(trainer_of(target))
    along = trainer.auxiliaries
    for parameter in along.second.shared:
        parameter.grad = torch.full_like(parameter, float("inf"))
    along.backward(1.0)
    along.end_iteration(1.0, 0)
    assert along.turns == 0
    assert along.scheduler.unscored() == NAMES
