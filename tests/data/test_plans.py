"""Tests of nnkd.data.plans."""

from __future__ import annotations

from nnkd.data.plans import configuration_of


def test_a_configuration_has_what_it_inherits(tmp_path):
    plans = {"plans_name": "p", "configurations": {"a": {"x": 1, "y": 1}, "b": {"inherits_from": "a", "y": 2}}}
    assert configuration_of(plans, "b", tmp_path) == {"x": 1, "y": 2, "inherits_from": "a"}
