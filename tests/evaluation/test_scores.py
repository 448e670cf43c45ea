"""Scores: flags, tables, ranks and frames, from made-up results."""

from __future__ import annotations

import math

import pytest
from scored import CASES, GOOD, LABELS, POOR, folder, scores

from nnkd.evaluation.intervals import Estimate
from nnkd.evaluation.metrics import METRICS, RANKED
from nnkd.evaluation.scores import (
    COMMON,
    FLAGS,
    OVERALL,
    Difference,
    Rules,
    comparison_frame,
    means_frame,
    metrics_frame,
    verdict,
)


def test_means_ranks_and_best():
    found = scores(folder("poor", POOR), folder("good", GOOD))
    for metric in RANKED:
        table = found.table(metric)
        assert [table[name][OVERALL].rank for name in ("poor", "good")] == [2, 1]
    assert found.table("DSC")["good"][OVERALL].estimate.value == pytest.approx(0.85)
    assert found.table("DSC")["poor"]["spleen"].estimate.n_cases == 2
    assert found.columns() == [*LABELS, OVERALL]
    assert found.best().name == "good"


def test_a_folder_that_never_answers_has_no_overall_mean():
    partial = folder("partial", GOOD, {case: ["liver"] for case in CASES})
    found = scores(partial, folder("poor", POOR))
    row = found.table("DSC")["partial"]
    assert row[OVERALL].estimate is None
    assert row["spleen"].note == "not answered"
    assert row[COMMON].estimate.value == pytest.approx(0.8)
    assert found.best().name == "poor"
    assert {d.label for d in found.differences("DSC")} == {"liver", "1 of 2 labels"}


def test_a_case_its_manifest_forgot_is_missing_only_for_labels_it_answers_for():
    forgetful = folder("forgetful", GOOD, {"a": ["liver"], "b": ["liver"]})
    del forgetful.files["c"]
    assert forgetful.flag("c", "liver") == "missing_prediction"
    assert forgetful.flag("c", "spleen") == "not_answered"


def test_nobody_answers_for_a_label_all_share_none():
    one = folder("one", GOOD, {case: ["liver"] for case in CASES})
    other = folder("other", GOOD, {case: ["spleen"] for case in CASES})
    found = scores(one, other)
    assert found.columns() == [*LABELS, OVERALL]
    assert found.differences("DSC") == []
    assert found.best().name == "other"


def test_failures_mark_means_and_are_flagged():
    failing = folder("failing", {"a": (1, 1), "b": (1, 1)})
    failing.failures["c"] = "cannot be read"
    found = scores(failing, folder("good", GOOD))
    cell = found.table("DSC")["failing"][OVERALL]
    assert (cell.rank, cell.note, cell.estimate.n_cases) == (None, "failed in 1 of 3 cases", 2)
    assert found.table("DSC")["good"][OVERALL].rank == 1
    assert found.flags(failing) == [("c", "all", "failed")]


RULES = Rules("monai", {"liver": 2.0, "spleen": 1.0})


def test_the_tolerance_stands_beside_the_values_it_decides():
    means = means_frame(scores(folder("good", GOOD), rules=RULES)).set_index(["metric", "label"]).tolerance_mm
    assert (means["NSD", "liver"], means["NSD", "spleen"]) == (2.0, 1.0)
    assert math.isnan(means["NSD", OVERALL])
    assert means["DSC"].isna().all()
    equal = means_frame(scores(folder("good", GOOD), rules=Rules("monai", dict.fromkeys(LABELS, 2.0))))
    assert set(equal[equal.metric == "NSD"].tolerance_mm) == {2.0}


def test_frames_hold_every_value():
    found = scores(folder("poor", POOR), folder("good", GOOD))
    metrics = metrics_frame(found)
    assert len(metrics) == 2 * len(CASES) * len(LABELS) * len(METRICS)
    assert set(metrics.flag) <= {"", *FLAGS}
    empty = metrics[(metrics.folder == "poor") & (metrics.case == "c") & (metrics.label == "spleen")]
    assert empty.value.isna().all()
    assert len(means_frame(found)) == 2 * 3 * len(METRICS)
    comparison = comparison_frame(found)
    row = comparison[(comparison.label == OVERALL) & (comparison.metric == "DSC")].iloc[0]
    assert (row["first"], row["second"]) == ("good", "poor")
    assert row.difference == pytest.approx(0.35)
    assert row.participants == 3


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        ("DSC", 0.1, 0.3, "better"),
        ("HD", 0.1, 0.3, "worse"),
        ("HD", -0.3, -0.1, "better"),
        ("DSC", -0.1, 0.3, "unclear"),
        ("DSC", None, None, "unclear"),
    ],
)
def test_verdict(metric, low, high, said):
    value = 0.2 if low is None else (low + high) / 2
    assert verdict(Difference("a", "b", OVERALL, metric, Estimate(value, low, high, 5, 5))) == said
