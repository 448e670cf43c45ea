"""nnkd_sat, with a script in SAT's place that moves voxels as SAT does and thresholds instead of segmenting."""

from __future__ import annotations

import json
import shutil
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_sat.geometry import bring_back, grid_of_affine, resample
from nnkd_sat.names import plain, prompts_of, read_table
from nnkd_sat.teacher import SATTeacher
from toy import write_image

from nnkd.cli import predict_teachers
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, GeometryError, NnkdError, ProgramError, SettingError
from nnkd.plugin.options import parse_options
from nnkd.types import TeacherContext, TextPrompt

LABELS = {"background": 0, "liver": 1, "ivc": 2}
BACKGROUND, BODY, LIVER, IVC = -100, 40, 200, 300

# Stands for SAT's environment: `PYTHON -m torch.distributed.run OPTIONS inference.py ...` runs the script alone.
INTERPRETER = """#!{python}
import runpy, sys
start = sys.argv.index("inference.py")
assert sys.argv[1:4] == ["-m", "torch.distributed.run", "--nproc_per_node=1"], sys.argv
sys.argv = sys.argv[start:]
runpy.run_path("inference.py", run_name="__main__")
"""
# What SAT does to an image and writes, from its description; a mask is a range of raw intensities.
SCRIPT = """
import argparse, json, os, sys
import nibabel, numpy as np
from scipy import ndimage
parser = argparse.ArgumentParser()
for name in ("rcd_dir", "datasets_jsonl", "vision_backbone", "checkpoint", "text_encoder", "text_encoder_checkpoint"):
    parser.add_argument("--" + name, required=True)
for name in ("max_queries", "batchsize_3d"):
    parser.add_argument("--" + name, type=int, required=True)
asked = parser.parse_args()
assert os.path.isfile(asked.checkpoint) and os.path.isfile(asked.text_encoder_checkpoint)
how = json.loads(os.environ.get("HOW", "{}"))
RANGES = {"liver": (150, 250), "inferior vena cava": (250, 1000)}
for line in open(asked.datasets_jsonl):
    case = json.loads(line)
    assert case["modality"] == "ct" and case["orientation_code"] == "RAS", case
    image = nibabel.as_closest_canonical(nibabel.load(case["image"]))
    spacing, data = image.header.get_zooms(), np.asarray(image.dataobj, dtype=np.float64)
    axes = [np.arange(round((n - 1) * s / t + 1)) * (t / s) for n, s, t in zip(data.shape, spacing, (1, 1, 3))]
    data = ndimage.map_coordinates(data, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    inside = np.argwhere(data > 0)
    low, high = inside.min(0) - how.get("more_low", [0, 0, 0]), inside.max(0) + 1 + how.get("more_high", [0, 0, 0])
    data = data[low[0]:high[0], low[1]:high[1], low[2]:high[2]]
    name = case["image"].split("/")[-1].replace(".nii.gz", "")
    folder = f"{asked.rcd_dir}/{case['dataset']}/seg_{name}"
    os.makedirs(folder)
    for label in case["label"]:
        a, b = RANGES.get(label, (1000, 1000))
        if label == how.get("leave_out"):
            continue
        mask = ((data > a) & (data <= b)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), f"{folder}/{label}.nii.gz")
    cut = np.clip(data, -500, 1000)
    cut = ((cut - cut.mean()) / cut.std()).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(cut, np.eye(4)), f"{folder.replace('seg_', 'img_')}.nii.gz")
if "fail" in how:
    sys.exit("CUDA out of memory")
"""


@pytest.fixture
def sat(tmp_path) -> dict[str, str]:
    """Options of the teacher: a checkout and an environment."""
    folder = tmp_path / "SAT"
    folder.mkdir()
    (folder / "inference.py").write_text(SCRIPT)
    interpreter = tmp_path / "satpython"
    interpreter.write_text(INTERPRETER.format(python=sys.executable))
    interpreter.chmod(0o755)
    for name in ("sat.pth", "text.pth"):
        (tmp_path / name).write_bytes(name.encode())
    return {
        "repository": str(folder), "python": str(interpreter), "checkpoint": str(tmp_path / "sat.pth"),
        "text_encoder_checkpoint": str(tmp_path / "text.pth"),
    }  # fmt: skip


def stored(truth: np.ndarray, file, *, spacing=(6.0, 2.0, 2.0), angle=0.0, order=(0, 1, 2), flips=(False,) * 3):
    """Write the image of a label map (Z, Y, X), each label with an intensity of its own, stored in any order."""
    image = np.choose(truth, [BODY, LIVER, IVC, BACKGROUND]).astype(np.int16)
    write_image(image, file, spacing)
    made = sitk.ReadImage(str(file))
    made.SetDirection(sitk.VersorTransform((0.1, 0.2, 1.0), angle).GetMatrix())
    made = sitk.Flip(sitk.PermuteAxes(made, list(order)), list(flips))
    sitk.WriteImage(made, str(file))


def body() -> np.ndarray:
    """Label map (Z, Y, X) in which 3 is air: SAT crops it away. Not symmetric in any axis."""
    truth = np.full((9, 16, 14), 3)
    truth[1:8, 2:15, 1:11] = 0
    truth[2:5, 4:9, 3:7] = 1
    truth[4:7, 10:13, 6:8] = 2
    return truth


@pytest.fixture
def scan(nnunet_folders) -> RawDataset:
    """Dataset706_Scan: one CT, 6 x 2 x 2 mm, flipped and with permuted axes."""
    folder = nnunet_folders / "nnUNet_raw" / "Dataset706_Scan"
    stored(body(), folder / "imagesTr" / "a_0000.nii.gz", order=(1, 2, 0), flips=(True, False, True))
    write_dataset_json(folder, ["CT"], LABELS, ".nii.gz", 1)
    return RawDataset(folder)


@pytest.mark.parametrize("head", ["5676be5\n", "ref: refs/heads/master\n"])
def test_the_checkouts_commit_is_noted(scan, sat, tmp_path, head):
    git = tmp_path / "SAT" / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(head)
    (git / "refs" / "heads" / "master").write_text("5676be5\n")
    teacher = SATTeacher(TeacherContext(("liver",), dataset=scan), **parse_options(SATTeacher, sat, "sat"))
    assert teacher.notes()["commit"] == "5676be5"


@pytest.mark.heavy
def test_only_what_is_asked_for_is_answered(scan, sat):
    """A text that is more than the label's name is what SAT is told."""
    teacher = SATTeacher(TeacherContext(("liver", "ivc"), dataset=scan), **parse_options(SATTeacher, sat, "sat"))
    volume, _, _ = scan.images().volume("a")
    answer = teacher.predict(volume, {"ivc": TextPrompt("ivc")})
    assert teacher.notes() == {"prompts": {"ivc": "inferior vena cava"}}
    told = teacher.predict(volume, {"liver": TextPrompt("Inferior vena cava")})
    assert np.array_equal(answer["ivc"], told["liver"])
    assert (len(answer), len(told)) == (1, 1)


def truth_of(dataset) -> np.ndarray:
    """(Z, Y, X) in file order."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.folder / "imagesTr" / "a_0000.nii.gz")))
    return np.select([image == LIVER, image == IVC], [1, 2], 0)


def ask(dataset, **options):
    teacher = SATTeacher(
        TeacherContext(tuple(dataset.spec.labels), dataset=dataset), **parse_options(SATTeacher, options, "sat")
    )
    volume, orientation, _ = dataset.images().volume("a")
    answer = teacher.predict(volume, {})
    return {label: orientation.to_file(mask) for label, mask in answer.items()}, teacher


def equal(answer, dataset) -> bool:
    truth = truth_of(dataset)
    return all(np.array_equal(answer[label], truth == value) for label, value in (("liver", 1), ("ivc", 2)))


@pytest.mark.heavy
def test_masks_come_back_voxel_for_voxel(scan, sat):
    """Each voxel of the image lies on one of SAT's, so what SAT sees there is certain."""
    answer, teacher = ask(scan, **sat)
    assert answer["liver"].any()
    assert equal(answer, scan)
    assert teacher.notes() == {"prompts": {"liver": "liver", "ivc": "inferior vena cava"}}


@pytest.mark.heavy
@pytest.mark.parametrize("angle", [0.05, 0.3, 0.7])
def test_oblique_scans(scan, sat, angle):
    """MONAI places the new voxels of such an image by the first voxel or by the middle; SAT's own image tells."""
    stored(body(), scan.folder / "imagesTr" / "a_0000.nii.gz", angle=angle, order=(2, 0, 1), flips=(True, True, False))
    answer, _ = ask(scan, **sat)
    assert equal(answer, scan)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "more", [{"more_low": [1, 0, 1]}, {"more_high": [0, 1, 0]}, {"more_low": [0, 1, 0], "more_high": [1, 0, 0]}]
)
def test_a_crop_that_rounding_made_larger_is_found_by_sats_own_image(scan, sat, more):
    answer, teacher = ask(scan, **sat, environment=json.dumps({"HOW": json.dumps(more)}))
    assert equal(answer, scan)
    assert ("crop" in teacher.notes()) == ("more_low" in more)


@pytest.mark.heavy
def test_a_folder_that_sat_wrote_before(scan, sat, tmp_path):
    """Under the names that SAT gives; without its own image, sizes alone are compared; other cases' are refused."""
    results = run_by_hand(scan, sat, tmp_path)
    answer, teacher = ask(scan, folder=str(results))
    assert equal(answer, scan)
    assert "not_verified" not in teacher.notes()
    assert sorted(teacher.inputs("a")) == [
        "SAT mine/img_a_0000.nii.gz",
        "SAT mine/seg_a_0000/inferior vena cava.nii.gz",
        "SAT mine/seg_a_0000/liver.nii.gz",
    ]
    (results / "mine" / "seg_a_0000" / "liver.nii.gz").unlink()
    (results / "mine" / "img_a_0000.nii.gz").unlink()
    answer, teacher = ask(scan, folder=str(results))
    assert list(answer) == ["ivc"]  # no file: an abstention
    assert np.array_equal(answer["ivc"], truth_of(scan) == 2)
    assert "sizes were compared" in teacher.notes()["not_verified"]


def run_by_hand(scan, sat, tmp_path, how=None):
    """SAT's output folder for the dataset's own file."""
    import os
    import subprocess

    line = {
        "image": str(scan.folder / "imagesTr" / "a_0000.nii.gz"), "label": ["liver", "inferior vena cava"],
        "modality": "ct", "dataset": "mine", "orientation_code": "RAS",
    }  # fmt: skip
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    results = tmp_path / "results"
    command = [
        sys.executable,
        "inference.py",
        "--rcd_dir",
        str(results),
        "--datasets_jsonl",
        str(tmp_path / "mine.jsonl"),
    ]
    command += ["--vision_backbone", "UNET", "--text_encoder", "ours", "--max_queries", "256", "--batchsize_3d", "1"]
    command += ["--checkpoint", sat["checkpoint"], "--text_encoder_checkpoint", sat["text_encoder_checkpoint"]]
    environment = {**os.environ, "HOW": json.dumps(how or {})}
    subprocess.run(command, cwd=sat["repository"], env=environment, check=True)
    return results


@pytest.mark.heavy
def test_what_another_case_wrote_is_refused(scan, sat, tmp_path):
    results = run_by_hand(scan, sat, tmp_path)
    file = scan.folder / "imagesTr" / "a_0000.nii.gz"
    other = np.roll(body(), 1, axis=2)
    other[5:7] = np.where(other[5:7] == 3, 3, 2)
    stored(other, file)
    with pytest.raises(GeometryError, match="is not this case's"):
        ask(scan, folder=str(results))
    stored(body()[:, :, :7], file)
    with pytest.raises(GeometryError, match="were expected of its image"):
        ask(scan, folder=str(results))
    (results / "mine" / "seg_a_0000").rename(results / "mine" / "seg_b_0000")
    with pytest.raises(DatasetError, match="SAT wrote nothing for 'a'"):
        ask(scan, folder=str(results))


@pytest.mark.heavy
def test_a_larger_crop_without_sats_own_image_is_refused(scan, sat, tmp_path):
    results = run_by_hand(scan, sat, tmp_path, {"more_low": [1, 0, 0]})
    assert equal(ask(scan, folder=str(results))[0], scan)
    (results / "mine" / "img_a_0000.nii.gz").unlink()
    with pytest.raises(GeometryError, match="were expected of its image"):
        ask(scan, folder=str(results))


@pytest.mark.heavy
def test_broken_results(scan, sat, tmp_path):
    results = run_by_hand(scan, sat, tmp_path)
    masks = results / "mine" / "seg_a_0000"
    whole = (masks / "liver.nii.gz").read_bytes()
    (masks / "liver.nii.gz").write_bytes(whole[:40])
    with pytest.raises(DatasetError, match="truncated"):
        ask(scan, folder=str(results))
    (masks / "liver.nii.gz").unlink()
    (masks / "inferior vena cava.nii.gz").rename(masks / "spleen.nii.gz")
    with pytest.raises(DatasetError, match="SAT wrote spleen for 'a', but liver, inferior vena cava were looked for"):
        ask(scan, folder=str(results))
    shutil.copytree(results / "mine", results / "again")
    with pytest.raises(DatasetError, match="SAT wrote 2 folders for 'a'"):
        ask(scan, folder=str(results))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"leave_out": "inferior vena cava"}, "wrote no mask of inferior vena cava for 'a'"),
        ({"fail": 1}, "SAT failed with exit code 1: 'CUDA out of memory'"),
    ],
)
def test_a_run_that_fails(scan, sat, how, says):
    with pytest.raises(ProgramError, match=says):
        ask(scan, **sat, environment=json.dumps({"HOW": json.dumps(how)}))


def test_an_image_with_nan(tmp_path):
    image = nibabel.Nifti1Image(np.full((4, 5, 6), np.nan, np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "x.nii")
    with pytest.raises(DatasetError, match="without a number"):
        resample(tmp_path / "x.nii", "x")


def test_an_image_without_anything_above_0(scan, sat):
    stored(np.full((9, 16, 14), 3), scan.folder / "imagesTr" / "a_0000.nii.gz")
    with pytest.raises(DatasetError, match="no voxel above 0"):
        ask(scan, **sat)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"repository": "none"}, "no checkout"),
        ({"repository": "/tmp"}, "has no inference.py"),
        ({"python": "no_such_python"}, "is not there"),
        ({"checkpoint": "none"}, "checkpoint is not given"),
        ({"text_encoder_checkpoint": "x.pth"}, "text_encoder_checkpoint 'x.pth' is not there"),
        ({"folder": "/nowhere"}, "does not exist"),
        ({"folder": "EMPTY"}, "holds nothing that SAT wrote"),
        ({"prompts": '{"nose": "nose"}'}, "prompts have nose"),
        ({"prompts": '{"liver": "../x"}'}, "names files by it"),
        ({"prompts": '{"liver": "inferior vena cava"}'}, "same prompt"),
        ({"prompts": "none.json"}, "cannot be read"),
    ],
)
def test_bad_options(scan, sat, options, says, tmp_path):
    (tmp_path / "empty").mkdir()
    options = {name: value.replace("EMPTY", str(tmp_path / "empty")) for name, value in options.items()}
    with pytest.raises(NnkdError, match=says):
        ask(scan, **{**sat, **options})


@pytest.mark.heavy
def test_the_command_of_nnkd(scan, sat, tmp_path):
    sets = [f"sat.{name}={value}" for name, value in sat.items()]
    assert predict_teachers.main(["-d", "706", "-t", "sat", "-device", "cpu", "--set", *sets]) == 0
    folder = PredictionFolder(scan.teachers_folder() / "sat")
    written, _, _ = scan.spec.read_label_map(folder.file("a", ".nii.gz"))
    assert np.array_equal(written, truth_of(scan))
    manifest = folder.manifest()
    assert [file.name for file in manifest.weights] == ["sat.pth", "text.pth"]
    assert (manifest.lineage[0].licence, manifest.lineage[0].weights_licence) == ("not stated", "not stated")
    assert str(tmp_path) not in folder.manifest_file.read_text()


@pytest.mark.parametrize(("name", "kind"), [("CT", "ct"), ("T1w", "mri"), ("PET", "pet"), ("Ultrasound", "us")])
def test_what_sat_is_told_an_image_is(scan, sat, name, kind):
    write_dataset_json(scan.folder, [name], LABELS, ".nii.gz", 1)
    dataset = RawDataset(scan.folder)
    volume, _, _ = dataset.images().volume("a")
    given = parse_options(SATTeacher, sat, "sat")
    teacher = SATTeacher(TeacherContext(("liver",), dataset=dataset), **given)
    assert teacher._modality(volume) == kind
    write_dataset_json(scan.folder, ["x"], LABELS, ".nii.gz", 1)
    with pytest.raises(SettingError, match="cannot be told from its channel's name 'x'"):
        ask(RawDataset(scan.folder), **sat)


# --- geometry, against MONAI itself -------------------------------------------------------------------------------


@pytest.mark.heavy
@settings(max_examples=25)
@given(
    spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 1.3671875, 2.0, 3.0, 5.0])] * 3),
    angle=st.sampled_from([0.0, 0.05, 0.4, 1.2]),
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    code=st.sampled_from(["RAS", "ASR"]),
)
def test_the_space_is_the_one_that_monai_makes(tmp_path_factory, spacing, angle, order, flips, code):
    """Shape, place and intensities of what SAT's own transforms return. Noise is everywhere: nothing is 0."""
    transforms = pytest.importorskip("monai.transforms", reason='needs monai: pip install "nnkd[networks]"')
    file = tmp_path_factory.mktemp("m") / "x.nii.gz"
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray((rng.normal(0, 300, (7, 9, 8)) - 200).astype(np.float32))
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin((11.0, -7.5, 3.25))
    image.SetDirection(sitk.VersorTransform((0.3, 0.2, 1.0), angle).GetMatrix())
    image = sitk.Flip(sitk.PermuteAxes(image, [int(i) for i in order]), list(flips))
    sitk.WriteImage(image, str(file))
    steps = transforms.Compose([
        transforms.LoadImaged(keys=["image"]),
        transforms.EnsureChannelFirstd(keys=["image"]),
        transforms.Orientationd(keys=["image"], axcodes=code),
        transforms.Spacingd(keys=["image"], pixdim=(1, 1, 3), mode="bilinear"),
    ])  # fmt: skip
    whole = steps({"image": str(file)})["image"]
    cropped = transforms.CropForegroundd(keys=["image"], source_key="image")({"image": whole})["image"]
    made = resample(file, "x", code)
    assert made.data.shape == tuple(whole.shape[1:])
    assert np.allclose(made.affine, whole.affine.numpy(), atol=1e-5)
    assert np.allclose(made.data, whole[0].numpy(), atol=0.05)
    assert made.shape == tuple(cropped.shape[1:])
    start = made.affine @ [*made.low, 1.0]
    assert np.allclose(start[:3], cropped.affine.numpy()[:3, 3], atol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_a_mask_goes_there_and_back(tmp_path, angle):
    """What lies in SAT's space lies at the same place in the image's, whatever the spacing: a ball by a threshold."""
    spacing = np.array([3.7, 1.4, 0.8])
    places = np.stack(np.meshgrid(*(np.arange(n) for n in (9, 24, 40)), indexing="ij"), axis=-1) * spacing
    image = 300 - 10 * np.linalg.norm(places - (15.0, 14.0, 18.0), axis=-1)  # falls by 10 each mm
    write_image(image.astype(np.float32), tmp_path / "x.nii.gz", spacing)
    made = sitk.ReadImage(str(tmp_path / "x.nii.gz"))
    made.SetDirection(sitk.VersorTransform((0.1, 0.2, 1.0), angle).GetMatrix())
    sitk.WriteImage(made, str(tmp_path / "x.nii.gz"))
    there = resample(tmp_path / "x.nii.gz", "x")
    header = nibabel.load(tmp_path / "x.nii.gz")
    found = bring_back(
        there.cropped(there.low, there.shape) > 210, there, there.low, grid_of_affine(header.affine, header.shape)
    )
    wanted = image > 210
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.88
    for axis, half in enumerate((1.5, 0.5, 0.5)):  # mm, of SAT's voxels: what the nearest one may be off by
        centres = [np.mean(np.nonzero(mask)[axis]) * spacing[axis] for mask in (found, wanted)]
        assert abs(centres[0] - centres[1]) < half


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("ivc", "inferior vena cava"),
        ("Postcava", "inferior vena cava"),
        ("inferior_vena_cava", "inferior vena cava"),
        ("kidney_left", "left kidney"),
        ("Right Kidney", "right kidney"),
        ("adrenal_left", "left adrenal gland"),
        ("liver", "liver"),
        ("left right", "left right"),
    ],
)
def test_names(label, text):
    assert prompts_of([label]) == {label: text}


def test_the_users_texts_go_before_the_table(tmp_path):
    (tmp_path / "p.json").write_text('{"ivc": "Vena Cava"}')
    assert prompts_of(["ivc", "liver"], tmp_path / "p.json") == {"ivc": "vena cava", "liver": "liver"}


def test_the_table_is_written_as_it_is_looked_up():
    table = read_table()
    assert [name for name in table if plain(name) != name] == []
    assert "postcava" not in table.values()
    assert [text for text in table.values() if text in table] == []
