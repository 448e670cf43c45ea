"""Tests of nnkd.training.recipe_flags; nnKD_train's own tests see most of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, toy_teacher

from nnkd import files
from nnkd.cli import train
from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, write_recipe
from nnkd.errors import RecipeError, UnknownNameError
from nnkd.plugin.students import Student
from nnkd.training import recipe_flags
from nnkd.training.checks import check
from nnkd.training.recipe_flags import RecipeFlags, Request, TrainingPlan
from nnkd.training.trainer import nnUNetTrainerKD


@pytest.fixture
def voted(nnunet_folders):
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    for index in range(2):
        toy_teacher(dataset, f"t{index}", shift=index, seed=index)
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    splits = [{"train": ["toy_000", "toy_001"], "val": ["toy_003"]}]
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(splits))
    return preprocessed_folder(dataset)


def request(trainer=nnUNetTrainerKD, plans="nnUNetPlans", per_label=None, **flags):
    name = trainer.__name__
    return Request("701", "2d", "0", name, trainer, plans, RecipeFlags(**flags), device="cpu", per_label=per_label)


@pytest.fixture
def read(monkeypatch):
    """How often each file's text is asked for."""
    number = Counter()

    def counted(file, *arguments, **keywords):
        number[Path(file).name] += 1
        return open(file, *arguments, **keywords)

    monkeypatch.setattr(files, "open", counted, raising=False)
    return number


def test_what_lies_on_disk_is_read_once(voted, read):
    flags = ["-t", "t0", "t1", "-a", "majority", "--set", "epochs=2", "-n", "mine", "--dry_run"]
    assert train.main(["701", "2d", "0", "-device", "cpu", *flags]) == 0
    names = ("dataset.json", "nnUNetPlans.json", "votes.json", "nnUNetPlans_mine.json")
    assert [read[name] for name in names] == [3, 1, 1, 0]  # dataset.json: the raw one too, by two checks


def test_for_all_labels_together_too(voted, read):
    whole = TrainingPlan.of(request(per_label=[]))
    for plan in whole.label_by_label():
        check(plan)
    assert [read[name] for name in ("nnUNetPlans.json", "votes.json")] == [1, 1]
    assert [plan.plans["plans_name"] for plan in whole.label_by_label()] == [
        f"nnUNetPlans_{whole.family}_{label}" for label in ("liver", "spleen")
    ]


def test_a_plan_knows_its_recipe(voted):
    new = TrainingPlan.of(request(teachers=["t1"], options={"epochs": "3", "batch_size": "4"}, name="mine"))
    assert new.is_new
    assert new.recipe.teachers == ("t1",)
    assert new.recipe.aggregator == Choice("mean")
    assert new.recipe.options == {"epochs": 3}
    assert (new.options["epochs"], new.options["save_every"]) == (3, 10)
    assert (new.values["batch_size"], new.base["configurations"]["2d"]["batch_size"]) == (4, 2)
    assert write_recipe(new.folder, new.recipe, new.name, new.base) == new.plans["plans_name"] == "nnUNetPlans_mine"
    old = TrainingPlan.of(request(plans="nnUNetPlans_mine"))
    assert not old.is_new
    assert old.recipe == new.recipe
    assert old.plans == read_plans(voted, "nnUNetPlans_mine") == new.plans
    with pytest.raises(RecipeError, match="is itself a recipe"):
        check(TrainingPlan.of(request(plans="nnUNetPlans_mine", teachers=["t0"])))


def test_a_trainer_of_nnunets_alone_has_no_recipe(voted):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plan = TrainingPlan.of(request(nnUNetTrainer))
    check(plan)
    assert (plan.recipe, plan.is_new, plan.plans) == (None, False, plan.base)
    with pytest.raises(RecipeError, match="reads no recipe"):
        TrainingPlan.of(request(nnUNetTrainer, name="mine"))


def test_a_student_says_whether_it_takes_auxiliaries(voted):
    class Plain(Student):
        """Takes none."""

    with pytest.raises(RecipeError, match=r"^Plain takes no auxiliaries\."):
        TrainingPlan.of(request(Plain, auxiliaries=["801"]))
    others = Recipe("nnUNetPlans", auxiliaries=("Dataset801_Other",), auxiliary_scheduler=Choice("ucb"))
    write_recipe(voted, others, "others")
    with pytest.raises(RecipeError, match=r"^Plain takes no auxiliaries\."):
        TrainingPlan.of(request(Plain, "nnUNetPlans_others"))


def test_datasets_are_named_once_and_the_first_stays_first(nnunet_folders):
    for name in ("Dataset702_B", "Dataset701_A"):
        (nnunet_folders / "nnUNet_raw" / name).mkdir()
    assert recipe_flags.dataset_names("702", ["701", "Dataset702_B"]) == ("Dataset702_B", "Dataset701_A")
    with pytest.raises(UnknownNameError, match="799"):
        recipe_flags.dataset_names("702", ["799"])


def test_plans_that_name_another_dataset_are_refused(voted):
    plans = read_plans(voted, "nnUNetPlans")
    (voted / "nnUNetPlans.json").write_text(json.dumps({**plans, "dataset_name": "Dataset702_Other"}))
    with pytest.raises(RecipeError, match="dataset_name is 'Dataset702_Other', whose cases nnU-Net would train on"):
        TrainingPlan.of(request())
