"""Numbers and intervals as tables print them."""

from __future__ import annotations

from nnkd.evaluation.cells import NONE, cell, in_line, interval, number, quantity
from nnkd.evaluation.groups.measures import Figure
from nnkd.evaluation.intervals import Estimate

WHOLE, ALONE = Estimate(0.8124, 0.8, 0.82345, 5, 5), Figure(0.8124)
LESS = Figure(-0.05, -0.1, 0.004)


def test_numbers_and_signs():
    assert (number(0.8125, 2), number(-0.5, 1), number(None, 3)) == ("0.81", "-0.5", NONE)
    assert (number(0.5, 1, sign=True), number(-0.5, 1, sign=True)) == ("+0.5", "-0.5")


def test_intervals():
    assert interval(WHOLE, 3) == "0.800–0.823"
    assert interval(WHOLE, 3, dash="-") == "0.800-0.823"
    assert interval(LESS, 2, sign=True) == "-0.10 to +0.00"
    assert interval(ALONE, 2) == interval(None, 2) == ""


def test_cells_and_lines():
    assert cell(WHOLE, 2) == {"text": "0.81", "interval": "0.80–0.82"}
    assert cell(None, 2) == {"text": NONE, "interval": ""}
    assert in_line(WHOLE, 3, mark="†") == "0.812† (0.800-0.823)"
    assert in_line(LESS, 2, sign=True) == "-0.05 (-0.10 to +0.00)"
    assert (in_line(ALONE, 2), in_line(None, 2)) == ("0.81", NONE)


def test_quantities():
    assert quantity("DSC", "mm") == "DSC"
    assert quantity("HD", "mm") == "HD [mm]"
    assert quantity("HD", "pixels (the files have no spacing)") == "HD [pixels]"
    assert quantity("VD", "mm") == "VD [ml]"
