"""Tests of nnkd.steps.evaluate and of its command: honesty of the means, outputs, resuming, bad input."""

from __future__ import annotations

import html
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from processes import begin
from toy import needs_real_data, toy_dataset, toy_teacher, two_balls, write_image

from nnkd.auxiliary import record as auxiliary_record
from nnkd.cli.evaluate import main
from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, FolderError, NnkdError, PredictionError, SettingError, UnknownNameError
from nnkd.evaluation import comparisons
from nnkd.evaluation.inputs import Request
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.metrics import EMPTY_MASKS, METRICS, RANKED
from nnkd.evaluation.surfaces import DEFINITIONS
from nnkd.files import read_json
from nnkd.inference.uncertainty import MAPS, UncertaintyFolder
from nnkd.steps.evaluate import evaluate
from nnkd.weights.checkpoints import TrainedModel

pytestmark = pytest.mark.heavy


@pytest.fixture
def cohort(nnunet_folders: Path) -> RawDataset:
    """Five labelled test cases."""
    return toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset702_Cohort", training=0, test=5)


@pytest.fixture
def unreported(monkeypatch):
    """Tests of figures need no page, which takes most of the time."""
    monkeypatch.setattr("nnkd.steps.evaluate.write_report", lambda *_: None)


def ask(dataset, *names, output=None, **more) -> Request:
    return Request(
        predictions=[dataset.teachers_folder("Ts") / name for name in names],
        reference=dataset.folder / "labelsTs",
        output=output or dataset.folder / "evaluation",
        bootstrap=Bootstrap(more.pop("resamples", 50), 0),
        **more,
    )


def overall(report, name, metric="DSC", column="Overall"):
    return report.data["scores"].table(metric)[name][column]


def rewrite(folder: PredictionFolder, dataset, case: str, change) -> None:
    """Change one label map and record it as if the teacher had written it so."""
    label_map, _, properties = dataset.spec.read_label_map(folder.file(case, dataset.spec.file_ending))
    record = folder.manifest().cases[case]
    folder.write(dataset.spec, case, change(label_map), properties, inputs=record.inputs, answers=record.answers)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_perfect_and_worse_folders_are_told_apart(cohort):
    toy_teacher(cohort, "worse", shift=2, split="Ts")
    toy_teacher(cohort, "perfect", split="Ts")
    report = evaluate(ask(cohort, "worse", "perfect"))
    assert overall(report, "perfect").estimate.value == 1
    assert overall(report, "perfect", "HD").estimate.value == 0
    assert (overall(report, "perfect").rank, overall(report, "worse").rank) == (1, 2)
    assert report.failures == []
    [difference] = [d for d in report.data["scores"].differences("DSC") if d.label == "Overall"]
    assert (difference.first, difference.second) == ("perfect", "worse")
    assert difference.estimate.low > 0


def test_a_broken_record_of_auxiliaries_harms_nothing_else(cohort, tmp_path, caplog):
    folder = toy_teacher(cohort, "student", shift=1, split="Ts").folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnkd.steps.evaluate.write_report", lambda *_: None)
        before = overall(evaluate(ask(cohort, "student", resamples=0)), "student")
    (tmp_path / "a__b__c" / "fold_0").mkdir(parents=True)
    turn = {"turn": 1, "dataset": "Dataset801_Other", "counts": {"Dataset801_Other": 1}, "loss": 0.5, "cosine": 0.25}
    (tmp_path / "a__b__c" / "fold_0" / auxiliary_record.RECORD).write_text(json.dumps(turn) + "\n")
    auxiliary_record.carry([TrainedModel(tmp_path / "a__b__c", ("0",))], folder)
    whole = auxiliary_record.carried(folder)["fold_0"]
    whole.with_name("fold_1.jsonl.gz").write_bytes(whole.read_bytes()[:-9])
    report = evaluate(ask(cohort, "student", resamples=0))
    assert report.failures == []
    assert overall(report, "student") == before
    (warning,) = [said for record in caplog.records if "CT" not in (said := record.getMessage())]
    assert "student, fold_1: 'fold_1.jsonl.gz' cannot be read" in warning
    page = (cohort.folder / "evaluation" / "report.html").read_text()
    assert "Dataset801_Other trained along in 1 of 1 turns" in page
    assert "student, fold_1: &#39;fold_1.jsonl.gz&#39; cannot be read: it is cut off or damaged" in page
    assert str(tmp_path) not in page


def test_distances_are_in_mm(cohort, unreported):
    toy_teacher(cohort, "right", split="Ts")
    folder = PredictionFolder(cohort.teachers_folder("Ts") / "right")
    for case in folder.cases():
        rewrite(folder, cohort, case, lambda m: np.roll(m, 1, axis=0))  # one slice of 2 mm
    report = evaluate(ask(cohort, "right"))
    assert overall(report, "right", "HD", "liver").estimate.value == pytest.approx(2.0)


@pytest.mark.parametrize("how", ["emptied", "deleted", "never listed"])
def test_missing_an_organ_never_improves_a_mean(cohort, how, unreported):
    folder = toy_teacher(cohort, "bad", shift=9, split="Ts")
    before = evaluate(ask(cohort, "bad", output=cohort.folder / "before", resamples=0))
    if how == "emptied":
        rewrite(folder, cohort, "toy_002", lambda m: np.where(m == 1, 0, m))
    else:
        folder.file("toy_002", ".nii.gz").unlink()
    if how == "never listed":
        manifest = read_json(folder.manifest_file)
        del manifest["cases"]["toy_002"]
        folder.manifest_file.write_text(json.dumps(manifest))
    after = evaluate(ask(cohort, "bad", resamples=0))
    for metric, column in itertools.product(RANKED, ("liver", "Overall")):
        sign = 1 if METRICS[metric].higher_is_better else -1
        old, new = (sign * overall(r, "bad", metric, column).estimate.value for r in (before, after))
        assert new <= old
    assert overall(after, "bad", "HD", "liver").estimate.value > overall(before, "bad", "HD", "liver").estimate.value
    assert any(case == "toy_002" for case, _, _ in after.data["scores"].flags(after.data["scores"].folders[0]))
    assert overall(after, "bad").estimate.n_cases == 5


def test_an_organ_in_neither_file_is_not_counted_and_n_says_so(cohort, unreported):
    folder = toy_teacher(cohort, "one", split="Ts")
    for case in ("toy_000", "toy_001"):
        file = cohort.label_file(case, "Ts")
        label_map, _, properties = cohort.spec.read_label_map(file)
        without = np.where(label_map == 2, 0, label_map)
        cohort.spec.write_label_map(without, file, properties)
    rewrite(folder, cohort, "toy_000", lambda m: np.where(m == 2, 0, m))
    estimate = overall(evaluate(ask(cohort, "one")), "one", "DSC", "spleen").estimate
    assert estimate.n_cases == 4  # toy_000 is in neither; toy_001 was predicted and is wrong
    assert estimate.value == pytest.approx(3 / 4)


def test_an_abstention_is_shown_and_buys_no_rank(cohort):
    toy_teacher(cohort, "partial", answers=["liver"], split="Ts")
    toy_teacher(cohort, "full", shift=2, split="Ts")
    report = evaluate(ask(cohort, "partial", "full"))
    scores = report.data["scores"]
    assert overall(report, "partial", column="spleen").estimate is None
    assert overall(report, "partial", column="spleen").note == "not answered"
    assert overall(report, "partial").note == "incomplete: 1 of 2 labels"
    assert overall(report, "full").rank == 1
    assert overall(report, "partial", column="Common labels").rank == 1
    assert scores.common_labels == ["liver"]
    assert scores.flags(scores.folders[0]) == [("all", "spleen", "not_answered")]
    frame = pd.read_csv(cohort.folder / "evaluation" / "metrics.csv")
    abstained = frame[(frame.folder == "partial") & (frame.label == "spleen")]
    assert abstained.value.isna().all()
    assert set(abstained.flag) == {"not_answered"}
    summary = read_json(cohort.folder / "evaluation" / "partial" / "summary.json")
    assert summary["mean"]["2"]["Dice"] == 0  # nnU-Net's own figure, of the file as it lies
    assert summary["mean"]["2"]["DSC"] is None
    assert summary["foreground_mean"]["DSC"] is None


def test_abstaining_in_some_cases_marks_the_mean(cohort, unreported):
    folder = toy_teacher(cohort, "picky", split="Ts")
    toy_teacher(cohort, "steady", shift=1, split="Ts")
    manifest = read_json(folder.manifest_file)
    manifest["cases"]["toy_003"]["answers"] = ["liver"]
    folder.manifest_file.write_text(json.dumps(manifest))
    report = evaluate(ask(cohort, "picky", "steady"))
    cell = overall(report, "picky", column="spleen")
    assert (cell.estimate.n_cases, cell.rank, cell.note) == (4, None, "not answered in 1 of 5 cases")
    assert overall(report, "steady", column="spleen").rank == 1
    [spleen] = [d for d in report.data["scores"].differences("DSC") if d.label == "spleen"]
    assert spleen.estimate.n_cases == 4  # only cases both answer for


def test_people_are_drawn_not_cases(cohort, unreported):
    toy_teacher(cohort, "one", shift=1, split="Ts")
    rows = [f"toy_{i:03d}\tp{min(i, 3)}" for i in range(5)]
    (cohort.folder / "cases.tsv").write_text("\n".join(["case\tparticipant_id", *rows]) + "\n")
    estimate = overall(evaluate(ask(cohort, "one")), "one").estimate
    assert (estimate.n_cases, estimate.n_participants) == (5, 4)


def test_a_wrong_grid_fails_that_case_and_the_rest_go_on(cohort, capsys, unreported):
    folder = toy_teacher(cohort, "one", split="Ts")
    write_image(np.ones((8, 24, 19), np.uint8), folder.file("toy_001", ".nii.gz"))
    label_map, _, _ = cohort.spec.read_label_map(cohort.label_file("toy_002", "Ts"))
    write_image(label_map.astype(np.uint8), folder.file("toy_002", ".nii.gz"), spacing=(3, 1, 1))
    write_image(np.full((8, 24, 20), 7, np.uint8), folder.file("toy_003", ".nii.gz"))
    folder.file("toy_004", ".nii.gz").write_bytes(b"")
    command = ["-i", str(folder.folder), "-ref", str(cohort.folder / "labelsTs"), "-o", str(cohort.folder / "e")]
    assert main([*command, "--bootstrap", "20"]) == 3
    said = capsys.readouterr()
    assert "5 cases; mean overall" in said.out
    for words in (
        "size 8x24x19 against 8x24x20",
        "spacing 3x1x1 against 2x1x1",
        "holds the value 7",
        "is empty (0 bytes)",
    ):
        assert words in said.err
    row = pd.read_csv(cohort.folder / "e" / "means.csv").query("label == 'Overall' and metric == 'DSC'").iloc[0]
    assert (row.cases, row.note) == (1, "failed in 4 of 5 cases; no interval: one participant")


def test_all_outputs_name_the_definition_and_no_path(cohort):
    toy_teacher(cohort, "a", shift=1, split="Ts")
    toy_teacher(cohort, "b", split="Ts")
    evaluate(ask(cohort, "a", "b"))
    output = cohort.folder / "evaluation"
    outputs = [*output.glob("*.csv"), *output.glob("*/summary.json"), output / "report.html"]
    assert sorted(p.name for p in outputs) == [
        "comparison.csv", "means.csv", "metrics.csv", "report.html", "summary.json", "summary.json",
    ]  # fmt: skip
    for file in outputs:
        text = html.unescape(file.read_text(encoding="utf-8"))
        assert "monai" in text
        assert DEFINITIONS["monai"].percentile_rule in text
        assert EMPTY_MASKS[1:] in text
        assert str(cohort.folder.parent) not in text
        assert str(Path.home()) + os.sep not in text


def test_definition_and_tolerances_by_label_are_options_of_the_command(cohort, unreported):
    toy_teacher(cohort, "one", shift=2, split="Ts")
    folders = ["-i", str(cohort.teachers_folder("Ts") / "one"), "-ref", str(cohort.folder / "labelsTs")]
    means = {}
    for name, more in {
        "monai": [],
        "surfel": ["--definition", "surfel"],
        "wide": ["--tolerance", "2", "spleen=40"],
    }.items():
        assert main([*folders, "-o", str(cohort.folder / name), "--bootstrap", "0", *more]) == 0
        frame = pd.read_csv(cohort.folder / name / "means.csv").query("metric == 'NSD'")
        means[name] = frame.set_index("label")["mean"]
        assert set(frame.definition) == {"surfel" if name == "surfel" else "monai"}
    assert means["surfel"]["spleen"] != means["monai"]["spleen"]
    assert means["wide"]["spleen"] == 1 > means["monai"]["spleen"]
    assert means["wide"]["liver"] == means["monai"]["liver"]
    facts = read_json(cohort.folder / "wide" / "one" / "summary.json")["nnkd"]
    assert (facts["tolerance_mm"], facts["tolerance_mm_by_label"]) == (2.0, {"spleen": 40.0})


@pytest.mark.parametrize("text", ["wide", "liver=x", "=3"])
def test_a_tolerance_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["-i", "a", "-ref", "b", "--tolerance", text])
    assert "Write MM or LABEL=MM" in capsys.readouterr().err


def test_ranking_and_two_references(cohort, capsys):
    for name, shift in (("near", 1), ("far", 3)):
        toy_teacher(cohort, name, shift=shift, split="Ts")
    other = toy_teacher(cohort, "second", shift=2, split="Ts").folder
    other.rename(cohort.folder / "second")
    (cohort.folder / "second" / "toy_004.nii.gz").unlink()
    rows = ["participant_id\tmodality", *(f"toy_00{i}\t{'AB'[i % 2]}" for i in range(5))]
    (cohort.folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    folders = [str(cohort.teachers_folder("Ts") / name) for name in ("near", "far")]
    common = [
        "-i",
        *folders,
        "-ref",
        str(cohort.folder / "labelsTs"),
        "-o",
        str(cohort.folder / "e"),
        "--bootstrap",
        "0",
    ]
    more = ["-ref", str(cohort.folder / "second"), "--rank", "DSC", "ASSD", "--modality", "modality"]
    assert main([*common, *more]) == 0
    said = capsys.readouterr().out
    assert "mean place over A, B by DSC, ASSD" in said
    assert "against labelsTs and second" in said
    ranking = pd.read_csv(cohort.folder / "e" / "ranking.csv")
    assert list(ranking[ranking.modality == "all"].folder) == ["near", "far"]
    assert set(ranking.modality) == {"A", "B", "all"}
    raters = pd.read_csv(cohort.folder / "e" / "raters.csv").query("metric == 'DSC' and label == 'Overall'")
    assert set(raters.cases) == {4}
    means = raters.set_index(["folder", "reference"])["mean"]
    assert means["near", "labelsTs"] > means["second", "labelsTs"] > means["far", "labelsTs"]
    assert means["far", "second"] > means["far", "labelsTs"]
    facts = read_json(cohort.folder / "e" / "near" / "summary.json")["nnkd"]
    assert (facts["ranking"]["place"], facts["ranking"]["of"]) == (1, 2)
    assert facts["raters"]["references"] == ["labelsTs", "second"]
    page = (cohort.folder / "e" / "report.html").read_text()
    for title in ("<h2>Ranking</h2>", "<h2>Two references</h2>", "(inter-rater)"):
        assert title in page
    assert main(common) == 0
    assert not (cohort.folder / "e" / "ranking.csv").exists()
    assert not (cohort.folder / "e" / "raters.csv").exists()


def test_what_cannot_be_ranked_or_has_no_second_reference_is_refused(cohort):
    toy_teacher(cohort, "one", split="Ts")
    toy_teacher(cohort, "two", split="Ts")
    (cohort.folder / "others").mkdir()
    shutil.copy(cohort.label_file("toy_000", "Ts"), cohort.folder / "others" / "somebody.nii.gz")
    for names, more, error, words in (
        (["one"], {"rank": []}, SettingError, "--rank compares several folders"),
        (["one", "two"], {"rank": ["DICE"]}, SettingError, "'DICE', which is nothing to rank by"),
        (["one", "two"], {"rank": [], "modality": "site"}, SettingError, "--modality is 'site', but no participant"),
        (["one", "two"], {"modality": "site"}, SettingError, "there is no --rank"),
        (["one"], {"second_reference": cohort.folder / "gone"}, FolderError, r"There is no folder .* \(-ref\)"),
        (["one"], {"second_reference": cohort.folder / "others"}, PredictionError, "have no case in common"),
    ):
        with pytest.raises(error, match=words):
            evaluate(replace(ask(cohort, *names), **more))
    assert not (cohort.folder / "evaluation").exists()
    assert main(["-i", "one", "-ref", "a", "-ref", "b", "-ref", "c"]) == 1


def test_summary_json_is_nnunets(cohort, unreported):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json

    folder = toy_teacher(cohort, "one", shift=2, split="Ts")
    rewrite(folder, cohort, "toy_001", lambda m: np.where(m == 2, 0, m))
    evaluate(ask(cohort, "one"))
    ours = load_summary_json(str(cohort.folder / "evaluation" / "one" / "summary.json"))
    theirs = compute_metrics_on_folder(
        str(cohort.folder / "labelsTs"), str(folder.folder), None, cohort.spec.reader, ".nii.gz", [1, 2],
        num_processes=1,
    )  # fmt: skip
    for key in (1, 2):
        assert {k: ours["mean"][key][k] for k in theirs["mean"][key]} == pytest.approx(theirs["mean"][key])
    assert ours["foreground_mean"]["Dice"] == pytest.approx(theirs["foreground_mean"]["Dice"])
    for mine, other in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert mine["prediction_file"] == f"one/{Path(other['prediction_file']).name}"
        for key, figures in other["metrics"].items():
            assert {k: mine["metrics"][key][k] for k in figures} == pytest.approx(figures)


def test_regions_and_ignore_label(nnunet_folders, unreported):
    labels = {"background": 0, "organs": [1, 2], "spleen": [2], "ignore": 3}
    dataset = toy_dataset(
        nnunet_folders / "nnUNet_raw" / "Dataset703_Regions", training=0, test=2, labels=labels,
        regions_class_order=[1, 2],
    )  # fmt: skip
    toy_teacher(dataset, "one", split="Ts")
    folder = PredictionFolder(dataset.teachers_folder("Ts") / "one")
    for case in folder.cases():
        rewrite(folder, dataset, case, lambda m: np.where(m == 1, 2, m))
        file = dataset.label_file(case, "Ts")
        reference, _, properties = dataset.spec.read_label_map(file)
        reference[:, :, :3] = 3
        dataset.spec.write_label_map(reference, file, properties)
    report = evaluate(ask(dataset, "one"))
    assert overall(report, "one", column="organs").estimate.value == 1
    assert overall(report, "one", column="spleen").estimate.value < 0.8
    summary = read_json(dataset.folder / "evaluation" / "one" / "summary.json")
    assert set(summary["mean"]) == {"(1, 2)", "(2,)"}
    counts = summary["metric_per_case"][0]["metrics"]["(1, 2)"]
    assert counts["TP"] + counts["TN"] == 8 * 24 * 17


def test_two_dimensional_images_without_spacing(nnunet_folders):
    dataset = toy_dataset(
        nnunet_folders / "nnUNet_raw" / "Dataset704_Flat", training=0, test=2, shape=(1, 30, 40), ending=".png"
    )
    toy_teacher(dataset, "one", shift=3, split="Ts")
    report = evaluate(ask(dataset, "one"))
    assert overall(report, "one", "HD", "liver").estimate.value == pytest.approx(3)
    assert "pixels" in (dataset.folder / "evaluation" / "report.html").read_text()


def test_a_second_run_computes_nothing_and_gives_the_same(cohort, monkeypatch):
    toy_teacher(cohort, "one", shift=2, split="Ts")
    first = evaluate(ask(cohort, "one"))
    before = snapshot(cohort.folder / "evaluation")
    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "_compare_case", lambda task: pytest.fail("computed again"))
        again = evaluate(ask(cohort, "one"))
    assert (first.done, first.skipped) == (again.skipped, again.done)
    assert snapshot(cohort.folder / "evaluation") == before
    assert evaluate(ask(cohort, "one", overwrite=True)).done == first.done
    assert evaluate(ask(cohort, "one", tolerance=1.0)).done == first.done


def test_a_changed_file_is_computed_again_and_flagged(cohort, unreported):
    folder = toy_teacher(cohort, "one", split="Ts")
    evaluate(ask(cohort, "one"))
    truth, _, properties = cohort.spec.read_label_map(folder.file("toy_001", ".nii.gz"))
    cohort.spec.write_label_map(np.roll(truth, 1, axis=1), folder.file("toy_001", ".nii.gz"), properties)
    report = evaluate(ask(cohort, "one"))
    assert report.done == ["toy_001"]
    scores = report.data["scores"]
    assert ("toy_001", "all", "changed") in scores.flags(scores.folders[0])


def test_killed_and_run_again_gives_the_same(cohort, monkeypatch, unreported):
    toy_teacher(cohort, "one", shift=2, split="Ts")
    toy_teacher(cohort, "two", shift=1, split="Ts")
    evaluate(ask(cohort, "one", "two", output=cohort.folder / "whole"))
    compare, seen = comparisons._compare_case, []

    def dies_in_the_third(task):
        seen.append(task.case)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return compare(task)

    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "_compare_case", dies_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            evaluate(ask(cohort, "one", "two"))
    damaged = sorted((cohort.folder / "evaluation" / ".cache").glob("*.json"))[0]
    damaged.write_text('{"labels": {')
    (cohort.folder / "evaluation" / ".cache" / ".writing-left").write_text("half")
    report = evaluate(ask(cohort, "one", "two"))
    assert len(report.done) == 4  # three that were missing and the damaged one
    assert snapshot(cohort.folder / "evaluation") == snapshot(cohort.folder / "whole")


@pytest.mark.parametrize("moment", [0.0, 0.3])
def test_a_process_killed_at_any_moment_leaves_nothing_half_written(cohort, moment):
    toy_teacher(cohort, "one", shift=2, split="Ts")
    request = ask(cohort, "one")
    code = "import sys; from nnkd.cli.evaluate import main; sys.exit(main(sys.argv[1:]))"
    places = ["-i", request.predictions[0], "-ref", request.reference, "-o", request.output]
    process = begin(code, *places, "--bootstrap", "50")
    cache = request.output / ".cache"
    while process.is_alive() and not (cache.is_dir() and any(cache.glob("*.json"))):
        time.sleep(0.01)
    time.sleep(moment)
    process.kill()
    process.join()
    for file in [*request.output.rglob("[!.]*.json")]:
        read_json(file)
    evaluate(request)
    evaluate(replace(request, output=cohort.folder / "whole"))
    assert snapshot(request.output) == snapshot(cohort.folder / "whole")


def test_several_processes_give_the_same(cohort, unreported):
    toy_teacher(cohort, "one", shift=2, split="Ts")
    evaluate(ask(cohort, "one", output=cohort.folder / "alone", workers=1))
    evaluate(ask(cohort, "one", workers=2))
    assert snapshot(cohort.folder / "evaluation") == snapshot(cohort.folder / "alone")


def test_chill_evaluates_what_all_folders_have(cohort, unreported):
    toy_teacher(cohort, "few", cases=["toy_001", "toy_002"], split="Ts")
    toy_teacher(cohort, "all", split="Ts")
    strict = evaluate(ask(cohort, "few", "all", output=cohort.folder / "strict"))
    assert overall(strict, "few").estimate.value == pytest.approx(2 / 5)
    chilled = evaluate(ask(cohort, "few", "all", common_cases=True))
    assert chilled.data["scores"].cases == ["toy_001", "toy_002"]
    assert overall(chilled, "few").estimate.value == 1


def test_a_folder_without_manifest_is_taken_as_it_is(cohort):
    shutil.copytree(cohort.folder / "labelsTs", cohort.teachers_folder("Ts") / "plain")
    report = evaluate(ask(cohort, "plain", labels=["liver"], output=None))
    assert overall(report, "plain").estimate.value == 1
    assert report.data["scores"].labels == ["liver"]


def exchanged(folder: Path) -> None:
    """Write a folder's label maps anew with integers 1 and 2 exchanged."""
    for file in folder.glob("*.nii.gz"):
        image = sitk.ReadImage(str(file))
        array = np.array([0, 2, 1], np.uint8)[sitk.GetArrayFromImage(image)]
        new = sitk.GetImageFromArray(array)
        new.CopyInformation(image)
        sitk.WriteImage(new, str(file))


@pytest.mark.parametrize("says", ["manifest.json", "dataset.json", "nothing"])
def test_labels_are_matched_by_name(cohort, unreported, says):
    """Through the manifest, else the folder's own dataset.json as nnU-Net leaves one; else by integers, and that is
    said. The reference is right by construction: it is the prediction with its integers exchanged."""
    folder = toy_teacher(cohort, "one", split="Ts").folder
    exchanged(folder)
    labels = {"background": 0, "spleen": 1, "liver": 2, "kidney": 3}
    manifest = read_json(folder / "manifest.json")
    (folder / "manifest.json").unlink()
    if says == "manifest.json":
        given = {label: [integer] for label, integer in labels.items() if integer}
        (folder / "manifest.json").write_text(json.dumps({**manifest, "labels": given}))
    elif says == "dataset.json":
        content = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content))
    report = evaluate(ask(cohort, "one", dataset_json=cohort.folder / "dataset.json"))
    text = "\n".join(report.lines)
    if says == "nothing":
        assert overall(report, "one").estimate.value < 0.5
        assert "one: nothing there says what its integers mean; taken as in dataset.json" in text
    else:
        assert overall(report, "one").estimate.value == 1
        assert (
            f"one: labels as its {says} has them (by name, spleen 1 for 2, liver 2 for 1; kidney passed over)" in text
        )


def test_references_go_by_their_own_dataset_json(cohort, unreported):
    """With another file of -djfile; their ignored voxels stay out though that file has no ignore label."""
    toy_teacher(cohort, "one", split="Ts")
    wanted = cohort.folder.parent / "wanted.json"
    shutil.copy(cohort.folder / "dataset.json", wanted)
    exchanged(cohort.folder / "labelsTs")
    for file in (cohort.folder / "labelsTs").glob("*.nii.gz"):
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)
        array[:, :, :8] = 3
        new = sitk.GetImageFromArray(array)
        new.CopyInformation(image)
        sitk.WriteImage(new, str(file))
    content = read_json(wanted)
    labels = {"background": 0, "spleen": 1, "liver": 2, "ignore": 3}
    (cohort.folder / "dataset.json").write_text(json.dumps({**content, "labels": labels}))
    report = evaluate(ask(cohort, "one", dataset_json=wanted))
    assert overall(report, "one").estimate.value == 1
    del labels["liver"]
    labels["hepar"] = 2
    (cohort.folder / "dataset.json").write_text(json.dumps({**content, "labels": labels}))
    with pytest.raises(
        DatasetError, match=r"references in 'labelsTs' know no liver: their dataset.json names spleen, hep"
    ):
        evaluate(ask(cohort, "one", dataset_json=wanted))


def test_a_label_that_a_folder_does_not_know_is_not_answered(cohort, unreported):
    folder = cohort.teachers_folder("Ts") / "plain"
    shutil.copytree(cohort.folder / "labelsTs", folder)
    content = read_json(cohort.folder / "dataset.json")
    content["labels"] = {"background": 0, "liver": 1, "other": 2}
    (folder / "dataset.json").write_text(json.dumps(content))
    report = evaluate(ask(cohort, "plain"))
    assert report.data["scores"].table("DSC")["plain"]["spleen"].note == "not answered"
    assert report.data["scores"].table("DSC")["plain"]["liver"].estimate.value == 1


def test_where_dataset_json_is_found(cohort, tmp_path):
    toy_teacher(cohort, "one", split="Ts")
    elsewhere = tmp_path / "elsewhere" / "references"
    shutil.copytree(cohort.folder / "labelsTs", elsewhere)
    shutil.copytree(cohort.teachers_folder("Ts") / "one", tmp_path / "elsewhere" / "one")
    pair = {"predictions": [tmp_path / "elsewhere" / "one"], "reference": elsewhere, "bootstrap": Bootstrap(0)}
    with pytest.raises(NnkdError, match=r"No dataset.json lies beside 'references'"):
        evaluate(Request(**pair))
    assert evaluate(Request(**pair, dataset="702")).done
    assert (tmp_path / "elsewhere" / "evaluation" / "report.html").is_file()
    assert evaluate(Request(**pair, dataset_json=cohort.folder / "dataset.json")).skipped


def test_bad_input_is_one_sentence_and_nothing_is_written(cohort, tmp_path):
    toy_teacher(cohort, "one", split="Ts")
    (cohort.teachers_folder("Ts") / "none").mkdir()
    (cohort.teachers_folder("Ts") / "none" / "notes.txt").write_text("x")
    truth = two_balls((8, 24, 20), np.random.default_rng(0))
    write_image(truth, cohort.teachers_folder("Ts") / "others" / "somebody.nii.gz")
    other = toy_teacher(cohort, "other", split="Ts")
    manifest = read_json(other.manifest_file)
    manifest["labels"]["liver"] = [2]
    other.manifest_file.write_text(json.dumps(manifest))
    for names, more, error, words in (
        (["gone"], {}, FolderError, "There is no folder"),
        (["none"], {}, PredictionError, r"holds no label map with the ending .nii.gz .* it holds notes.txt"),
        (["others"], {}, PredictionError, r"None of the 1 label maps .*'somebody' here, 'toy_000' there"),
        (["other"], {}, DatasetError, r"manifest.json of 'other' gives two labels the same integer"),
        (["one"], {"labels": ["livre"]}, UnknownNameError, "has no label 'livre'; it has liver, spleen"),
        (["one"], {"tolerance": -1.0}, SettingError, "--tolerance is -1"),
        (["one"], {"tolerances": {"livre": 1.0}}, UnknownNameError, "has no label 'livre'; it has liver, spleen"),
        (["one"], {"tolerances": {"liver": float("nan")}}, SettingError, "--tolerance is nan"),
        (["one"], {"definition": "surfels"}, SettingError, "There are: monai, surfel"),
        (["one"], {"workers": 0}, SettingError, "-np is 0"),
        (["one"], {"names": ["a", "b"]}, SettingError, "2 names for 1 folder"),
        (["one", "one"], {}, SettingError, "'one' cannot name one folder"),
        (["one"], {"names": ["../up"]}, SettingError, "cannot name one folder"),
        (["one"], {"dataset": "799"}, UnknownNameError, "No dataset has the id 799"),
        (["one"], {"dataset_json": tmp_path / "no.json"}, FolderError, "There is no file"),
        (["one"], {"reference": tmp_path / "no"}, FolderError, r"There is no folder .* \(-ref\)"),
    ):
        request = replace(ask(cohort, *names), **more)
        with pytest.raises(error, match=words):
            evaluate(request)
    assert not (cohort.folder / "evaluation").exists()
    with pytest.raises(FolderError, match="-o must name"):
        evaluate(Request([cohort.folder / "a", cohort.folder / "b"], cohort.folder / "labelsTs"))


def test_a_broken_reference_fails_that_case_for_everybody(cohort, unreported):
    toy_teacher(cohort, "one", split="Ts")
    cohort.label_file("toy_000", "Ts").write_bytes(b"no image")
    report = evaluate(ask(cohort, "one"))
    assert [f.case for f in report.failures] == ["one/toy_000"]
    assert overall(report, "one").estimate.n_cases == 4


def test_help_needs_nothing_heavy():
    heavy = "import sys; from nnkd.cli.evaluate import _parser; _parser().format_help(); " + (
        "sys.exit(any(m in sys.modules for m in ('numpy', 'pandas', 'torch', 'pydantic', 'matplotlib', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


@needs_real_data("hippocampus")
def test_real_references_against_themselves(tmp_path):
    from toy import REAL_DATA

    from nnkd.data.dataset import write_dataset_json

    files = sorted((REAL_DATA / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:3]
    for file in files:
        for folder in ("labelsTs", "copy"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / folder / file.name)
    write_dataset_json(tmp_path, ["MRI"], {"background": 0, "anterior": 1, "posterior": 2}, ".nii.gz", 0)
    report = evaluate(Request([tmp_path / "copy"], tmp_path / "labelsTs", bootstrap=Bootstrap(20)))
    assert overall(report, "copy").estimate.value == 1
    assert overall(report, "copy", "NSD").estimate.value == 1


def with_maps(dataset, name: str, cases, noise: float) -> None:
    """Maps of a folder that are large where its label map is wrong, and intervals that hold the liver alone."""
    rng = np.random.default_rng(0)
    folder = PredictionFolder(dataset.teachers_folder("Ts") / name)
    for case in cases:
        truth, grid, _ = dataset.spec.read_label_map(dataset.label_file(case, "Ts"))
        wrong = folder.read(dataset.spec, case) != truth
        array = (wrong + noise * rng.random(wrong.shape)).astype(np.float32)
        voxels = np.array([[(truth == 1).sum() - 5, 0], [(truth == 1).sum() + 5, 0]], float)
        size = float(np.prod(grid.spacing))
        UncertaintyFolder(folder.folder).write(
            case, dict.fromkeys(MAPS, array), voxels, ["liver", "spleen"], grid, size
        )


def test_maps_of_uncertainty_are_ranked(cohort):
    toy_teacher(cohort, "near", shift=1, split="Ts")
    toy_teacher(cohort, "far", shift=3, split="Ts")
    cases = cohort.images("Ts").cases()
    with_maps(cohort, "near", cases[:4], 0.5)
    report = evaluate(ask(cohort, "near", "far"))
    assert not report.failures
    out = cohort.folder / "evaluation"
    near, far = (read_json(out / name / "summary.json") for name in ("near", "far"))
    found = near["nnkd"]["uncertainty"]
    assert set(found["maps"]) == set(MAPS)
    assert found["maps"]["entropy"]["auroc"]["value"] == pytest.approx(1)
    assert found["maps"]["entropy"]["auroc"]["n_cases"] == 4
    assert found["maps"]["entropy"]["wrong_in_top"]["value"] == pytest.approx(1)
    assert 0 < found["maps"]["entropy"]["wrong"]["value"] < 0.5
    assert found["coverage"] == {"liver": {"inside": 4, "cases": 4}, "spleen": {"inside": 0, "cases": 4}}
    assert found["without_maps"] == cases[4:]
    assert "uncertainty" not in far["nnkd"]
    assert set(near) == set(far)
    frame = pd.read_csv(out / "uncertainty.csv")
    assert set(frame["folder"]) == {"near"}
    assert len(frame) == 4 * 3 * 4
    assert len(pd.read_csv(out / "volumes.csv")) == 8
    page = (out / "report.html").read_text()
    for said in ("<h2>Uncertainty</h2>", "within 10 mm", "4 of 4 cases"):
        assert said in page
    evaluate(ask(cohort, "far"))
    assert not (out / "uncertainty.csv").exists()
    assert "<h2>Uncertainty</h2>" not in (out / "report.html").read_text()


def test_a_map_on_another_grid_is_a_failure(cohort, unreported):
    toy_teacher(cohort, "near", shift=1, split="Ts")
    cases = cohort.images("Ts").cases()
    with_maps(cohort, "near", cases, 0.5)
    folder = UncertaintyFolder(cohort.teachers_folder("Ts") / "near")
    write_image(np.zeros((2, 3, 4), np.float32), folder.file("entropy", cases[0]))
    report = evaluate(ask(cohort, "near"))
    assert [failure.case for failure in report.failures] == [f"near/{cases[0]}"]
    assert "does not lie on its label map's grid" in report.failures[0].reason


@pytest.mark.usefixtures("unreported")
def test_label_maps_without_partner_are_named(cohort):
    folder = toy_teacher(cohort, "good", split="Ts")
    shutil.copy(folder.file("toy_000", ".nii.gz"), folder.file("toy_099", ".nii.gz"))
    folder.fail("toy_001", "it broke")  # its earlier label map is still there
    (folder.folder / "notes.txt").write_text("x")
    (cohort.folder / "labelsTs" / "._toy_000.nii.gz").write_bytes(b"x")
    report = evaluate(ask(cohort, "good"))
    assert [count.line for count in report.folders] == [
        "good: 10 files came in: 4 used, 5 set aside (earlier label map of a case that failed: toy_001.nii.gz; file of "
        "nnkd or nnU-Net: .manifest.lock, .nnkd-written, manifest.json; without reference: toy_099.nii.gz), 1 not "
        "understood (notes.txt)",
        "labelsTs: 6 files came in: 5 used, 1 set aside (shadow file of macOS: ._toy_000.nii.gz)",
    ]
    assert "toy_001" not in report.data["scores"].folders[0].files  # so it counts as missing
    assert "good has no label map of 1 case(s), counted as empty: toy_001" in report.lines
