"""Tests of nnkd.training.one_label, and of trainings of one label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, toy_teacher

from nnkd.data.dataset import DatasetSpec
from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, write_recipe
from nnkd.errors import RecipeError
from nnkd.inference import label_models
from nnkd.training import one_label
from nnkd.training.trainer import nnUNetTrainerKD

pytestmark = pytest.mark.heavy

LABELS = {"background": 0, "liver": 1, "left kidney": 2}
CT = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
SHORT = {"epochs": 1, "iterations": 2, "val_iterations": 1}


def test_a_label_alone_keeps_its_integer_and_is_a_region_for_nnunet():
    alone = one_label.only({**CT, "labels": LABELS}, "left kidney")
    manager = LabelManager(alone["labels"], alone["regions_class_order"])
    assert manager.has_regions
    assert manager.num_segmentation_heads == 1
    found = manager.convert_logits_to_segmentation(np.array([[[[-1.0, 1.0]]]], dtype=np.float32))
    np.testing.assert_array_equal(found, [[[0, 2]]])
    assert one_label.whole(alone) == {**CT, "labels": LABELS}


def test_an_unknown_label_is_refused():
    with pytest.raises(RecipeError, match=r"learns 'spleen', but dataset.json has background, liver"):
        one_label.only({"labels": LABELS}, "spleen")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"labels": {"background": 0, "organs": [1, 2], "liver": [1]}, "regions_class_order": [2, 1]}, "has regions"),
        ({"labels": {**LABELS, "ignore": 3}}, "has an ignore label"),
        ({"labels": {"background": 0, "left kidney": 1, "left_kidney": 2}}, "would have recipes of one name"),
    ],
)
def test_datasets_that_cannot_be_learned_label_by_label(more, sentence):
    with pytest.raises(RecipeError, match=sentence):
        one_label.check(DatasetSpec({**CT, **more}, "Dataset701_Toy"))


@given(arrays.arrays(np.int8, (3, 4, 5), elements=st.integers(-80, 80)))
def test_the_highest_probability_above_one_half_wins(tenths):
    odds = tenths.astype(np.float32) / 10
    merged = label_models.together([label[None] for label in odds]).argmax(0)
    probability = 1 / (1 + np.exp(-odds.astype(np.float64)))
    expected = np.where(probability.max(0) > 0.5, probability.argmax(0) + 1, 0)
    np.testing.assert_array_equal(merged, expected)


@pytest.mark.parametrize(
    ("label", "name"), [("left kidney", "left-kidney"), ("a_b", "a-b"), ("a/b", "a-b-c14c"), ("肝", "label-55a6")]
)
def test_names_of_recipes(label, name):
    assert one_label.suffix(label) == name


@pytest.fixture
def voted(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    torch.set_num_threads(1)
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=6)
    for index in range(3):
        toy_teacher(dataset, f"t{index}", shift=index - 1, seed=index)
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    splits = [{"train": ["toy_000", "toy_001", "toy_002"], "val": ["toy_003"]}]
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(splits))
    return dataset


def trainer_of(dataset, *teachers, label=None, aggregator="mean", **options):
    folder = preprocessed_folder(dataset)
    options = {**SHORT, **options}
    recipe = Recipe("nnUNetPlans", teachers, Choice(aggregator), options=options, has_regions=bool(label), label=label)
    plans = {**read_plans(folder, write_recipe(folder, recipe)), "continue_training": False}
    return nnUNetTrainerKD(plans, "2d", 0, dict(dataset.spec.json), torch.device("cpu"))


BOX = [[1, 7], [2, 22], [3, 20]]


def target_of(trainer, case, draw=False):
    targets = trainer.targets([case], draw_teachers=draw)
    _, seg, _, _ = _dataset(trainer).load_case(case)
    patch, answered = targets.of_patch(case, BOX, seg, np.random.default_rng(0))
    return targets.after_augmentation(patch.soft(), answered)


def _dataset(trainer):
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    kind = infer_dataset_class(trainer.preprocessed_dataset_folder)
    return kind(trainer.preprocessed_dataset_folder, None)


@pytest.mark.parametrize("manual", ["ignore", "unanimous"])
@pytest.mark.parametrize("aggregator", ["mean", "random_teacher"])
@pytest.mark.parametrize("row", [0, 1])
def test_the_target_of_one_label_is_its_row_of_all_labels_target(voted, row, aggregator, manual):
    label = list(voted.spec.labels)[row]
    teachers = ("t0", "t1", "t2")
    whole = trainer_of(voted, *teachers, aggregator=aggregator, manual=manual)
    alone = trainer_of(voted, *teachers, label=label, aggregator=aggregator, manual=manual)
    draw = aggregator == "random_teacher"
    expected = target_of(whole, "toy_000", draw)[row]
    assert float(expected.max()) > 0
    torch.testing.assert_close(target_of(alone, "toy_000", draw), expected[None])


@pytest.mark.parametrize("teachers", [(), ("t0", "t1")])
def test_a_training_of_one_label(voted, teachers):
    trainer = trainer_of(voted, *teachers, label="spleen", oversample=1.0)
    trainer.run_training()
    trainer.perform_actual_validation()
    model = Path(trainer.output_folder_base)
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert list(summary["mean"]) == ["(2, 2)"]
    kept = json.loads((model / "dataset.json").read_text())
    assert kept["labels"] == {"background": 0, "spleen": [2, 2]}
    assert one_label.whole(kept)["labels"] == dict(voted.spec.json["labels"])


def test_patches_are_centred_on_the_label_in_focus(voted):
    trainer = trainer_of(voted, "t0", label="spleen", oversample=1.0)
    trainer.initialize()
    loader = trainer.get_dataloaders()[0].data_loader
    places = {1: [[0, 0, 1, 1]], 2: [[0, 4, 12, 12]]}
    for _ in range(20):  # nnU-Net itself would centre half of them on label 1
        lower, upper = loader.get_bbox((8, 24, 20), True, places)
        assert all(low <= at < high for low, at, high in zip(lower, (4, 12, 12), upper, strict=True))


def test_a_case_whose_teachers_do_not_answer_for_the_label_is_left_out(nnunet_folders, voted):
    toy_teacher(voted, "t3", answers=["liver"])
    folder = preprocessed_folder(voted)
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    preprocess(voted, plans, "2d")
    with pytest.raises(RecipeError, match="No training case"):
        trainer_of(voted, "t3", label="spleen", manual="ignore").get_tr_and_val_datasets()
    training, _ = trainer_of(voted, "t3", label="liver", manual="ignore").get_tr_and_val_datasets()
    assert len(training.identifiers) == 3


@pytest.fixture
def trained(voted):
    """Students of both labels, trained by the command."""
    assert train("--per_label", "-tr", "nnUNetTrainerUNet", "-t", "t0", "t1", "-n", "mine",
                 "--set", "epochs=1", "iterations=12", "val_iterations=1", "lr=1e-3", "norm=instance") == 0  # fmt: skip
    return voted


def train(*arguments):
    from nnkd.cli.train import main

    return main(["701", "2d", "0", "-device", "cpu", *arguments])


def predict(dataset, target, *arguments, plans="nnUNetPlans_mine"):
    from nnkd.cli.predict import main

    images = dataset.folder / "imagesTr"
    model = ["-d", "701", "-tr", "nnUNetTrainerUNet", "-p", plans, "-c", "2d", "-f", "0"]
    return main(["-i", str(images), "-o", str(target), *model, "-npp", "0", "-nps", "0", "-device", "cpu", *arguments])


def test_students_of_single_labels_predict_together(trained, tmp_path, capsys):
    assert predict(trained, tmp_path / "all", "--per_label") == 0
    for label, value in (("liver", 1), ("spleen", 2)):
        assert predict(trained, tmp_path / label, plans=f"nnUNetPlans_mine_{label}") == 0
        alone, together = _read(tmp_path / label), _read(tmp_path / "all")
        assert set(np.unique(alone)) <= {0, value}
        assert not (together == value)[alone == 0].any()  # where its student says no
    everywhere = (_read(tmp_path / "liver") > 0) | (_read(tmp_path / "spleen") > 0)
    np.testing.assert_array_equal(_read(tmp_path / "all") > 0, everywhere)
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["options"]["plans"] == "nnUNetPlans_mine"
    assert manifest["labels"] == {"liver": [1], "spleen": [2]}
    assert [w["name"].split("/")[0] for w in manifest["weights"]] == [
        "nnUNetPlans_mine_liver",
        "nnUNetPlans_mine_spleen",
    ]
    assert json.loads((tmp_path / "all" / "dataset.json").read_text())["labels"] == dict(trained.spec.json["labels"])


def _read(folder):
    import SimpleITK

    return np.stack([SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(f))) for f in sorted(folder.glob("*.nii.gz"))])


def test_finished_students_stay_and_a_missing_one_is_named(trained, tmp_path, capsys):
    results = preprocessed_folder(trained).parents[1] / "nnUNet_results" / trained.name
    files = sorted(results.glob("*/fold_0/checkpoint_final.pth"))
    assert len(files) == 2
    before = [f.stat().st_mtime_ns for f in files]
    (files[1].parent / "validation" / "summary.json").unlink()  # killed while it validated
    assert train("--per_label", "--c", "-tr", "nnUNetTrainerUNet", "-t", "t0", "t1", "-n", "mine",
                 "--set", "epochs=1", "iterations=12", "val_iterations=1", "lr=1e-3", "norm=instance") == 0  # fmt: skip
    assert files[0].stat().st_mtime_ns == before[0]
    assert (files[1].parent / "validation" / "summary.json").is_file()
    shutil.rmtree(results / "nnUNetTrainerUNet__nnUNetPlans_mine_spleen__2d")
    assert predict(trained, tmp_path / "out", "--per_label") == 1
    assert "spleen of Dataset701_Toy have no student" in capsys.readouterr().err
    assert predict(trained, tmp_path / "out", "--per_label", plans="nnUNetPlans_other") == 1
    assert "There is no student of a single label" in capsys.readouterr().err
    assert predict(trained, tmp_path / "out", "--per_label", "--save_probabilities") == 1
    assert "no common probabilities" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
