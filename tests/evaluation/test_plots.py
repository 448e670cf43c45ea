"""Plots: drawn for any number of folders, and not squeezed by values given by rule."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import image as matplotlib_image

from nnkd.evaluation.intervals import Estimate
from nnkd.evaluation.plots import VERDICT_COLOURS, box_plot, difference_plot
from nnkd.evaluation.scores import Difference


def pixels(png: bytes) -> np.ndarray:
    return matplotlib_image.imread(io.BytesIO(png))[..., :3]


def boxed_rows(picture: np.ndarray) -> int:
    """Height of the first folder's box and points in pixels."""
    blue = np.abs(picture - np.array([0x4C, 0x78, 0xA8]) / 255).max(-1) < 0.05
    rows = np.nonzero(blue.any(axis=1))[0]
    return int(np.ptp(rows))


@pytest.mark.parametrize("n", [1, 9])
def test_any_number_of_folders(n):
    values = {f"folder number {i}": {"a": 0.1 * i, "b": 90.0} for i in range(n)} | {"nothing": {}}
    picture = pixels(box_plot(values, {name: {"b"} for name in values}, "liver", "HD [mm]"))
    assert picture.shape[1] > 400
    assert np.ptp(picture, axis=-1).max() > 0.3  # something coloured was drawn


def test_image_diagonals_do_not_squeeze_what_was_measured():
    cases = {f"c{i}": float(i) for i in range(1, 11)}
    alone = boxed_rows(pixels(box_plot({"one": cases}, {"one": set()}, "liver", "HD")))
    beside = {"one": cases, "two": {"d": 900.0}}
    worst = boxed_rows(pixels(box_plot(beside, {"one": set(), "two": {"d"}}, "liver", "HD")))
    measured = boxed_rows(pixels(box_plot(beside, {"one": set(), "two": set()}, "liver", "HD")))
    assert worst > 0.7 * alone
    assert measured < 0.2 * alone  # a distance that was measured is shown where it lies


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.05, 0.2, "better"), (-0.1, 0.3, "unclear"), (None, None, "unclear")]
)
def test_a_difference_has_its_verdicts_colour(low, high, said):
    difference = Difference("a", "b", "Overall", "DSC", Estimate(0.1, low, high, 5, 5))
    picture = pixels(difference_plot([difference], "DSC", "difference"))
    colour = np.array([int(VERDICT_COLOURS[said][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    assert (np.abs(picture - colour).max(-1) < 0.03).any()
