"""summary.json: nnU-Net's keys and its arithmetic, ours beside them."""

from __future__ import annotations

import json
import math

import pytest
from scored import GOOD, POOR, folder, result, scores

from nnkd.data.dataset import DatasetSpec
from nnkd.evaluation.metrics import Counts, LabelResult
from nnkd.evaluation.summary import nnunet_key, summary

LABELS = {"background": 0, "liver": 1, "spleen": [2, 3]}
SPEC = DatasetSpec({"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".png"}, "Dataset701_Toy")


def test_labels_and_regions_are_called_as_nnunet_calls_them():
    assert nnunet_key(SPEC, "liver") == "1"
    assert nnunet_key(SPEC, "spleen") == "(2, 3)"


def test_both_kinds_of_figures():
    good = folder("good", GOOD)
    good.results["a"]["liver"] = LabelResult("compared", Counts(TP=3, FP=1, FN=2, TN=4), result(0.9).values)
    made = summary(scores(good), good, SPEC, "labelsTs", {"definition": "monai"})
    first = made["metric_per_case"][0]
    assert first["reference_file"] == "labelsTs/a.png"
    figures = first["metrics"]["1"]
    assert figures["Dice"] == pytest.approx(6 / 9)
    assert figures["IoU"] == pytest.approx(3 / 6)
    assert (figures["n_pred"], figures["n_ref"]) == (4, 5)
    assert figures["DSC"] == 0.9
    assert made["foreground_mean"]["DSC"] == pytest.approx(0.85)
    assert made["mean"]["1"]["HD"] == pytest.approx(2)
    assert made["nnkd"]["definition"] == "monai"


def test_what_is_in_neither_file_is_nan_to_nnunet_and_null_to_us():
    poor = folder("poor", POOR)
    made = json.loads(json.dumps(summary(scores(poor), poor, SPEC, "labelsTs", {})))
    figures = made["metric_per_case"][2]["metrics"]["(2, 3)"]
    assert math.isnan(figures["Dice"])
    assert figures["DSC"] is None
    assert figures["flag"] == "both_empty"
    assert made["mean"]["(2, 3)"]["DSC"] == pytest.approx(0.5)


def test_a_failed_case_is_named_and_has_no_figures():
    failing = folder("failing", {"a": (1, 1), "b": (1, 1)})
    failing.failures["c"] = "cannot be read"
    made = summary(scores(failing), failing, SPEC, "labelsTs", {})
    assert len(made["metric_per_case"]) == 2
    assert made["nnkd"]["failures"] == {"c": "cannot be read"}


def test_a_missing_label_map_has_no_file():
    missing = folder("missing", GOOD)
    del missing.files["b"]
    files = [case["prediction_file"] for case in summary(scores(missing), missing, SPEC, "x", {})["metric_per_case"]]
    assert files == ["missing/file", None, "missing/file"]
