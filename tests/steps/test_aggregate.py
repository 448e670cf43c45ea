"""Tests of nnkd.steps.aggregate and of its command."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from nnkd_basic.aggregators import Majority, Mean, RandomTeacher
from toy import REAL_DATA, needs_real_data, toy_dataset, toy_teacher

from nnkd import files
from nnkd.cli.aggregate import main
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.predictions import Lineage, Manifest, PredictionFolder
from nnkd.errors import NnkdError, PredictionError, SettingError, UnknownNameError, VotesError
from nnkd.files import sha256
from nnkd.steps.aggregate import aggregate
from nnkd.votes import consensus


def to_labels(dataset, **more):
    return aggregate(dataset, Majority(), name="majority", options={"ties": "agreement"}, **more)


def label(dataset, case: str) -> np.ndarray:
    return dataset.spec.read_label_map(dataset.label_file(case))[0]


def three_teachers(dataset, **more):
    return [toy_teacher(dataset, name, shift=k, seed=k, **more) for k, name in enumerate(("one", "two", "three"))]


def test_the_majority_of_all_becomes_labels_and_manual_ones_stay(dataset):
    teachers = three_teachers(dataset)
    manual = {case: dataset.label_file(case).read_bytes() for case in ("toy_000", "toy_001")}
    report = to_labels(dataset)
    assert report.done == ["toy_002", "toy_003"]
    assert report.skipped == ["toy_000", "toy_001"]
    assert not report.failures
    assert {case: dataset.label_file(case).read_bytes() for case in manual} == manual
    maps = np.stack([folder.read(dataset.spec, "toy_002") for folder in teachers])
    for integer in (1, 2):
        np.testing.assert_array_equal(label(dataset, "toy_002") == integer, (maps == integer).sum(0) >= 2)
    assert consensus.manual_cases(dataset) == ["toy_000", "toy_001"]
    assert list(consensus.stale_cases(dataset)) == []
    record = consensus.read(dataset).cases["toy_002"]
    assert record.teachers == ["one", "three", "two"]
    assert record.inputs["one/toy_002"] == teachers[0].manifest().cases["toy_002"].output


def test_an_edited_consensus_becomes_manual_and_is_kept(dataset):
    three_teachers(dataset)
    to_labels(dataset)
    edited, _, properties = dataset.spec.read_label_map(dataset.label_file("toy_003"))
    edited[0] = 1
    dataset.spec.write_label_map(edited, dataset.label_file("toy_003"), properties)
    toy_teacher(dataset, "four", shift=4)
    report = to_labels(dataset, overwrite=True)
    assert report.done == ["toy_002"]
    np.testing.assert_array_equal(label(dataset, "toy_003"), edited)
    assert "3 manual label map(s) kept" in report.lines[0]


@pytest.mark.parametrize("aggregated_before", [False, True])
def test_votes_about_an_image_that_was_replaced_since_are_refused(dataset, aggregated_before):
    """toy_001 is manual: its labels are nobody's votes."""
    three_teachers(dataset)
    if aggregated_before:
        to_labels(dataset)
    for case in ("toy_001", "toy_002"):
        shutil.copyfile(dataset.images().files("toy_003")[0], dataset.images().files(case)[0])
    report = to_labels(dataset)
    assert report.done == ([] if aggregated_before else ["toy_003"])
    [failure] = report.failures
    assert failure.case == "toy_002"
    assert failure.reason.startswith(
        "'toy_002_0000.nii.gz' changed since one, three, two segmented it. Run nnKD_predict"
    )


def test_unchanged_cases_are_skipped_and_changed_teachers_refresh(dataset, monkeypatch):
    three_teachers(dataset)
    first = to_labels(dataset)
    with monkeypatch.context() as patch:  # neither read nor written again
        patch.setattr("nnkd.votes.panel.Panel.read", None)
        again = to_labels(dataset)
    assert again.done == []
    assert again.lines[1:] == first.lines[1:]  # the figures of skipped cases are not lost
    toy_teacher(dataset, "two", shift=5, cases=["toy_002"])  # this one changes, and the other is as before
    toy_teacher(dataset, "two", shift=1, seed=1, cases=["toy_003"])
    assert to_labels(dataset).done == ["toy_002"]
    toy_teacher(dataset, "four", shift=2)
    assert to_labels(dataset).done == ["toy_002", "toy_003"]
    assert to_labels(dataset, teachers=["one"]).done == ["toy_002", "toy_003"]
    np.testing.assert_array_equal(
        label(dataset, "toy_003"), PredictionFolder(dataset.teachers_folder() / "one").read(dataset.spec, "toy_003")
    )


def test_lost_figures_are_counted_again_without_writing(dataset):
    three_teachers(dataset)
    first = to_labels(dataset)
    (dataset.teachers_folder() / "agreement.json").unlink()
    written = dataset.label_file("toy_002").stat().st_mtime_ns
    again = to_labels(dataset)
    assert again.done == []
    assert again.data["agreement"] == first.data["agreement"]
    assert dataset.label_file("toy_002").stat().st_mtime_ns == written


def test_figures(dataset):
    three_teachers(dataset)
    content = json.loads((to_labels(dataset) and dataset.teachers_folder() / "agreement.json").read_text())
    liver = content["labels"]["liver"]
    truth = [dataset.spec.read_label_map(dataset.folder / "truth" / f"toy_00{i}.nii.gz")[0] for i in (2, 3)]
    one = np.mean([(t == 1).sum() * 2.0 / 1000 for t in truth])  # 2 mm3 a voxel
    assert content["volume_unit"] == "ml"
    assert liver["teachers"]["one"] == {"cases": 2, "mean_volume": pytest.approx(one), "mean_dsc": pytest.approx(
        np.mean([_dsc(t == 1, label(dataset, f"toy_00{i}") == 1) for i, t in zip((2, 3), truth, strict=True)])
    )}  # fmt: skip
    shifted = np.mean([_dsc(t == 1, np.roll(t, 2, axis=2) == 1) for t in truth])
    assert ["one", "three", pytest.approx(shifted)] in liver["pairs"]
    assert liver["tie_share"] == 0  # three teachers


def test_staple_finds_the_worst_teacher_without_ground_truth(dataset, tmp_path):
    for name, lost in (("good", 0.02), ("fair", 0.1), ("poor", 0.5)):
        toy_teacher(dataset, name, flip_share=lost, seed=len(name) + int(100 * lost))
    source = str(dataset.teachers_folder())
    for rule in ("staple", "multilabel_staple"):
        out = tmp_path / rule
        assert main(["-d", "701", "-i", source, "-o", str(out), "-a", rule]) == 0
        content = json.loads((out / "agreement.json").read_text())
        of_case = content["cases"]["toy_002"]["labels"]["liver"]["estimates"]["sensitivity"]
        for found in (of_case, content["labels"]["liver"]["estimates"]["sensitivity"]):
            assert found["good"] > found["fair"] > found["poor"]
            assert found["poor"] == pytest.approx(0.5, abs=0.1)
        truth = dataset.spec.read_label_map(dataset.folder / "truth" / "toy_002.nii.gz")[0]
        consensus_map = PredictionFolder(out).read(dataset.spec, "toy_002")
        assert _dsc(truth == 1, consensus_map == 1) > 0.93  # as good as the good one, and better than the poor one


def test_a_joint_rule_needs_labels_that_exclude_each_other(dataset, tmp_path, capsys):
    three_teachers(dataset)
    labels = {"background": 0, "organs": [1, 2], "spleen": 2}
    write_dataset_json(dataset.folder, ["CT"], labels, ".nii.gz", 4, regions_class_order=[1, 2])
    source = str(dataset.teachers_folder())
    assert main(["-d", "701", "-i", source, "-o", str(tmp_path / "out"), "-a", "multilabel_staple"]) == 1
    assert "has regions. Take a rule for each label alone, such as staple" in capsys.readouterr().err


@pytest.mark.heavy
def test_weights_go_by_the_teachers_names(dataset, tmp_path, capsys):
    three_teachers(dataset)
    call = ["-d", "701", "-i", str(dataset.teachers_folder()), "-o", str(tmp_path / "out"), "-a", "weighted", "--set"]
    assert main([*call, 'weights={"four": 1}']) == 1
    assert "'four', but those that vote are one, three, two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*call, 'weights={"two": 3}', "-np", "2"]) == 0
    two = PredictionFolder(dataset.teachers_folder() / "two").read(dataset.spec, "toy_001")
    np.testing.assert_array_equal(PredictionFolder(tmp_path / "out").read(dataset.spec, "toy_001"), two)
    assert "estimated without ground truth" in capsys.readouterr().out


def _dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_an_absent_teacher_abstains_and_a_case_without_any_fails(dataset, caplog):
    caplog.set_level("INFO", logger="nnkd")
    toy_teacher(dataset, "one", cases=["toy_000", "toy_002"])
    two = toy_teacher(dataset, "two", shift=3, cases=["toy_000"])
    two.fail("toy_003", "the weights are missing")
    report = to_labels(dataset)
    assert report.done == ["toy_002"]
    np.testing.assert_array_equal(
        label(dataset, "toy_002"), PredictionFolder(dataset.teachers_folder() / "one").read(dataset.spec, "toy_002")
    )
    (failure,) = report.failures
    assert failure.case == "toy_003"
    assert "two: the weights are missing" in failure.reason
    assert "nnKD_predict_teachers" in failure.reason
    assert "two has no output for 2 case(s)" in caplog.text
    assert not dataset.label_file("toy_003").exists()


def test_a_label_that_one_teacher_does_not_know_is_left_to_the_others(dataset):
    one, two, _ = three_teachers(dataset)
    shutil.rmtree(dataset.teachers_folder() / "three")
    toy_teacher(dataset, "three", answers=["liver"])
    toy_teacher(dataset, "four", answers=["liver"], shift=1)
    to_labels(dataset)
    spleen = [folder.read(dataset.spec, "toy_002") == 2 for folder in (one, two)]
    np.testing.assert_array_equal(label(dataset, "toy_002") == 2, spleen[0] & spleen[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "missing"),
        (lambda file: file.write_bytes(b""), "empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "toy_002.nii.gz"),
        (lambda file: shutil.copy(file.with_name("toy_003.nii.gz"), file), "manifest"),
    ],
)
def test_a_broken_teacher_file_fails_its_case_alone(dataset, spoil, message):
    one, *_ = three_teachers(dataset)
    spoil(one.file("toy_002", ".nii.gz"))
    report = to_labels(dataset)
    assert report.done == ["toy_003"]
    (failure,) = report.failures
    assert failure.case == "toy_002"
    assert message in failure.reason


def test_another_grid_fails_the_case(dataset, nnunet_folders):
    one, *_ = three_teachers(dataset)
    label_map, _, properties = dataset.spec.read_label_map(one.file("toy_002", ".nii.gz"))
    properties["sitk_stuff"] = {**properties["sitk_stuff"], "origin": (99.0, 0.0, 0.0)}
    one.write(dataset.spec, "toy_002", label_map, properties, inputs={}, answers=["liver", "spleen"])
    (failure,) = to_labels(dataset).failures
    assert "one" in failure.reason
    assert "origin 99x0x0" in failure.reason
    (failure,) = aggregate(
        dataset, Mean(), name="mean", options={}, source=dataset.teachers_folder(), output=nnunet_folders / "out"
    ).failures
    assert "another grid" in failure.reason
    assert PredictionFolder(nnunet_folders / "out").manifest().failures == {"toy_002": failure.reason}


def test_refusals(dataset, nnunet_folders):
    with pytest.raises(PredictionError, match="nnKD_predict_teachers"):
        to_labels(dataset)
    three_teachers(dataset, cases=["toy_002"])
    with pytest.raises(UnknownNameError, match=r"'five'.*one, three, two"):
        to_labels(dataset, teachers=["five"])
    with pytest.raises(SettingError, match="draws one teacher"):
        aggregate(dataset, RandomTeacher(), name="random_teacher", options={}, output=nnunet_folders / "out")
    with pytest.raises(SettingError, match="vote itself"):
        to_labels(dataset, output=dataset.teachers_folder() / "all")
    other = Manifest(kind="teacher", name="x", made_by="x", labels={"liver": [2]}, file_ending=".nii.gz")
    PredictionFolder(dataset.teachers_folder() / "x").begin(other)
    with pytest.raises(PredictionError, match=r"liver as \[2\]"):
        to_labels(dataset)
    for k in range(17):
        toy_teacher(dataset, f"t{k}", cases=["toy_002"])
    with pytest.raises(VotesError, match="21 teachers"):
        to_labels(dataset)


def test_a_prediction_folder_with_the_lineage_of_all(dataset, nnunet_folders):
    three_teachers(dataset)
    prompted = Manifest(
        kind="teacher", name="four", made_by="sam", labels={"liver": [1], "spleen": [2]}, file_ending=".nii.gz",
        lineage=[Lineage(name="sam", licence="Apache-2.0", weights_licence="CC-BY-NC-4.0")], ground_truth=True,
    )  # fmt: skip
    PredictionFolder(dataset.teachers_folder() / "four").begin(prompted)
    toy_teacher_cases = PredictionFolder(dataset.teachers_folder() / "one").manifest().cases
    four = PredictionFolder(dataset.teachers_folder() / "four")
    for case, record in toy_teacher_cases.items():
        shutil.copy(dataset.teachers_folder() / "one" / f"{case}.nii.gz", four.folder)
        four.record(case, record)
    before = sha256(dataset.label_file("toy_000"))
    out = nnunet_folders / "out"
    arguments = {"name": "mean", "options": {}, "source": dataset.teachers_folder(), "output": out}
    report = aggregate(dataset, Mean(), **arguments)
    assert report.done == dataset.images().cases()
    manifest = PredictionFolder(out).manifest()
    assert (manifest.kind, manifest.made_by, manifest.ground_truth) == ("aggregation", "mean", True)
    assert manifest.options == {"teachers": ["four", "one", "three", "two"]}
    assert Lineage(name="sam", licence="Apache-2.0", weights_licence="CC-BY-NC-4.0") in manifest.lineage
    assert {model.name for model in manifest.lineage} == {"sam", "one", "two", "three"}
    assert str(out) not in (out / "manifest.json").read_text() + (out / "agreement.json").read_text()
    assert sha256(dataset.label_file("toy_000")) == before
    assert not dataset.consensus_file().exists()
    assert aggregate(dataset, Mean(), **arguments).done == []
    toy_teacher(dataset, "two", shift=4, cases=["toy_001"])
    assert aggregate(dataset, Mean(), **arguments).done == ["toy_001"]
    with pytest.raises(PredictionError, match="made otherwise"):
        aggregate(dataset, Mean(), **arguments, teachers=["one"])


def test_tie_rules_differ_where_two_teachers_differ(dataset, nnunet_folders):
    one, two = (toy_teacher(dataset, name, shift=k) for k, name in enumerate(("one", "two")))
    sizes = {}
    for ties in ("no", "yes", "agreement"):
        out = nnunet_folders / ties
        aggregate(dataset, Majority(ties=ties), name="majority", options={"ties": ties},
                  source=dataset.teachers_folder(), output=out)  # fmt: skip
        sizes[ties] = (PredictionFolder(out).read(dataset.spec, "toy_002") == 1).sum()
    a, b = (folder.read(dataset.spec, "toy_002") == 1 for folder in (one, two))
    assert sizes == {"no": (a & b).sum(), "yes": (a | b).sum(), "agreement": (a & b).sum()}


@pytest.mark.heavy
def test_review_draws_the_cases_that_differ_most(dataset):
    three_teachers(dataset, cases=["toy_000", "toy_002"])
    for name in ("one", "two", "three"):  # toy_003: all the same
        toy_teacher(dataset, name, cases=["toy_003"])
    report = to_labels(dataset, review=5)
    assert [file.name for file in report.data["review"]] == ["toy_002.png"]
    assert (dataset.folder / "review" / "toy_002.png").read_bytes().startswith(b"\x89PNG")
    assert "labelsTr/toy_002.nii.gz" in report.lines[-1]
    toy_teacher(dataset, "one", shift=9, cases=["toy_003"])
    assert [file.name for file in to_labels(dataset, review=1).data["review"]] == ["toy_003.png"]
    assert [p.name for p in (dataset.folder / "review").glob("[!.]*")] == ["toy_003.png"]


@pytest.mark.heavy
@pytest.mark.parametrize("shape", [(1, 30, 26)])
def test_2d_images_with_an_ignore_label(nnunet_folders, shape):
    labels = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    folder = nnunet_folders / "nnUNet_raw" / "Dataset702_Flat"
    dataset = toy_dataset(folder, shape=shape, ending=".png", channels=("grey",), labels=labels)
    three_teachers(dataset)
    report = to_labels(dataset, review=1)
    assert report.done == ["toy_002", "toy_003"]
    assert label(dataset, "toy_002").any()
    assert "mean voxels" in "\n".join(report.lines)
    assert len(report.data["review"]) == 1


@pytest.mark.heavy
def test_regions(nnunet_folders):
    folder = nnunet_folders / "nnUNet_raw" / "Dataset703_Regions"
    dataset = toy_dataset(
        folder, labels={"background": 0, "both": [1, 2], "core": 2}, regions_class_order=[1, 2], labelled=0
    )
    teachers = three_teachers(dataset)
    to_labels(dataset, review=1)
    maps = np.stack([teacher.read(dataset.spec, "toy_002") for teacher in teachers])
    core = (maps == 2).sum(0) >= 2
    both = (maps > 0).sum(0) >= 2
    np.testing.assert_array_equal(label(dataset, "toy_002"), np.where(core, 2, both))


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a process at a chosen moment")
def test_killed_at_any_file_move_it_ends_the_same(nnunet_folders):
    raw = nnunet_folders / "nnUNet_raw"
    dataset = toy_dataset(raw / "Dataset704_Start", training=3, labelled=1, shape=(3, 12, 10))
    three_teachers(dataset)
    to_labels(dataset)  # so that killed runs replace consensuses, the harder case
    toy_teacher(dataset, "two", shift=4)
    expected = RawDataset(shutil.copytree(dataset.folder, raw / "Dataset705_Expected"))
    to_labels(expected)
    for moment in range(100):
        killed = RawDataset(shutil.copytree(dataset.folder, raw / f"Dataset{710 + moment}_Killed"))
        child = os.fork()
        if child == 0:
            _aggregate_and_die(killed, moment)
        if os.waitpid(child, 0)[1] == 0:
            break
        assert consensus.manual_cases(killed) == ["toy_000"], moment
        assert not to_labels(killed).failures
        for case in dataset.images().cases():
            assert sha256(killed.label_file(case)) == sha256(expected.label_file(case)), moment
        assert consensus.read(killed) == consensus.read(expected), moment
        assert not [p for p in (killed.folder / "labelsTr").iterdir() if p.name.startswith(".")]
    assert 10 < moment < 99  # it was really killed, at each move once before and once after


def _aggregate_and_die(dataset, moment: int) -> None:
    """In a child process: end like a killed one just before (even) or after (odd) one of the file moves."""
    moves = iter(range(1000))
    really = os.replace

    def replace(source, target):
        move = next(moves)
        if move * 2 == moment:
            os._exit(9)
        really(source, target)
        if move * 2 + 1 == moment:
            os._exit(9)

    files.os.replace = replace
    try:
        to_labels(dataset)
        os._exit(0)
    finally:
        os._exit(1)


def test_a_full_disk_stops_and_leaves_nothing_half_written(dataset, monkeypatch):
    three_teachers(dataset)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(dataset.spec.reader), "write_seg", full)
        with pytest.raises(NnkdError, match="No space left"):
            to_labels(dataset)
    assert sorted(p.name for p in (dataset.folder / "labelsTr").iterdir()) == ["toy_000.nii.gz", "toy_001.nii.gz"]
    assert to_labels(dataset).done == ["toy_002", "toy_003"]


def test_the_aggregator_of_the_docs_runs(dataset, nnunet_folders):
    text = (Path(__file__).parents[2] / "docs" / "aggregation.md").read_text(encoding="utf-8")
    code = text.split("## An aggregator of your own\n\n")[1].split("\n`counts`")[0]
    found: dict = {}
    exec(textwrap.dedent(code), found)
    one, two, three = three_teachers(dataset)
    arguments = {"name": "at_least", "options": {"number": 1}, "source": dataset.teachers_folder()}
    assert not aggregate(dataset, found["AtLeast"](number=1), output=nnunet_folders / "out", **arguments).failures
    union = np.any([folder.read(dataset.spec, "toy_002") == 1 for folder in (one, two, three)], axis=0)
    np.testing.assert_array_equal(PredictionFolder(nnunet_folders / "out").read(dataset.spec, "toy_002") == 1, union)


def test_the_command(dataset, nnunet_folders, capsys):
    assert main(["-d", "701"]) == 1
    assert "nnKD_predict_teachers" in capsys.readouterr().err
    three_teachers(dataset, cases=["toy_000", "toy_001", "toy_002"])
    assert main(["-d", "701"]) == 3
    said = capsys.readouterr()
    assert "toy_003" in said.err
    assert "liver: ties in 0.0 %" in said.out
    teachers, out = str(dataset.teachers_folder()), str(nnunet_folders / "out")
    assert main(["-d", "701", "-i", teachers, "-o", out, "-a", "majority", "--set", "majority.ties=yes"]) == 0
    assert PredictionFolder(nnunet_folders / "out").manifest().options["ties"] == "yes"
    assert main(["-d", "701", "-i", teachers, "-o", out, "-a", "majority", "--set", "mean.ties=yes"]) == 1
    assert main(["-d", "701", "-i", teachers, "-o", out, "-a", "majorty"]) == 1
    assert "Did you mean 'majority'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["-a", "mean"], ["-i", "x"], ["-o", "x"], ["-i", "x", "-o", "y", "--review", "2"], ["--set", "ties=no"]]
)
def test_usage(wrong):
    with pytest.raises(SystemExit) as error:
        main(["-d", "701", *wrong])
    assert error.value.code == 2


@pytest.mark.heavy
@needs_real_data("trunk_ct")
def test_three_real_teachers_of_a_trunk_ct(nnunet_folders):
    folder, source = nnunet_folders / "nnUNet_raw" / "Dataset706_Trunk", REAL_DATA / "trunk_ct"
    labels = {"background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5}
    (folder / "imagesTr").mkdir(parents=True)
    shutil.copy(source / "ct.nii.gz", folder / "imagesTr" / "trunk_0000.nii.gz")
    write_dataset_json(folder, ["CT"], labels, ".nii.gz", 1)
    dataset = RawDataset(folder)
    for name in ("v1_full", "v1_fast", "v2_fast"):  # these four classes have the same integers in both versions
        label_map, properties = dataset.spec.reader.read_seg(str(source / f"totalsegmentator_{name}.nii.gz"))
        kept = np.where(np.isin(label_map[0], [1, 2, 3, 5]), label_map[0], 0).astype(np.uint8)
        teacher = PredictionFolder(dataset.teachers_folder() / name)
        integers = {label: list(values) for label, values in dataset.spec.labels.items()}
        teacher.begin(Manifest(kind="teacher", name=name, made_by="imported", labels=integers, file_ending=".nii.gz"))
        teacher.write(dataset.spec, "trunk", kept, properties, inputs={}, answers=list(dataset.spec.labels))
    report = to_labels(dataset, review=1)
    assert report.done == ["trunk"]
    liver = report.data["agreement"]["liver"]
    assert 1000 < liver["teachers"]["v1_full"]["mean_volume"] < 2500  # ml
    assert min(dsc for _, _, dsc in liver["pairs"]) > 0.9
    assert min(teacher["mean_dsc"] for teacher in liver["teachers"].values()) > 0.93


def test_folders_of_teachers_and_their_files_are_counted(dataset, tmp_path):
    first, *_ = three_teachers(dataset)
    (dataset.teachers_folder() / "masks").mkdir()
    (first.folder / "toy_099.nii.gz").write_bytes(b"x")
    counts = {count.folder: count for count in to_labels(dataset).folders}
    assert list(counts["teachersTr"].unknown) == ["masks"]
    assert counts["teachersTr"].used == 3
    assert counts["imagesTr"].used == 4
    assert list(counts[f"teachersTr/{first.name}"].unknown) == ["toy_099.nii.gz"]
