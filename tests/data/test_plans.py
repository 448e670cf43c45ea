"""Tests of nnkd.data.plans."""

from __future__ import annotations

import copy
import json

import pytest

from nnkd.data.plans import configuration_of, form_problem, read_plans
from nnkd.errors import RecipeError


def test_a_configuration_has_what_it_inherits(tmp_path):
    plans = {"plans_name": "p", "configurations": {"a": {"x": 1, "y": 1}, "b": {"inherits_from": "a", "y": 2}}}
    assert configuration_of(plans, "b", tmp_path) == {"x": 1, "y": 2, "inherits_from": "a"}


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "", 5])
@pytest.mark.parametrize("key", ["dataset_name", "plans_name", "data_identifier", "previous_stage"])
def test_what_nnunet_makes_paths_of_stays_in_its_folder(tmp_path, key, name):
    plans = {"dataset_name": "Dataset701_Toy", "plans_name": "p", "configurations": {"2d": {"data_identifier": "p_2d"}}}
    (tmp_path / "p.json").write_text(json.dumps(plans))
    assert read_plans(tmp_path, "p") == plans
    (plans if key in plans else plans["configurations"]["2d"])[key] = name
    (tmp_path / "p.json").write_text(json.dumps(plans))
    with pytest.raises(RecipeError, match=f"as {key} of p.json"):
        read_plans(tmp_path, "p")


PLANS = {
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "2d": {"patch_size": [16, 16], "spacing": [1.0, 1.0], "normalization_schemes": ["CTNormalization"]},
        "b": {"inherits_from": "2d", "batch_size": 3},
    },
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", [16, -1]), ("patch_size", [16]), ("patch_size", ["x", 3]), ("patch_size", [16, 1e308]),
        ("spacing", [1.0, 0]), ("spacing", [1.0, float("nan")]), ("spacing", [1.0, {}]), ("spacing", 3),
        ("normalization_schemes", []), ("normalization_schemes", "x"), ("inherits_from", 5),
        ("resampling_fn_data_kwargs", 3.5), ("transpose_forward", [0, 0, 2]), ("transpose_backward", [0, 1, 3]),
        ("transpose_backward", None), ("foreground_intensity_properties_per_channel", {"0": 1}),
    ],
)  # fmt: skip
def test_plans_that_nnunet_would_not_write(key, value):
    assert form_problem(PLANS) == ""
    broken = copy.deepcopy(PLANS)
    (broken["configurations"]["2d"] if not key.startswith(("transpose", "fore")) else broken)[key] = value
    assert key in form_problem(broken)


@pytest.mark.parametrize("missing", ["patch_size", "spacing", "normalization_schemes"])
def test_plans_that_lack_something(missing):
    broken = copy.deepcopy(PLANS)
    del broken["configurations"]["2d"][missing]
    assert form_problem(broken) == f"is not as nnU-Net writes it (configurations.2d: Value error, no {missing})"
