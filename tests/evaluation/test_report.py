"""The page: self-contained, escaped, honest about gaps; and which cases it shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scored import CASES, GOOD, LABELS, POOR, folder, scores, words
from toy import write_image

from nnkd.data.dataset import DatasetSpec
from nnkd.data.predictions import Lineage
from nnkd.evaluation.part import Plain
from nnkd.evaluation.report import SECTIONS, Evaluation, chosen_cases, integer_names, render, write_report

pytestmark = pytest.mark.heavy

JSON = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"}
FACTS = {
    "dataset": "Dataset701_Toy", "reference": "labelsTs", "definition": "monai", "definition_text": "voxels",
    "percentile_rule": "linear", "empty_masks": "the worst", "tolerance_mm_by_label": {"spleen": 3.0},
    "tolerance_mm": 2.0, "unit": "mm", "bootstrap_resamples": 20, "seed": 0, "cases": 3, "participants": 3,
    "common_cases_only": False, "versions": {"nnkd": "0"},
}  # fmt: skip


def label_map() -> np.ndarray:
    found = np.zeros((3, 12, 10), np.uint8)
    found[:, 2:6, 2:6], found[:, 7:10, 5:9] = 1, 2
    return found


def evaluation(tmp_path: Path, *folders, with_images=True, parts=()) -> Evaluation:
    references = {case: tmp_path / "labelsTs" / f"{case}.nii.gz" for case in CASES}
    for case, file in references.items():
        write_image(label_map(), file)
        if with_images:
            write_image(label_map() * 50.0, tmp_path / "imagesTs" / f"{case}_0000.nii.gz")
    predictions = {f.name: {case: references[case] for case in f.files} for f in folders}
    spec = DatasetSpec(JSON, "Dataset701_Toy")
    return Evaluation(scores(*folders), spec, FACTS, references, predictions, [tmp_path / "imagesTs"], parts)


def test_the_page_needs_nothing_from_outside(tmp_path):
    write_report(evaluation(tmp_path, folder("poor", POOR), folder("good", GOOD)), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,)", page)
    assert not re.findall(r"https?://|url\(|@import", page)
    assert page.count("data:image/png") == 2 * 2 + 2 + 3  # boxes by metric and label, differences, overlays
    assert str(tmp_path) not in page
    assert "Not a medical device" in page


def test_best_second_and_third_are_marked_as_in_the_paper(tmp_path):
    middle = {case: tuple(0.6 for _ in LABELS) for case in CASES}
    last = {case: tuple(0.1 for _ in LABELS) for case in CASES}
    page = render(
        evaluation(tmp_path, folder("last", last), folder("poor", POOR), folder("good", GOOD), folder("mid", middle))
    )
    found = re.findall(r"<span class=\"(first|second|third|)\">\s*([\d.]+)</span>", page)
    dsc = found[:12]  # four rows, three columns
    assert [mark for mark, _ in dsc] == ["", "", "", *["third"] * 3, *["first"] * 3, *["second"] * 3]
    assert [value for _, value in dsc[6:9]] == ["0.800", "0.900", "0.850"]
    assert re.search(r"\.first \{ color: #c62828; font-weight: 700", page)


def test_a_part_has_its_place_and_none_without_content(tmp_path):
    content = {"heads": [], "rows": [], "labels": ["liver"], "not_ranked": ["HD of CT"]}
    parts = [Plain("raters"), Plain("ranking", content=content)]
    text = words(render(evaluation(tmp_path, folder("only", GOOD), parts=parts)))
    assert text.index("Scores") < text.index("HD of CT") < text.index("Case by case")
    assert "Two references" not in text
    assert {"ranking", "raters", "fairness", "auxiliaries", "uncertainty"} < set(SECTIONS)


def test_one_folder_is_not_ranked(tmp_path):
    page = render(evaluation(tmp_path, folder("only", GOOD)))
    assert not re.findall(r"<span class=\"(?:first|second|third)\">", page)
    assert "Differences between folders" not in page


def test_gaps_are_shown(tmp_path):
    partial = folder("partial", GOOD, {case: ["liver"] for case in CASES})
    failing = folder("failing", {"a": (1, 1), "b": (1, 1)})
    failing.failures["c"] = "size 1 against 2"
    text = words(render(evaluation(tmp_path, partial, failing, folder("good", GOOD))))
    for said in (
        "not answered", "incomplete: 1 of 2 labels", "Common labels: liver", "†",
        "failing: liver, spleen failed in 1 of 3 cases", "size 1 against 2", "no manifest",
    ):  # fmt: skip
        assert said in text, said


def test_the_manifest_is_told(tmp_path):
    told = folder("told", GOOD, dict.fromkeys(CASES, LABELS))
    told.manifest.options, told.manifest.ground_truth = {"atlases": 8}, True
    told.manifest.lineage = [Lineage(name="model", licence="MIT", weights_licence="CC-BY-NC-4.0")]
    text = words(render(evaluation(tmp_path, told)))
    for said in (
        "atlases=8",
        "model: MIT, weights CC-BY-NC-4.0",
        "NOT FOR COMMERCIAL USE: told inherits the terms of model (CC-BY-NC-4.0).",
        "used to make",
        "‡ made with the help of ground truth: told",
        "Nothing to report",
    ):
        assert said in text, said


def test_names_are_escaped(tmp_path):
    page = render(evaluation(tmp_path, folder("<img src=x onerror=alert(1)>", GOOD)))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_without_images_the_label_maps_are_still_drawn(tmp_path):
    text = words(render(evaluation(tmp_path, folder("good", GOOD), with_images=False)))
    assert text.count("no image was found") == 3


def test_best_median_and_worst_case(tmp_path):
    made = evaluation(tmp_path, folder("good", GOOD))
    assert chosen_cases(made.scores) == {"best": "a", "median": "b", "worst": "c"}
    two = folder("two", {"a": (0.2, 0.2), "b": (0.9, 0.9)})
    two.failures["c"] = "cannot be read"
    assert chosen_cases(evaluation(tmp_path, two).scores) == {"best": "b", "worst": "a"}


def test_wide_tables_are_turned(tmp_path, monkeypatch):
    monkeypatch.setattr("nnkd.evaluation.report.WIDEST_TABLE", 2)
    monkeypatch.setattr("nnkd.evaluation.report.MOST_PLOTTED", 1)
    page = render(evaluation(tmp_path, folder("good", GOOD), folder("poor", POOR)))
    assert "<th>Label</th><th>good</th><th>poor</th>" in page
    assert "2 labels are too many to plot" in words(page)


def test_a_region_is_named_by_its_smallest():
    labels = {"background": 0, "tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    spec = DatasetSpec({**JSON, "labels": labels}, "x")
    assert integer_names(spec, list(spec.labels)) == {1: "tumour", 2: "core", 3: "enhancing"}
