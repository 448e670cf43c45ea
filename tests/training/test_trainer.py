"""Tests of nnkd.training.trainer, nnkd.training.loader and nnkd.votes.folder: whole small trainings in this process."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, toy_teacher, write_image

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, write_recipe
from nnkd.errors import RecipeError, SettingError, TrainingError, VotesError, WeightsError
from nnkd.training import divergence
from nnkd.training.file_safety import FileSafeTrainer
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd.votes.bits import NO_VOTE
from nnkd.votes.folder import VotesFolder
from nnkd.weights.checkpoints import load_checkpoint

SHORT = {"epochs": 1, "iterations": 2, "val_iterations": 1}
CONFIGURATIONS = {
    "2d": configuration("2d", (16, 16), (1.0, 1.0)),
    "3d_fullres": configuration("3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0)),
}


@pytest.fixture
def single_process(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    torch.set_num_threads(1)
    return nnunet_folders


@pytest.fixture
def voted(single_process):
    """A preprocessed dataset: three teachers, two of four cases manual."""
    return make_voted(single_process)


def make_voted(folders, name="2d", **keywords):
    dataset = toy_dataset(folders / "nnUNet_raw" / "Dataset701_Toy", **{"labelled": 6, **keywords})
    for index in range(3):
        toy_teacher(dataset, f"t{index}", shift=index - 1, seed=index)
    plans = make_plans(dataset, {name: CONFIGURATIONS[name]})
    preprocess(dataset, plans, name)
    splits = [{"train": ["toy_000", "toy_001", "toy_002"], "val": ["toy_003"]}]
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(splits))
    return dataset


def trainer_of(dataset, recipe: Recipe | None, name="2d", kind=nnUNetTrainerKD, fold=0):
    folder = preprocessed_folder(dataset)
    plans_name = write_recipe(folder, recipe) if recipe else "nnUNetPlans"
    plans = {**read_plans(folder, plans_name), "continue_training": False}
    return kind(plans, name, fold, dict(dataset.spec.json), torch.device("cpu"))


def recipe_of(*teachers, **options):
    keywords = {k: options.pop(k) for k in ("aggregator", "has_regions") if k in options}
    return Recipe("nnUNetPlans", teachers, options={**SHORT, **options}, **{"has_regions": False, **keywords})


def batch_of(trainer):
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    return next(train), next(validation)


@pytest.mark.parametrize("weights_licence", ["CC-BY-NC-4.0", "Apache-2.0"])
def test_a_training_announces_terms_that_a_teacher_hands_on(voted, monkeypatch, weights_licence):
    lineage = ({"name": "t0", "licence": "Apache-2.0", "weights_licence": weights_licence},)
    trainer = trainer_of(voted, replace(recipe_of("t0", "t1"), lineage=lineage))
    monkeypatch.setattr(FileSafeTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    log = Path(trainer.log_file).read_text()
    assert f"licence of t0: Apache-2.0, weights {weights_licence}" in log
    announced = "NOT FOR COMMERCIAL USE: this student inherits the terms of t0 (CC-BY-NC-4.0)." in log
    assert announced == (weights_licence == "CC-BY-NC-4.0")


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_a_whole_training(single_process, name):
    dataset = make_voted(single_process, name)
    trainer = trainer_of(dataset, recipe_of("t0", "t1", "t2"), name)
    trainer.run_training()
    trainer.perform_actual_validation()
    folder = (
        single_process
        / "nnUNet_results"
        / "Dataset701_Toy"
        / f"nnUNetTrainerKD__{trainer.plans_manager.plans_name}__{name}"
    )
    assert (folder / "fold_0" / "checkpoint_final.pth").is_file()
    assert (folder / "fold_0" / "validation" / "summary.json").is_file()
    assert json.loads((folder / "plans.json").read_text())["nnkd"]["teachers"] == ["t0", "t1", "t2"]
    text = (
        "".join(p.read_text() for p in (folder / "fold_0").glob("*.txt"))
        + (folder / "fold_0" / "debug.json").read_text()
    )
    assert "hostname" not in text
    assert str(single_process) not in text


def test_targets_are_the_mean_of_the_votes_before_augmentation(voted):
    trainer = trainer_of(voted, recipe_of("t0", "t2", manual="ignore"))
    trainer.initialize()
    targets = trainer.targets(["toy_000"], draw_teachers=True)
    votes = VotesFolder.of(preprocessed_folder(voted), "nnUNetPlans_2d")
    bits = votes.open("toy_000")[:]
    expected = ((bits & 1) + (bits >> 2 & 1)) / 2
    bbox = [[0, n] for n in bits.shape[1:]]
    seg = np.zeros((1, *bits.shape[1:]), np.int16)
    patch, answered = targets.of_patch("toy_000", bbox, seg, np.random.default_rng(0))
    np.testing.assert_allclose(patch.soft().numpy(), expected, atol=1e-6)
    assert answered.all()
    assert set(np.unique(expected)) == {0, 0.5, 1}


def test_manual_labels_train_as_a_unanimous_vote(voted):
    targets = trainer_of(voted, recipe_of("t0")).targets(["toy_000", "toy_003"], draw_teachers=True)
    assert targets.manual == {"toy_000", "toy_003"}
    seg = np.array([[[0, 1, 2, -1]]], dtype=np.int16)[:, None]
    patch, _ = targets.of_patch("toy_000", [(0, 1), (0, 1), (0, 4)], seg, np.random.default_rng(0))
    assert patch.soft()[:, 0, 0].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_batches_are_soft_and_pooled_for_deep_supervision(voted):
    train, validation = batch_of(trainer_of(voted, recipe_of("t0", "t1", "t2", manual="ignore")))
    assert [tuple(t.shape) for t in train["target"]] == [(2, 2, 16, 16), (2, 2, 8, 8)]
    assert train["data"].shape == (2, 1, 16, 16)
    for target in (*train["target"], *validation["target"]):
        assert 0 <= float(target.min()) <= float(target.max()) <= 1
    assert len(torch.unique(validation["target"][0])) > 2


def test_hard_targets_are_hard(voted):
    train, _ = batch_of(trainer_of(voted, recipe_of("t0", "t1", "t2", manual="ignore", target="hard")))
    assert set(torch.unique(train["target"][0]).tolist()) <= {0.0, 1.0}


def test_one_teacher_is_drawn_per_sample_and_its_abstentions_stay_out(voted, single_process):
    toy_teacher(voted, "t3", answers=["liver"])
    preprocess(voted, read_plans(preprocessed_folder(voted), "nnUNetPlans"), "2d")
    recipe = recipe_of("t3", "t0", aggregator=Choice("random_teacher"), manual="ignore")
    trainer = trainer_of(voted, recipe)
    targets = trainer.targets(["toy_000"], draw_teachers=True)
    bits = VotesFolder.of(preprocessed_folder(voted), "nnUNetPlans_2d").open("toy_000")[:]
    bbox, seg = [[0, n] for n in bits.shape[1:]], np.zeros((1, *bits.shape[1:]), np.int16)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        patch, answered = targets.of_patch("toy_000", bbox, seg, rng)
        final = targets.after_augmentation(patch.soft(), answered)
        drawn = 0 if answered.all() else 3
        np.testing.assert_array_equal(final[0].numpy(), bits[0] >> drawn & 1)
        assert (final[1] == NO_VOTE).all() == (drawn == 3)
        seen.add(drawn)
    assert seen == {0, 3}


def test_agreement_weighs_voxels(voted):
    trainer = trainer_of(voted, recipe_of("t0", "t2", manual="ignore", voxel_weight="agreement"))
    train, _ = batch_of(trainer)
    target, weight = train["target"][0][:, :2], train["target"][0][:, 2]
    assert target.shape[1] == 2
    assert 0 <= float(weight.min()) < float(weight.max()) <= 1
    assert np.isfinite(trainer.train_step(train)["loss"])


def test_a_label_that_nobody_answers_for_leaves_the_weights_of_the_others(single_process):
    dataset = toy_dataset(single_process / "nnUNet_raw" / "Dataset701_Toy", labelled=6)
    for index in range(2):
        toy_teacher(dataset, f"t{index}", shift=index, answers=["liver"])
    preprocess(dataset, make_plans(dataset, {"2d": CONFIGURATIONS["2d"]}), "2d")
    trainer = trainer_of(dataset, recipe_of("t0", "t1", manual="ignore", voxel_weight="agreement"))
    targets = trainer.targets(["toy_000"], draw_teachers=True)
    bits = VotesFolder.of(preprocessed_folder(dataset), "nnUNetPlans_2d").open("toy_000")[:]
    patch, answered = targets.of_patch("toy_000", [[0, n] for n in bits.shape[1:]], None, np.random.default_rng(0))
    assert answered.tolist() == [True, False]
    weight = patch.soft().numpy()[2]
    np.testing.assert_allclose(weight, np.isin(bits[0], (0, 3)))


def test_regions_and_ignore_label(single_process):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset = toy_dataset(
        single_process / "nnUNet_raw" / "Dataset701_Toy", labelled=4, labels=labels, regions_class_order=[1, 2]
    )
    toy_teacher(dataset, "t0")
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file("toy_000"))
    label_map[:4] = 3
    write_image(label_map.astype(np.uint8), dataset.label_file("toy_000"))
    plans = make_plans(dataset, {"2d": CONFIGURATIONS["2d"]})
    preprocess(dataset, plans, "2d")
    trainer = trainer_of(dataset, recipe_of("t0", has_regions=True), fold="all")
    train, _ = batch_of(trainer)
    assert train["target"][0].shape[1] == 2
    output = trainer.network(train["data"])
    assert output[0].shape[1] == 2
    assert np.isfinite(trainer.train_step(train)["loss"])
    targets = trainer.targets(["toy_000"], draw_teachers=True)
    seg = np.full((1, 1, 2, 2), 3, dtype=np.int16)
    patch, answered = targets.of_patch("toy_000", [(0, 1), (0, 2), (0, 2)], seg, np.random.default_rng(0))
    final = targets.after_augmentation(patch.soft(), answered)
    assert (final == NO_VOTE).all()


def test_without_teachers_it_is_nnunets_supervised_training(voted):
    trainer = trainer_of(voted, Recipe("nnUNetPlans", options=SHORT))
    train, _ = batch_of(trainer)
    assert train["target"][0].dtype == torch.int16
    assert type(trainer.loss.loss).__name__ == "DC_and_CE_loss"
    assert np.isfinite(trainer.train_step(train)["loss"])


def test_cases_without_target_are_left_out_and_none_at_all_is_refused(voted):
    folder = VotesFolder.of(preprocessed_folder(voted), "nnUNetPlans_2d")
    index = folder.index.model_copy(update={"manual": []})
    index.cases.pop("toy_001")
    folder.write_index(index)
    trainer = trainer_of(voted, recipe_of("t0", manual="ignore"))
    training, _ = trainer.get_tr_and_val_datasets()
    assert training.identifiers == ["toy_000", "toy_002"]
    index.cases.pop("toy_003")
    folder.write_index(index)
    with pytest.raises(RecipeError, match="No validation case"):
        trainer.get_tr_and_val_datasets()


def test_training_on_manual_label_maps_alone(voted):
    folder = VotesFolder.of(preprocessed_folder(voted), "nnUNetPlans_2d")
    folder.write_index(folder.index.model_copy(update={"manual": ["toy_001"]}))
    trainer = trainer_of(voted, recipe_of("t0", manual="only"))
    training, validation = trainer.get_tr_and_val_datasets()
    assert training.identifiers == ["toy_001"]
    assert validation.identifiers == ["toy_003"]  # by its votes
    assert trainer.targets(["toy_001", "toy_003"], draw_teachers=True).manual == {"toy_001"}


def test_a_recipe_whose_teacher_is_gone_or_changed_is_refused(voted):
    with pytest.raises(VotesError, match=r"hold no teacher gone; they hold t0, t1, t2"):
        trainer_of(voted, recipe_of("t0", "gone")).get_tr_and_val_datasets()
    old = Recipe("nnUNetPlans", ("t0",), options=SHORT, inputs={"t0": "0123"})
    with pytest.raises(VotesError, match="changed since the recipe"):
        trainer_of(voted, old).get_tr_and_val_datasets()


def test_an_option_the_trainer_does_not_have_is_refused(voted):
    with pytest.raises(SettingError, match=r"no option 'epoch'.*Did you mean 'epochs'"):
        trainer_of(voted, Recipe("nnUNetPlans", ("t0",), options={"epoch": 3}))


def test_loaders_pickle_and_their_workers_share_the_batches(voted):
    trainer = trainer_of(voted, recipe_of("t0", "t1"))
    trainer.initialize()
    training, _ = trainer.get_tr_and_val_datasets()
    loader = trainer._loader(training, (16, 16), None, trainer._draw(training.identifiers, 2))
    first, second = pickle.loads(pickle.dumps(loader)), pickle.loads(pickle.dumps(loader))
    first.set_thread_id(0)
    second.set_thread_id(1)
    alone = trainer._draw(training.identifiers, 1).batches(0)
    both = [list(batch) for _ in range(4) for batch in (first.get_indices(), second.get_indices())]
    assert both == [next(alone) for _ in range(8)]


def test_checkpoints_are_written_whole(voted, monkeypatch, tmp_path):
    trainer = trainer_of(voted, recipe_of("t0"))
    trainer.initialize()
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(b"old")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == b"old"


@pytest.mark.heavy
def test_a_training_that_stopped_at_nan_continues_from_the_last_good_checkpoint(voted):
    """As nnKD_train --c does it."""
    options = {"epochs": 2, "iterations": 2, "val_iterations": 1, "save_every": 1}
    trainer = trainer_of(voted, recipe_of("t0", **options))
    step = trainer.train_step

    def breaks(batch):
        if trainer.current_epoch == 1:
            batch["data"] = torch.as_tensor(batch["data"]) * float("nan")
        return step(batch)

    trainer.train_step = breaks
    with pytest.raises(TrainingError, match=r"epoch 1, iteration 0 .*checkpoint_latest.*--c continues"):
        trainer.run_training()
    folder = Path(trainer.output_folder)
    assert not (folder / "checkpoint_final.pth").exists()
    again = trainer_of(voted, recipe_of("t0", **options))
    maybe_load_checkpoint(again, True, False, None)
    assert again.current_epoch == 1
    again.run_training()
    assert divergence.is_finite(load_checkpoint(folder / "checkpoint_final.pth")["network_weights"])


def test_a_checkpoint_that_holds_more_than_weights_is_not_continued_from(voted, tmp_path):
    trainer = trainer_of(voted, recipe_of("t0"))
    trainer.initialize()
    whole = tmp_path / "checkpoint_latest.pth"
    trainer.current_epoch = 0
    trainer.save_checkpoint(str(whole))
    trainer.load_checkpoint(str(whole))
    assert trainer.current_epoch == 1
    content = torch.load(whole, weights_only=False)
    torch.save({**content, "more": Path}, whole)
    with pytest.raises(WeightsError, match="holds more than weights"):
        trainer.load_checkpoint(str(whole))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("writer failed writing file")])
def test_a_full_disk_leaves_the_old_checkpoint_whole(voted, monkeypatch, tmp_path, error):
    trainer = trainer_of(voted, recipe_of("t0"))
    trainer.initialize()
    file = tmp_path / "checkpoint_latest.pth"
    file.write_bytes(b"old")

    def full(_, target):
        Path(target).write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WeightsError, match=r"'checkpoint_latest\.pth' could not be written \((No space|writer)"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == b"old"
    assert not list(tmp_path.glob("*.writing"))


def test_a_split_by_participant_is_made_where_there_is_none(single_process):
    dataset = make_voted(single_process, training=6)
    folder = preprocessed_folder(dataset)
    (folder / "splits_final.json").unlink()
    people = ["p0", "p0", "p1", "p2", "p3", "p4"]
    (folder / "participants.tsv").write_text("participant_id\n" + "".join(f"p{i}\n" for i in range(5)))
    rows = "".join(f"toy_{i:03d}\t{person}\n" for i, person in enumerate(people))
    (folder / "cases.tsv").write_text("case\tparticipant_id\n" + rows)
    trainer_of(dataset, recipe_of("t0")).do_split()
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        assert ("toy_000" in fold["train"]) == ("toy_001" in fold["train"])


def test_mirroring_and_rotation_are_options(voted):
    as_nnunet = trainer_of(voted, recipe_of("t0", mirroring=True, rotation=180))
    angles, _, _, mirror = as_nnunet.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert angles[1] == pytest.approx(np.pi)
    assert mirror == as_nnunet.inference_allowed_mirroring_axes == (0, 1)
    still = trainer_of(voted, recipe_of("t0", rotation=10))  # slices of volumes are not mirrored
    angles, _, initial, mirror = still.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert angles == pytest.approx((-np.pi / 18, np.pi / 18))
    assert mirror is None
    assert still.inference_allowed_mirroring_axes is None
    assert (np.asarray(initial) > 16).all()


def test_bfloat16_computes_in_it_and_loses_in_float32(voted):
    trainer = trainer_of(voted, recipe_of("t0", precision="bfloat16"))
    train, validation = batch_of(trainer)
    seen = []
    trainer.network.register_forward_hook(lambda *arguments: seen.append(arguments[2][0].dtype))
    assert trainer.train_step(train)["loss"].dtype == np.float32
    assert trainer.validation_step(validation)["loss"].dtype == np.float32
    assert seen == [torch.bfloat16, torch.bfloat16]
