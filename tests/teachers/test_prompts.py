"""nnkd.teachers.prompts."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.data.dataset import DatasetSpec
from nnkd.data.geometry import Grid, Orientation
from nnkd.errors import NnkdError
from nnkd.teachers.prompts import BoxDrawing, StoredBoxes, boxes_of, read_boxes, texts

SPEC = DatasetSpec(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"},
    "Toy",
)
SHAPE = (3, 6, 8)


def test_texts_are_the_labels_names():
    assert {label: prompt.text for label, prompt in texts(SPEC).items()} == {"liver": "liver", "spleen": "spleen"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no valid JSON"),
        ("[]", "holds a list"),
        ({"x": {}}, "the case 'x'"),
        ({"c": []}, "no labels under 'c'"),
        ({"c": {"lung": []}}, "no label 'lung'"),
        ({"c": {"liver": 3}}, "no list of boxes"),
        ({"c": {"liver": [[0, 1, 1, 2]]}}, "five integers"),
        ({"c": {"liver": [[0, 1, 1, 2, 2.5]]}}, "five integers"),
        ({"c": {"liver": [[0, 3, 1, 2, 2]]}}, "swapped corners"),
        ({"c": {"liver": [[0, 1, 1, 1, 2]]}}, "without area"),
    ],
)
def test_bad_files_are_named_in_one_sentence(tmp_path, content, says):
    file = tmp_path / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(NnkdError, match=says) as caught:
        read_boxes(file, SPEC, ["c"])
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NnkdError, match="cannot be read"):
        read_boxes(tmp_path / "none.json", SPEC, ["c"])


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_boxes_turn_with_the_image(signs):
    grid = Grid(SHAPE, (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.diag(np.array(signs, float)))
    mask = np.zeros(SHAPE, bool)
    mask[1, 2:4, 3:8] = mask[2, 0:1, 0:2] = True
    orientation = Orientation(grid)
    stored = StoredBoxes({"c": {"liver": tuple(boxes_of(mask, grid.spacing)), "spleen": ()}})
    found = stored.prompts("c", orientation, SHAPE)
    expected = boxes_of(orientation.to_lps(mask), grid.spacing)
    assert sorted(found["liver"].boxes) == sorted(expected)
    assert list(found["spleen"].boxes) == []


def test_in_plane_transposition_is_followed():
    grid = Grid(SHAPE, (2.0, 1.0, 1.5), (0.0, 0.0, 0.0), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]))
    mask = np.zeros(SHAPE, bool)
    mask[1, 2:4, 3:8] = True
    orientation = Orientation(grid)
    stored = StoredBoxes({"c": {"liver": tuple(boxes_of(mask, grid.spacing))}})
    turned = boxes_of(orientation.to_lps(mask), orientation.grid.spacing)
    assert list(stored.prompts("c", orientation, SHAPE)["liver"].boxes) == turned


def test_slices_that_are_not_axial_are_refused():
    grid = Grid(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]))
    with pytest.raises(NnkdError, match="not axial"):
        StoredBoxes({"c": {"liver": ((0, 0, 0, 1, 1),)}}).prompts("c", Orientation(grid), SHAPE)


def test_outside_the_image_and_unknown_cases_are_refused():
    orientation = Orientation(Grid(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)))
    stored = StoredBoxes({"c": {"liver": ((0, 0, 0, 7, 1),)}})
    with pytest.raises(NnkdError, match="leaves the image"):
        stored.prompts("c", orientation, SHAPE)
    with pytest.raises(NnkdError, match="not in the file of boxes"):
        stored.prompts("d", orientation, SHAPE)


def test_margin_is_in_mm_and_clipped():
    mask = np.zeros(SHAPE, bool)
    mask[1, 1:2, 3:5] = True
    assert boxes_of(mask, (5.0, 1.0, 2.0), BoxDrawing(margin=2.0)) == [(1, 0, 2, 4, 6)]


def test_the_fingerprint_follows_the_boxes():
    one, two = StoredBoxes({"c": {"liver": ((0, 0, 0, 1, 1),)}}), StoredBoxes({"c": {"liver": ((0, 0, 0, 1, 2),)}})
    assert one.fingerprint("c") != two.fingerprint("c")


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
