"""What we write works with stock nnU-Net: its commands train, predict, evaluate, choose, export and install it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from planned import configuration, make_plans, preprocess, preprocessed_folder
from processes import on_two, python
from toy import toy_dataset, toy_teacher
from two_ranks import one_of_two, total, trainer_of

from nnkd import paths
from nnkd.cli import predict, train
from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import PredictionFolder
from nnkd.weights.checkpoints import load_checkpoint

pytestmark = pytest.mark.heavy

NAMES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SHORT = ("--set", "epochs=1", "iterations=1", "val_iterations=1")
SPLIT = [
    {"train": ["toy_000", "toy_001"], "val": ["toy_002", "toy_003"]},
    {"train": ["toy_002", "toy_003"], "val": ["toy_000", "toy_001"]},
]
MODEL = "nnUNetTrainerKD__nnUNetPlans_short__2d"


def settings(patch, folder: Path) -> None:
    for name in NAMES:
        (folder / name).mkdir(exist_ok=True)
        patch.setenv(name, str(folder / name))
    for name, value in (("nnUNet_compile", "f"), ("nnUNet_def_n_proc", "1"), ("nnUNet_n_proc_DA", "0")):
        patch.setenv(name, value)
    patch.setenv("nnUNet_extTrainer", paths.trainer_path())
    patch.setattr("multiprocessing.cpu_count", lambda: 1)  # threads for -device cpu: tests share the machine


def made(folder: Path, number: int = 701, labels: dict | None = None) -> RawDataset:
    """A preprocessed 2D dataset with two teachers and two folds."""
    dataset = toy_dataset(
        folder / "nnUNet_raw" / f"Dataset{number}_Toy", labelled=4, test=2, labels=labels, shape=(4, 24, 20)
    )
    for index in range(2):
        toy_teacher(dataset, f"t{index}", shift=index, seed=index)
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(SPLIT))
    return dataset


def call(command, *arguments) -> int:
    return command.main([str(a) for a in arguments])


def stock(module: str, function: str, *arguments) -> str:
    """Run one of nnU-Net's own commands in a process of its own."""
    done = python(f"from nnunetv2.{module} import {function} as main; main()", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def stock_here(patch, function, *arguments):
    """Call one of nnU-Net's entry points in this process."""
    patch.setattr(sys, "argv", ["nnUNetv2", *map(str, arguments)])
    return function()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of two folds: fold 0 trained by nnKD_train, fold 1 by nnUNetv2_train with the recipe's plans."""
    folder = tmp_path_factory.mktemp("stock")
    with pytest.MonkeyPatch.context() as patch:
        settings(patch, folder)
        made(folder)
        assert call(train, 701, "2d", 0, "-device", "cpu", "-n", "short", *SHORT) == 0
        names = ["-tr", "nnUNetTrainerKD", "-p", "nnUNetPlans_short", "-device", "cpu"]
        stock("run.run_training", "run_training_entry", 701, "2d", 1, *names)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    settings(monkeypatch, folder)
    return folder


def model_of(folder: Path) -> Path:
    return folder / "nnUNet_results" / "Dataset701_Toy" / MODEL


def test_stock_train_reads_the_recipe(here):
    log = "".join(p.read_text() for p in (model_of(here) / "fold_1").glob("training_log*.txt"))
    assert "Recipe nnUNetPlans_short: teachers t0, t1; aggregator mean" in log
    summary = json.loads((model_of(here) / "fold_1" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    assert json.loads((model_of(here) / "plans.json").read_text())["nnkd"]["teachers"] == ["t0", "t1"]


def test_find_best_configuration_knows_our_model(here, monkeypatch, capsys):
    from nnunetv2.evaluation.find_best_configuration import find_best_configuration_entry_point as find_best

    arguments = ["-p", "nnUNetPlans_short", "-c", "2d", "-tr", "nnUNetTrainerKD", "-f", 0, 1, "-np", 1]
    stock_here(monkeypatch, find_best, "701", *arguments, "--disable_ensembling")
    assert f"*Best*: {MODEL}" in capsys.readouterr().out
    assert (here / "nnUNet_results" / "Dataset701_Toy" / "inference_information.json").is_file()


def test_export_install_predict_and_evaluate(here, tmp_path, monkeypatch):
    from nnunetv2.evaluation.evaluate_predictions import evaluate_folder_entry_point as evaluate
    from nnunetv2.model_sharing.entry_points import (
        export_pretrained_model_entry as export,
    )
    from nnunetv2.model_sharing.entry_points import (
        install_from_zip_entry_point as install,
    )

    names = ["-d", 701, "-tr", "nnUNetTrainerKD", "-p", "nnUNetPlans_short", "-c", "2d", "-f", 0, 1]
    stock_here(monkeypatch, export, *names, "-o", tmp_path / "model.zip")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    stock_here(monkeypatch, install, tmp_path / "model.zip")
    installed = tmp_path / "elsewhere" / "Dataset701_Toy" / MODEL
    assert json.loads((installed / "plans.json").read_text())["nnkd"]["teachers"] == ["t0", "t1"]
    raw = here / "nnUNet_raw" / "Dataset701_Toy"
    theirs = ["-i", raw / "imagesTs", "-o", tmp_path / "theirs", *names, "-device", "cpu", "-npp", 0, "-nps", 0]
    stock("inference.predict_from_raw_data", "predict_entry_point", *theirs)
    ours = ["-i", raw / "imagesTs", "-o", tmp_path / "ours", *names, "-device", "cpu", "-npp", 0, "-nps", 0]
    assert call(predict, *ours) == 0
    dataset = RawDataset(raw)
    for case in ("toy_004", "toy_005"):
        mine, theirs = (dataset.spec.read_label_map(tmp_path / n / f"{case}.nii.gz")[0] for n in ("ours", "theirs"))
        np.testing.assert_array_equal(mine, theirs)
    files = ["-djfile", installed / "dataset.json", "-pfile", installed / "plans.json", "-np", 1]
    stock_here(monkeypatch, evaluate, raw / "labelsTs", tmp_path / "ours", *files)
    assert len(json.loads((tmp_path / "ours" / "summary.json").read_text())["metric_per_case"]) == 2


def test_stock_ensemble_of_our_predictions(here, tmp_path, monkeypatch):
    from nnunetv2.ensembling.ensemble import entry_point_ensemble_folders as ensemble

    images = here / "nnUNet_raw" / "Dataset701_Toy" / "imagesTs"
    for fold in (0, 1):
        arguments = ["-i", images, "-o", tmp_path / str(fold), "-m", model_of(here), "-f", fold, "-device", "cpu"]
        assert call(predict, *arguments, "--save_probabilities", "-npp", 0, "-nps", 0) == 0
    stock_here(monkeypatch, ensemble, "-i", tmp_path / "0", tmp_path / "1", "-o", tmp_path / "both", "-np", 1)
    assert {p.name for p in (tmp_path / "both").glob("*.nii.gz")} == {"toy_004.nii.gz", "toy_005.nii.gz"}


KILLED = """
import os, signal, sys
really = os.replace
def replace(source, target):
    really(source, target)
    if str(target).endswith("checkpoint_latest.pth"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from nnkd.cli.train import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""


def test_a_killed_training_continues(here):
    arguments = ["701", "2d", "0", "-device", "cpu", "-n", "killed", "--set", "epochs=3", "save_every=1"]
    arguments += ["iterations=1", "val_iterations=1"]
    done = python(KILLED, *arguments)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    fold = here / "nnUNet_results" / "Dataset701_Toy" / "nnUNetTrainerKD__nnUNetPlans_killed__2d" / "fold_0"
    assert load_checkpoint(fold / "checkpoint_latest.pth")["current_epoch"] == 1
    (fold / "checkpoint_best.pth.writing").write_bytes(b"half")
    continued = ["701", "2d", "0", "-device", "cpu", "-p", "nnUNetPlans_killed", "--c"]
    assert call(train, *continued) == 0
    final = load_checkpoint(fold / "checkpoint_final.pth")
    assert final["current_epoch"] == 3
    assert len(final["logging"]["train_losses"]) == 3
    assert (fold / "validation" / "summary.json").is_file()
    assert not list(fold.glob("*.writing"))


def test_pretrained_weights_of_another_number_of_labels(here, capsys):
    made(here, 702, {"background": 0, "liver": 1, "spleen": 2, "kidney": 3})
    weights = model_of(here) / "fold_0" / "checkpoint_final.pth"
    flags = ["702", "2d", "0", "-device", "cpu", "-n", "warm", "-pretrained_weights", weights]
    assert call(train, *flags, *SHORT) == 0
    old = load_checkpoint(weights)["network_weights"]
    model = here / "nnUNet_results" / "Dataset702_Toy" / "nnUNetTrainerKD__nnUNetPlans_warm__2d"
    new = load_checkpoint(model / "fold_0" / "checkpoint_final.pth")["network_weights"]
    changed = {key for key in old if old[key].shape != new[key].shape}
    assert changed
    assert all(".seg_layers." in key for key in changed)
    capsys.readouterr()
    other = [*flags[:5], "-tr", "nnUNetTrainerUNet", "-n", "cold", *flags[-2:]]
    assert call(train, *other, *SHORT) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'checkpoint_final.pth' is of another network (Key" in last


def test_fold_all(here, tmp_path):
    assert call(train, 701, "2d", "all", "-device", "cpu", "-n", "all", *SHORT) == 0
    names = ["-d", 701, "-p", "nnUNetPlans_all", "-c", "2d", "-f", "all", "-device", "cpu", "-npp", 0, "-nps", 0]
    images = here / "nnUNet_raw" / "Dataset701_Toy" / "imagesTs"
    assert call(predict, "-i", images, "-o", tmp_path / "out", *names) == 0
    assert PredictionFolder(tmp_path / "out").cases() == ["toy_004", "toy_005"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["2"], "has 2 fold(s), 0 to 1, but the fold is 2"),
        (["0", "-p", "nnUNetPlans_never", "--val"], "--val needs checkpoint_final.pth"),
    ],
)
def test_what_would_fail_later_gets_one_sentence_now(here, capsys, arguments, sentence):
    folder = here / "nnUNet_preprocessed" / "Dataset701_Toy"
    never = json.loads((folder / "nnUNetPlans_short.json").read_text()) | {"plans_name": "nnUNetPlans_never"}
    (folder / "nnUNetPlans_never.json").write_text(json.dumps(never))
    assert call(train, 701, "2d", *arguments, "-device", "cpu") == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_fold_whose_cases_are_gone_gets_one_sentence(here, tmp_path, monkeypatch, capsys):
    shutil.copytree(here / "nnUNet_preprocessed", tmp_path / "gone")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "gone"))
    (tmp_path / "gone" / "Dataset701_Toy" / "nnUNetPlans_2d" / "toy_003.b2nd").unlink()
    assert call(train, 701, "2d", 0, "-p", "nnUNetPlans_short", "-device", "cpu") == 1
    assert "holds toy_003.pkl, toy_003_seg.b2nd, which nnU-Net would take for" in capsys.readouterr().err


def test_a_full_disk_while_predicting(here, tmp_path, monkeypatch, capsys):
    from nnkd.inference import runs

    really = os.replace

    def replace(source, target):
        if str(target).endswith(".nii.gz"):
            raise OSError(28, "No space left on device")
        really(source, target)

    images = here / "nnUNet_raw" / "Dataset701_Toy" / "imagesTs"
    arguments = ["-i", images, "-o", tmp_path / "out", "-m", model_of(here), "-f", 0, "-device", "cpu", "-npp", 0]
    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "replace", replace)
        assert call(predict, *arguments, "-nps", 0) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} <= {
        "manifest.json",
        ".manifest.lock",
        ".nnkd-written",
        "plans.json",
        "dataset.json",
    }
    assert call(predict, *arguments, "-nps", 0, "--continue_prediction") == 0
    assert PredictionFolder(out).cases() == ["toy_004", "toy_005"]


def test_the_cascade(tmp_path, monkeypatch, capsys):
    settings(monkeypatch, tmp_path)
    dataset = toy_dataset(tmp_path / "nnUNet_raw" / "Dataset703_Toy", labelled=4, test=1)
    toy_teacher(dataset, "t0")
    plans = make_plans(
        dataset,
        {
            "3d_lowres": configuration("3d_lowres", (8, 8, 8), (2.0, 2.0, 2.0), next_stage="3d_cascade_fullres"),
            "3d_fullres": configuration("3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0)),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    )
    for name in ("3d_lowres", "3d_fullres"):
        preprocess(dataset, plans, name)
    both = ["703", "3d_cascade_fullres", "all", "-device", "cpu", "-p", "nnUNetPlans_low"]
    assert call(train, 703, "3d_lowres", "all", "-device", "cpu", "-n", "low", "--dry_run", *SHORT) == 0
    assert call(train, *both) == 1
    assert "Train 3d_lowres with the same -tr and -p first" in capsys.readouterr().err
    assert call(train, 703, "3d_lowres", "all", "-device", "cpu", "-p", "nnUNetPlans_low") == 0
    assert call(train, *both) == 0
    images = dataset.folder / "imagesTs"
    names = ["-i", images, "-d", 703, "-p", "nnUNetPlans_low", "-f", "all", "-device", "cpu", "-npp", 0, "-nps", 0]
    assert call(predict, *names, "-c", "3d_lowres", "-o", tmp_path / "low") == 0
    assert call(predict, *names, "-c", "3d_cascade_fullres", "-o", tmp_path / "high") == 1
    assert "Predict 3d_lowres first" in capsys.readouterr().err
    first = ["-prev_stage_predictions", tmp_path / "low"]
    assert call(predict, *names, "-c", "3d_cascade_fullres", "-o", tmp_path / "high", *first) == 0
    assert PredictionFolder(tmp_path / "high").cases() == ["toy_004"]


@pytest.mark.parametrize("student", ["nnUNetTrainerPUNet", "nnUNetTrainerHSNet"])
def test_stock_nnunet_predicts_with_our_students(here, tmp_path, monkeypatch, student):
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point as stock_predict

    if student == "nnUNetTrainerHSNet":
        pytest.importorskip("timm", reason='needs timm: pip install "nnkd[hsnet]"')
    one_window = ["--set", *SHORT[1:], "patch_size=24,24"]
    assert call(train, 701, "2d", 0, "-device", "cpu", "-tr", student, "-n", f"window{student}", *one_window) == 0
    names = ["-d", 701, "-tr", student, "-p", f"nnUNetPlans_window{student}", "-c", "2d", "-f", 0, "-device", "cpu"]
    names += ["-i", here / "nnUNet_raw" / "Dataset701_Toy" / "imagesTs", "--disable_tta", "--save_probabilities"]
    stock_here(monkeypatch, stock_predict, *names, "-o", tmp_path / "theirs", "-npp", 0, "-nps", 0)
    assert call(predict, *names, "-o", tmp_path / "ours", "-npp", 0, "-nps", 0) == 0
    for case in ("toy_004", "toy_005"):
        mine, theirs = (np.load(tmp_path / n / f"{case}.npz")["probabilities"] for n in ("ours", "theirs"))
        np.testing.assert_allclose(mine.astype(np.float32), theirs.astype(np.float32), atol=1e-3)
        assert mine.std() > 0


def _one_rank(rank: int, folder: str, student: str) -> None:
    preprocessed = Path(folder) / "nnUNet_preprocessed" / "Dataset701_Toy"
    with one_of_two(rank, Path(folder) / student):
        trainer = trainer_of(preprocessed, student, f"nnUNetPlans_two{student}")
        seen = []
        step = trainer.train_step
        trainer.train_step = lambda batch: seen.append(list(batch["keys"])) or step(batch)
        trainer.run_training()
        weights = total(trainer.network)
        result = {"slice": str(trainer._rank_slice()), "seen": seen, "total": weights, "batch": trainer.batch_size}
        (Path(folder) / f"rank{rank}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("student", ["nnUNetTrainerKD", "nnUNetTrainerPUNet"])
def test_two_ranks_share_batches_and_weights(here, student):
    flags = ["--set", "epochs=2", "iterations=2", "val_iterations=1", "batch_size=3"]
    assert call(train, 701, "2d", 0, "-device", "cpu", "-tr", student, "-n", f"two{student}", "--dry_run", *flags) == 0
    (here / "nnUNet_preprocessed" / "Dataset701_Toy" / "splits_final.json").write_text(json.dumps(SPLIT))
    (here / student).mkdir()
    on_two(_one_rank, str(here), student)
    first, second = (json.loads((here / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["batch"], second["batch"]) in ((1, 2), (2, 1))
    assert first["slice"] == f"slice(0, {first['batch']}, None)"
    assert second["slice"] == f"slice({first['batch']}, 3, None)"
    assert first["total"] == pytest.approx(second["total"], rel=1e-6)
    assert [len(keys) for keys in first["seen"]] == [first["batch"]] * 4
    model = here / "nnUNet_results" / "Dataset701_Toy" / f"{student}__nnUNetPlans_two{student}__2d"
    assert load_checkpoint(model / "fold_0" / "checkpoint_final.pth")["current_epoch"] == 2
