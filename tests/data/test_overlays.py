"""Overlays: the chosen slice, the drawn orientation, and what is written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as matplotlib_image

from nnkd.data.overlays import draw_overlays, label_colours, overlays_png, telling_slice
from nnkd.errors import GeometryError

NAMES = {1: "liver", 2: "spleen"}


def pixels(png: bytes) -> np.ndarray:
    return matplotlib_image.imread(io.BytesIO(png))[..., :3]


def square(shape=(6, 20, 20), label=1) -> np.ndarray:
    label_map = np.zeros(shape, dtype=np.int32)
    label_map[..., 2:6, 2:6] = label
    return label_map


def test_the_slice_where_maps_differ_most_is_shown():
    one, other = square(), square()
    other[4, 10:15, 10:15] = 2
    assert telling_slice([one, other], [1, 2], 6) == 4


def test_without_difference_the_slice_with_most_foreground_is_shown():
    one = square()
    one[3, 8:, 8:] = 1
    assert telling_slice([one, one.copy()], [1, 2], 6) == 3


def test_without_foreground_the_middle_slice_is_shown():
    assert telling_slice([np.zeros((7, 3, 3), int)], [1], 7) == 3
    assert telling_slice([], [1], 7) == 3


def test_values_that_are_no_label_do_not_decide_the_slice():
    one, other = square(), square()
    other[1, 12:, 12:] = 255
    other[5, 10, 10] = 2
    assert telling_slice([one, other], [1, 2], 6) == 5


def test_first_row_and_column_of_the_array_are_top_left():
    png = pixels(overlays_png(np.zeros((6, 20, 20)), {"a": square()}, label_names=NAMES, spacing=(2, 1, 1)))
    coloured = np.ptp(png, axis=-1) > 0.1
    panel = coloured[: int(coloured.shape[0] * 0.8)]  # without the legend
    ys, xs = np.nonzero(panel)
    half = png.shape[1] / 2
    assert xs.min() > half  # the image's own panel has no colour
    assert xs.mean() < half * 1.5
    assert ys.mean() < png.shape[0] / 2


def test_pixels_have_their_physical_shape():
    wide = pixels(overlays_png(np.zeros((1, 20, 20)), {}, label_names=NAMES, spacing=(1, 1, 4)))
    dark = wide.mean(-1) < 0.5
    height, width = dark[:, dark.shape[1] // 4].sum(), dark[dark.shape[0] - 20].sum()  # away from the title
    assert width / height == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 30, 40), (3, 1, 30, 40), (2, 4, 30, 40), (1, 1, 40), (5, 30, 1)])
def test_any_image_can_be_drawn(shape, tmp_path: Path):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 255
    spatial = shape[-3:]
    label_map = np.zeros(spatial, np.int16)
    label_map[..., : spatial[-1] // 2 + 1] = 2
    draw_overlays(image, {"a": label_map, "b": label_map * 0}, tmp_path / "o.png", label_names=NAMES, spacing=(1, 1, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["o.png"]
    assert pixels((tmp_path / "o.png").read_bytes()).shape[1] > 100


def test_rgb_is_shown_in_colour():
    image = np.zeros((3, 1, 10, 10))
    image[0] = 255
    png = pixels(overlays_png(image, {}, label_names=NAMES, spacing=(1, 1, 1)))
    assert ((png[..., 0] > 0.9) & (png[..., 1] < 0.1)).mean() > 0.3


def test_soft_tissue_is_seen_in_ct():
    image = np.full((1, 20, 20), -1000.0)
    image[0, :10] = 0
    image[0, 10:15] = 100
    image[0, 0, 0] = 3000
    png = pixels(overlays_png(image, {}, label_names=NAMES, spacing=(1, 1, 1)))
    middle = png[:, png.shape[1] // 2, 0]
    for hounsfield in (0, 100):
        assert np.isclose(middle, (hounsfield + 160) / 400, atol=0.01).sum() > 10


def test_another_size_is_an_error():
    with pytest.raises(GeometryError, match=r"'a' has .* but its image has"):
        overlays_png(np.zeros((6, 20, 20)), {"a": square((5, 20, 20))}, label_names=NAMES, spacing=(1, 1, 1))


def test_a_label_keeps_its_colour():
    assert label_colours([1, 2, 3])[2] == label_colours([3, 2, 1])[2]
