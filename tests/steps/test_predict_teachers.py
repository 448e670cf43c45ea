"""nnkd.steps.predict_teachers and its command."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnkd_basic.imported import ImportedTeacher
from threshold_teacher import Threshold, ask, job
from toy import LABELS, toy_dataset, write_image

from nnkd.cli.predict_teachers import main
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.predictions import Lineage, PredictionFolder
from nnkd.errors import BrokenPluginError, NnkdError, PredictionError, ReplacingError
from nnkd.files import sha256
from nnkd.plugin.teachers import Teacher
from nnkd.teachers import previews
from nnkd.teachers.jobs import TeacherJob
from nnkd.types import Entry

RESTART = """
import sys, time
sys.path.insert(0, {toys!r})
from threshold_teacher import Threshold, ask, job
from nnkd.data.dataset import RawDataset
from pathlib import Path
dataset = RawDataset(Path(sys.argv[1]))
class Slow(Threshold):
    def predict(self, volume, prompts):
        time.sleep(0.1)
        return super().predict(volume, prompts)
print("ready", flush=True)
ask([job(Slow, dataset)], dataset)
"""


TOGETHER = """
import os, sys, time
sys.path.insert(0, {toys!r})
from threshold_teacher import Threshold, ask, job
from nnkd.data.dataset import RawDataset
from pathlib import Path
dataset, log = RawDataset(Path(sys.argv[1])), Path(sys.argv[2])
class Slow(Threshold):
    def predict(self, volume, prompts):
        with open(log, "a") as out:
            out.write(volume.case + "\\n")
        time.sleep(0.15)
        return super().predict(volume, prompts)
print("ready", flush=True)
sys.stdin.readline()
report = ask([job(Slow, dataset)], dataset)
print(len(report.done), len(report.skipped), len(report.failures))
"""


class Corner(Teacher):
    """Answers with a place: the left, front, lower eighth. Only right if the orientation is."""

    devices = ("cpu",)

    def predict(self, volume, prompts):
        mask = np.zeros(volume.shape, bool)
        z, y, x = volume.shape
        mask[: z // 2, : y // 2, x // 2 :] = True
        return {"liver": mask}


class Boxed(Teacher):
    prompt = "box"
    devices = ("cpu",)

    def predict(self, volume, prompts):
        result = {}
        for label, prompt in prompts.items():
            result[label] = np.zeros(volume.shape, bool)
            for z, y0, x0, y1, x1 in prompt.boxes:
                result[label][z, y0:y1, x0:x1] = True
        return result


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.nii.gz") if not p.name.startswith(".")}


def test_masks_become_a_prediction_folder(dataset):
    report = ask([job(Threshold, dataset)], dataset)
    assert report.done == dataset.images().cases()
    folder = PredictionFolder(dataset.teachers_folder() / "mine")
    truth, _, _ = dataset.spec.read_label_map(dataset.folder / "truth" / "toy_003.nii.gz")
    assert (folder.read(dataset.spec, "toy_003") == truth).mean() > 0.99
    manifest = folder.manifest()
    assert manifest.lineage[0].licence == "MIT"
    assert manifest.options == {"channel": "CT"}
    again = ask([job(Threshold, dataset)], dataset)
    assert (again.done, again.skipped) == ([], report.done)


@pytest.mark.parametrize(
    ("order", "signs"), list(itertools.product(([0, 1, 2], [2, 0, 1], [1, 0, 2]), ((1, 1, 1), (-1, 1, -1))))
)
def test_every_orientation_gives_the_same_place_in_the_world(tmp_path, order, signs):
    dataset = stored_dataset(tmp_path, order, signs)
    ask([job(Corner, dataset)], dataset)
    image = sitk.ReadImage(str(dataset.images().files("c")[0]))
    answer = sitk.ReadImage(str(dataset.teachers_folder() / "mine" / "c.nii.gz"))
    assert answer.GetSize() == image.GetSize()
    assert np.allclose(answer.GetDirection(), image.GetDirection())
    world = [
        answer.TransformIndexToPhysicalPoint(i[::-1]) for i in np.argwhere(sitk.GetArrayFromImage(answer)).tolist()
    ]
    assert np.round(np.min(world, axis=0), 3).tolist() == [6.0, 0.0, 0.0]
    assert np.round(np.max(world, axis=0), 3).tolist() == [11.0, 4.0, 9.0]


def stored_dataset(folder: Path, order, signs) -> RawDataset:
    """One image of 12 x 10 x 8 voxels (x, y, z; 1, 1, 3 mm), stored with permuted and flipped axes."""
    image = sitk.GetImageFromArray(np.arange(8 * 10 * 12, dtype=np.float32).reshape(8, 10, 12))
    image.SetSpacing((1.0, 1.0, 3.0))
    image = sitk.PermuteAxes(image, order)
    image = sitk.Flip(image, [s < 0 for s in signs])
    (folder / "imagesTr").mkdir()
    sitk.WriteImage(image, str(folder / "imagesTr" / "c_0000.nii.gz"))
    write_dataset_json(folder, ["CT"], LABELS, ".nii.gz", 1)
    return RawDataset(folder)


def test_one_bad_case_does_not_stop_the_rest(dataset, capsys):
    images = dataset.folder / "imagesTr"
    cut = images / "toy_001_0000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:300])
    (images / "toy_002_0000.nii.gz").write_bytes(b"")
    report = ask([job(Threshold, dataset)], dataset)
    assert report.done == ["toy_000", "toy_003"]
    assert [f.case for f in report.failures] == ["toy_001", "toy_002"]
    manifest = (dataset.teachers_folder() / "mine" / "manifest.json").read_text()
    assert str(dataset.folder) not in manifest
    assert main(["-d", "701", "-t", "atlas", "-device", "cpu", "--set", "atlas.registration=affine"]) == 3
    assert "toy_001" in capsys.readouterr().err


def test_a_teachers_own_error_is_kept_without_paths(dataset):
    class Crashes(Threshold):
        def predict(self, volume, prompts):
            if volume.case == "toy_002":
                raise RuntimeError(f"cannot open {dataset.folder}/secret/weights.pt")
            return super().predict(volume, prompts)

    report = ask([job(Crashes, dataset)], dataset)
    assert len(report.done) == 3
    assert "weights.pt" in report.failures[0].reason
    assert str(dataset.folder.parent) not in report.failures[0].reason


def test_a_teacher_that_cannot_start_stops_before_the_first_case(dataset):
    class Never(Threshold):
        def __init__(self, context):
            raise OSError("no weights")

    with pytest.raises(BrokenPluginError, match="'never' could not be started"):
        ask([job(Threshold, dataset), job(Never, dataset, "never")], dataset)
    assert not dataset.teachers_folder().exists()


def test_a_changed_image_is_done_again_and_other_options_are_refused(dataset):
    ask([job(Threshold, dataset)], dataset)
    file = dataset.folder / "imagesTr" / "toy_001_0000.nii.gz"
    write_image(sitk.GetArrayFromImage(sitk.ReadImage(str(file))) + 40, file)
    assert ask([job(Threshold, dataset)], dataset).done == ["toy_001"]

    class Levelled(Threshold):
        def __init__(self, context, *, level: int = 1):
            super().__init__(context)

    other = job(Levelled, dataset, options={"level": 2})
    with pytest.raises(PredictionError, match="level=2"):
        ask([other], dataset, dry_run=True)


def test_a_run_goes_on_with_another_cache(dataset):
    class Cached(Threshold):
        costs_only = frozenset({"cache"})

        def __init__(self, context, *, cache=512):
            super().__init__(context)

    cases = dataset.images().cases()
    ask([job(Cached, dataset, options={"cache": 512})], dataset, cases=cases[:2])
    report = ask([job(Cached, dataset, options={"cache": 0})], dataset)
    assert (report.skipped, report.done) == (cases[:2], cases[2:])


def test_overwrite_of_one_part_leaves_the_others(dataset):
    cases = dataset.images().cases()
    ask([job(Threshold, dataset)], dataset)
    report = ask([job(Threshold, dataset)], dataset, cases=cases[:2], overwrite=True)
    assert report.done == cases[:2]
    assert PredictionFolder(dataset.teachers_folder() / "mine").cases() == cases


def test_abstention_is_recorded(dataset):
    ask([job(Corner, dataset)], dataset)
    manifest = PredictionFolder(dataset.teachers_folder() / "mine").manifest()
    assert all(record.answers == ["liver"] for record in manifest.cases.values())


def test_dry_run_writes_nothing(dataset):
    before = sorted(dataset.folder.rglob("*"))
    report = ask([job(Threshold, dataset)], dataset, dry_run=True)
    assert sorted(dataset.folder.rglob("*")) == before
    assert report.data["mine"]["todo"] == 4
    assert report.data["mine"]["bytes"] > 0


def test_dry_run_measures_the_first_case_aside(dataset, tmp_path):
    """Also boxes that a teacher of the same call is still to give."""
    file = tmp_path / "boxes.json"
    cases = dataset.images().cases()
    file.write_text(
        json.dumps({case: {"liver": [[z, 3, 4, 6, 9] for z in range(i + 1)]} for i, case in enumerate(cases)})
    )
    report = ask([job(Boxed, dataset)], dataset, boxes_from=str(file), dry_run=True)
    assert report.data["mine"]["slices"] == 1 + 2 + 3 + 4
    assert report.data["mine"]["seconds"] > 0
    assert "10 slices with boxes" in report.lines[0]
    assert "toy_000 took" in report.lines[0]
    jobs = [job(Threshold, dataset), job(Boxed, dataset, "boxed")]
    report = ask(jobs, dataset, boxes_from="mine", dry_run=True)
    assert report.data["boxed"]["seconds"] > 0
    assert not dataset.teachers_folder().exists()
    ask([job(Threshold, dataset)], dataset, cases=cases[:2])
    report = ask([job(Threshold, dataset)], dataset, dry_run=True)
    assert "the 2 case(s) that are there took" in report.lines[0]


def test_dry_run_says_why_there_is_no_estimate(dataset):
    class Crashes(Threshold):
        def predict(self, volume, prompts):
            raise RuntimeError("no")

    report = ask([job(Crashes, dataset)], dataset, dry_run=True)
    assert "time unknown: toy_000 failed (RuntimeError: no)" in report.lines[0]


def test_dry_run_counts_the_weights_in_memory(dataset):
    class Weighty(Threshold):
        def __init__(self, context):
            super().__init__(context)
            self.network = torch.nn.Linear(1000, 250, bias=False)

    report = ask([job(Weighty, dataset)], dataset, dry_run=True)
    assert report.data["mine"]["weights_bytes"] == 1_000_000
    assert "1.0 MB of weights" in report.lines[0]


def test_preview_draws_and_writes_nothing_else(dataset):
    class Crashes(Threshold):
        def predict(self, volume, prompts):
            if volume.case == "toy_002":
                raise RuntimeError("no")
            return super().predict(volume, prompts)

    before = set(dataset.folder.rglob("*"))
    jobs = [job(Crashes, dataset), job(Boxed, dataset, "boxed")]
    report = ask(jobs, dataset, boxes_from="mine", preview=2)
    folder = dataset.folder / "preview"
    assert set(dataset.folder.rglob("[!.]*")) - before == {folder, folder / "toy_000.png"}
    assert report.lines == ["preview/toy_000.png  mine, boxed"]
    assert [f.case for f in report.failures] == ["mine/toy_002", "boxed/toy_002"]
    assert (folder / "toy_000.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(NnkdError, match="two things"):
        ask(jobs, dataset, boxes_from="mine", preview=2, dry_run=True)


@pytest.mark.parametrize(("number", "expected"), [(1, "a"), (2, "ac"), (3, "abc"), (4, "abcd"), (9, "abcd")])
def test_previews_are_spread(number, expected):
    assert "".join(previews.spread("abcd", number)) == expected


def test_max_memory_refuses_what_cannot_fit(dataset):
    report = ask([job(Threshold, dataset)], dataset, max_memory=1e-6)
    assert len(report.failures) == 4
    assert "takes at least 0.00 GiB, but --max_memory is 1e-06" in report.failures[0].reason
    assert len(ask([job(Threshold, dataset)], dataset, max_memory=1.0).done) == 4


def test_terms_of_weights_are_announced(dataset):
    class Weighty(Threshold):
        def weights(self):
            return [{"name": "a.pth", "sha256": "0", "licence": "CC-BY-NC-4.0"}]

    report = ask([job(Weighty, dataset)], dataset)
    assert "NOT FOR COMMERCIAL USE: what mine writes inherits the terms of toy (CC-BY-NC-4.0)." in report.lines


def test_boxes(dataset, tmp_path):
    with pytest.raises(NnkdError, match="--boxes-from"):
        ask([job(Boxed, dataset)], dataset)
    file = tmp_path / "boxes.json"
    boxes = {case: {"liver": [[2, 3, 4, 6, 9]], "spleen": []} for case in dataset.images().cases()[:3]}
    file.write_text(json.dumps(boxes))
    report = ask([job(Boxed, dataset)], dataset, boxes_from=str(file))
    assert [f.case for f in report.failures] == ["toy_003"]
    found = PredictionFolder(dataset.teachers_folder() / "mine").read(dataset.spec, "toy_000")
    assert np.argwhere(found == 1).min(axis=0).tolist() == [2, 3, 4]
    assert np.argwhere(found == 1).max(axis=0).tolist() == [2, 5, 8]
    boxes["toy_001"]["liver"][0][4] = 8
    file.write_text(json.dumps(boxes))
    assert ask([job(Boxed, dataset)], dataset, boxes_from=str(file)).done == ["toy_001"]


@pytest.mark.parametrize(
    ("licences", "inherited"),
    [((), "Apache-2.0"), (("CC-BY-NC-4.0",), "CC-BY-NC-4.0"), (("",), "not stated"), (("MIT", ""), "MIT, not stated")],
)
def test_predictions_inherit_the_licence_of_the_weights_in_use(dataset, licences, inherited):
    class Weighty(Threshold):
        def weights(self):
            return [{"name": f"{i}.pth", "sha256": str(i), "licence": text} for i, text in enumerate(licences)]

    entry = Entry("net", "x:Y", "toy", licence="MIT", weights_licence="Apache-2.0")
    jobs = [job(Boxed, dataset, "boxed"), TeacherJob("mine", Weighty, entry, dataset.teachers_folder() / "mine")]
    ask(jobs, dataset, boxes_from="mine")
    net = Lineage(name="net", licence="MIT", weights_licence=inherited)
    assert PredictionFolder(dataset.teachers_folder() / "mine").manifest().lineage == [net]
    boxed = PredictionFolder(dataset.teachers_folder() / "boxed").manifest().lineage
    assert boxed == [Lineage(name="toy", licence="MIT"), net]


def test_channels_by_name_and_index(tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset702_Two", channels=("CT", "PET"), training=1)
    seen = []

    class Looks(Threshold):
        def predict(self, volume, prompts):
            seen.append((volume.data.shape[0], volume.channel_names))
            return super().predict(volume, prompts)

    ask([job(Looks, dataset, channel="PET")], dataset)
    ask([job(Looks, dataset, channel="1")], dataset, overwrite=True)
    assert seen == [(1, ("PET",))] * 2
    with pytest.raises(NnkdError, match="has the channels 0"):
        ask([job(Looks, dataset, channel="MRI")], dataset)


@pytest.mark.heavy
def test_killed_and_restarted_equals_uninterrupted(tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=6)
    ask([job(Threshold, dataset)], dataset)
    whole = content(dataset.teachers_folder() / "mine")
    shutil.rmtree(dataset.teachers_folder())
    script = RESTART.format(toys=str(Path(__file__).parents[1] / "toys"))
    rng = np.random.default_rng(3)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(dataset.folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0.2, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = ask([job(Threshold, dataset)], dataset)
    assert left.skipped or left.done
    assert content(dataset.teachers_folder() / "mine") == whole
    assert PredictionFolder(dataset.teachers_folder() / "mine").cases() == dataset.images().cases()


@pytest.mark.heavy
def test_processes_on_one_folder_do_every_case_once(tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=8)
    script, log = TOGETHER.format(toys=str(Path(__file__).parents[1] / "toys")), tmp_path / "log"
    command = [sys.executable, "-c", script, str(dataset.folder), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    end = time.monotonic() + 60
    while not log.is_file() and time.monotonic() < end:
        time.sleep(0.02)
    processes[0].kill()  # its case is taken over
    found = [process.communicate()[0] for process in processes]
    cases = dataset.images().cases()
    assert PredictionFolder(dataset.teachers_folder() / "mine").cases() == cases
    counts = np.array([[int(number) for number in text.split()] for text in found[1:]])
    assert (counts.sum(axis=1) == 8).all()
    assert (counts[:, 2] == 0).all()
    assert counts[:, 0].sum() in (7, 8)  # the killed one may have finished its first
    started = log.read_text().split()
    assert sorted(set(started)) == cases
    assert len(started) <= 9
    assert not (dataset.teachers_folder() / "mine" / ".claims").exists()


def test_what_failed_elsewhere_is_not_tried_again(dataset):
    tried = []

    class Crashes(Threshold):
        def predict(self, volume, prompts):
            tried.append(volume.case)
            if volume.case == "toy_000":  # another process fails at the last case meanwhile
                self.folder.fail("toy_003", "no luck")
            return super().predict(volume, prompts)

    Crashes.folder = PredictionFolder(dataset.teachers_folder() / "mine")
    report = ask([job(Crashes, dataset)], dataset)
    assert tried == ["toy_000", "toy_001", "toy_002"]
    assert [(f.case, f.reason) for f in report.failures] == [("toy_003", "no luck")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-t", "atlaz"], "Did you mean 'atlas'"),
        (["-t", "atlas", "atlas"], "twice"),
        (["-t", "../x=atlas"], "no name for a folder"),
        (["-t", "atlas", "--set", "rigid.number=1"], "chosen with -t are atlas"),
        (["-t", "atlas", "--set", "number=1"], "without its teacher"),
        (["-t", "atlas", "--set", "atlas.nmber=1"], "Did you mean 'number'"),
        (["-t", "imported"], "no folder"),
        (["-t", "atlas", "-num_parts", "2", "-part_id", "2"], "-part_id is 2"),
        (["-t", "atlas", "--boxes-from", "x.json"], "none of the chosen teachers"),
    ],
)
def test_bad_arguments_are_one_sentence(dataset, capsys, arguments, says):
    assert main(["-d", "701", "-device", "cpu", *arguments]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.heavy
def test_the_command_takes_any_folder_and_two_settings_of_one_teacher(dataset, tmp_path):
    target = tmp_path / "out"
    common = ["-d", "701", "-i", str(dataset.folder / "imagesTr"), "-np", "1"]
    settings = ["--set", "rigid.registration=affine", "rigid.number=1", "flex.number=1"]
    assert main([*common, "-o", str(target), "-t", "rigid=atlas", "flex=atlas", *settings]) == 0
    assert PredictionFolder(target / "rigid").cases() == dataset.images().cases()
    assert PredictionFolder(target / "flex").manifest().options["registration"] == "deformable"
    alone = tmp_path / "alone"
    assert main([*common, "-o", str(alone), "-t", "rigid=atlas", "--set", "rigid.registration=affine"]) == 0
    assert PredictionFolder(alone).exists()


def test_a_teacher_that_knows_colours_sees_them_together_unless_told_otherwise(tmp_path):
    seen = []

    class Looks(Threshold):
        channels = "colour"

        def predict(self, volume, prompts):
            seen.append(volume.channel_names)
            return super().predict(volume, prompts)

    for number, names in ((1, ("R", "G", "B")), (2, ("T1", "T2", "FLAIR"))):
        dataset = toy_dataset(tmp_path / f"Dataset70{number}_Three", channels=names, training=1)
        ask([job(Looks, dataset)], dataset)
    dataset = RawDataset(tmp_path / "Dataset701_Three")
    ask([job(Looks, dataset, channel="G")], dataset, overwrite=True)
    assert seen == [("R", "G", "B"), ("T1",), ("G",)]


def test_files_of_the_images_and_of_a_teachers_own_folder_are_counted(dataset, tmp_path):
    masks = tmp_path / "masks"
    for name in ("toy_000/liver", "toy_000/heart", "toy_001_spleen", "toy_099"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset.folder / "truth" / "toy_000.nii.gz", masks / f"{name}.nii.gz")
    (masks / "notes.txt").write_text("x")
    (dataset.folder / "imagesTr" / "toy_001.nii.gz").write_bytes(b"x")
    imported = job(ImportedTeacher, dataset, options={"folder": masks})
    report = ask([imported], dataset)
    assert [count.line for count in report.folders] == [
        "imagesTr: 5 files came in: 4 used, 1 not understood (toy_001.nii.gz)",
        "masks: 5 files came in: 2 used, 1 set aside (of a label that is not asked for: toy_000/heart.nii.gz), 2 not "
        "understood (notes.txt, toy_099.nii.gz)",
    ]


def test_overwrite_takes_away_only_what_a_teacher_wrote(dataset):
    ask([job(Threshold, dataset)], dataset)
    folder = dataset.teachers_folder() / "mine"
    for name in ("mine.nii.gz", "notes.nii.gz"):
        (folder / name).write_text("somebody's")
    edited = sha256(folder / "toy_003.nii.gz")
    otherwise = job(Corner, dataset)
    otherwise = replace(otherwise, entry=replace(otherwise.entry, name="corner"))
    assert len(ask([otherwise], dataset, overwrite=True).done) == 4
    assert {"mine.nii.gz", "notes.nii.gz"} < {file.name for file in folder.iterdir()}
    assert sha256(folder / "toy_003.nii.gz") != edited
    (folder / "toy_003.nii.gz").write_text("by hand")
    for overwrite in (False, True):
        # a case whose label map somebody changed is done already, unless all is to be made anew
        if overwrite:
            with pytest.raises(ReplacingError, match=r"'toy_003\.nii\.gz' in 'mine' would be replaced"):
                ask([otherwise], dataset, overwrite=True)
        else:
            assert len(ask([otherwise], dataset).skipped) == 4
    assert (folder / "toy_003.nii.gz").read_text() == "by hand"
    assert len(ask([replace(otherwise, replace=True)], dataset, overwrite=True).done) == 4


def test_labels_and_foreign_folders_are_no_teachers_folder(dataset, tmp_path):
    labels = dataset.folder / "labelsTr"
    labels.mkdir(exist_ok=True)
    (labels / "toy_000.nii.gz").write_text("manual")
    for given in (False, True):
        with pytest.raises(ReplacingError, match="manual label maps"):
            ask([replace(job(Threshold, dataset), folder=labels, replace=given)], dataset, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "an app"}')
    for overwrite in (False, True):
        with pytest.raises(ReplacingError, match=r"'manifest\.json' in 'other'"):
            ask([replace(job(Threshold, dataset), folder=tmp_path / "other")], dataset, overwrite=overwrite)
    (dataset.folder / "preview").mkdir()
    (dataset.folder / "preview" / "toy_000.png").write_text("mine")
    with pytest.raises(ReplacingError, match=r"'toy_000\.png' in 'preview'"):
        ask([job(Threshold, dataset)], dataset, preview=1)
