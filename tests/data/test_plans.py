"""Tests of nnkd.data.plans."""

from __future__ import annotations

import json

import pytest

from nnkd.data.plans import configuration_of, read_plans
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
