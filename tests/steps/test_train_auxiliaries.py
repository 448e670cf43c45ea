"""nnKD_plan_and_preprocess --auxiliaries and nnKD_train -as, and what nnKD_predict and nnKD_evaluate make of it, as
commands."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from auxiliary_toys import auxiliary, few_shot_target, prepared
from planned import preprocessed_folder, sample_few
from processes import python
from toy import toy_dataset, write_image

from nnkd import paths
from nnkd.cli import evaluate, plan_and_preprocess, predict, train
from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import PredictionFolder

SHORT = ["epochs=1", "iterations=2", "val_iterations=1"]
OTHERS = ["--auxiliaries", "801:liver", "802"]


def settings(patch, folder):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(exist_ok=True)
        patch.setenv(name, str(folder / name))
    for name, value in (("nnUNet_compile", "f"), ("nnUNet_def_n_proc", "1"), ("nnUNet_n_proc_DA", "0")):
        patch.setenv(name, value)
    patch.setattr("multiprocessing.cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A few-shot target with two preprocessed auxiliaries, and a third one that is not."""
    folder = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        settings(patch, folder)
        _, target = few_shot_target(folder, test=1)
        for number in (801, 802, 803):
            auxiliary(folder, number, seed=number)
        prepared(["801", "802"], target)
    return target


@pytest.fixture
def target(made, monkeypatch):
    settings(monkeypatch, made.preprocessed.parents[1])
    return made


def call(command, *arguments):
    return command.main([str(a) for a in arguments])


def recipe(*arguments):
    return call(train, "701", "2d", "0", "-device", "cpu", "--dry_run", *arguments)


def test_the_recipe_names_every_task_and_is_found_again(target, caplog):
    caplog.set_level("INFO", "nnkd")
    flags = ("-as", "ucb", *OTHERS, "--set", "ucb.c=.2", "max_aux_cases=1", "turn=epoch")
    assert recipe(*flags) == 0
    assert recipe(*flags) == 0
    (plans,) = target.preprocessed.glob("nnUNetPlans_supervised-ucb_*.json")
    content = json.loads(plans.read_text())["nnkd"]
    assert content["auxiliaries"] == ["Dataset801_Other:liver", "Dataset802_Other"]
    assert content["auxiliary_scheduler"] == {"name": "ucb", "options": {"c": 0.2}}
    assert content["options"] == {"max_aux_cases": 1, "turn": "epoch"}
    assert content["teachers"] == []
    assert recipe("-as", "ucb", "--auxiliaries", "801") == 0
    assert "There is one auxiliary, Dataset801_Other: nothing to choose" in caplog.text


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--auxiliaries", "801"], "--auxiliaries names datasets to train along, but not how to choose"),
        (["-as", "ucb"], "-as ucb chooses among auxiliary datasets, but there are none"),
        (["-as", "ubc", *OTHERS], "Did you mean 'ucb'?"),
        (["-as", "ucb", *OTHERS, "--set", "ucb.beta=2"], "The option beta got 2.0"),
        (["-as", "ucb", *OTHERS, "--set", "ucb.gamma=2"], "'ucb' has no option 'gamma'"),
        (["-as", "gms", *OTHERS, "--set", "ucb.c=1"], "or to the auxiliary scheduler gms"),
        (["-as", "ucb", "--auxiliaries", "701"], "is the target Dataset701_Toy itself"),
        (["-as", "ucb", "--auxiliaries", "999"], "No dataset has the id 999"),
        (["-as", "ucb", "--auxiliaries", "801:kidney"], "it has liver, spleen"),
        (["-as", "ucb", "--auxiliaries", "801:*"], "there is none (liver in 2, spleen in 2)"),
        (["-as", "ucb", "--auxiliaries", "801", "801"], "'801' is given 2 times"),
        (["-t", "none", "--set", "turn=epoch"], "'turn' is about auxiliary datasets, but the recipe has none"),
        (["-as", "ucb", *OTHERS, "--set", "turn=day"], "'nnUNetTrainerKD.turn' got 'day'"),
        (["-as", "ucb", *OTHERS, "--set", "max_aux_cases=0"], "'nnUNetTrainerKD.max_aux_cases' got '0'"),
        (["-tr", "nnUNetTrainer", "-as", "ucb", *OTHERS], "reads no recipe"),
        (["-tr", "nnUNetTrainerRepViTDistill", "-as", "ucb", *OTHERS], "takes no auxiliaries"),
    ],
)
def test_bad_flags_get_one_sentence(target, capsys, flags, sentence):
    assert recipe(*flags) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_what_is_not_preprocessed_names_the_command(target, capsys):
    assert recipe("-as", "ucb", "--auxiliaries", "801", "803:*") == 1
    error = capsys.readouterr().err
    assert "Run nnKD_plan_and_preprocess -d Dataset701_Toy -c 2d --auxiliaries 801 '803:*'; it says so if" in error


def test_a_target_without_labels_is_refused(nnunet_folders, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    raw = nnunet_folders / "nnUNet_raw" / "Dataset701_Toy"
    toy_dataset(raw, training=3, labelled=3, shape=(6, 20, 18))
    for file in (raw / "labelsTr").iterdir():
        write_image(np.zeros((6, 20, 18), np.uint8), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auxiliary_toys.toy_dataset", lambda *_, **__: RawDataset(raw))
        _, target = few_shot_target(nnunet_folders)
    auxiliary(nnunet_folders, 801)
    prepared(["801"], target)
    assert recipe("-as", "ucb", "--auxiliaries", "801") == 1
    assert "None of the 2 training case(s) of fold 0 of Dataset701_Toy has a labelled voxel" in capsys.readouterr().err


@pytest.mark.heavy
def test_trained_continued_and_predicted_by_stock_nnunet_too(target, tmp_path, monkeypatch):
    flags = ["701", "2d", "0", "-device", "cpu"]
    assert call(train, *flags, "-n", "few", "-as", "ucb", *OTHERS, "--set", *SHORT) == 0
    plans = target.preprocessed / "nnUNetPlans_few.json"
    content = json.loads(plans.read_text())
    content["nnkd"]["options"]["epochs"] = 2
    plans.write_text(json.dumps(content))
    results = target.preprocessed.parents[1] / "nnUNet_results"
    fold = results / "Dataset701_Toy" / "nnUNetTrainerKD__nnUNetPlans_few__2d" / "fold_0"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    assert call(train, *flags, "-p", "nnUNetPlans_few", "--c") == 0
    lines = (fold / "auxiliaries.jsonl").read_text().splitlines()
    assert [json.loads(line)["turn"] for line in lines] == [1, 2, 3, 4]

    raw = target.preprocessed.parents[1] / "nnUNet_raw" / "Dataset701_Toy"
    names = ["-i", raw / "imagesTs", "-d", "701", "-p", "nnUNetPlans_few", "-c", "2d", "-f", "0", "-device", "cpu"]
    names += ["-tr", "nnUNetTrainerKD"]
    assert call(predict, *names, "-o", tmp_path / "ours", "-npp", 0, "-nps", 0) == 0
    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    stock = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as main; main()"
    done = python(stock, *names, "-o", tmp_path / "theirs", "-npp", 0, "-nps", 0)
    assert done.returncode == 0, done.stderr[-3000:]
    case = PredictionFolder(tmp_path / "ours").cases()[0]
    dataset = RawDataset(raw)
    mine, theirs = (dataset.spec.read_label_map(tmp_path / n / f"{case}.nii.gz")[0] for n in ("ours", "theirs"))
    np.testing.assert_array_equal(mine, theirs)

    assert call(evaluate, "-i", tmp_path / "ours", "-ref", raw / "labelsTs", "-o", tmp_path / "report") == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<section id="auxiliaries">' in page
    assert "ours, fold_0 <small>4 turns</small>" in page
    assert "In turn 4, the last, Dataset80" in page
    recipe_used = PredictionFolder(tmp_path / "ours").manifest().options["recipe"]
    assert recipe_used["auxiliaries"] == content["nnkd"]["auxiliaries"]
    copy = gzip.decompress((tmp_path / "ours" / "auxiliaries" / "fold_0.jsonl.gz").read_bytes())
    assert copy.decode().splitlines() == lines
    written = [copy, page.encode(), *(file.read_bytes() for file in (tmp_path / "ours").glob("*.json"))]
    assert not [content for content in written if str(raw.parents[1]).encode() in content]


@pytest.mark.heavy
def test_the_command_preprocesses_them_with_the_target(nnunet_folders, monkeypatch, capsys):
    sample_few(monkeypatch)
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    auxiliary(nnunet_folders, 801, training=3, labelled=3)
    auxiliary(nnunet_folders, 802, shape=(1, 30, 24), ending=".png")
    flags = ["-d", "701", "-c", "2d", "3d_fullres", "-npfp", "1", "-np", "1"]
    assert call(plan_and_preprocess, *flags, "--auxiliaries", "801:liver", "802", "--max_aux_cases", "2") == 3
    said = capsys.readouterr()
    assert "2d: auxiliary Dataset801_Other: 2 case(s) preprocessed" in said.out
    assert "Dataset802_Other has 2D images" in said.out + said.err
    folder = preprocessed_folder(dataset)
    assert len(list((folder / "nnUNetPlans_2d_auxiliaries" / "Dataset802_Other").glob("*.pkl"))) == 2
    assert not (folder / "nnUNetPlans_3d_fullres_auxiliaries" / "Dataset802_Other").exists()
    assert call(plan_and_preprocess, *flags, "--auxiliaries", "701") == 1
    assert "is the target Dataset701_Toy itself" in capsys.readouterr().err
