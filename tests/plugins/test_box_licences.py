"""Tests of what box models inherit from the teachers whose consensus they learn from."""

from __future__ import annotations

import json
import shutil

import pytest
from extras import needs
from toy import toy_dataset, toy_teacher

from nnkd.cli import aggregate, train
from nnkd.data.predictions import Lineage
from nnkd.data.recipes import Recipe
from nnkd.errors import RecipeError

pytestmark = needs("litemedsam", "segment_anything")

torch = pytest.importorskip("torch")
from nnkd_litemedsam import weights  # noqa: E402
from nnkd_litemedsam.trainers import embedding_teachers  # noqa: E402
from nnkd_litemedsam.trainers.boxes import nnUNetTrainerLiteMedSAM  # noqa: E402

NAME = "Dataset701_Toy"
BOX, DISTILL = "nnUNetTrainerLiteMedSAM", "nnUNetTrainerRepViTDistill"
MODELS = [
    {"name": "free", "licence": "MIT", "weights_licence": "MIT"},
    {"name": "strict", "licence": "MIT", "weights_licence": "CC-BY-NC-4.0"},
]


@pytest.fixture
def dataset(nnunet_folders, monkeypatch):
    """One manual label map, and a consensus of two teachers, one of whom was told of reference labels."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    made = toy_dataset(nnunet_folders / "nnUNet_raw" / NAME, training=3, labelled=1, shape=(3, 24, 20))
    for model in MODELS:
        folder = toy_teacher(made, model["name"])
        manifest = folder.manifest()
        manifest.lineage, manifest.ground_truth = [Lineage(**model)], model["name"] == "strict"
        folder.manifest_file.write_text(manifest.model_dump_json())
    return made


def aggregated() -> None:
    assert aggregate.main(["-d", "701"]) == 0


def recipe(folders, trainer: str = BOX, *more: str) -> tuple[str, Recipe]:
    """The plans' name and the recipe that nnKD_train writes."""
    before = set((folders / "nnUNet_preprocessed" / NAME).glob("LiteMedSAMPlans_*.json"))
    words = ["701", "2d", "all", "-device", "cpu", "-tr", trainer, "--dry_run", "--set", "epochs=1", *more]
    assert train.main(words) == 0
    (file,) = set((folders / "nnUNet_preprocessed" / NAME).glob("LiteMedSAMPlans_*.json")) - before
    return file.stem, Recipe.of_plans(json.loads(file.read_text()))


def test_stage_1_inherits_from_the_teachers_of_a_consensus(dataset, nnunet_folders):
    name, manual = recipe(nnunet_folders)
    assert (manual.lineage, manual.ground_truth) == ((), False)
    assert name.startswith("LiteMedSAMPlans_supervised_")
    aggregated()
    name, learned = recipe(nnunet_folders)
    assert list(learned.lineage) == MODELS
    assert learned.ground_truth
    assert name.startswith("LiteMedSAMPlans_free-strict_")


def test_stage_2_inherits_what_its_teacher_did_and_looks_at_no_label_map(dataset, nnunet_folders, monkeypatch):
    aggregated()
    plans = {"nnkd": recipe(nnunet_folders)[1].content()}
    file = nnunet_folders / "nnUNet_results" / "one.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "init_args": {"plans": plans}}, file)
    monkeypatch.setattr(weights, "load_model", lambda file, encoder=None: (None, "swin", {"licence": "see below"}))
    lineage = list(recipe(nnunet_folders, DISTILL, "teacher=one.pth")[1].lineage)
    assert lineage == [{"name": "one.pth", "licence": "Apache-2.0", "weights_licence": "see below"}, *MODELS]
    monkeypatch.setattr(embedding_teachers, "model_file", lambda name: None)
    monkeypatch.setattr(embedding_teachers, "check_kind", lambda name, kind: None)
    assert [model["name"] for model in recipe(nnunet_folders, DISTILL)[1].lineage] == ["litemedsam"]


def trainer_of(folders, plans_name: str):
    """As nnU-Net makes it."""
    folder = folders / "nnUNet_preprocessed" / NAME
    plans = json.loads((folder / f"{plans_name}.json").read_text()) | {"continue_training": False}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainerLiteMedSAM(plans, "2d", "all", dataset_json, torch.device("cpu"))
    trainer._set_batch_size_and_oversample()  # what initialize does besides making a network
    return trainer


def test_a_recipe_that_does_not_name_them_is_refused(dataset, nnunet_folders):
    name, _ = recipe(nnunet_folders)
    trainer_of(nnunet_folders, name).get_dataloaders()
    aggregated()
    with pytest.raises(
        RecipeError, match=r"consensus of free, strict, whose licences 'LiteMedSAMPlans_supervised_\w+'"
    ):
        trainer_of(nnunet_folders, name).get_dataloaders()
    trainer_of(nnunet_folders, recipe(nnunet_folders)[0]).get_dataloaders()


def test_slices_keep_what_they_inherit_where_there_is_no_raw_folder(dataset, nnunet_folders):
    aggregated()
    trainer_of(nnunet_folders, recipe(nnunet_folders)[0]).get_dataloaders()
    shutil.rmtree(dataset.folder)
    _, learned = recipe(nnunet_folders, BOX, "lr=1e-3")
    assert list(learned.lineage) == MODELS
    assert learned.ground_truth


def test_a_teacher_that_is_gone_is_named_and_edited_label_maps_inherit_nothing(dataset, nnunet_folders):
    aggregated()
    shutil.rmtree(dataset.teachers_folder() / "strict")
    assert [model["name"] for model in recipe(nnunet_folders)[1].lineage] == ["free", "strict"]
    for case in ("toy_001", "toy_002"):
        shutil.copy(dataset.label_file("toy_000"), dataset.label_file(case))
    assert recipe(nnunet_folders)[1].lineage == ()
