"""nnkd_basic.nnunet_model: the answers of stock nnU-Net, voxel for voxel."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnkd_basic.nnunet_model import NnUNetTeacher
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from toy import toy_dataset, write_image
from trained import trained

from nnkd.cli.predict_teachers import main
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, FolderError, NnkdError, SettingError, WeightsError
from nnkd.plugin.options import parse_options
from nnkd.types import TeacherContext, Volume

LIVER_SPLEEN = {"background": 0, "liver": 1, "spleen": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A 2D model of two folds and a 3D one, whose weights are random."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "2d": trained(folder, spacing=(1.3, 0.9), folds=("0", "1")),
        "3d": trained(folder, name="3d_fullres", patch=(8, 16, 16), spacing=(2.0, 1.2, 1.0), transpose=(1, 0, 2)),
    }


def teacher_of(dataset: RawDataset, **options) -> NnUNetTeacher:
    context = TeacherContext(tuple(dataset.spec.labels), dataset=dataset)
    return NnUNetTeacher(context, **parse_options(NnUNetTeacher, options, "nnunet"))


def ask(dataset: RawDataset, case: str = "toy_000", **options) -> np.ndarray:
    """The teacher's answer as a label map in file order."""
    volume, orientation, _ = dataset.images().volume(case)
    answer = teacher_of(dataset, **options).predict(volume, {})
    return orientation.to_file(dataset.spec.label_map(answer, volume.shape))


def stock(model: Path, files: list[Path], target: Path, folds=("0",), **more) -> np.ndarray:
    """What nnU-Net's own predictor writes for these files; the array in the written file's order."""
    ending = json.loads((model / "dataset.json").read_text())["file_ending"]
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, **more)
        predictor.initialize_from_trained_model_folder(str(model), folds)
        predictor.predict_from_files_sequential([[str(f) for f in files]], [str(target)])
    return sitk.GetArrayFromImage(sitk.ReadImage(f"{target}{ending}"))


def varied(label_map: np.ndarray, values=(1, 2)) -> bool:
    """Whether it could tell one answer from another."""
    return all((label_map == value).sum() > 20 for value in values)


def turned(dataset: RawDataset, code: str) -> RawDataset:
    """All images stored anew in another orientation."""
    for file in (dataset.folder / "imagesTr").iterdir():
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), code), str(file))
    return dataset


# --- equality with nnU-Net ----------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "ASL"])
@pytest.mark.parametrize("name", ["2d", "3d"])
def test_answers_are_stock_nnunets_whatever_the_stored_orientation(models, dataset, tmp_path, name, code):
    files = list(turned(dataset, code).images().files("toy_000"))
    theirs = stock(models[name], files, tmp_path / "theirs")
    assert varied(theirs)
    assert np.array_equal(ask(dataset, model=models[name], folds="0"), theirs)


@pytest.mark.heavy
@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_other_readers_of_nnunet(dataset, tmp_path, reader, ending):
    """A model that was trained with one of them is asked with it; what it cannot open is turned the same way."""
    model = trained(tmp_path / "models", reader=reader)
    turned(dataset, "PIR")
    file = dataset.images().files("toy_000")[0]
    theirs = stock(model, [file], tmp_path / "theirs")
    assert varied(theirs)
    other = tmp_path / "Dataset702_Other"
    write_dataset_json(other, ["CT"], LIVER_SPLEEN, ending, 1)
    (other / "imagesTr").mkdir()
    sitk.WriteImage(sitk.ReadImage(str(file)), str(other / "imagesTr" / f"toy_000_0000{ending}"))
    assert np.array_equal(ask(RawDataset(other), model=model), theirs)


def test_without_a_file_the_volume_is_taken(models, dataset, tmp_path):
    volume, _, _ = dataset.images().volume("toy_000")
    loose = Volume("x", volume.data, volume.spacing, volume.origin, volume.direction, volume.channel_names)
    answer = teacher_of(dataset, model=models["3d"]).predict(loose, {})
    theirs = stock(models["3d"], list(volume.files), tmp_path / "theirs")  # the toys are stored in LPS
    assert np.array_equal(dataset.spec.label_map(answer, volume.shape), theirs)


@pytest.mark.heavy
def test_folds_mirroring_and_step(models, dataset, tmp_path):
    files = list(dataset.images().files("toy_000"))
    more = {"use_mirroring": False, "tile_step_size": 0.9}
    theirs = stock(models["2d"], files, tmp_path / "both", ("0", "1"), **more)
    ours = ask(dataset, model=models["2d"], mirroring="false", tile_step="0.9")  # all folds by default
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, ask(dataset, model=models["2d"], mirroring="false", tile_step="0.9", folds="1"))
    assert not np.array_equal(ours, ask(dataset, model=models["2d"]))


def test_a_picture_of_three_channels(nnunet_folders, tmp_path):
    model = trained(tmp_path, channels=("R", "G", "B"), reader="NaturalImage2DIO", ending=".png")
    dataset = picture_dataset(nnunet_folders / "nnUNet_raw" / "Dataset703_Picture")
    theirs = stock(model, list(dataset.images().files("toy_000")), tmp_path / "theirs")
    assert varied(theirs)
    assert np.array_equal(ask(dataset, model=model)[0], theirs)


def picture_dataset(folder: Path) -> RawDataset:
    (folder / "imagesTr").mkdir(parents=True)
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(folder / "imagesTr" / "toy_000_0000.png"))
    write_dataset_json(folder, ["R", "G", "B"], LIVER_SPLEEN, ".png", 1)
    return RawDataset(folder)


def test_regions_and_an_ignore_label(nnunet_folders, tmp_path):
    labels = {**REGIONS, "ignore": 4}
    model = trained(tmp_path, labels=labels, regions_class_order=[1, 2, 3])
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset704_Regions", labels=labels, labelled=0,
                          regions_class_order=[1, 2, 3])  # fmt: skip
    theirs = stock(model, list(dataset.images().files("toy_000")), tmp_path / "theirs")
    assert varied(theirs, (1, 2, 3))
    assert np.array_equal(ask(dataset, model=model), theirs)
    volume, _, _ = dataset.images().volume("toy_000")
    answer = teacher_of(dataset, model=model).predict(volume, {})
    assert np.array_equal(answer["core"], theirs >= 2)


@pytest.mark.heavy
@pytest.mark.parametrize("talk", [True, False])
def test_the_whole_step(models, dataset, nnunet_folders, tmp_path, capsys, talk):
    """Through nnKD_predict_teachers, from a path relative to nnUNet_results; nnU-Net's talk stays out of stdout."""
    turned(dataset, "RAS")
    (nnunet_folders / "nnUNet_results" / "Dataset799_Trained").mkdir()
    model = f"Dataset799_Trained/{models['2d'].name}"
    shutil.copytree(models["2d"], nnunet_folders / "nnUNet_results" / model)
    options = [f"mine.model={model}", "mine.folds=1", "mine.licence=CC-BY-4.0"]
    arguments = ["-d", "701", "-t", "mine=nnunet", "-device", "cpu", "-np", "1", "--set", *options]
    assert main(arguments if talk else [*arguments, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "perform_everything_on_device" not in said
    assert len(said.strip().splitlines()) == 2
    assert said.strip().endswith("4 files came in: 4 used")
    if not talk:
        return
    folder = PredictionFolder(dataset.teachers_folder() / "mine")
    theirs = stock(models["2d"], list(dataset.images().files("toy_002")), tmp_path / "theirs", ("1",))
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(folder.folder / "toy_002.nii.gz")))
    assert np.array_equal(written, theirs)
    manifest = folder.manifest()
    assert [(w.name, w.licence) for w in manifest.weights] == [("fold_1/checkpoint_final.pth", "CC-BY-4.0")]
    assert manifest.options["model"] == model
    assert manifest.cases["toy_002"].answers == ["liver", "spleen"]


# --- labels and channels ------------------------------------------------------------------------------------------


def test_labels_of_equal_names_and_abstentions(models, tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset705_More", labels={"background": 0, "kidney": 1, "spleen": 2})
    volume, _, _ = dataset.images().volume("toy_000")
    answer = teacher_of(dataset, model=models["2d"], folds="0").predict(volume, {})
    theirs = stock(models["2d"], list(volume.files), tmp_path / "theirs")
    assert list(answer) == ["spleen"]
    assert np.array_equal(answer["spleen"], theirs == 2)


@pytest.mark.parametrize("given", ['{"kidney": ["liver", 2]}', "map.json"])
def test_a_map_joins_names_and_integers(models, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("map.json").write_text('{"kidney": ["liver", "spleen"]}')
    dataset = toy_dataset(tmp_path / "Dataset705_More", labels={"background": 0, "kidney": 1, "aorta": 2})
    volume, _, _ = dataset.images().volume("toy_000")
    teacher = teacher_of(dataset, model=models["2d"], folds="0", map=given)
    theirs = stock(models["2d"], list(volume.files), tmp_path / "theirs")
    assert np.array_equal(teacher.predict(volume, {})["kidney"], theirs > 0)
    assert set(teacher.inputs("toy_000")) == ({"map"} if given == "map.json" else set())


@pytest.mark.heavy
def test_channels_are_found_by_name_or_chosen(models, tmp_path):
    model = trained(tmp_path, channels=("T2", "T1"))
    dataset = toy_dataset(tmp_path / "Dataset706_Three", channels=("T1", "FLAIR", "t2"))
    one, two, three = dataset.images().files("toy_000")
    by_name = stock(model, [three, one], tmp_path / "by_name")
    assert np.array_equal(ask(dataset, model=model), by_name)
    chosen = stock(model, [two, three], tmp_path / "chosen")
    assert not np.array_equal(chosen, by_name)
    assert np.array_equal(ask(dataset, model=model, inputs="FLAIR,2"), chosen)


def test_one_channel_of_a_picture(models, nnunet_folders, tmp_path):
    dataset = picture_dataset(nnunet_folders / "nnUNet_raw" / "Dataset703_Picture")
    volume, _, _ = dataset.images().volume("toy_000")
    green = tmp_path / "grey.nii.gz"
    write_image(volume.data[1], green, (1.0, 1.0, 1.0))
    assert ask(dataset, model=models["2d"], inputs="G").shape == stock(models["2d"], [green], tmp_path / "x").shape
    with pytest.raises(DatasetError, match=r"wants 1 channel \(CT\), but the dataset has 3 channels \(R, G, B\)"):
        teacher_of(dataset, model=models["2d"])


def test_a_channel_of_another_name_is_a_warning(models, tmp_path, caplog):
    dataset = toy_dataset(tmp_path / "Dataset707_MR", channels=("MRI",))
    with caplog.at_level(logging.WARNING, "nnkd"):
        teacher_of(dataset, model=models["2d"])
    assert "CT, given MRI" in caplog.text
    caplog.clear()
    teacher_of(toy_dataset(tmp_path / "Dataset708_CT", channels=("ct",)), model=models["2d"])
    assert not caplog.text


# --- what cannot work, one sentence each --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, SettingError, "has no model"),
        ({"model": "nowhere"}, FolderError, "no trained model 'nowhere'"),
        ({"folds": "0,7"}, FolderError, r"Fold\(s\) 7 .* fold\(s\) 0, 1"),
        ({"folds": ""}, SettingError, "folds are empty"),
        ({"checkpoint": "checkpoint_best.pth"}, FolderError, "no fold"),
        ({"map": '{"lung": "liver"}'}, SettingError, "has lung, but the dataset's labels are liver, spleen"),
        ({"map": '{"liver": "lung"}'}, SettingError, r"has lung for 'liver', but .* liver \(1\), spleen \(2\)"),
        ({"map": '{"liver": 3}'}, SettingError, "has 3 for 'liver'"),
        ({"map": '{"liver": 0}'}, SettingError, "background"),
        ({"inputs": "MRI"}, SettingError, r"got 'MRI', but the dataset has 1 channel \(CT\)"),
        ({"inputs": "0,0"}, SettingError, "name 2 channels"),
        ({"tile_step": "0"}, SettingError, "tile_step is 0"),
    ],
)
def test_options_that_cannot_work(models, dataset, options, error, said):
    defaults = {"model": models["2d"]} if options else {}
    with pytest.raises(error, match=said) as raised:
        teacher_of(dataset, **{**defaults, **options})
    assert "\n" not in str(raised.value)


@pytest.fixture
def copy(models, tmp_path) -> Path:
    return Path(shutil.copytree(models["2d"], tmp_path / "copies" / models["2d"].name))


def change_checkpoint(model: Path, **changes) -> None:
    file = model / "fold_0" / "checkpoint_final.pth"
    content = {**torch.load(file, weights_only=True), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, file)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def truncate(model: Path) -> None:
    file = model / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda m: (m / "plans.json").unlink(), FolderError, "plans.json is missing"),
        (lambda m: (m / "dataset.json").write_text("{"), DatasetError, "no valid JSON"),
        (lambda m: (m / "fold_0" / "checkpoint_final.pth").unlink(), FolderError, "have no checkpoint_final.pth"),
        (truncate, WeightsError, "truncated"),
        (lambda m: change_checkpoint(m, more=Path("x")), WeightsError, "holds more than weights"),
        (lambda m: change_checkpoint(m, trainer_name=None), WeightsError, "holds weights, but not trainer_name"),
        (lambda m: change_checkpoint(m, trainer_name="nnUNetTrainerOfSomebody"), WeightsError, "no installed plugin"),
        (lambda m: change_checkpoint(m, init_args={"configuration": "3d"}), WeightsError, "plans.json has 2d"),
        (lambda m: edit(m / "dataset.json", labels={**LIVER_SPLEEN, "x": 3}), WeightsError, "do not fit its network"),
    ],
)
def test_models_that_are_not_whole(copy, dataset, spoil, error, said):
    spoil(copy)
    with pytest.raises(error, match=said) as raised:
        teacher_of(dataset, model=copy, folds="0")
    assert "\n" not in str(raised.value)
    assert str(copy.parent) not in str(raised.value)


def test_the_second_stage_of_a_cascade(tmp_path, dataset):
    """It has one input more for each label of the first stage."""
    model = trained(tmp_path / "models", channels=("CT", "liver", "spleen"))
    edit(model / "dataset.json", channel_names={"0": "CT"})
    stages = json.loads((model / "plans.json").read_text())["configurations"]
    stages = {"2d": {**stages["2d"], "previous_stage": "3d_lowres"}, "3d_lowres": stages["2d"]}
    edit(model / "plans.json", configurations=stages)
    with pytest.raises(NnkdError, match="second stage of a cascade and needs the label maps of 3d_lowres"):
        teacher_of(dataset, model=model)


def test_no_label_in_common(models, tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset709_Other", labels={"background": 0, "kidney": 1, "aorta": 2})
    with pytest.raises(SettingError, match="labels liver, spleen and the dataset kidney, aorta, none in common"):
        teacher_of(dataset, model=models["2d"])


def test_channels_that_do_not_fit(models, tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset710_Two", channels=("T1", "T2"))
    with pytest.raises(DatasetError, match=r"wants 1 channel \(CT\), but the dataset has 2 channels \(T1, T2\)"):
        teacher_of(dataset, model=models["2d"])


def test_a_3d_model_refuses_pictures(models, tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset711_Flat", shape=(1, 24, 20), ending=".png")
    with pytest.raises(DatasetError, match=r"'toy_000' is a 2D image, but .* volumes in 3D"):
        ask(dataset, model=models["3d"])


def test_fold_all_stands_in_where_there_is_no_other(tmp_path, dataset):
    model = trained(tmp_path / "all", folds=("all",))
    assert teacher_of(dataset, model=model).model.folds == ("all",)
    both = trained(tmp_path / "both", folds=("all", "3"))
    assert teacher_of(dataset, model=both).model.folds == ("3",)


def test_checkpoints_written_with_numpy_1(copy, dataset):
    """Most published models were: numpy's types had another address then."""
    change_checkpoint(copy, logging={"losses": [np.float64(0.5)]})
    file = copy / "fold_0" / "checkpoint_final.pth"
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in file.read_bytes()
    assert teacher_of(dataset, model=copy, folds="0").parts == {"liver": [1], "spleen": [2]}


OLD = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
class nnUNetTrainerOld(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(name, keywords, imports, inputs, outputs, enable_deep_supervision=True):
        network = get_network_from_plans(name, keywords, imports, inputs, outputs)
        network.decoder.deep_supervision = enable_deep_supervision
        return network
"""


@pytest.mark.heavy
def test_a_trainer_of_the_users_own_that_was_written_for_an_older_nnunet(models, copy, dataset, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "old.py").write_text(OLD)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "mine"))
    change_checkpoint(copy, trainer_name="nnUNetTrainerOld")
    assert np.array_equal(ask(dataset, model=copy, folds="0"), ask(dataset, model=models["2d"], folds="0"))


def test_a_network_that_is_not_installed(copy, dataset, monkeypatch):
    configurations = json.loads((copy / "plans.json").read_text())["configurations"]
    configurations["2d"]["architecture"]["network_class_name"] = "somebodys_networks.mamba.Net"
    edit(copy / "plans.json", configurations=configurations)
    with pytest.raises(WeightsError, match=r"neither nnU-Net's nor .*: --allow_architecture somebodys_networks"):
        teacher_of(dataset, model=copy)
    monkeypatch.setenv("NNKD_ALLOW_ARCHITECTURE", "")
    with pytest.raises(WeightsError, match=r"needs 'somebodys_networks\.mamba\.Net', which is not inst"):
        teacher_of(dataset, model=copy, allow_architecture="somebodys_networks")


@pytest.mark.heavy
def test_a_student_of_nnkd_is_a_teacher(models, copy, dataset, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    change_checkpoint(copy, trainer_name="nnUNetTrainerKD")
    assert np.array_equal(ask(dataset, model=copy, folds="0"), ask(dataset, model=models["2d"], folds="0"))
