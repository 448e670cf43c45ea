"""nnkd_basic.external: real child processes that read and write NIfTI."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from nnkd_basic.external import ExternalProgramTeacher
from toy import toy_dataset

from nnkd.cli import predict_teachers
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, GeometryError, NnkdError, ProgramError
from nnkd.plugin.options import parse_options
from nnkd.types import TeacherContext

# A program that segments by thresholds, in its own way. What it answers is certain: bright voxels stay bright.
PROGRAM = """
import json, sys
import SimpleITK as sitk
image, output, how = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
image = sitk.ReadImage(image)
found = sitk.Cast(image > 130, sitk.sitkUInt8) + sitk.Cast(image > 190, sitk.sitkUInt8)
if "fine" in how:
    found = sitk.Expand(found, how["fine"], sitk.sitkNearestNeighbor)
if "crop" in how:
    found = sitk.Crop(found, how["crop"], how["crop"])
if "order" in how:
    found = sitk.Flip(sitk.PermuteAxes(found, how["order"]), [True, False, True])
if "far" in how:
    found.SetOrigin((1000.0, 0.0, 0.0))
if "bare" in how:
    found = sitk.GetImageFromArray(sitk.GetArrayFromImage(found))
if "fractions" in how:
    found = sitk.Cast(found, sitk.sitkFloat32) * 0.4
if how.get("wrote") == "labels":
    sitk.WriteImage(found == 1, output + "/liver_left.nii.gz")
    sitk.WriteImage(found == 3, output + "/liver_right.nii.gz")
elif how.get("wrote") != "nothing":
    sitk.WriteImage(found, how.get("wrote") or output)
if "cut" in how:
    whole = open(output, "rb").read()
    open(output, "wb").write(whole[: len(whole) // 2])
"""


@pytest.fixture
def clear(nnunet_folders):
    """Dataset701_Toy, stored sagittally and obliquely, whose thresholds are its truth in every voxel."""
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", training=2)
    for case in dataset.images().cases():
        truth = sitk.ReadImage(str(dataset.folder / "truth" / f"{case}.nii.gz"))
        truth.SetDirection(sitk.VersorTransform((0.1, 0.3, 1.0), 0.3).GetMatrix())
        truth = sitk.Flip(sitk.PermuteAxes(truth, [1, 2, 0]), [True, False, False])
        sitk.WriteImage(truth, str(dataset.folder / "truth" / f"{case}.nii.gz"))
        image = sitk.Cast(truth, sitk.sitkFloat32) * 60 + 100
        sitk.WriteImage(image, str(dataset.folder / "imagesTr" / f"{case}_0000.nii.gz"))
    return dataset


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


def command(program, how=None, output="{output}"):
    return json.dumps([sys.executable, str(program), "{image}", output, json.dumps(how or {})])


def ask(dataset, case="toy_000", **options):
    teacher = ExternalProgramTeacher(
        TeacherContext(tuple(dataset.spec.labels), dataset=dataset),
        **parse_options(ExternalProgramTeacher, options, "external"),
    )
    volume, orientation, _ = dataset.images().volume(case)
    answer = teacher.predict(volume, {})
    return {label: orientation.to_file(mask) for label, mask in answer.items()}, teacher


def truth(dataset, case="toy_000"):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.folder / "truth" / f"{case}.nii.gz")))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"order": [2, 0, 1]},
        {"fine": [2, 3, 1]},
        {"fine": [2, 2, 2], "order": [1, 2, 0]},
    ],
)
def test_masks_come_back_on_the_images_grid(clear, program, how):
    answer, teacher = ask(clear, command=command(program, how))
    for value, label in enumerate(("liver", "spleen"), start=1):
        assert answer[label].any()
        assert np.array_equal(answer[label], truth(clear) == value)
    assert ("resampled" in teacher.notes()) == ("fine" in how)


def test_what_was_cropped_off_is_background(clear, program):
    """The rest is voxel for voxel what it was."""
    volume, orientation, _ = clear.images().volume("toy_000")
    inside = np.zeros(volume.shape, bool)
    inside[1:-1, 2:-2, 4:-4] = True
    how = {"fine": [2, 2, 2], "crop": [8, 4, 2], "order": [2, 1, 0]}
    answer, _ = ask(clear, command=command(program, how))
    kept = orientation.to_file(inside)
    assert np.array_equal(answer["spleen"], (truth(clear) == 2) & kept)
    assert np.array_equal(answer["liver"], (truth(clear) == 1) & kept)
    assert not np.array_equal(answer["liver"], truth(clear) == 1)


def test_a_map_and_voxels_it_does_not_mention(clear, program):
    answer, teacher = ask(clear, command=command(program), map='{"liver": [2, 7]}')
    assert list(answer) == ["liver"]
    assert np.array_equal(answer["liver"], truth(clear) == 2)
    assert teacher.notes() == {"ignored_voxels_by_value": {"1": int((truth(clear) == 1).sum())}}


def test_one_file_a_label_with_joined_names(clear, program):
    """A label without a file is an abstention."""
    given = {"liver": ["liver_left", "liver_right"], "spleen": "spleen"}
    answer, _ = ask(
        clear, command=command(program, {"wrote": "labels"}), pattern="masks/{label}.nii.gz", map=json.dumps(given)
    )
    assert list(answer) == ["liver"]
    assert np.array_equal(answer["liver"], truth(clear) == 1)
    with pytest.raises(ProgramError, match=r"no mask 'masks/\{label\}.nii.gz'. It wrote masks/liver_left.nii.gz"):
        ask(clear, command=command(program, {"wrote": "labels"}), pattern="masks/{label}.nii.gz")


@pytest.mark.heavy
def test_a_bare_header_is_refused_and_can_be_read_voxel_by_voxel(clear, program):
    with pytest.raises(GeometryError, match=r"header that says nothing.*geometry=voxels"):
        ask(clear, command=command(program, {"bare": 1}))
    answer, _ = ask(clear, command=command(program, {"bare": 1}), geometry="voxels")
    assert np.array_equal(answer["spleen"], truth(clear) == 2)
    with pytest.raises(GeometryError, match="must be equal"):
        ask(clear, command=command(program, {"bare": 1, "fine": [2, 1, 1]}), geometry="voxels")


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ({"far": 1}, GeometryError, "does not overlap its image 'toy_000'"),
        ({"wrote": "nothing"}, ProgramError, "wrote no mask 'output.nii.gz'"),
        ({"cut": 1}, DatasetError, "truncated"),
        ({"fractions": 1}, DatasetError, "fractions"),
        ({"fine": "x"}, ProgramError, "failed with exit code 1"),
    ],
)
def test_bad_answers(clear, program, how, kind, says):
    with pytest.raises(kind, match=says):
        ask(clear, command=command(program, how))


def test_a_program_that_hangs_is_ended(clear):
    with pytest.raises(ProgramError, match=r"was ended after 0\.5 s"):
        ask(clear, command=f"{sys.executable} -S -c 'import time; time.sleep(600)' {{image}}", timeout="0.5")


def test_a_command_is_split_as_a_shell_would_and_never_run_by_one(clear, program, tmp_path):
    text = (
        f"'{sys.executable}' {program} {{image}} {{output}} '{{}}' '; touch {tmp_path}/bad' '$(touch {tmp_path}/bad)'"
    )
    answer, _ = ask(clear, command=text)
    assert np.array_equal(answer["liver"], truth(clear) == 1)
    assert not (tmp_path / "bad").exists()


def test_what_stands_in_the_place_of_names(clear, tmp_path):
    """Names of files that a program wants; braces of other kinds stay."""
    said = tmp_path / "said.json"
    code = f"import json, os, sys; json.dump([sys.argv[1:], os.environ.get('MINE')], open({str(said)!r}, 'w'))"
    words = ["{image}", "{output}", "{folder}", "{case}", "{device}", "{threads}", '{"a": 1}']
    with pytest.raises(ProgramError, match="wrote no mask"):
        ask(
            clear, command=json.dumps([sys.executable, "-c", code, *words]), image="in/{case}_0000.nii",
            pattern="out/{label}/{case}.nii.gz", environment='{"MINE": "yes"}',
        )  # fmt: skip
    (image, output, folder, *others), mine = json.loads(said.read_text())
    assert (os.path.relpath(image, folder), os.path.relpath(output, folder)) == ("in/toy_000_0000.nii", "out")
    assert others == ["toy_000", "cpu", "1", '{"a": 1}']
    assert mine == "yes"
    assert not os.path.exists(folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no command"),
        ({"command": "'a"}, "cannot be split"),
        ({"command": "[1]"}, "no command"),
        ({"command": "no_such_program {image}"}, "not there"),
        ({"command": "PY {image} {outputs}"}, r"\{outputs\}, but knows"),
        ({"command": "PY -h"}, r"no \{image\}"),
        ({"timeout": "0"}, "seconds above 0"),
        ({"image": "x.png"}, "endings .nii.gz, .nii"),
        ({"pattern": "/x/y.nii.gz"}, "below its private folder"),
        ({"pattern": "../y.nii.gz"}, "below its private folder"),
        ({"pattern": "{label}"}, "endings"),
        ({"map": '{"liver": "a"}'}, r"no \{label\}"),
        ({"map": '{"lung": 1}'}, "lung"),
        ({"weights": "none.pth"}, "'none.pth' are not there"),
    ],
)
def test_bad_options(clear, options, says):
    options = {"command": "PY {image}", **options} if options else {}
    with pytest.raises(NnkdError, match=says):
        ask(clear, **{key: value.replace("PY", sys.executable) for key, value in options.items()})


def test_the_command_of_nnkd(clear, program, tmp_path):
    """Two cases, under a name of one's own; no absolute path and nothing private in the manifest."""
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"1")
    arguments = ["-d", "701", "-t", "mytool=external", "-device", "cpu", "--set"]
    arguments += [f"mytool.command={command(program)}", f"mytool.weights={weights}", "mytool.licence=MIT"]
    assert predict_teachers.main(arguments) == 0
    folder = PredictionFolder(clear.teachers_folder() / "mytool")
    manifest = folder.manifest()
    for case in ("toy_000", "toy_001"):
        written, _, _ = clear.spec.read_label_map(folder.file(case, ".nii.gz"))
        assert np.array_equal(written, truth(clear, case))
    assert (manifest.made_by, manifest.weights[0].name, manifest.lineage[0].weights_licence) == (
        "external", "w.pth", "MIT",
    )  # fmt: skip
    assert str(tmp_path) not in folder.manifest_file.read_text()
    assert "program.py" in manifest.options["command"]


def test_a_case_that_fails_does_not_stop_the_others(clear, tmp_path, program):
    code = (
        f"import runpy, sys\nif sys.argv.pop() == 'toy_000': sys.exit('not this one')\nrunpy.run_path({str(program)!r})"
    )
    line = json.dumps([sys.executable, "-c", code, "{image}", "{output}", "{}", "{case}"])
    arguments = ["-d", "701", "-t", "mytool=external", "-device", "cpu", "--set", f"mytool.command={line}"]
    assert predict_teachers.main(arguments) == 3
    manifest = PredictionFolder(clear.teachers_folder() / "mytool").manifest()
    assert list(manifest.cases) == ["toy_001"]
    assert "failed with exit code 1: 'not this one'" in manifest.failures["toy_000"]
