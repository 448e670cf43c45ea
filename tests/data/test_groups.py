"""nnkd.data.groups: one way to bin people, against looking through the bins one by one."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nnkd.data.groups import NO_VALUE, OUTSIDE, QUARTILES, are_edges, as_numbers, bin_names, binned, groups, quartered
from nnkd.errors import ParticipantsError
from nnkd.types import Participant

NUMBERS = st.lists(st.none() | st.floats(-100, 100), min_size=1, max_size=20)
INNER = st.lists(st.integers(-50, 50), min_size=1, max_size=5, unique=True).map(sorted)


def by_hand(number: float | None, edges: list[float | None]) -> str | None:
    """The first bin that holds a number."""
    if number is None:
        return None
    for low, high in itertools.pairwise(edges):
        if (low is None or number >= low) and (high is None or number < high):
            return f"<{high:g}" if low is None else f">={low:g}" if high is None else f"{low:g}-{high:g}"
    return OUTSIDE


@pytest.mark.heavy
@given(NUMBERS, INNER, st.booleans(), st.booleans())
def test_every_number_is_in_its_bin(numbers, inner, low, high):
    edges = [*([None] if low else [-60]), *inner, *([None] if high else [60])]
    assert binned(numbers, edges) == [by_hand(number, edges) for number in numbers]


@given(NUMBERS, INNER)
def test_groups_are_bins_with_open_ends(numbers, inner):
    people = [Participant(f"p{i}", age=number) for i, number in enumerate(numbers)]
    if all(number is None for number in numbers):
        with pytest.raises(ParticipantsError, match="No participant has a value"):
            groups(people, "age", inner)
        return
    found = groups(people, "age", inner)
    assert list(found.values()) == [by_hand(n, [None, *inner, None]) or NO_VALUE for n in numbers]


@given(st.lists(st.floats(-100, 100), min_size=8, max_size=40, unique=True))
def test_quarters_hold_a_quarter_each(numbers):
    found = quartered([*numbers, None])
    assert found[-1] is None
    order = [QUARTILES.index(found[i]) for i in np.argsort(numbers)]
    assert order == sorted(order)
    sizes = np.bincount(order, minlength=4)
    assert sizes.max() - sizes.min() <= 2


def test_names_and_numbers():
    assert bin_names((None, 21, 24, None)) == ["<21", "21-24", ">=24"]
    assert as_numbers(["1", 2.5, None]) == [1.0, 2.5, None]
    assert as_numbers(["1", "site A"]) is None
    assert as_numbers(["1", "inf"]) is None


@pytest.mark.parametrize(
    ("edges", "good"),
    [((20, 30, 40), True), ((None, 21, None), True), ((20, 30), False), ((20, None, 40), False), ((3, 2, 1), False)],
)
def test_edges_rise_and_only_their_ends_are_open(edges, good):
    assert are_edges(edges) is good
