"""Tests of nnkd.auxiliary.tasks, nnkd.auxiliary.channels and nnkd.auxiliary.preprocessing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from auxiliary_toys import auxiliary, case_of, few_shot_target, prepared, target_of
from toy import write_image

from nnkd.auxiliary import preprocessing
from nnkd.auxiliary.channels import converted
from nnkd.auxiliary.tasks import AuxiliaryIndex, Task, parse, read_index, write_index
from nnkd.errors import NnkdError, RecipeError, SettingError, UnknownNameError
from nnkd.files import sha256, sha256_text, write_json

OTHER = "Dataset801_Other"


@pytest.fixture
def target(nnunet_folders):
    return few_shot_target(nnunet_folders, "3d_fullres")[1]


def scaled(dataset, factor=1.0, offset=0.0):
    """Its images with other intensities."""
    for case in dataset.images().cases():
        image, _, _ = dataset.images().read(case)
        write_image((image[0] * factor + offset).astype(np.float32), dataset.images().files(case)[0])


def test_it_lies_on_the_targets_grid_beside_its_cases(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801, shape=(5, 14, 16))
    before = sorted(p.name for p in (target.preprocessed / "nnUNetPlans_3d_fullres").iterdir())
    for file in other.images().files("toy_000"):
        image, _, _ = other.images().read("toy_000")
        write_image(image[0], file, spacing=(4.0, 2.0, 2.0))
    label_map = other.spec.read_label_map(other.label_file("toy_000"))[0]
    write_image(label_map.astype(np.uint8), other.label_file("toy_000"), spacing=(4.0, 2.0, 2.0))
    report = prepared(["801"], target)
    assert report.failures == []
    data, seg = case_of(target, OTHER, "toy_000")
    assert data.shape == (1, 10, 28, 32)  # of twice the target's spacing
    assert seg.shape == (10, 28, 32)
    assert case_of(target, OTHER, "toy_001")[0].shape == (1, 5, 14, 16)
    assert sorted(p.name for p in (target.preprocessed / "nnUNetPlans_3d_fullres").iterdir()) == before
    assert not list(target.folder.glob(".*"))


def test_each_is_normalised_by_itself(target, nnunet_folders):
    ct = auxiliary(nnunet_folders, 801, channels=("CT",))
    scaled(ct, 10, 5000)
    prepared(["801"], target)
    _, seg = case_of(target, OTHER, "toy_000")
    index = read_index(target.folder / OTHER)
    assert index.schemes == ["CTNormalization"]
    assert 5000 < index.intensities["0"]["mean"] < 8000
    values = np.concatenate([case_of(target, OTHER, c)[0][0][case_of(target, OTHER, c)[1] > 0] for c in index.inputs])
    assert abs(values.mean()) < 0.1
    assert values.std() == pytest.approx(1, abs=0.1)
    assert str(nnunet_folders) not in (target.folder / OTHER / "auxiliary.json").read_text()
    assert seg.max() == 2


@pytest.mark.parametrize(("theirs", "ours"), [(("R", "G", "B"), ("MRI",)), (("MRI",), ("R", "G", "B"))])
def test_grey_and_rgb_become_each_other(nnunet_folders, theirs, ours):
    _, target = few_shot_target(nnunet_folders, "2d", channels=ours)
    auxiliary(nnunet_folders, 801, channels=theirs)
    report = prepared(["801"], target)
    assert report.failures == []
    data, _ = case_of(target, OTHER, "toy_000")
    assert len(data) == len(ours)
    assert data.mean() == pytest.approx(0, abs=1e-4)  # a z-score
    assert "channels grey to RGB" in report.lines[0] or "channels RGB to grey" in report.lines[0]


def test_luminance():
    rgb = np.ones((3, 1, 2, 2)) * np.array([10, 20, 30])[:, None, None, None]
    assert converted(rgb, "RGB to grey")[0, 0, 0, 0] == pytest.approx(0.299 * 10 + 0.587 * 20 + 0.114 * 30)
    np.testing.assert_array_equal(converted(rgb[:1], "grey to RGB"), np.repeat(rgb[:1], 3, 0))


def test_pictures_train_along_slices_whatever_axis_they_are_cut_along(nnunet_folders):
    dataset, target = few_shot_target(nnunet_folders, "2d")
    turned = target_of(dataset, {**target.plans, "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}, "2d")
    auxiliary(nnunet_folders, 801, shape=(1, 30, 24), ending=".png", channels=("grey",))
    assert prepared(["801"], turned).failures == []
    assert case_of(turned, OTHER, "toy_000")[0].shape == (1, 1, 30, 24)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"shape": (1, 30, 24), "ending": ".png"}, "has 2D images, which make no patches for a 3D configuration"),
        (
            {"channels": ("T1", "T2")},
            "has 2 channel(s) (T1, T2), but the target Dataset701_Toy has 1 (CT). What can be",
        ),
        ({"labelled": 0}, "has no label map in labelsTr"),
    ],
)
def test_what_does_not_fit_is_said_and_left_out(target, nnunet_folders, keywords, sentence):
    auxiliary(nnunet_folders, 801, **keywords)
    auxiliary(nnunet_folders, 802)
    report = prepared(["801", "802"], target)
    (failure,) = report.failures
    assert failure.case == OTHER
    assert sentence in failure.reason
    assert read_index(target.folder / OTHER) is None
    assert target.prepare(["802"])
    with pytest.raises(RecipeError, match=r"not preprocessed for 3d_fullres of Dataset701_Toy\. Run nnKD_plan_and_pre"):
        target.prepare(["801"])


def test_it_continues_and_follows_its_inputs(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801, training=3, labelled=3)
    prepared(["801"], target)

    def times():
        return {p.name: p.stat().st_mtime_ns for p in (target.folder / OTHER).glob("*.b2nd")}

    before = times()
    assert prepared(["801"], target).done == []
    assert times() == before
    (target.folder / OTHER / "toy_001.pkl").unlink()
    assert prepared(["801"], target).done == ["toy_001"]
    write_image(other.images().read("toy_002")[0][0] * 3, other.images().files("toy_002")[0])
    report = prepared(["801"], target)
    assert len(report.done) == 3  # the dataset's own intensities changed
    assert "2 made anew: changed intensity statistics; 1 made anew: changed image 0, intensity stat" in report.lines[-1]
    shutil.copy(other.label_file("toy_000"), other.label_file("toy_001"))
    assert prepared(["801"], target).done


def test_other_labels_make_them_anew(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801)
    prepared(["801"], target)
    for file in (other.folder / "labelsTr").iterdir():
        write_image(np.array([0, 2, 1], np.uint8)[other.spec.read_label_map(file)[0]], file)
    write_json(other.folder / "dataset.json", {**other.spec.json, "labels": {"background": 0, "liver": 2, "spleen": 1}})
    report = prepared(["801:liver"], target)
    assert "2 made anew: changed label map, label meaning" in report.lines[-1]
    task = target.prepare(["801:liver"])[0]
    assert task.index.values(task.task) == {2}


def test_cases_of_an_earlier_version_are_taken_over(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801)
    prepared(["801"], target)
    index = read_index(target.folder / OTHER)
    made_by = (index.grid, index.channels, index.schemes, index.use_mask, index.intensities)
    for case in index.inputs:  # the one hash that there was
        files = (*other.images().files(case), other.label_file(case))
        index.inputs[case] = sha256_text("".join(sha256(file) for file in files) + str(made_by))
    write_index(target.folder / OTHER, index)
    report = prepared(["801"], target)
    assert report.done == []
    assert "2 of an earlier version verified" in report.lines[-1]
    assert all(isinstance(made, dict) for made in read_index(target.folder / OTHER).inputs.values())


def test_ignored_voxels_do_not_decide_the_normalisation(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801, labels={"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    seen = []
    for case in ("toy_000", "toy_001"):
        image, label_map = other.images().read(case)[0][0], other.spec.read_label_map(other.label_file(case))[0]
        image[:, :5], label_map[:, :5] = -3000, 3
        write_image(image, other.images().files(case)[0])
        write_image(label_map.astype(np.uint8), other.label_file(case))
        seen.append(image[(label_map == 1) | (label_map == 2)])
    prepared(["801"], target)
    found = read_index(target.folder / OTHER).intensities["0"]
    assert found["min"] == min(values.min() for values in seen)
    assert found["mean"] == pytest.approx(np.mean([values.mean() for values in seen]), rel=0.01)


def test_other_plans_of_the_target_make_them_stale(target, nnunet_folders):
    auxiliary(nnunet_folders, 801)
    prepared(["801"], target)
    values = {**target.values, "spacing": [2.0, 2.0, 2.0]}
    with pytest.raises(RecipeError, match="preprocessed for other plans"):
        type(target)(target.preprocessed, target.plans, "3d_fullres", values, target.channels).prepare(["801"])
    more = {**target.values, "batch_size": 7}  # not what cases are made by
    type(target)(target.preprocessed, target.plans, "3d_fullres", more, target.channels).prepare(["801"])


def test_at_most_so_many_cases_and_always_the_same(target, nnunet_folders):
    auxiliary(nnunet_folders, 801, training=5, labelled=5)
    prepared(["801"], target, most=3)
    few, more = target.prepare(["801"], 2), target.prepare(["801"], 3)
    assert few[0].cases == more[0].cases[:2]
    assert len(list((target.folder / OTHER).glob("*_seg.b2nd"))) == 3
    with pytest.raises(RecipeError, match=r"1 of the 4 cases .* --max_aux_cases 4"):
        target.prepare(["801"], 4)


def test_cases_that_other_tasks_need_are_normalised_alike(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801, training=5, labelled=5)
    for number, case in enumerate(other.images().cases()):
        image, _, _ = other.images().read(case)
        write_image((image[0] * 10.0**number).astype(np.float32), other.images().files(case)[0])
    prepared(["801:liver"], target, most=2)
    alone = read_index(target.folder / OTHER)
    prepared(["801"], target, most=5)
    both = read_index(target.folder / OTHER)
    assert both.intensities != alone.intensities
    assert prepared(["801:liver"], target, most=2).done == []
    assert read_index(target.folder / OTHER) == both
    assert target.prepare(["801"], 5)


def test_a_kill_leaves_no_cases_of_two_normalisations(target, nnunet_folders, monkeypatch):
    other = auxiliary(nnunet_folders, 801, training=4, labelled=4)
    prepared(["801"], target, most=4)
    scaled(other, 3)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing._Auxiliary, "origins_of", killed)
        patch.setattr(preprocessing._Auxiliary, "what_changed", lambda *_: "changed image 0")
        with pytest.raises(KeyboardInterrupt):
            prepared(["801"], target, most=4)
    with pytest.raises(RecipeError, match="4 of the 4 cases of the auxiliary Dataset801_Other are not preprocessed"):
        target.prepare(["801"], 4)
    assert len(prepared(["801"], target, most=4).done) == 4


def test_a_task_without_cases_leaves_the_datasets_others(target, nnunet_folders):
    auxiliary(nnunet_folders, 801)
    report = prepared(["801", "801:*"], target)
    assert [failure.case for failure in report.failures] == [f"{OTHER}:*"]
    assert target.prepare(["801"])


def test_files_that_went_are_missed(target, nnunet_folders):
    auxiliary(nnunet_folders, 801)
    prepared(["801"], target)
    (target.folder / OTHER / "toy_001_seg.b2nd").unlink()
    with pytest.raises(RecipeError, match="1 of the 2 cases of the auxiliary Dataset801_Other are not preprocessed"):
        target.prepare(["801"])


def test_a_case_that_cannot_be_read_gives_place_to_another(target, nnunet_folders):
    other = auxiliary(nnunet_folders, 801, training=4, labelled=4)
    prepared(["801"], target, most=2)
    first = target.prepare(["801"], 1)[0].cases[0]
    other.images().files(first)[0].write_bytes(b"broken")
    report = prepared(["801"], target, most=2)
    assert [failure.case for failure in report.failures] == [f"{OTHER}/{first}"]
    (left,) = target.prepare(["801"], 2)
    assert first not in left.cases
    assert len(left.cases) == 2


def index_of(**present):
    return AuxiliaryIndex(dataset=OTHER, labels={"liver": [1], "spleen": [2]}, present=present)


def test_a_star_is_every_label_that_thirty_cases_have():
    index = index_of(**{f"c{i}": ["liver"] + ["spleen"] * (i < 29) for i in range(31)})
    assert index.tasks(Task(OTHER, "*")) == [Task(OTHER, "liver")]
    assert index.values(Task(OTHER, "liver")) == {1}
    assert index.values(Task(OTHER)) == {1, 2}
    with pytest.raises(RecipeError, match=r"liver in 1, spleen in 0.*such as Dataset801_Other:liver"):
        index_of(a=["liver"]).tasks(Task(OTHER, "*"))


def test_labels_that_are_not_there():
    index = index_of(a=["liver"], b=[])
    with pytest.raises(UnknownNameError, match="it has liver, spleen"):
        index.tasks(Task(OTHER, "kidney"))
    with pytest.raises(RecipeError, match=r"Other:spleen is empty: none of the 2 labelled cases"):
        index.tasks(Task(OTHER, "spleen"))
    assert index.chosen(Task(OTHER), 9) == ["a"]


@pytest.mark.parametrize(
    ("texts", "kind", "sentence"),
    [
        (["701"], RecipeError, "is the target Dataset701_Toy itself"),
        (["701:liver"], RecipeError, "is the target Dataset701_Toy itself"),
        (["999"], UnknownNameError, "No dataset has the id 999"),
        (["801:"], SettingError, "got '801:', but expects ID, ID:LABEL or ID:"),
        (["801", OTHER], RecipeError, "is given twice"),
        (["liver"], NnkdError, "neither a dataset id"),
    ],
)
def test_wrong_names(nnunet_folders, texts, kind, sentence):
    for name in ("Dataset701_Toy", OTHER):
        (nnunet_folders / "nnUNet_raw" / name).mkdir()
    with pytest.raises(kind, match=sentence):
        parse(texts, "Dataset701_Toy")


def test_a_cluster_needs_no_raw_folder(target, nnunet_folders):
    auxiliary(nnunet_folders, 801)
    prepared(["801"], target)
    shutil.rmtree(nnunet_folders / "nnUNet_raw")
    assert [task.task.name for task in target.prepare(["801:liver"])] == [f"{OTHER}:liver"]
    index = json.loads((target.folder / OTHER / "auxiliary.json").read_text())
    assert set(index["inputs"]) == {"toy_000", "toy_001"}
