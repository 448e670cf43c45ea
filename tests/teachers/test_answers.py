"""nnkd.teachers.answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import PredictionError
from nnkd.teachers.answers import compose

SPEC = DatasetSpec(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}, "file_ending": ".nii.gz"}, "Toy"
)
SHAPE = (1, 1, 4)


def row(*values: float, dtype: type = bool) -> np.ndarray:
    return np.array(values, dtype=dtype).reshape(SHAPE)


def test_the_smaller_mask_wins_and_the_loss_is_counted():
    answer = compose({"a": row(1, 1, 1, 0), "b": row(0, 0, 1, 1)}, SPEC, SHAPE, "t")
    assert answer.label_map.ravel().tolist() == [1, 1, 2, 2]
    assert answer.overlaps == {"a": 1}
    assert answer.answers == ("a", "b")


def test_the_higher_probability_wins_and_half_is_no():
    a, b = row(0.9, 0.8, 0.6, 0.5, dtype=float), row(0.1, 0.7, 0.9, 0.0, dtype=float)
    answer = compose({"b": b, "a": a}, SPEC, SHAPE, "t")
    assert answer.label_map.ravel().tolist() == [1, 1, 2, 0]
    assert answer.overlaps == {"a": 1, "b": 1}
    assert answer.answers == ("a", "b")


def test_scores_count_only_if_all_answers_have_them():
    answer = compose({"a": row(1, 1, 1, 0, dtype=float), "b": row(0, 0, 1, 0)}, SPEC, SHAPE, "t")
    assert answer.label_map.ravel().tolist() == [1, 1, 2, 0]


def test_regions_overlap_without_losing():
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    spec = DatasetSpec({**SPEC.json, "labels": labels, "regions_class_order": [1, 2]}, "Toy")
    answer = compose({"whole": row(1, 1, 1, 0), "core": row(0, 1, 0, 0)}, spec, SHAPE, "t")
    assert answer.label_map.ravel().tolist() == [1, 2, 1, 0]
    assert not answer.overlaps


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3))
def test_every_claimed_voxel_gets_one_of_its_claimants(rows):
    masks = {name: row(*values) for name, values in zip("abc", rows, strict=True)}
    answer = compose(masks, SPEC, SHAPE, "t")
    for voxel, owner in enumerate(answer.label_map.ravel()):
        claimants = [i for i, values in enumerate(rows, start=1) if values[voxel]]
        assert owner in claimants if claimants else owner == 0
    assert sum(answer.overlaps.values()) == sum(map(sum, rows)) - int((answer.label_map > 0).sum())


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1], "returned a list"),
        ({"x": row(0, 0, 0, 0)}, "the label 'x'"),
        ({"a": [True]}, "a list for 'a'"),
        ({"a": np.zeros((4, 1, 1), bool)}, r"shape \(4, 1, 1\)"),
        ({"a": row(1, 0, 0, 0, dtype=np.uint8)}, "uint8"),
        ({"a": row(1.5, 0, 0, 0, dtype=float)}, "values from 0 to 1.5"),
        ({"a": row(float("nan"), 0, 0, 0, dtype=float)}, "nan"),
    ],
)
def test_what_a_teacher_must_not_return(returned, says):
    with pytest.raises(PredictionError, match=says) as caught:
        compose(returned, SPEC, SHAPE, "mine")
    assert "'mine'" in str(caught.value)
