"""nnkd.teachers.box_sources, and the step that asks it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toy import toy_dataset, toy_teacher

from nnkd.cli.predict_teachers import main
from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import NnkdError
from nnkd.plugin.teachers import Teacher
from nnkd.steps.predict_teachers import TeacherJob, predict_teachers
from nnkd.teachers.prompts import BoxDrawing
from nnkd.types import Entry


class Filled(Teacher):
    """Answers with its boxes."""

    prompt = "box"
    devices = ("cpu",)

    def predict(self, volume, prompts):
        masks = {}
        for label, prompt in prompts.items():
            masks[label] = np.zeros(volume.shape, bool)
            for z, y0, x0, y1, x1 in prompt.boxes:
                masks[label][z, y0:y1, x0:x1] = True
        return masks


class Liver(Teacher):
    """Sees one block of liver in the lower half; knows of no spleen."""

    devices = ("cpu",)

    def predict(self, volume, prompts):
        mask = np.zeros(volume.shape, bool)
        mask[:3, 4:9, 5:12] = True
        return {"liver": mask}


@pytest.fixture
def dataset(nnunet_folders):
    return toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", training=4, test=2, labelled=2)


def job(teacher: type[Teacher], dataset: RawDataset, alias: str, split: str = "Tr") -> TeacherJob:
    entry = Entry(teacher.__name__.lower(), "x:Y", "toy", licence=f"licence of {alias}")
    return TeacherJob(alias, teacher, entry, dataset.teachers_folder(split) / alias)


def test_boxes_from_a_teacher_of_the_same_call(dataset):
    jobs = [job(Filled, dataset, "boxed"), job(Liver, dataset, "simple")]
    report = predict_teachers(jobs, dataset, dataset.images(), boxes_from="simple", dry_run=True)
    assert (report.failures, report.data["boxed"]["todo"]) == ([], 4)
    report = predict_teachers(jobs, dataset, dataset.images(), boxes_from="simple")
    assert len(report.done) == 8
    manifests = {name: PredictionFolder(dataset.teachers_folder() / name).manifest() for name in ("boxed", "simple")}
    assert manifests["boxed"].options["boxes_from"] == "simple"
    assert not manifests["boxed"].ground_truth
    assert [model.licence for model in manifests["boxed"].lineage] == ["licence of boxed", "licence of simple"]
    for case, record in manifests["boxed"].cases.items():
        assert record.answers == ["liver"]  # where the other one abstains, nothing was asked
        maps = [PredictionFolder(dataset.teachers_folder() / n).read(dataset.spec, case) for n in ("boxed", "simple")]
        assert np.array_equal(*maps)


def test_a_changed_answer_of_the_other_teacher_is_noticed(dataset):
    boxed = [job(Filled, dataset, "boxed")]
    folder = dataset.teachers_folder() / "other"
    toy_teacher(dataset, "other", seed=1)
    predict_teachers(boxed, dataset, dataset.images(), boxes_from="other")
    assert predict_teachers(boxed, dataset, dataset.images(), boxes_from="other").done == []
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cases"]["toy_002"]["answers"] = ["spleen"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert predict_teachers(boxed, dataset, dataset.images(), boxes_from="other").done == ["toy_002"]


def test_a_case_the_other_teacher_lacks_fails_alone(dataset):
    toy_teacher(dataset, "other", seed=1)
    PredictionFolder(dataset.teachers_folder() / "other").fail("toy_001", "no luck.")
    report = predict_teachers([job(Filled, dataset, "boxed")], dataset, dataset.images(), boxes_from="other")
    assert [f.case for f in report.failures] == ["toy_001"]
    assert "no answer for it: no luck." in report.failures[0].reason
    assert len(report.done) == 3


def test_boxes_from_labels_are_marked_as_ground_truth(dataset):
    report = predict_teachers([job(Filled, dataset, "boxed")], dataset, dataset.images(), boxes_from="labels")
    assert len(report.done) == 2
    assert {f.case for f in report.failures} == {"toy_002", "toy_003"}
    assert "no label map for 'toy_002'" in report.failures[0].reason
    manifest = PredictionFolder(dataset.teachers_folder() / "boxed").manifest()
    assert manifest.ground_truth
    truth, _, _ = dataset.spec.read_label_map(dataset.label_file("toy_000"))
    mine = PredictionFolder(dataset.teachers_folder() / "boxed").read(dataset.spec, "toy_000")
    assert ((truth > 0) <= (mine > 0)).all()
    assert 0 < (truth > 0).sum() < (mine > 0).sum()


def test_ground_truth_is_inherited_from_boxes_of_boxes(dataset):
    predict_teachers([job(Filled, dataset, "told")], dataset, dataset.images(), boxes_from="labels")
    predict_teachers([job(Filled, dataset, "boxed")], dataset, dataset.images(), boxes_from="told")
    assert PredictionFolder(dataset.teachers_folder() / "boxed").manifest().ground_truth


def test_test_images_have_their_own_labels(dataset):
    jobs = [job(Filled, dataset, "boxed", "Ts")]
    report = predict_teachers(jobs, dataset, dataset.images("Ts"), boxes_from="labels")
    assert len(report.done) == 2


def test_other_drawing_is_another_teacher(dataset):
    toy_teacher(dataset, "other", seed=1)
    boxed = [job(Filled, dataset, "boxed")]
    predict_teachers(boxed, dataset, dataset.images(), boxes_from="other", drawing=BoxDrawing(margin=1))
    with pytest.raises(NnkdError, match=r"box_margin=1.*, now box_margin=2"):
        predict_teachers(boxed, dataset, dataset.images(), boxes_from="other", drawing=BoxDrawing(margin=2))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--boxes-from", "atlaz"], "none is there yet"),
        (["--boxes-from", "none.json"], "cannot be read"),
        (["--boxes-from", "boxed"], "needs boxes itself"),
        (["--boxes-from", "labels", "--box_margin", "-1"], "must not be negative"),
        (["--boxes-from", "boxes.json", "--box_margin", "1"], "as they are"),
        ([], "--boxes-from TEACHER"),
    ],
)
def test_bad_sources_are_one_sentence(dataset, tmp_path, monkeypatch, capsys, arguments, says):
    from nnkd.plugin import registry

    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.json").write_text("{}")
    monkeypatch.setattr(registry, "load_class", lambda *_: Filled)
    assert main(["-d", "701", "-device", "cpu", "-t", "boxed=atlas", *arguments]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (dataset.teachers_folder() / "boxed").exists()


def test_a_folder_given_by_hand_has_no_labels(dataset, tmp_path):
    from nnkd.data.dataset import ImageFolder

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (dataset.folder / "imagesTr").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(NnkdError, match="labelsTr and labelsTs only"):
        predict_teachers([job(Filled, dataset, "b")], dataset, ImageFolder(copy, dataset.spec), boxes_from="labels")
