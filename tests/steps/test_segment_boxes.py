"""nnkd.steps.segment_boxes and nnKD_segment_boxes: folders of images and boxes -> prediction folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from box_toys import WEIGHTS, Bright, toy_box_model
from extras import needs
from PIL import Image

from nnkd.boxes.model import OpenedBoxModel
from nnkd.boxes.runs import BoxJob
from nnkd.cli import segment_boxes as cli
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, FolderError, NnkdError, PredictionError, SettingError, UnknownNameError
from nnkd.files import sha256
from nnkd.networks import runtimes
from nnkd.steps.segment_boxes import segment_boxes

NEEDS_ONNX = needs("export", "onnxruntime")


def opened(model=None) -> OpenedBoxModel:
    return OpenedBoxModel(model or Bright(), "toy", "torch", weights=(WEIGHTS,), licence="Apache-2.0")


def run(source: Path, target: Path, boxes=None, model=None, overwrite=False, **options):
    """The step with boxes as a dictionary."""
    if boxes is not None:
        file = target.parent / "boxes.json"
        file.write_text(json.dumps(boxes), encoding="utf-8")
        options["boxes"] = file
    return segment_boxes(BoxJob(source, target, **options), lambda: opened(model), overwrite)


def scan(seed: int = 0) -> np.ndarray:
    """Two bright balls in the dark, 8 bits."""
    z, y, x = np.ogrid[:9, :20, :24]
    first = (z - 4) ** 2 + (y - 8) ** 2 / 4 + (x - 7) ** 2 / 4 < 10
    second = (z - 5) ** 2 + (y - 12) ** 2 / 4 + (x - 17) ** 2 / 4 < 6
    noise = np.random.default_rng(seed).integers(0, 60, (9, 20, 24))
    return np.where(first, 220, np.where(second, 200, noise)).astype(np.uint8)


BALLS = {"first": [[1, 2, 1, 8, 15, 14]], "second": [[3, 7, 12, 8, 18, 23]]}


def volume(file: Path, array: np.ndarray, order: str = "LPS") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((0.8, 0.8, 2.5))
    sitk.WriteImage(sitk.DICOMOrient(made, order), str(file))
    return file


def challenge(file: Path, **more) -> Path:
    """An npz of the challenge, its boxes in the challenge's order, z1 included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    boxes = [[b[2], b[1], b[0], b[5], b[4], b[3] - 1] for (b,) in BALLS.values()]
    np.savez_compressed(file, **{"imgs": scan(), "boxes": boxes, "spacing": [1, 1, 1], **more})
    return file


# --- what comes of it -------------------------------------------------------------------------------------------


def test_the_same_scan_as_npz_and_as_volumes(tmp_path):
    run(challenge(tmp_path / "npz" / "a.npz"), tmp_path / "npz_out")
    expected = np.load(tmp_path / "npz_out" / "a.npz")["segs"]
    assert [(expected == v).sum() > 50 for v in (1, 2)] == [True, True]
    assert ((expected > 0) == (scan() > 128)).all()
    for ending in (".nii.gz", ".nrrd", ".mha"):
        file = volume(tmp_path / ending[1:] / f"a_0000{ending}", scan().astype(np.int16))
        run(file.parent, tmp_path / f"{ending[1:]}_out", {"a": BALLS}, modality="8 bit")
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{ending[1:]}_out" / f"a{ending}")))
        assert np.array_equal(found, expected), ending


@pytest.mark.parametrize("order", ["RAS", "PIR", "SAL"])
def test_however_a_volume_is_stored_its_label_map_shows_the_same(tmp_path, order):
    file = volume(tmp_path / "in" / "a.nrrd", scan(), order)
    stored = sitk.ReadImage(str(file))
    marks = {label: sitk.GetImageFromArray(box_mask(box)) for label, (box,) in BALLS.items()}
    boxes = {}
    for label, mark in marks.items():
        mark.SetSpacing((0.8, 0.8, 2.5))
        where = np.argwhere(sitk.GetArrayFromImage(sitk.DICOMOrient(mark, order)))
        boxes[label] = [[*where.min(0).tolist(), *(where.max(0) + 1).tolist()]]
    model = Bright()
    run(tmp_path / "in", tmp_path / "out", {"a": boxes}, model)
    written = sitk.ReadImage(str(tmp_path / "out" / "a.nrrd"))
    assert written.GetDirection() == stored.GetDirection()
    assert ((sitk.GetArrayFromImage(sitk.DICOMOrient(written, "LPS")) > 0) == (scan() > 128)).all()
    assert model.encoded == 7  # axial slices 1 to 7
    single = {"a": {"first": [[4, 2, 1, 9, 5]]}}
    report = run(tmp_path / "in", tmp_path / "single", single)
    assert bool(report.failures) == (order != "RAS")
    if report.failures:
        assert "stored slices are not axial" in report.failures[0].reason
        again = run(tmp_path / "in", tmp_path / "stored", {"a": {"first": [[4, 2, 1, 9, 5]]}}, slices="stored")
        assert again.done == ["a"]


def box_mask(box) -> np.ndarray:
    mask = np.zeros((9, 20, 24), np.uint8)
    mask[tuple(map(slice, box[:3], box[3:]))] = 1
    return mask


def test_pictures(tmp_path):
    (tmp_path / "in").mkdir()
    colour = np.repeat(scan()[4][..., None], 3, axis=-1)
    Image.fromarray(colour).save(tmp_path / "in" / "rgb.png")
    Image.fromarray(scan()[4]).save(tmp_path / "in" / "grey.bmp")
    boxes = {label: [[b[1], b[2], b[4], b[5]]] for label, (b,) in BALLS.items()}
    report = run(tmp_path / "in", tmp_path / "out", {"rgb": boxes, "grey": boxes})
    assert report.done == ["grey", "rgb"]
    for name in report.done:
        found = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        assert ((found > 0) == (scan()[4] > 128)).all()
    manifest = PredictionFolder(tmp_path / "out").manifest()
    assert manifest.labels == {"first": [1], "second": [2]}
    assert manifest.cases["rgb"].answers == ["first", "second"]


def test_a_dataset_json_beside_the_images_names_integers_and_the_modality(tmp_path):
    volume(tmp_path / "imagesTs" / "a_0000.nii.gz", scan().astype(np.int16) * 5 - 300)
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "second": 4, "first": 9}}
    (tmp_path / "dataset.json").write_text(json.dumps({**described, "file_ending": ".nii.gz", "numTraining": 0}))
    run(tmp_path / "imagesTs", tmp_path / "out", {"a": BALLS})
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz")))
    assert set(np.unique(found)) == {0, 4, 9}
    manifest = PredictionFolder(tmp_path / "out").manifest()
    assert manifest.cases["a"].notes["intensities"]["first"]["kind"] == "window"
    with pytest.raises(UnknownNameError, match=r"has boxes for liver, but dataset\.json"):
        run(tmp_path / "imagesTs", tmp_path / "other", {"a": {"liver": []}})


def test_the_manifest_says_what_was_done(tmp_path):
    run(challenge(tmp_path / "in" / "a.npz").parent, tmp_path / "out")
    manifest = PredictionFolder(tmp_path / "out").manifest()
    assert (manifest.kind, manifest.made_by, manifest.ground_truth) == ("teacher", "toy", False)
    assert manifest.weights[0].licence == "CC0-1.0"
    record = manifest.cases["a"]
    assert record.answers == ["1", "2"]
    assert record.notes["encoded_slices"] == 7
    assert record.notes["boxes"] == 12
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_what_is_assumed_is_said(tmp_path):
    volume(tmp_path / "in" / "ct.nii.gz", np.where(scan() > 128, 80, -1000).astype(np.int16))
    volume(tmp_path / "in" / "mr.nii.gz", scan().astype(np.int16) * 7)
    report = run(tmp_path / "in", tmp_path / "out", {"ct": BALLS, "mr": BALLS})
    text = "\n".join(report.lines)
    assert "1 image(s) were taken for CT" in text
    assert "1 image(s) were taken for not CT" in text
    assert PredictionFolder(tmp_path / "out").manifest().cases["ct"].notes["assumed"] == "CT"
    assert "No modality" not in "\n".join(run(tmp_path / "in", tmp_path / "o", {"ct": BALLS}, modality="CT").lines)


# --- again, and what goes wrong ---------------------------------------------------------------------------------


def test_what_is_done_is_passed_over_and_what_changed_is_done_again(tmp_path):
    for name in "abc":
        challenge(tmp_path / "in" / f"{name}.npz")
    model = Bright()
    assert run(tmp_path / "in", tmp_path / "out", model=model).done == ["a", "b", "c"]
    assert model.encoded == 21
    (tmp_path / "out" / "b.npz").unlink()
    challenge(tmp_path / "in" / "c.npz", imgs=scan(1))
    report = run(tmp_path / "in", tmp_path / "out", model=model)
    assert (report.done, report.skipped) == (["b", "c"], ["a"])
    assert run(tmp_path / "in", tmp_path / "out", overwrite=True).done == ["a", "b", "c"]
    with pytest.raises(PredictionError, match=r"was made otherwise \(slices=axial, now slices=stored\)"):
        run(tmp_path / "in", tmp_path / "out", slices="stored")


def test_other_boxes_are_other_inputs(tmp_path):
    volume(tmp_path / "in" / "a.nrrd", scan())
    volume(tmp_path / "in" / "b.nrrd", scan())
    run(tmp_path / "in", tmp_path / "out", {"a": BALLS, "b": BALLS})
    moved = {**BALLS, "first": [[2, 2, 1, 8, 15, 14]]}
    report = run(tmp_path / "in", tmp_path / "out", {"a": BALLS, "b": moved})
    assert (report.done, report.skipped) == (["b"], ["a"])


def test_one_bad_image_does_not_stop_the_others(tmp_path):
    source = tmp_path / "in"
    challenge(source / "good.npz")
    challenge(source / "also_good.npz", boxes=np.zeros((0, 6)))
    challenge(source / "outside.npz", boxes=[[0, 0, 0, 99, 9, 9]])
    challenge(source / "nan.npz", boxes=[[0, 0, 0, np.nan, 9, 9]])
    challenge(source / "pickled.npz", imgs=np.array([None]))
    np.savez(source / "no_imgs.npz", boxes=[[0, 0, 1, 1]])
    np.savez(source / "no_boxes.npz", imgs=scan())
    (source / "broken.npz").write_bytes(b"PK")
    report = run(source, tmp_path / "out")
    assert report.done == ["also_good", "good"]
    reasons = {failure.case: failure.reason for failure in report.failures}
    assert set(reasons) == {"outside", "nan", "pickled", "no_imgs", "no_boxes", "broken"}
    for case, words in {
        "outside": "leaves the image", "nan": "finite numbers", "pickled": "pickled objects", "no_imgs": "no 'imgs'",
        "no_boxes": "--boxes_from_gts", "broken": "broken or no npz",
    }.items():  # fmt: skip
        assert words in reasons[case]
        assert len(reasons[case]) < 300
    assert sorted(p.name for p in (tmp_path / "out").glob("*.npz")) == ["also_good.npz", "good.npz"]
    assert set(PredictionFolder(tmp_path / "out").manifest().failures) == set(reasons)


def test_a_case_without_boxes_in_the_file(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / "in" / f"{name}.nrrd", scan())
    report = run(tmp_path / "in", tmp_path / "out", {"a": BALLS})
    assert report.done == ["a"]
    assert report.failures[0].reason.startswith("'boxes.json' has no boxes for 'b'")
    with pytest.raises(PredictionError, match=r"'a\.nrrd' needs boxes\. Add --boxes FILE"):
        run(tmp_path / "in", tmp_path / "other")


def test_boxes_from_the_reference_are_marked(tmp_path):
    gts = np.zeros((9, 20, 24), np.uint8)
    gts[scan() > 128] = 3
    challenge(tmp_path / "in" / "a.npz", gts=gts)
    run(tmp_path / "in", tmp_path / "out", from_reference=True)
    assert np.array_equal(np.load(tmp_path / "out" / "a.npz")["segs"], gts)
    assert PredictionFolder(tmp_path / "out").manifest().ground_truth
    with pytest.raises(SettingError, match="choose one"):
        run(tmp_path / "in", tmp_path / "out", {"a": {}}, from_reference=True)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (4096, 3), (3, 4096)])
def test_thin_and_long_pictures(tmp_path, shape):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full(shape, 200, np.uint8)).save(tmp_path / "in" / "a.png")
    run(tmp_path / "in", tmp_path / "out", {"a": {"all": [[0, 0, *shape]]}})
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).all()


def test_where_label_maps_may_not_go(tmp_path):
    challenge(tmp_path / "in" / "a.npz")
    with pytest.raises(FolderError, match="label maps would replace them"):
        run(tmp_path / "in", tmp_path / "in")
    with pytest.raises(FolderError, match=r"-o is the file 'a\.npz'"):
        run(tmp_path / "in", tmp_path / "in" / "a.npz")


def test_regions_are_refused(tmp_path):
    volume(tmp_path / "in" / "a.nrrd", scan())
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "whole": [1, 2]}, "file_ending": ".nrrd"}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({**described, "numTraining": 0}))
    with pytest.raises(DatasetError, match="labels of several integers"):
        run(tmp_path / "in", tmp_path / "out", {"a": {"whole": []}})


def test_a_model_that_fails_is_met_before_anything_is_written(tmp_path):
    challenge(tmp_path / "in" / "a.npz")

    def none():
        raise NnkdError("no model")

    with pytest.raises(NnkdError, match="no model"):
        segment_boxes(BoxJob(tmp_path / "in", tmp_path / "out"), none)
    assert not (tmp_path / "out").exists()


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    pytest.importorskip("onnx", reason='needs onnx: pip install "nnkd[export]"')
    return toy_box_model(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("nnKD_cache", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.heavy
@NEEDS_ONNX
def test_the_command_without_torch(toy, tmp_path):
    """In a process of its own: neither torch nor SimpleITK, for npz, and the exit code of one bad image."""
    challenge(tmp_path / "in" / "a.npz")
    (tmp_path / "in" / "b.npz").write_bytes(b"broken")
    words = ["-i", "in", "-o", "out", "--model", str(toy), "--runtime", "onnxruntime", "--threads", "1"]
    heavy = ("torch", "SimpleITK", "nibabel", "scipy", "nnunetv2", "pandas", "matplotlib", "PIL")
    code = (
        f"import sys; from nnkd.cli.segment_boxes import main; code = main({words}); "
        f"print([name for name in {heavy} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "  b: 'b.npz' is broken" in done.stderr
    found = np.load(tmp_path / "out" / "a.npz")["segs"]
    assert ((found > 0) == (scan() > 128)).mean() > 0.95
    assert PredictionFolder(tmp_path / "out").manifest().options["runtime"] == "onnxruntime"


@NEEDS_ONNX
def test_a_name_or_file_is_exported_once(toy, tmp_path, monkeypatch, caplog):
    challenge(tmp_path / "in" / "a.npz")
    (tmp_path / "own.pth").write_bytes(b"weights")
    digest = sha256(tmp_path / "own.pth")
    asked = []

    def export(model, folder):
        asked.append(Path(model).name)
        for file in toy.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        content = json.loads((folder / "box_model.json").read_text())
        (folder / "box_model.json").write_text(json.dumps({**content, "weights": {**WEIGHTS, "sha256": digest}}))

    monkeypatch.setattr(cli, "_export", export)
    words = ["-i", str(tmp_path / "in"), "--model", str(tmp_path / "own.pth"), "--runtime", "onnxruntime"]
    assert cli.main([*words, "-o", str(tmp_path / "one")]) == 0
    assert "own.pth is exported for use without torch; this is done once." in caplog.text
    assert cli.main([*words, "-o", str(tmp_path / "two")]) == 0
    assert asked == ["own.pth"]


def refused(capsys, *words) -> str:
    """What the command answers to bad input."""
    assert cli.main([str(word) for word in words]) == 1
    return capsys.readouterr().err


def test_models_that_are_not_there(tmp_path, capsys):
    challenge(tmp_path / "in" / "a.npz")
    words = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--runtime"]
    for runtime in ("torch", "auto"):
        assert "Did you mean 'litemedsam'?" in refused(capsys, *words, runtime, "--model", "litemedsm")
        assert "There is no checkpoint 'x.pth'" in refused(capsys, *words, runtime, "--model", tmp_path / "x.pth")
        assert "has no box_model.json" in refused(capsys, *words, runtime, "--model", tmp_path)
    assert "is not prompted by boxes" in refused(capsys, *words, "torch", "--model", "atlas")
    assert "--precision int8 is for exported" in refused(capsys, *words, "torch", "--precision", "int8")
    said = refused(capsys, *words, "openvino", "-device", "cuda")
    assert "--runtime openvino computes on the CPU, but -device says cuda" in said
    assert not (tmp_path / "out").exists()


def test_a_failed_export_says_why_and_auto_goes_on_with_torch(tmp_path, monkeypatch, capsys, caplog):
    challenge(tmp_path / "in" / "a.npz")
    (tmp_path / "own.pth").write_bytes(b"weights")
    monkeypatch.setattr(cli, "EXPORT", "import sys; print('error: no such network', file=sys.stderr); sys.exit(1)")
    monkeypatch.setattr(cli, "_on_torch", lambda arguments: opened())
    monkeypatch.setattr(runtimes, "installed", lambda: ("onnxruntime",))
    words = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "own.pth"]
    said = refused(capsys, *words, "--runtime", "onnxruntime")
    assert "own.pth could not be exported: no such network" in said
    assert cli.main([str(word) for word in words]) == 0
    assert "no such network. torch computes instead." in caplog.text


def test_a_folder_that_is_called_like_the_default_model(tmp_path, monkeypatch):
    challenge(tmp_path / "in" / "a.npz")
    (tmp_path / "litemedsam").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_on_torch", lambda arguments: opened())
    assert cli.main(["-i", "in", "-o", "out", "--runtime", "torch"]) == 0


@pytest.mark.parametrize(
    "words", [["--threads", "0"], ["--max_memory", "0"], ["--max_memory", "nan"], ["--runtime", "x"]]
)
def test_wrong_usage(words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["-i", "in", "-o", "out", *words])
    assert caught.value.code == 2


def test_a_killed_run_continues(tmp_path):
    for name in ("a", "b"):
        challenge(tmp_path / "in" / f"{name}.npz")
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from box_toys import Bright\n"
        "from pathlib import Path; from nnkd.boxes.model import OpenedBoxModel\n"
        "from nnkd.boxes.runs import BoxJob\n"
        "from nnkd.steps.segment_boxes import segment_boxes\n"
        "class Dies(Bright):\n"
        "    def encode(self, image):\n"
        "        if self.encoded == 9: os.kill(os.getpid(), 9)\n"
        "        return super().encode(image)\n"
        "segment_boxes(BoxJob(Path('in'), Path('out')), lambda: OpenedBoxModel(Dies(), 'toy', 'torch'))\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parents[1] / "toys")]
    assert subprocess.run(words, check=False, capture_output=True, cwd=tmp_path).returncode == -9
    assert [p.name for p in (tmp_path / "out").glob("*.npz")] == ["a.npz"]
    job = BoxJob(tmp_path / "in", tmp_path / "out")
    again = segment_boxes(job, lambda: OpenedBoxModel(Bright(), "toy", "torch"))
    assert (again.done, again.skipped) == (["b"], ["a"])


def test_files_are_counted_and_frames_of_a_video_are_no_channels(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    picture = Image.fromarray(np.pad(np.full((20, 20), 200, np.uint8), 10))
    for name in ("video_0001", "video_0002", "a_0000", "a_0001"):
        picture.save(folder / f"{name}.png")
    for name in ("notes.txt", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    boxes = {name: {"cell": [[10, 10, 30, 30]]} for name in ("video_0001", "video_0002", "a")}
    report = run(folder, folder / "out", boxes)
    assert report.done == ["a", "video_0001", "video_0002"]
    assert [count.line for count in report.folders] == [
        "frames: 7 files came in: 3 used, 3 set aside (further channel of an image: a_0001.png; named on the command "
        "line: boxes.json; system file: Thumbs.db), 1 not understood (notes.txt)",
    ]
