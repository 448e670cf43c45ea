"""nnkd_totalsegmentator, with random weights in TotalSegmentator's own folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnkd_totalsegmentator.names import read_table, structures_of
from processes import python
from toy import write_image
from trained import trained

from nnkd.cli import predict_teachers
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, SettingError, WeightsError
from nnkd.plugin.options import parse_options
from nnkd.types import TeacherContext, Volume

pytest.importorskip("totalsegmentator.map_tasks_config", reason='needs pip install "nnkd[totalsegmentator]"')
from nnkd_totalsegmentator import weights as models
from nnkd_totalsegmentator.teacher import TotalSegmentatorTeacher
from totalsegmentator.map_to_binary import class_map

FAST = "Dataset297_TotalSegmentator_total_3mm_1559subj"
FAST_TRAINER = "nnUNetTrainer_4000epochs_NoMirroring"
LABELS = {"background": 0, "lung": 1, "kidney": 2, "ivc": 3, "tumour": 4}

# Runs when a child's interpreter starts: what it asks of the network is written down, and refused.
WATCHED = """
import os, socket, sys
def refuse(*what, **more):
    with open(os.environ["WATCHED"], "a") as file:
        file.write(f"{what}\\n")
    raise OSError("no network in tests")
socket.getaddrinfo = socket.create_connection = refuse
connect = socket.socket.connect
socket.socket.connect = lambda self, to: connect(self, to) if self.family == socket.AF_UNIX else refuse(to)
"""
# TotalSegmentator's own Python API, on the dataset's own file, with its own configuration: it sends statistics.
REFERENCE = """
import sys
import nibabel, torch
torch.set_num_threads(1)
if __name__ == "__main__":
    from totalsegmentator.python_api import totalsegmentator
    nibabel.save(totalsegmentator(sys.argv[1], None, fast=True, device="cpu", nr_thr_saving=1, quiet=True), sys.argv[2])
"""


def context(dataset=None, labels=LABELS, **more):
    return TeacherContext(tuple(labels)[1:], dataset=dataset, **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """TotalSegmentator's folder of weights with a tiny 3 mm model."""
    folder = tmp_path_factory.mktemp("weights")
    labels = {"background": 0, **{name: number for number, name in class_map["total"].items()}}
    trained(
        folder / FAST, name="3d_fullres", patch=(16, 16, 16), spacing=(3.0, 3.0, 3.0), labels=labels,
        trainer=FAST_TRAINER,
    )  # fmt: skip
    return folder


@pytest.fixture
def scan(nnunet_folders, store, monkeypatch) -> RawDataset:
    """Dataset705_Scan: one CT, 2 x 1.5 x 4 mm, stored obliquely, flipped and with permuted axes."""
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(store))
    monkeypatch.delenv("TOTALSEG_HOME_DIR", raising=False)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset705_Scan"
    rng = np.random.default_rng(0)
    smooth = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rng.normal(0, 1, (14, 30, 26))), 2.0)
    array = sitk.GetArrayFromImage(smooth)
    write_image((array / array.std() * 300).astype(np.int16), folder / "imagesTr" / "a_0000.nii.gz")
    image = sitk.ReadImage(str(folder / "imagesTr" / "a_0000.nii.gz"))
    image.SetSpacing((2.0, 1.5, 4.0))
    image.SetDirection(sitk.VersorTransform((0.2, 0.1, 1.0), 0.2).GetMatrix())
    image = sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [False, True, True])
    sitk.WriteImage(image, str(folder / "imagesTr" / "a_0000.nii.gz"))
    write_dataset_json(folder, ["CT"], LABELS, ".nii.gz", 1)
    return RawDataset(folder)


@pytest.fixture
def watched(tmp_path, monkeypatch) -> Path:
    """A file to which child processes write what they ask of the network, which they do not get."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCHED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # which every command sets
    monkeypatch.setenv("WATCHED", str(tmp_path / "watched.txt"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path / "watched.txt"


@pytest.mark.heavy
def test_the_answer_is_the_python_apis_in_every_voxel_and_nothing_is_sent(scan, watched, tmp_path, monkeypatch):
    home = tmp_path / "home"
    environment = {**os.environ, "TOTALSEG_HOME_DIR": str(home)}
    image, output = scan.folder / "imagesTr" / "a_0000.nii.gz", tmp_path / "reference.nii.gz"
    said = python(WATCHED + REFERENCE, image, output, environment=environment)
    assert said.returncode == 0, said.stderr[-2000:]
    assert "stats.totalsegmentator.com" in watched.read_text()  # so the next test of silence can fail
    watched.unlink()

    from nnkd.teachers import external

    monkeypatch.setattr(external, "INHERITED", (*external.INHERITED, "WATCHED"))
    before = dict(os.environ)
    arguments = ["-d", "705", "-t", "totalsegmentator", "-device", "cpu", "--set", "totalsegmentator.speed=fast"]
    assert predict_teachers.main(arguments) == 0
    assert not watched.exists()
    assert dict(os.environ) == before  # TotalSegmentator sets nnU-Net's folders in its own process

    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    folder = PredictionFolder(scan.teachers_folder() / "totalsegmentator")
    written, _, _ = scan.spec.read_label_map(folder.file("a", ".nii.gz"))
    for value, numbers in ((1, [10, 11, 12, 13, 14]), (2, [2, 3]), (3, [63])):
        assert np.array_equal(written == value, np.isin(expected, numbers))
    assert len(np.unique(expected)) > 5
    assert (written > 0).any()
    manifest = folder.manifest()
    assert manifest.cases["a"].answers == ["lung", "kidney", "ivc"]
    assert manifest.cases["a"].notes["structures"]["kidney"] == ["kidney_right", "kidney_left"]
    assert (manifest.weights[0].name, manifest.weights[0].licence) == (
        f"{FAST}/fold_0/checkpoint_final.pth",
        "Apache-2.0",
    )
    assert manifest.lineage[0].weights_licence == "Apache-2.0"
    assert str(tmp_path) not in folder.manifest_file.read_text()


def start(dataset, **options):
    given = parse_options(TotalSegmentatorTeacher, {"speed": "fast", **options}, "totalsegmentator")
    return TotalSegmentatorTeacher(context(dataset), **given)


def test_what_the_api_is_called_with(scan, tmp_path, monkeypatch):
    assert start(scan).options() == {
        "task": "total", "fast": True, "fastest": False, "roi_subset": None, "device": "cpu", "nr_thr_resamp": 1,
        "nr_thr_saving": 1,
    }  # fmt: skip
    for name in (FAST, "Dataset298_TotalSegmentator_total_6mm_1559subj"):
        (tmp_path / name / "trainer" / "fold_0").mkdir(parents=True)
        (tmp_path / name / "trainer" / "fold_0" / models.CHECKPOINT).write_bytes(b"")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    wanted = start(scan, roi_subset="true", map='{"kidney": "kidney_left"}').options()["roi_subset"]
    assert wanted == ["kidney_left", *list(class_map["total"].values())[9:14], "inferior_vena_cava"]


def test_the_task_follows_the_channel(scan):
    assert models.Task.find("total", "normal", False).models == (291, 292, 293, 294, 295)
    assert models.Task.find("total", "fastest", True).models == (298,)
    assert models.Task.find("total", "normal", True).models[-1] == 298
    assert models.Task.find("total_mr", "normal", True).models == (850, 851, 852)
    teacher = start(scan)
    volume, _, _ = scan.images().volume("a")
    other = Volume(**{**vars(volume), "channel_names": ("T2w",)})
    with pytest.raises(DatasetError, match="seen through the channel T2w, but the task is total"):
        teacher.predict(other, {})


@pytest.mark.parametrize("names", [["PET"], ["CT", "T1"], ["something"]])
def test_a_channel_that_does_not_say_what_it_is(scan, names):
    write_dataset_json(scan.folder, names, LABELS, ".nii.gz", 1)
    dataset = RawDataset(scan.folder)
    with pytest.raises(SettingError, match="cannot be told"):
        start(dataset)
    assert start(dataset, task="total").task.name == "total"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "tissue_types"}, "needs a licence number"),
        ({"task": "heartchambers_highres"}, "needs a licence number"),
        ({"task": "lung_vessels"}, "has no task 'lung_vessels', only total, "),
        ({"map": '{"tumour": "nose"}'}, "map has nose for 'tumour'"),
        ({"map": '{"tumour": 500}'}, "map has 500 for 'tumour'"),
        ({"map": '{"nose": "liver"}'}, "nose"),
    ],
)
def test_bad_options(scan, options, says):
    with pytest.raises(SettingError, match=says):
        start(scan, **options)


def test_labels_it_does_not_know(scan):
    assert list(start(scan).structures) == ["lung", "kidney", "ivc"]
    assert list(start(scan, map='{"tumour": ["spleen", 5]}').structures.values())[-1] == [1, 5]
    with pytest.raises(SettingError, match="knows none of the labels nose"):
        TotalSegmentatorTeacher(context(scan, labels={"background": 0, "nose": 1}), speed="fast")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.zeros((1, 40, 40)), "is a 2D image"),
        (np.random.default_rng(0).random((8, 8, 8)), "intensities from .* cuts them to whole numbers"),
        (np.full((8, 8, 8), np.nan), "without a number"),
    ],
)
def test_images_it_cannot_take(scan, data, says):
    volume = Volume("x", data[None].astype(np.float32), (1, 1, 1), (0, 0, 0), np.eye(3), ("CT",))
    with pytest.raises(DatasetError, match=says):
        start(scan).predict(volume, {})


@pytest.mark.heavy
def test_weights_that_are_missing_and_cannot_be_fetched(scan, watched, tmp_path, monkeypatch):
    """The message says what belongs where; half of a model is none."""
    folder = tmp_path / "empty"
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(folder))
    (folder / FAST / "trainer" / "fold_0").mkdir(parents=True)
    with pytest.raises(WeightsError) as caught:
        start(scan, speed="fastest")
    assert "needs 1 model that are not in 'empty'" in str(caught.value)
    assert "v2.0.0-weights/Dataset298_TotalSegmentator_total_6mm_1559subj.zip there by hand" in str(caught.value)
    assert "github.com" in watched.read_text()
    assert "stats." not in watched.read_text()
    assert models.Task.find("total", "fast", False).missing(folder) == [297]


def test_where_weights_are_looked_for(monkeypatch, tmp_path):
    """As TotalSegmentator does."""
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", "/a")
    assert models.weights_folder() == Path("/a")
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH")
    monkeypatch.setenv("TOTALSEG_HOME_DIR", "/b")
    assert models.weights_folder() == Path("/b/nnunet/results")
    monkeypatch.delenv("TOTALSEG_HOME_DIR")
    assert models.weights_folder() == Path.home() / ".totalsegmentator" / "nnunet" / "results"


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "label", "expected"),
    [
        ("total", "lung", "10 11 12 13 14"),
        ("total_mr", "lung", "10 11"),
        ("total", "Left lung", "10 11"),
        ("total_mr", "lung_left", "10"),
        ("total", "kidney", "2 3"),
        ("total", "RIGHT_KIDNEY", "2"),
        ("total", "ivc", "63"),
        ("total_mr", "postcava", "24"),
        ("total", "gall bladder", "4"),
        ("total", "oesophagus", "15"),
        ("total", "vertebrae_L5", "27"),
        ("total", "lumbar vertebrae", "27 28 29 30 31"),
        ("total_mr", "vertebrae", "19"),
        ("total_mr", "lumbar_vertebrae", ""),
        ("total_mr", "rib_left_1", ""),
        ("total", "liver tumour", ""),
        ("total", "", ""),
    ],
)
def test_names(task, label, expected):
    found = structures_of([label], class_map[task])
    assert found == ({label: [int(number) for number in expected.split()]} if expected else {})


def test_the_users_map_goes_before_the_table():
    given = {"kidney": ["kidney_left"], "organ": ["lungs", 5]}
    assert structures_of(["kidney", "organ", "spleen"], class_map["total"], given) == {
        "kidney": [3], "organ": [5, 10, 11, 12, 13, 14], "spleen": [1],
    }  # fmt: skip


def test_every_entry_of_the_table_leads_to_structures():
    unknown = [name for name in read_table() if name not in structures_of([name], class_map["total"])]
    assert unknown == []
    assert json.dumps(read_table()).isascii()
