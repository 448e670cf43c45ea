"""Tests of nnkd.plugin.options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from nnkd.errors import BrokenPluginError, SettingError
from nnkd.plugin.options import options_of, parse_options, sort_settings, split_settings


class Example:
    """Options of all sorts."""

    def __init__(
        self,
        context,
        *,
        number: int = 3,
        share: float = 0.5,
        quiet: bool = False,
        tie: Literal["weights", "yes", "no"] = "weights",
        factor: Literal[1, 2, 4] = 1,
        name: str = "a",
        folder: Path | None = None,
        limit: int | None = 7,
        cases: list[str] | None = None,
        sizes: tuple[int, int] = (1, 2),
        window: Annotated[list[float], Field(min_length=2)] = (0.0, 1.0),
        bounded: Annotated[int | None, Field(ge=0)] = 1,
        plain: list = (),
        values: dict[str, int] | None = None,
        required: int,
    ):
        """Only the keyword-only arguments with a default are options."""


def test_options_are_the_keyword_only_arguments_with_a_default():
    options = options_of(Example)
    assert "context" not in options
    assert "required" not in options
    assert options["number"].default == 3
    assert options["number"].annotation is int
    assert options_of(object) == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("number", "12", 12),
        ("share", "1e-3", 0.001),
        ("quiet", "true", True),
        ("quiet", "False", False),
        ("quiet", "1", True),
        ("tie", "no", "no"),
        ("factor", "4", 4),
        ("name", "none", "none"),
        ("name", "[1]", "[1]"),
        ("name", "12", "12"),
        ("folder", "a/b", Path("a/b")),
        ("folder", "none", None),
        ("limit", "None", None),
        ("limit", "5", 5),
        ("cases", "a, b", ["a", "b"]),
        ("cases", '["a,b"]', ["a,b"]),
        ("cases", "", []),
        ("cases", "none", None),
        ("sizes", "3,4", (3, 4)),
        ("window", "0,2.5", [0.0, 2.5]),
        ("bounded", "none", None),
        ("bounded", "0", 0),
        ("plain", "a,b", ["a", "b"]),
        ("values", '{"a": 1}', {"a": 1}),
    ],
)
def test_strings_are_converted_as_annotated(name, text, value):
    result = parse_options(Example, {name: text}, "example")
    assert result[name] == value
    assert type(result[name]) is type(value)
    assert set(result) == set(options_of(Example))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("number", "3.5"),
        ("number", "none"),
        ("number", ""),
        ("share", "much"),
        ("quiet", "perhaps"),
        ("tie", "yess"),
        ("factor", "3"),
        ("sizes", "1,2,3"),
        ("window", "1"),
        ("bounded", "-1"),
        ("values", "{1"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(name, text):
    with pytest.raises(SettingError, match=f"'example.{name}' got '{text}'"):
        parse_options(Example, {name: text}, "example")


def test_an_unknown_option_is_answered_with_the_closest():
    with pytest.raises(SettingError, match=r"no option 'numbr'; it has number, .* Did you mean 'number'\?"):
        parse_options(Example, {"numbr": "3"}, "example")
    with pytest.raises(SettingError, match="'thing' has no option 'x'; it has none at all"):
        parse_options(object, {"x": "1"}, "thing")


def test_an_annotation_that_cannot_be_read_is_the_plugins_fault():
    def unresolved(*, x: Unimported = 1):  # noqa: F821
        """Names a type that is nowhere."""

    def impossible(*, x: np.ndarray | None = None):
        """No text becomes an array."""

    with pytest.raises(BrokenPluginError, match="Unimported"):
        options_of(unresolved)
    with pytest.raises(BrokenPluginError, match=r"'owner\.x' is annotated as"):
        parse_options(impossible, {"x": "1"}, "owner")


def test_settings_are_sorted_by_owner():
    assert split_settings(["a.x=1", "b.y=2", "z = 3", "a.v=k=v", "my.tool.x=4"]) == {
        "a": {"x": "1", "v": "k=v"},
        "b": {"y": "2"},
        "": {"z": "3"},
        "my.tool": {"x": "4"},
    }


@pytest.mark.parametrize("bad", ["number", "=3", "a.=3", ""])
def test_a_setting_without_name_or_value_is_refused(bad):
    with pytest.raises(SettingError, match=r"expects option=value or NAME\.option=value"):
        split_settings([bad])


def test_a_setting_given_twice_is_refused():
    with pytest.raises(SettingError, match=r"'a\.x' twice"):
        split_settings(["a.x=1", "a.x=1"])


@given(st.integers(), st.floats(allow_nan=False), st.booleans(), st.lists(st.integers()))
def test_what_was_written_as_text_comes_back(number, share, quiet, plain):
    given_as_text = {"number": str(number), "share": repr(share), "quiet": str(quiet), "plain": str(plain)}
    result = parse_options(Example, given_as_text, "example")
    assert (result["number"], result["share"], result["quiet"], result["plain"]) == (number, share, quiet, plain)


class Weights:
    """An aggregator."""

    def __init__(self, *, weights: dict | None = None):
        """One option."""


class Groups:
    """A sampler."""

    def __init__(self, *, group: str = "sex"):
        """Another."""


CLASSES = {("aggregator", "weighted"): Weights, ("sampler", "weighted"): Groups}


def sort(settings, aggregator="staple", sampler="uniform", scheduler=None):
    """The command's owners."""
    owners = {"aggregator": aggregator, "sampler": sampler, "auxiliary_scheduler": scheduler}
    return sort_settings(settings, owners, lambda kind, name: CLASSES[kind, name])


def test_settings_are_sorted_by_who_they_belong_to():
    own, taken = sort(["epochs=3", "staple.rounds=2", "ucb.c=.2"], scheduler="ucb")
    assert own == {"epochs": "3"}
    assert taken == {"aggregator": {"rounds": "2"}, "sampler": {}, "auxiliary_scheduler": {"c": ".2"}}
    assert sort([]) == ({}, {"aggregator": {}, "sampler": {}, "auxiliary_scheduler": {}})


def test_two_owners_of_one_name_share_its_settings():
    settings = ["weighted.weights={}", "weighted.group=age", "weighted.unknown=1"]
    _, taken = sort(settings, "weighted", "weighted")
    assert taken["aggregator"] == {"weights": "{}"}
    assert taken["sampler"] == {"group": "age", "unknown": "1"}  # which the last one refuses
    assert sort(settings[1:], "weighted")[1]["aggregator"] == {"group": "age", "unknown": "1"}


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        (None, "to the aggregator staple, to the sampler uniform or to the auxiliary scheduler (-as)."),
        ("gms", "to the aggregator staple, to the sampler uniform or to the auxiliary scheduler gms."),
    ],
)
def test_settings_that_belong_to_nobody(scheduler, sentence):
    with pytest.raises(SettingError) as error:
        sort(["median.ties=no"], scheduler=scheduler)
    begin = "--set names 'median', but options belong to the training itself (epochs=200), "
    assert str(error.value) == begin + sentence
