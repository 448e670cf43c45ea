"""Tests of nnkd.data.recipes."""

from __future__ import annotations

import json

import pytest

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, usual_aggregator, write_recipe
from nnkd.errors import RecipeError


@pytest.fixture
def folder(tmp_path):
    plans = {"plans_name": "nnUNetPlans", "configurations": {"2d": {"batch_size": 12, "data_identifier": "x"}}}
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text("{}")
    return tmp_path


def test_the_inner_name_is_the_outer_one_and_the_data_are_shared(folder):
    recipe = Recipe("nnUNetPlans", ("a", "b"), plan_values={"2d": {"batch_size": 24}}, options={"lr": 0.1})
    name = write_recipe(folder, recipe)
    plans = read_plans(folder, name)
    assert plans["plans_name"] == name
    assert plans["configurations"]["2d"] == {"batch_size": 24, "data_identifier": "x"}
    assert Recipe.of_plans(plans) == recipe


def test_the_same_flags_find_the_same_recipe_and_others_another(folder):
    one = Recipe("nnUNetPlans", ("a", "b"), Choice("majority", {"ties": "yes"}))
    assert write_recipe(folder, one) == write_recipe(folder, one)
    assert one.slug().startswith("majority-yes_")
    assert write_recipe(folder, Recipe("nnUNetPlans", ("a",))) != write_recipe(folder, one)


def test_a_name_is_not_taken_twice(folder):
    assert write_recipe(folder, Recipe("nnUNetPlans", ("a",)), "mine") == "nnUNetPlans_mine"
    with pytest.raises(RecipeError, match="already another recipe"):
        write_recipe(folder, Recipe("nnUNetPlans", ("b",)), "mine")


def test_a_changed_base_is_noticed(folder):
    write_recipe(folder, Recipe("nnUNetPlans", ("a",)), "mine")
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["batch_size"] = 2
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(RecipeError, match="base plans changed"):
        write_recipe(folder, Recipe("nnUNetPlans", ("a",)), "mine")


def test_no_recipe_of_a_recipe(folder):
    name = write_recipe(folder, Recipe("nnUNetPlans", ("a",)), "mine")
    with pytest.raises(RecipeError, match="itself a recipe"):
        write_recipe(folder, Recipe(name, ("a",)))


@pytest.mark.parametrize("name", ["a b", "a__b", "../up", ""])
def test_names_that_nnunet_could_not_parse_are_refused(folder, name):
    with pytest.raises(RecipeError, match="-n got"):
        write_recipe(folder, Recipe("nnUNetPlans"), name)


def test_unknown_plans_are_answered_with_those_there_are(folder):
    with pytest.raises(RecipeError, match=r"There are: nnUNetPlans\."):
        read_plans(folder, "nnUNetPlan")


def test_plans_without_recipe_mean_supervised_training():
    assert Recipe.of_plans({"plans_name": "nnUNetPlans"}).teachers == ()


def test_a_recipe_of_another_version_is_refused():
    with pytest.raises(RecipeError, match="does not understand"):
        Recipe.of_plans({"plans_name": "x", "nnkd": {"base": "y", "teachers": [], "magic": 1}})


@pytest.mark.parametrize(("number", "rule"), [(1, "mean"), (2, "mean"), (3, "staple"), (6, "staple")])
def test_the_usual_aggregator_weighs_teachers_where_there_are_enough(number, rule):
    assert usual_aggregator([f"t{i}" for i in range(number)]) == Choice(rule)


def test_auxiliaries_leave_other_recipes_what_they_were(folder):
    plain = Recipe("nnUNetPlans", ("a", "b"), options={"lr": 0.1})
    assert not [key for key in plain.content() if "auxiliar" in key]
    adapted = Recipe("nnUNetPlans", auxiliaries=("Dataset801_X",), auxiliary_scheduler=Choice("ucb", {"c": 0.1}))
    assert adapted.slug().startswith("supervised-ucb_")
    models = tuple({"name": name} for name in "abcd")
    assert Recipe(base="p", lineage=models[:3]).slug().startswith("a-b-c_")
    assert Recipe(base="p", lineage=models).slug().startswith("4-models_")
    assert Recipe.of_plans(read_plans(folder, write_recipe(folder, adapted))) == adapted
