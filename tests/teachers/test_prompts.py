"""nnkd.teachers.prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import NnkdError
from nnkd.teachers.prompts import BoxDrawing, boxes_of, texts

SPEC = DatasetSpec(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"},
    "Toy",
)
SHAPE = (3, 6, 8)


def test_texts_are_the_labels_names():
    assert {label: prompt.text for label, prompt in texts(SPEC).items()} == {"liver": "liver", "spleen": "spleen"}


def test_margin_is_in_mm_and_clipped():
    mask = np.zeros(SHAPE, bool)
    mask[1, 1:2, 3:5] = True
    assert boxes_of(mask, (5.0, 1.0, 2.0), BoxDrawing(margin=2.0)) == [(1, 0, 2, 4, 6)]


def test_specks_get_no_box_and_components_one_each():
    mask = np.zeros((1, 12, 12), bool)
    mask[0, 0:3, 0:3] = mask[0, 6:10, 8:12] = mask[0, 11, 0] = True
    spacing = (5.0, 2.0, 1.0)  # 2 mm2 a pixel
    assert boxes_of(mask, spacing) == [(0, 0, 0, 12, 12)]
    each = BoxDrawing(each="component")
    assert sorted(boxes_of(mask, spacing, each)) == [(0, 0, 0, 3, 3), (0, 6, 8, 10, 12), (0, 11, 0, 12, 1)]
    assert sorted(boxes_of(mask, spacing, BoxDrawing(each="component", min_area=2.1))) == [
        (0, 0, 0, 3, 3),
        (0, 6, 8, 10, 12),
    ]
    assert boxes_of(mask[:, :, 5:7], spacing, BoxDrawing(min_area=1000)) == []
    assert boxes_of(mask, spacing, BoxDrawing(min_area=1000)) == []


@given(
    low=st.tuples(st.integers(0, 5), st.integers(0, 7)),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    margin=st.floats(0, 20),
    jitter=st.floats(0, 20),
    seed=st.integers(0, 9),
)
def test_boxes_stay_inside_and_keep_a_pixel(low, size, margin, jitter, seed):
    mask = np.zeros((1, 6, 8), bool)
    mask[0, low[0] : low[0] + size[0], low[1] : low[1] + size[1]] = True
    drawing = BoxDrawing(margin=margin, jitter=jitter)
    ((z, y0, x0, y1, x1),) = boxes_of(mask, (1.0, 0.7, 1.3), drawing, np.random.default_rng(seed))
    assert z == 0
    assert 0 <= y0 < y1 <= 6
    assert 0 <= x0 < x1 <= 8
    ys, xs = np.nonzero(mask[0])
    if jitter <= margin - 1.3:  # whatever the jitter, the margin keeps the mask inside
        assert y0 <= ys.min() <= ys.max() < y1
        assert x0 <= xs.min() <= xs.max() < x1


def test_jitter_moves_boxes_and_repeats():
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 30:50] = True
    drawing = BoxDrawing(jitter=5)
    found = [boxes_of(mask, (1.0, 1.0, 1.0), drawing, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len({tuple(boxes[0]) for boxes in found}) == 4


@pytest.mark.parametrize("wrong", [{"margin": -1.0}, {"jitter": float("inf")}, {"min_area": -0.1}])
def test_impossible_lengths_are_refused(wrong):
    with pytest.raises(NnkdError, match=next(iter(wrong))):
        BoxDrawing(**wrong)
