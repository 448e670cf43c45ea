"""Tests of nnkd.steps.train, nnkd.cli.train, nnkd.steps.predict and nnkd.cli.predict."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, toy_teacher

from nnkd.cli import aggregate, predict, train
from nnkd.data.plans import read_plans
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import WeightsError
from nnkd.weights.checkpoints import load_checkpoint

pytestmark = pytest.mark.heavy

SHORT = ["epochs=1", "iterations=1", "val_iterations=1"]


@pytest.fixture
def voted(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4, test=2)
    for index in range(2):
        toy_teacher(dataset, f"t{index}", shift=index, seed=index)
    plans = make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))})
    preprocess(dataset, plans, "2d")
    splits = [{"train": ["toy_000", "toy_001"], "val": ["toy_003"]}]
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(splits))
    return dataset


def call(command, *arguments):
    return command.main([str(a) for a in arguments])


def recipe(*arguments):
    return call(train, "701", "2d", "0", "-device", "cpu", "--dry_run", *arguments)


def test_recipe_flags_write_a_recipe_and_the_same_flags_find_it_again(voted, capsys):
    flags = ("-tr", "nnUNetTrainerUNet", "-t", "t1", "-a", "majority", "--set", "majority.ties=yes", "norm=none")
    assert recipe(*flags) == 0
    assert recipe(*flags) == 0
    folder = preprocessed_folder(voted)
    (plans,) = folder.glob("nnUNetPlans_*.json")
    content = json.loads(plans.read_text())
    assert content["plans_name"] == plans.stem
    assert content["nnkd"]["teachers"] == ["t1"]
    assert content["nnkd"]["aggregator"] == {"name": "majority", "options": {"ties": "yes"}}
    assert content["nnkd"]["options"] == {"norm": "none"}


def test_a_supervised_student_inherits_from_the_consensus_it_learns(voted):
    """Otherwise the terms of a teacher's weights were lost with -t none."""
    recipe("-t", "none", "-n", "manual")
    voted.label_file("toy_002").unlink()
    assert call(aggregate, "-d", "701") == 0
    recipe("-t", "none", "-n", "consensus")
    found = {
        name: [m["name"] for m in read_plans(preprocessed_folder(voted), f"nnUNetPlans_{name}")["nnkd"]["lineage"]]
        for name in ("manual", "consensus")
    }
    assert found == {"manual": [], "consensus": ["t0", "t1"]}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["-t", "t9"], "hold no teacher t9; they hold t0, t1"),
        (["-a", "majorty"], "Did you mean 'majority'?"),
        (["-a", "multilabel_staple"], "'multilabel_staple' looks at all labels at once"),
        (["-a", "weighted", "--set", 'weighted.weights={"t9": 1}'], "'t9', but those that vote are t0, t1"),
        (["-a", "weighted", "--set", "weighted.sharpness=-1"], "'weighted.sharpness' got -1.0"),
        (["-tr", "nnUNetTrainerUNett"], "There is no student 'nnUNetTrainerUNett'"),
        (["--set", "epochs=0"], "'nnUNetTrainerKD.epochs' got '0'"),
        (["--set", "epoch=3"], "Did you mean 'epochs'?"),
        (["--set", "median.ties=no"], "--set names 'median'"),
        (["--set", "batch_size=many"], "'batch_size' got 'many'"),
        (["-p", "nnUNetPlanz"], "There are: nnUNetPlans."),
        (["-n", "a__b"], "-n got 'a__b'"),
        (["-pretrained_weights", "nowhere.pth"], "there is no such file"),
        (["-tr", "nnUNetTrainer", "-t", "t0"], "reads no recipe"),
        (["--c", "--val"], "--c continues"),
        (["-t", "none", "--set", "iou=jml"], "'iou' says how to learn from votes"),
    ],
)
def test_bad_flags_get_one_sentence(voted, capsys, flags, sentence):
    assert recipe(*flags) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("flags", "sentence"), [([], "add --c"), (["--c"], "run the same command again")])
def test_an_interrupt_says_how_to_go_on(voted, monkeypatch, capsys, flags, sentence):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnkd.steps.train.train", stopped)
    assert call(train, "701", "2d", "0", "-device", "cpu", *flags) == 130
    assert sentence in capsys.readouterr().err


def test_an_unknown_dataset_or_configuration_is_named(voted, capsys):
    assert call(train, "999", "2d", "0", "-device", "cpu") == 1
    assert "No dataset has the id 999" in capsys.readouterr().err
    assert call(train, "701", "3d_fullres", "0", "-device", "cpu") == 1
    assert "no configuration '3d_fullres'; they have 2d" in capsys.readouterr().err


def test_votes_older_than_the_teachers_are_noticed(voted, capsys):
    toy_teacher(voted, "t0", shift=2, seed=9)
    assert recipe() == 1
    assert "older than teacher 't0'" in capsys.readouterr().err


def test_train_and_predict_with_ours_and_with_stock_nnunet(voted, tmp_path):
    assert call(train, "701", "2d", "0", "-device", "cpu", "-n", "short", "--set", *SHORT) == 0
    images = voted.folder / "imagesTs"
    model = ["-d", "701", "-tr", "nnUNetTrainerKD", "-p", "nnUNetPlans_short", "-c", "2d", "-f", "0", "-device", "cpu"]
    ours = ["-i", images, "-o", tmp_path / "ours", *model]
    assert call(predict, *ours, "-npp", "0", "-nps", "0") == 0
    folder = PredictionFolder(tmp_path / "ours")
    manifest = folder.manifest()
    assert folder.cases() == ["toy_004", "toy_005"]
    assert (manifest.kind, manifest.made_by) == ("student", "nnUNetTrainerKD")
    assert manifest.options["recipe"]["teachers"] == ["t0", "t1"]
    assert str(tmp_path) not in folder.manifest_file.read_text()

    environment = {
        **os.environ,
        "nnUNet_extTrainer": subprocess.getoutput(
            f"{sys.executable} -c 'import sys; from nnkd.cli.trainer_path import main; sys.exit(main([]))'"
        ).strip(),
    }
    stock = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as e; e()"
    arguments = ["-i", str(images), "-o", str(tmp_path / "stock"), *model, "-npp", "1", "-nps", "1"]
    subprocess.run([sys.executable, "-c", stock, *arguments], check=True, env=environment, capture_output=True)
    for case in folder.cases():
        mine = folder.read(voted.spec, case)
        theirs, _, _ = voted.spec.read_label_map(tmp_path / "stock" / f"{case}.nii.gz")
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture
def trained(voted):
    assert call(train, "701", "2d", "0", "-device", "cpu", "-n", "short", "--set", *SHORT) == 0
    return voted.folder.parents[1] / "nnUNet_results" / voted.name / "nnUNetTrainerKD__nnUNetPlans_short__2d"


def test_one_bad_image_does_not_stop_the_others(voted, trained, tmp_path, capsys):
    bad = voted.folder / "imagesTs" / "toy_004_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    arguments = ["-i", bad.parent, "-o", tmp_path / "out", "-m", trained, "-f", "0", "-device", "cpu", "-npp", "0"]
    assert call(predict, *arguments, "-nps", "0") == 3
    assert "toy_004: 'toy_004_0000.nii.gz'" in capsys.readouterr().err
    assert PredictionFolder(tmp_path / "out").cases() == ["toy_005"]


def test_continuing_does_only_what_is_missing_or_changed(voted, trained, tmp_path):
    arguments = ["-i", voted.folder / "imagesTs", "-o", tmp_path / "out", "-m", trained, "-f", "0", "-device", "cpu"]
    assert call(predict, *arguments, "-npp", "0", "-nps", "0", "-num_parts", "2", "-part_id", "1") == 0
    first = PredictionFolder(tmp_path / "out")
    assert first.cases() == ["toy_005"]
    before = first.manifest().cases["toy_005"]
    assert call(predict, *arguments, "-npp", "0", "-nps", "0", "--continue_prediction") == 0
    assert first.cases() == ["toy_004", "toy_005"]
    assert first.manifest().cases["toy_005"] == before


def test_a_missing_model_or_fold_is_named(voted, trained, tmp_path, capsys):
    base = ["-i", voted.folder / "imagesTs", "-o", tmp_path / "out", "-device", "cpu"]
    assert call(predict, *base, "-m", trained, "-f", "3") == 1
    assert "it has fold(s) 0" in capsys.readouterr().err
    assert call(predict, *base, "-m", trained.parent / "nnUNetTrainerKD__other__2d", "-f", "0") == 1
    assert "There are: nnUNetTrainerKD__nnUNetPlans_short__2d" in capsys.readouterr().err
    assert call(predict, *base) == 1
    assert "-m FOLDER" in capsys.readouterr().err


def test_a_checkpoint_that_wants_other_classes_is_not_loaded(trained, tmp_path):
    file = trained / "fold_0" / "checkpoint_final.pth"
    assert "network_weights" in load_checkpoint(file)
    torch.save({"network_weights": {}, "evil": subprocess.Popen}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"holds more than weights \(\w+\.Popen\)"):
        load_checkpoint(tmp_path / "evil.pth")
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be loaded as weights"):
        load_checkpoint(tmp_path / "cut.pth")
    (tmp_path / "zeros.pth").write_bytes(bytes(100))
    with pytest.raises(WeightsError, match="cannot be loaded as weights"):
        load_checkpoint(tmp_path / "zeros.pth")


def test_predict_has_all_of_nnunets_options():
    import argparse
    import inspect
    import re

    from nnunetv2.inference import predict_from_raw_data as theirs
    from nnunetv2.run import run_training

    for parser, source in (
        (predict._parser(), theirs.predict_entry_point),
        (train._parser(), run_training.run_training_entry),
    ):
        assert isinstance(parser, argparse.ArgumentParser)
        ours = {option for action in parser._actions for option in action.option_strings or [action.dest]}
        wanted = re.findall(r"add_argument\(\s*['\"]([-\w]+)['\"]", inspect.getsource(source))
        assert len(wanted) > 10
        assert set(wanted) <= ours


def test_one_student_a_label(voted, capsys, caplog):
    flags = ("-tr", "nnUNetTrainerUNet", "-t", "t0", "t1", "-n", "mine")
    assert recipe(*flags, "--per_label", "liver") == 0
    assert recipe(*flags, "--per_label") == 0
    folder = preprocessed_folder(voted)
    assert [p.stem for p in sorted(folder.glob("nnUNetPlans_*.json"))] == [
        "nnUNetPlans_mine_liver",
        "nnUNetPlans_mine_spleen",
    ]
    assert json.loads((folder / "nnUNetPlans_mine_spleen.json").read_text())["nnkd"]["label"] == "spleen"
    assert "-p nnUNetPlans_mine --per_label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--per_label", "heart"], "has no label 'heart'; it has liver, spleen"),
        (["--per_label", "-tr", "nnUNetTrainer"], "needs base plans"),
        (["-t", "nobody", "--per_label"], "hold no teacher nobody"),
    ],
)
def test_bad_labels_get_one_sentence(voted, capsys, flags, sentence):
    assert recipe(*flags) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert not list(preprocessed_folder(voted).glob("nnUNetPlans_*.json"))


def test_a_label_that_no_teacher_answers_for(nnunet_folders, voted, capsys):
    toy_teacher(voted, "t2", answers=["liver"])
    preprocess(voted, json.loads((preprocessed_folder(voted) / "nnUNetPlans.json").read_text()), "2d")
    assert recipe("-t", "t2", "--per_label", "--set", "manual=ignore") == 1
    assert "No teacher of the recipe answers for 'spleen'" in capsys.readouterr().err
    assert not list(preprocessed_folder(voted).glob("nnUNetPlans_*.json"))
