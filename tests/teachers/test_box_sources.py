"""nnkd.teachers.box_sources, and the step that asks it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import SimpleITK as sitk
from threshold_teacher import ask
from toy import toy_dataset, toy_teacher

from nnkd.cli.predict_teachers import main
from nnkd.data.boxes import GivenBoxes
from nnkd.data.dataset import DatasetSpec, RawDataset, write_dataset_json
from nnkd.data.predictions import PredictionFolder
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.errors import NnkdError
from nnkd.files import sha256_text
from nnkd.plugin.teachers import Teacher
from nnkd.teachers.box_sources import BoxesOfFile, BoxesOfLabels, BoxesOfPredictions
from nnkd.teachers.jobs import TeacherJob
from nnkd.teachers.prompts import BoxDrawing, boxes_of
from nnkd.types import Entry, SliceBoxes, Volume


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
    report = ask(jobs, dataset, boxes_from="simple", dry_run=True)
    assert (report.failures, report.data["boxed"]["todo"]) == ([], 4)
    report = ask(jobs, dataset, boxes_from="simple")
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
    ask(boxed, dataset, boxes_from="other")
    assert ask(boxed, dataset, boxes_from="other").done == []
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cases"]["toy_002"]["answers"] = ["spleen"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert ask(boxed, dataset, boxes_from="other").done == ["toy_002"]


def test_a_case_the_other_teacher_lacks_fails_alone(dataset):
    toy_teacher(dataset, "other", seed=1)
    PredictionFolder(dataset.teachers_folder() / "other").fail("toy_001", "no luck.")
    report = ask([job(Filled, dataset, "boxed")], dataset, boxes_from="other")
    assert [f.case for f in report.failures] == ["toy_001"]
    assert "no answer for it: no luck." in report.failures[0].reason
    assert len(report.done) == 3


def test_boxes_from_labels_are_marked_as_ground_truth(dataset):
    report = ask([job(Filled, dataset, "boxed")], dataset, boxes_from="labels")
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
    ask([job(Filled, dataset, "told")], dataset, boxes_from="labels")
    ask([job(Filled, dataset, "boxed")], dataset, boxes_from="told")
    assert PredictionFolder(dataset.teachers_folder() / "boxed").manifest().ground_truth


def test_test_images_have_their_own_labels(dataset):
    jobs = [job(Filled, dataset, "boxed", "Ts")]
    report = ask(jobs, dataset, dataset.images("Ts"), boxes_from="labels")
    assert len(report.done) == 2


def test_other_drawing_is_another_teacher(dataset):
    toy_teacher(dataset, "other", seed=1)
    boxed = [job(Filled, dataset, "boxed")]
    ask(boxed, dataset, boxes_from="other", drawing=BoxDrawing(margin=1))
    with pytest.raises(NnkdError, match=r"box_margin=1.*, now box_margin=2"):
        ask(boxed, dataset, boxes_from="other", drawing=BoxDrawing(margin=2))


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


# --- a file ----------------------------------------------------------------------------------------------------------

SHAPE = (3, 6, 8)
SPEC = DatasetSpec(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"},
    "Toy",
)


def seen(boxes: list, direction: np.ndarray, shape=SHAPE) -> dict[str, SliceBoxes]:
    """What a teacher is told of a case that is stored in that direction."""
    orientation = Orientation(Grid(shape, (2.0, 1.0, 1.5), (0.0, 0.0, 0.0), direction))
    turned = orientation.grid
    volume = Volume("c", np.zeros((1, *turned.shape)), turned.spacing, turned.origin, turned.direction, ("CT",))
    given = GivenBoxes("boxes.json", {"c": {"liver": boxes, "spleen": []}})
    return BoxesOfFile(given).prompts(volume, orientation)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no valid JSON"),
        ("[]", "holds a list"),
        ({"x": {}}, "the case 'x'"),
        ({"c": []}, "no labels under 'c'"),
        ({"c": {"lung": []}}, "no label 'lung'"),
        ({"c": {"liver": 3}}, "no lists of boxes"),
        ({"c": {"liver": [[0, 1, 1]]}}, "of 3 numbers"),
        ({"c": {"liver": [[0, 1, 1, 2, "2"]]}}, "finite numbers"),
        ({"c": {"liver": [[0, 3, 1, 2, 2]]}}, "swapped corners"),
        ({"c": {"liver": [[0, 1, 1, 1, 2]]}}, "no volume"),
    ],
)
def test_bad_files_are_named_in_one_sentence(tmp_path, content, says):
    file = tmp_path / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(NnkdError, match=says) as caught:
        BoxesOfFile.read(file, SPEC, ["c"])
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NnkdError, match="cannot be read"):
        BoxesOfFile.read(tmp_path / "none.json", SPEC, ["c"])


@pytest.mark.parametrize(
    "direction",
    [*(np.diag(signs) for signs in itertools.product((1.0, -1.0), repeat=3)), np.eye(3)[[1, 0, 2]]],
    ids=lambda direction: "".join(f"{v:+.0f}" for v in direction.sum(1)),
)
def test_boxes_of_slices_turn_with_the_image(direction):
    mask = np.zeros(SHAPE, bool)
    mask[1, 2:4, 3:8] = mask[2, 0:1, 0:2] = True
    orientation = Orientation(Grid(SHAPE, (2.0, 1.0, 1.5), (0.0, 0.0, 0.0), direction))
    found = seen([list(box) for box in boxes_of(mask, (2.0, 1.0, 1.5))], direction)
    assert sorted(found["liver"].boxes) == sorted(boxes_of(orientation.to_lps(mask), orientation.grid.spacing))
    assert list(found["spleen"].boxes) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_box_of_a_volume_is_the_same_in_each_of_its_slices(order):
    mask = np.zeros(SHAPE, bool)
    mask[0:2, 2:4, 3:8] = True
    orientation = Orientation(Grid(SHAPE, (2.0, 1.0, 1.5), (0.0, 0.0, 0.0), np.eye(3)[list(order)]))
    found = seen([[0, 2, 3, 2, 4, 8]], np.eye(3)[list(order)])
    assert found["liver"].boxes == boxes_of(orientation.to_lps(mask), orientation.grid.spacing)


def test_a_pictures_boxes():
    found = seen([[1, 2, 4, 5], [0, 1, 2, 4, 5]], np.eye(3), (1, 6, 8))
    assert found["liver"].boxes == [(0, 1, 2, 4, 5)] * 2


def test_what_does_not_fit_the_image_is_refused():
    with pytest.raises(NnkdError, match=r"not axial\. Give boxes \[z0, y0, x0, z1, y1, x1\], or re-orient the image"):
        seen([[0, 0, 0, 1, 1]], np.eye(3)[[2, 1, 0]])
    with pytest.raises(NnkdError, match="leaves the image of 3x6x8"):
        seen([[0, 0, 0, 7, 1]], np.eye(3))
    with pytest.raises(NnkdError, match="has no boxes for 'd'"):
        BoxesOfFile(GivenBoxes("boxes.json", {})).fingerprint("d")


def test_a_file_of_boxes_of_volumes_prompts_teachers(dataset, tmp_path):
    (tmp_path / "boxes.json").write_text(
        json.dumps({case: {"liver": [[1, 2, 3, 4, 6, 9]]} for case in ("toy_000", "toy_001")})
    )
    report = ask([job(Filled, dataset, "boxed")], dataset, boxes_from=str(tmp_path / "boxes.json"))
    assert (report.done, len(report.failures)) == (["toy_000", "toy_001"], 2)
    found = PredictionFolder(dataset.teachers_folder() / "boxed").read(dataset.spec, "toy_001")
    assert (found[1:4, 2:6, 3:9] == 1).all()
    assert (found > 0).sum() == 3 * 4 * 6


def test_the_fingerprint_is_of_the_boxes_as_they_are_written():
    """As 0.1.0 has put it into manifests: a finished case is not done again."""
    one = BoxesOfFile(GivenBoxes("a.json", {"c": {"spleen": [], "liver": [[0, 0, 0, 1, 1]]}}))
    assert one.fingerprint("c") == sha256_text('{"liver": [[0, 0, 0, 1, 1]], "spleen": []}')


def test_a_folder_given_by_hand_has_no_labels(dataset, tmp_path):
    from nnkd.data.dataset import ImageFolder

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (dataset.folder / "imagesTr").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(NnkdError, match="labelsTr and labelsTs only"):
        ask([job(Filled, dataset, "b")], dataset, ImageFolder(copy, dataset.spec), boxes_from="labels")


def test_boxes_around_masks_go_by_the_labels_names(dataset):
    """Of a folder that was written before integers were exchanged."""
    folder = toy_teacher(dataset, "one")
    written = folder.read(dataset.spec, "toy_000")
    write_dataset_json(dataset.folder, ["CT"], {"background": 0, "liver": 2, "spleen": 1}, ".nii.gz", 4)
    now = RawDataset(dataset.folder)
    volume, orientation, _ = now.images().volume("toy_000")
    prompts = BoxesOfPredictions(folder, now.spec, BoxDrawing()).prompts(volume, orientation)
    for label, integer in (("liver", 1), ("spleen", 2)):
        for z, y0, x0, y1, x1 in prompts[label].boxes:
            rows, columns = np.nonzero(orientation.to_lps(written)[z] == integer)
            assert (y0, x0, y1, x1) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


@pytest.mark.parametrize("boxes_from", ["labels", "simple"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image.SetOrigin((50.0, 0.0, 0.0)), "origin"),
        (lambda image: image.SetDirection((-1.0, 0, 0, 0, -1, 0, 0, 0, 1)), "origin"),  # as turned to LPS
        (lambda image: image.SetSpacing((3.0, 1.0, 1.0)), "spacing"),
        (None, ""),
    ],
)
def test_boxes_come_from_where_the_label_map_lies(dataset, boxes_from, change, said):
    """One of the image's size may lie elsewhere, or be stored in another order of the same place."""
    ask([job(Liver, dataset, "simple")], dataset)
    case = "toy_000"
    folder = dataset.folder / "labelsTr" if boxes_from == "labels" else dataset.teachers_folder() / "simple"
    file = folder / f"{case}{dataset.spec.file_ending}"
    drawing = BoxDrawing()
    if boxes_from == "labels":
        source = BoxesOfLabels(dataset, "Tr", drawing)
    else:
        source = BoxesOfPredictions(PredictionFolder(folder), dataset.spec, drawing)
    volume, orientation, _ = dataset.images().volume(case)
    before = source.prompts(volume, orientation)
    image = sitk.ReadImage(str(file))
    if change is None:
        sitk.WriteImage(sitk.Flip(image, (True, True, False)), str(file))  # its origin goes along
        assert source.prompts(volume, orientation) == before
        return
    change(image)
    sitk.WriteImage(image, str(file))
    with pytest.raises(NnkdError, match=f"does not lie on its image's grid: {said}"):
        source.prompts(volume, orientation)
