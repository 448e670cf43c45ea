"""Folders that earlier versions of nnkd wrote, read and made again with this one.

Each folder version_* beside this file was made once by `make.py`, with the version in its name. Byte for byte: what is
read and written again. Array for array: what is computed again. When a later change adds to a format, what was there
still stands in it (`same_content`); when one alters it, the old folder stays and must be read, and the new form is a
folder beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from extras import needs
from make import (
    COHORT,
    LATEST,
    PREPROCESS,
    RECIPES,
    SPLIT,
    STUDENTS,
    TRAINED,
    aggregate_into,
    box_model_into,
    call,
    evaluate_into,
    export_into,
    freeze,
    new_plans,
    parameters,
    predict_into,
    segment_into,
    settings,
)

from nnkd.auxiliary import record
from nnkd.boxes.model import BoxModelFolder
from nnkd.cli import aggregate, plan_and_preprocess, split, train
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.participants import participants_of_cases
from nnkd.data.plans import KEY, read_plans
from nnkd.data.predictions import PredictionFolder
from nnkd.data.recipes import Recipe, write_recipe
from nnkd.evaluation.summary import add_to_summary
from nnkd.files import read_json, sha256, write_json
from nnkd.inference.predictor import load_predictor
from nnkd.inference.uncertainty import MAPS, UncertaintyFolder
from nnkd.networks import runtimes
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder
from nnkd.weights.checkpoints import TrainedModel, load_checkpoint

pytestmark = pytest.mark.heavy

VERSIONS = sorted(Path(__file__).parent.glob("version_*"))
NEEDS_EXPORT = needs("export", "onnx", "onnxscript", "onnxruntime")
NEEDS_RUNTIME = needs("export", "onnxruntime")
OF_PROBABILITIES = 1e-3  # another CPU adds up in another order


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def version(request) -> Path:
    """A version's folder, not to be written to."""
    return request.param


@pytest.fixture
def folder(version, tmp_path, monkeypatch) -> Path:
    """A copy of it that nnU-Net's variables name."""
    copy = tmp_path / "folder"
    shutil.copytree(version, copy)
    for path in copy.rglob("*"):  # git keeps no times, and an image that is newer than the fingerprint makes it old
        os.utime(path, (1.7e9, 1.7e9))
    for name, value in settings(copy).items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(1)
    return copy


@pytest.fixture
def dataset(folder) -> RawDataset:
    return RawDataset.open(701)


@pytest.fixture
def preprocessed(folder) -> Path:
    return folder / "nnUNet_preprocessed" / COHORT


def student_plans(folder: Path, name: str = "student") -> str:
    return read_json(folder / "recipes.json")[name][0]


def model_of(folder: Path, name: str = "student") -> Path:
    return folder / "nnUNet_results" / COHORT / f"{STUDENTS[name]}__{student_plans(folder, name)}__2d"


def files_of(folder: Path, *patterns: str) -> list[Path]:
    found = sorted(path.relative_to(folder) for pattern in patterns for path in folder.rglob(pattern))
    return [path for path in found if not path.name.startswith(".") and (folder / path).is_file()]


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: (folder / path).read_bytes() for path in files_of(folder, "*")}


def same_text(new: Path, old: Path, hashes: dict[str, str] | None = None) -> None:
    """Bytes are equal but for what is frozen; `hashes` are new ones of files whose content was compared by itself."""
    text = freeze(new.read_text(encoding="utf-8"))
    for mine, stored in (hashes or {}).items():
        text = text.replace(mine, stored)
    assert text.encode() == old.read_bytes(), f"{new.name} of {new.parent.name}"


def same_content(new: Path, old: Path, hashes: dict[str, str] | None = None) -> None:
    """What the old JSON says stands in the new one, but for what is frozen; keys may have been added since."""
    text = freeze(new.read_text(encoding="utf-8"))
    for mine, stored in (hashes or {}).items():
        text = text.replace(mine, stored)
    holds(json.loads(text), json.loads(old.read_text(encoding="utf-8")), f"{new.name} of {new.parent.name}")


def holds(new: object, old: object, where: str) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key == "estimates" and {"absent", "not_estimated"} & new.keys():
                continue  # of two teachers: there are none any more, with the reason
            assert key in new, f"{where}: {key} is gone"
            holds(new[key], value, f"{where}: {key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (mine, stored) in enumerate(zip(new, old, strict=True)):
            holds(mine, stored, f"{where}[{number}]")
    else:
        assert new == old, where


def image(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def same_label_maps(new: Path, old: Path) -> dict[str, str]:
    """Label maps are equal voxel by voxel; returns their hashes, which depend on how zlib compresses."""
    names = files_of(old, "*.nii.gz")
    assert files_of(new, "*.nii.gz") == names != []
    for name in names:
        one, other = (sitk.ReadImage(str(place / name)) for place in (new, old))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other), str(name))
        assert one.GetPixelID() == other.GetPixelID()
        for what in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(one, what)() == getattr(other, what)()
    return {sha256(new / name): sha256(old / name) for name in names}


def blosc(file: Path) -> np.ndarray:
    import blosc2

    return blosc2.open(urlpath=str(file), mode="r")[:]


def test_there_is_a_version():
    assert VERSIONS


# --- read and written again -------------------------------------------------------------------------------------------


def test_every_json_that_nnkd_writes_is_formed_as_it_was(version, tmp_path):
    written = [path for path in files_of(version, "*.json") if (version / path).read_bytes().endswith(b"}\n")]
    assert {path.name for path in written} >= {"manifest.json", "consensus.json", "votes.json", "summary.json"}
    for path in written:
        write_json(tmp_path / path, read_json(version / path))
        assert (tmp_path / path).read_bytes() == (version / path).read_bytes(), path


def test_manifests_are_written_as_they_were_read(folder, version):
    found = files_of(version, "manifest.json")
    assert len(found) == 9  # teachers of both splits, an aggregation, two students, boxes
    for path in found:
        prediction = PredictionFolder((folder / path).parent)
        manifest = prediction.manifest()
        prediction.manifest_file.unlink()
        prediction.begin(manifest)
        assert (folder / path).read_bytes() == (version / path).read_bytes(), path
        assert set(prediction.cases()) == set(manifest.cases) != set()


def test_a_dataset_is_described_as_it_was(dataset, version):
    file = version / "nnUNet_raw" / COHORT / "dataset.json"
    write_dataset_json(dataset.folder, dataset.spec.channel_names, dataset.spec.json["labels"], ".nii.gz", 6)
    assert (dataset.folder / "dataset.json").read_bytes() == file.read_bytes()


def test_participants_are_who_they_were(dataset):
    people = participants_of_cases(dataset.folder, dataset.images().cases(), required=True)
    person = people["toy_003"]
    assert (person.sex, person.age, person.bmi) == ("M", 49.5, 23)


def test_a_consensus_is_settled_as_it_was(dataset, version):
    before = dataset.consensus_file().read_bytes()
    with consensus.writing(dataset):
        pass
    assert dataset.consensus_file().read_bytes() == before
    assert len(consensus.manual_cases(dataset)) == 2
    assert list(consensus.stale_cases(dataset)) == []


def test_votes_json_is_written_as_it_was_read(preprocessed, dataset):
    votes = VotesFolder.of(preprocessed, "nnUNetPlans_2d")
    shutil.copy(votes.folder / "votes.json", votes.folder.parent / "before.json")
    votes.write_index(votes.index)
    same_content(votes.folder / "votes.json", votes.folder.parent / "before.json")
    votes.check_fresh(dataset.teachers_folder())


def test_recipes_are_written_as_they_were_read(folder, version, preprocessed):
    for name in chain.from_iterable(read_json(folder / "recipes.json").values()):
        file = preprocessed / f"{name}.json"
        before = file.read_bytes()
        recipe = Recipe.of_plans(read_plans(preprocessed, name))
        assert recipe.content() == read_json(file)[KEY]
        file.unlink()
        assert write_recipe(preprocessed, recipe, name.removeprefix("nnUNetPlans_")) == name
        assert file.read_bytes() == before
    for name in TRAINED:
        assert (
            read_json(model_of(folder, name) / "plans.json")[KEY]
            == read_plans(preprocessed, student_plans(folder, name))[KEY]
        )


def test_a_summary_is_written_as_it_was_read(folder, version):
    for path in files_of(version / "evaluation", "summary.json"):
        place = (folder / "evaluation" / path).parent
        add_to_summary(place, "uncertainty", read_json(place / "summary.json")["nnkd"].get("uncertainty"))
        content = read_json(version / "evaluation" / path)
        content["nnkd"].setdefault("uncertainty", None)
        write_json(place / "expected.json", content)
        assert (place / "summary.json").read_bytes() == (place / "expected.json").read_bytes()


def test_a_box_models_description_is_understood(folder):
    content = read_json(folder / "box_model" / "box_model.json")
    found = BoxModelFolder.read(folder / "box_model")
    assert (found.name, found.weights) == ("toy", content["weights"])
    assert found.digests == content["files"]
    for name in content["files"]:
        assert found.checked(name).is_file()


def test_a_record_of_auxiliaries_is_carried_as_it_was(folder, version, tmp_path):
    model = TrainedModel.open(model_of(folder, "adapted"), ["0"], "checkpoint_final.pth")
    record.carry([model], tmp_path / "out")
    (mine,) = record.carried(tmp_path / "out").values()
    (stored,) = record.carried(version / "predictions" / "adapted").values()
    assert mine.name == stored.name
    assert mine.read_bytes() == stored.read_bytes()


# --- nothing is to be done --------------------------------------------------------------------------------------------


def test_a_split_is_found_again(folder):
    before = snapshot(folder)
    call(split.main, *SPLIT)
    assert snapshot(folder) == before


def test_a_consensus_is_up_to_date(folder, version, dataset):
    """It is voted once more, since it does not say what its labels mean; from then on it is up to date."""
    manual = consensus.manual_cases(dataset)
    for turn in range(2):
        before = snapshot(folder)
        call(aggregate.main, "-d", "701")
        aggregate_into(folder, folder / "aggregated")
        if turn:
            assert snapshot(folder) == before
        assert consensus.manual_cases(dataset) == manual
        stored = version / "nnUNet_raw" / COHORT
        hashes = same_label_maps(dataset.folder / "labelsTr", stored / "labelsTr")
        same_content(dataset.consensus_file(), stored / "consensus.json", hashes)


def test_what_is_preprocessed_is_up_to_date(folder, preprocessed):
    """No array is written; records say from now on what things were made from."""
    before = snapshot(folder)
    arrays = files_of(preprocessed, "*.b2nd", "*.pkl")
    times = [(preprocessed / path).stat().st_mtime_ns for path in arrays]
    for turn in range(2):
        records = snapshot(folder)
        call(plan_and_preprocess.main, *PREPROCESS)
        if turn:
            assert snapshot(folder) == records
        now = snapshot(folder)
        changed = {path for path in now.keys() | before.keys() if now.get(path) != before.get(path)}
        assert {path.suffix for path in changed} <= {".json"}, changed
        assert [(preprocessed / path).stat().st_mtime_ns for path in arrays] == times


def test_the_same_flags_find_the_same_recipes(folder, preprocessed):
    call(plan_and_preprocess.main, *PREPROCESS)  # cases of an earlier version are looked at once
    before = snapshot(preprocessed)
    for name in RECIPES:
        assert new_plans(folder, name) == []
    assert snapshot(preprocessed) == before


# --- computed again ---------------------------------------------------------------------------------------------------


def test_folds_are_drawn_as_they_were(folder, version, preprocessed):
    (preprocessed / "splits_final.json").unlink()
    call(split.main, *SPLIT)
    name = Path("nnUNet_preprocessed", COHORT, "splits_final.json")
    assert (folder / name).read_bytes() == (version / name).read_bytes()


def test_a_consensus_is_what_it_was(dataset, folder, version):
    manual = consensus.manual_cases(dataset)
    for file in (dataset.folder / "labelsTr").iterdir():
        if file.name.removesuffix(".nii.gz") not in manual:
            file.unlink()
    dataset.consensus_file().unlink()
    (dataset.teachers_folder() / "agreement.json").unlink()
    call(aggregate.main, "-d", "701")
    stored = version / "nnUNet_raw" / COHORT
    hashes = same_label_maps(dataset.folder / "labelsTr", stored / "labelsTr")
    same_content(dataset.consensus_file(), stored / "consensus.json", hashes)
    agreement = dataset.teachers_folder() / "agreement.json"
    same_figures(agreement, stored / "teachersTr" / "agreement.json")


def test_an_aggregation_is_what_it_was(folder, version, tmp_path):
    aggregate_into(folder, tmp_path / "aggregated")
    hashes = same_label_maps(tmp_path / "aggregated", version / "aggregated")
    same_content(tmp_path / "aggregated" / "manifest.json", version / "aggregated" / "manifest.json", hashes)
    same_figures(tmp_path / "aggregated" / "agreement.json", version / "aggregated" / "agreement.json")


def same_figures(new: Path, old: Path) -> None:
    """The hash of each case's inputs is another one: it counts what labels mean. Means of estimates are of the cases
    that have some: with two teachers there are none any more."""
    mine, stored = read_json(new), read_json(old)
    for content in (mine, stored):
        for case in content["cases"].values():
            del case["inputs"]
        for label in content["labels"].values():
            label.pop("estimates", None)
    holds(mine, stored, new.name)


def test_preprocessing_does_what_it_did(folder, version, preprocessed):
    shutil.rmtree(preprocessed)
    call(plan_and_preprocess.main, *PREPROCESS)
    stored = version / "nnUNet_preprocessed" / COHORT
    arrays = files_of(stored, "*.b2nd")
    assert files_of(preprocessed, "*.b2nd") == arrays
    assert {path.parts[0] for path in arrays} >= {"nnUNetPlans_2d", "nnUNetPlans_2d_votes"}
    for path in arrays:
        mine, expected = blosc(preprocessed / path), blosc(stored / path)
        assert (mine.shape, mine.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(
            mine, expected, rtol=0, atol=1e-5 if mine.dtype.kind == "f" else 0, err_msg=str(path)
        )
    for path in files_of(stored, "nnUNetPlans.json", "dataset.json", "participants.tsv"):
        same_text(preprocessed / path, stored / path)
    for path in files_of(stored, "votes.json"):
        same_content(preprocessed / path, stored / path)
    for path in files_of(stored, "*_inputs.json"):
        assert read_json(preprocessed / path).keys() == read_json(stored / path).keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_it_was(folder, version, preprocessed, name):
    names = read_json(folder / "recipes.json")[name]
    call(plan_and_preprocess.main, *PREPROCESS)  # cases of an earlier version are looked at once
    for one in names:
        (preprocessed / f"{one}.json").unlink()
    assert new_plans(folder, name) == names
    for one in names:
        stored = version / "nnUNet_preprocessed" / COHORT / f"{one}.json"
        assert (preprocessed / f"{one}.json").read_bytes() == stored.read_bytes()


def test_a_network_has_the_parameters_it_had(folder):
    expected = read_json(folder / "parameters.json")
    found = parameters(folder, student_plans(folder, "probabilistic"))
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_answers_as_it_did(folder, version, tmp_path, name):
    predict_into(folder, tmp_path / name, name, student_plans(folder, name))
    mine, stored = tmp_path / name, version / "predictions" / name
    assert files_of(mine, "*") == files_of(stored, "*")
    hashes = {sha256(mine / path): sha256(stored / path) for path in files_of(stored, "*.nii.gz")}
    same_content(mine / "manifest.json", stored / "manifest.json", hashes)
    for path in files_of(stored, "plans.json", "dataset.json"):
        assert (mine / path).read_bytes() == (stored / path).read_bytes()
    for case in PredictionFolder(stored).cases():
        one, other = image(mine / f"{case}.nii.gz"), image(stored / f"{case}.nii.gz")
        sure = np.ones(other.shape, bool)
        if len(TRAINED[name]) > 1:
            expected = np.load(stored / f"{case}.npz")["probabilities"]
            np.testing.assert_allclose(
                np.load(mine / f"{case}.npz")["probabilities"], expected, rtol=0, atol=OF_PROBABILITIES
            )
            first, second = np.sort(expected, axis=0)[[-1, -2]]
            sure = first - second > 2 * OF_PROBABILITIES
            assert sure.mean() > 0.9
            for kind in MAPS:
                maps = [image(UncertaintyFolder(place).file(kind, case)) for place in (mine, stored)]
                np.testing.assert_allclose(*maps, rtol=0, atol=10 * OF_PROBABILITIES)
            np.testing.assert_array_equal(one[sure], other[sure])
        else:
            assert (one != other).mean() < 0.01
        assert len(np.unique(other)) > 1
    if len(TRAINED[name]) > 1:
        volumes = [UncertaintyFolder(place).volumes() for place in (mine, stored)]
        assert list(volumes[0].columns) == list(volumes[1].columns)
        assert volumes[0][["case", "label", "members", "unit"]].equals(volumes[1][["case", "label", "members", "unit"]])


def test_a_training_continues(folder):
    call(plan_and_preprocess.main, *PREPROCESS)  # cases of an earlier version are looked at once
    fold = model_of(folder) / "fold_0"
    final = load_checkpoint(fold / "checkpoint_final.pth")
    latest = load_checkpoint(fold / LATEST)
    assert (latest["current_epoch"], final["current_epoch"]) == (1, 2)
    (fold / "checkpoint_final.pth").unlink()
    with pytest.MonkeyPatch.context() as patch:  # nnU-Net's validation starts processes
        patch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.perform_actual_validation", no)
        call(train.main, *("701", "2d", "0", "-device", "cpu", "-tr", STUDENTS["student"]),
             *("-p", student_plans(folder), "--c"))  # fmt: skip
    again = load_checkpoint(fold / "checkpoint_final.pth")
    assert again["current_epoch"] == 2
    assert list(again) == list(final)
    assert list(again["logging"]) == list(final["logging"])
    for part in ("train_losses", "sampler_state"):
        if part in latest["logging"]:
            assert again["logging"][part][:1] == latest["logging"][part][:1]
    for key, value in final["network_weights"].items():
        assert again["network_weights"][key].shape == value.shape


def no(*_: object) -> None:
    """Does nothing."""


def test_an_evaluation_finds_what_it_found(folder, version, monkeypatch):
    monkeypatch.setattr("nnkd.steps.evaluate.write_report", no)
    expected = snapshot(version / "evaluation")
    cached = {p.name: p.read_bytes() for p in (version / "evaluation" / ".cache").iterdir()}
    assert cached
    for anew in (False, True):
        if anew:
            shutil.rmtree(folder / "evaluation")
        evaluate_into(folder, folder / "evaluation", *(() if anew else ("--replace",)))
        assert files_of(folder / "evaluation", "*") == list(expected)
        for path in expected:
            same_text(folder / "evaluation" / path, version / "evaluation" / path)
        now = {p.name: p.read_bytes() for p in (folder / "evaluation" / ".cache").iterdir()}
        assert now == cached


@NEEDS_RUNTIME
def test_an_exported_student_answers_as_its_checkpoint(folder):
    model = TrainedModel.open(model_of(folder), ["0"], "checkpoint_final.pth")
    content = read_json(folder / "exported" / "student.json")
    assert content["files"] == {"fold_0.onnx": sha256(folder / "exported" / "fold_0.onnx")}
    patch = np.random.default_rng(0).standard_normal((3, 1, *content["input"]["shape"][2:])).astype(np.float32)
    with torch.inference_mode():
        expected = load_predictor(model, "cpu").network.eval()(torch.from_numpy(patch)).numpy()
    session = runtimes.open_session(folder / "exported" / "fold_0.onnx", "onnxruntime", 1)
    np.testing.assert_allclose(session.run({"image": patch})[0], expected, rtol=0, atol=1e-3)


@NEEDS_EXPORT
def test_a_student_is_exported_as_it_was(folder, version, tmp_path):
    export_into(folder, tmp_path / "exported", student_plans(folder))
    assert files_of(tmp_path / "exported", "*") == files_of(version / "exported", "*")
    mine, stored = (place / "exported" / "fold_0.onnx" for place in (tmp_path, version))
    same_text(
        tmp_path / "exported" / "student.json", version / "exported" / "student.json", {sha256(mine): sha256(stored)}
    )  # torch's version is in the network


@NEEDS_EXPORT
def test_a_box_model_is_exported_as_it_was(version, tmp_path):
    box_model_into(tmp_path / "box_model")
    stored = version / "box_model"
    assert files_of(tmp_path / "box_model", "*") == files_of(stored, "*")
    hashes = {sha256(tmp_path / "box_model" / path): sha256(stored / path) for path in files_of(stored, "*.onnx")}
    same_text(tmp_path / "box_model" / "box_model.json", stored / "box_model.json", hashes)


@NEEDS_RUNTIME
def test_a_box_model_segments_as_it_did(folder, version):
    segment_into(folder, folder / "anew")
    mine, stored = folder / "anew", version / "boxed"
    np.testing.assert_array_equal(image(mine / "scan.png"), image(stored / "scan.png"))
    assert set(np.unique(image(stored / "scan.png"))) == {0, 1, 2}
    hashes = {sha256(mine / "scan.png"): sha256(stored / "scan.png")}
    text = (mine / "manifest.json").read_text().replace('"name": "anew"', '"name": "boxed"')
    (mine / "manifest.json").write_text(text)
    same_text(mine / "manifest.json", stored / "manifest.json", hashes)
    before = snapshot(folder / "boxed")
    segment_into(folder, folder / "boxed")
    assert snapshot(folder / "boxed") == before
