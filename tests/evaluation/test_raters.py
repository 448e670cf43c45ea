"""Two references: names, cells and tables; comparing files is tested with the step."""

from __future__ import annotations

from pathlib import Path

import pytest
from scored import GOOD, LABELS, POOR, folder, scores

from nnkd.evaluation.metrics import METRICS
from nnkd.evaluation.raters import Raters, rater_names
from nnkd.evaluation.scores import Rules


@pytest.fixture
def raters() -> Raters:
    """A folder that is poor to the first and good to the second, named as the second is."""
    rules = Rules("surfel", dict.fromkeys(LABELS, 2.0))
    poor, good, between = (scores(folder("B", values), rules=rules) for values in (POOR, GOOD, POOR))
    return Raters(("A", "B"), (poor, good), between, "mm")


def test_reference_folders_have_names_of_their_own():
    assert rater_names(Path("/x/one"), Path("/y/two")) == ("one", "two")
    assert rater_names(Path("/x/labelsTs"), Path("/y/labelsTs")) == ("x/labelsTs", "y/labelsTs")
    assert rater_names(Path("/a/x/labels"), Path("/b/x/labels")) == ("x/labels (1)", "x/labels (2)")


def test_a_folder_and_the_references_stand_beside_each_other(raters):
    frame = raters.frame()
    assert len(frame) == 3 * (len(LABELS) + 1) * len(METRICS)
    rows = frame.query("label == 'Overall' and metric == 'DSC'")
    assert list(zip(rows.folder, rows.reference, rows.inter_rater, strict=True)) == [
        ("B", "A", False), ("B", "B", False), ("B", "A", True),
    ]  # fmt: skip
    assert list(rows["mean"]) == pytest.approx([0.5, 0.85, 0.5])
    assert frame.percentile_rule.str.contains("not interpolated").all()


def test_the_reports_section_and_the_summary(raters):
    section = raters.section()
    assert section["heads"] == ["DSC", "HD95 [mm]", "NSD"]
    assert [row[:2] for row in section["rows"]] == [("B", "A"), ("B", "B")]
    assert section["between"][0].startswith("0.500")
    found = raters.of_folder("B")
    assert found["references"] == ["A", "B"]
    assert found["means"]["DSC"]["Overall"] == pytest.approx({"A": 0.5, "B": 0.85, "between the references": 0.5})
    assert "A and B" in raters.lines()[0]
