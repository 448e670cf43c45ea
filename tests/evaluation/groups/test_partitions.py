"""Groups of participants: the samplers' bins, and what is hidden."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnkd_fairness.strata import Grouping

from nnkd.data.groups import PAPERS_BINS
from nnkd.errors import ParticipantsError, SettingError
from nnkd.evaluation.groups.partitions import GroupOptions, Partition, bins_of, intersection, partition
from nnkd.types import Participant

OPTIONS = GroupOptions()


def person(number, sex=None, age=None, bmi=None, **attributes) -> Participant:
    return Participant(f"p{number}", sex, age, bmi, attributes)


def one(sizes, slices=None) -> Partition:
    ends = np.cumsum([0, *sizes])
    members = tuple(np.arange(a, b) for a, b in pairwise(ends))
    names = tuple(f"g{i}" for i in range(len(sizes)))
    return Partition("age", names, members, slices or (tuple(range(len(sizes))),), True)


def shown(sizes, smallest=5) -> list[bool]:
    some = one(sizes)
    return some.shown(some.sizes, smallest).tolist()


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([30, 30], [True, True]),
        ([30, 3], [False, False]),  # 3 would follow from everybody's mean and the 30
        ([30, 3, 8], [True, False, False]),
        ([30, 3, 4], [True, False, False]),  # 7 people hidden together
        ([30, 5, 0], [True, True, False]),
        ([2, 2], [False, False]),
        ([30, 1, 5, 20], [True, False, False, True]),
    ],
)
def test_small_groups_are_hidden_and_cannot_be_worked_out(sizes, kept):
    assert shown(sizes) == kept


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(2, 8))
def test_hidden_people_are_many_or_none(sizes, smallest):
    kept = np.array(shown(sizes, smallest))
    numbers = np.array(sizes)
    assert (numbers[kept] >= smallest).all()
    hidden = numbers[~kept].sum()
    assert hidden == 0 or hidden >= smallest or not kept.any()


@given(
    st.lists(st.tuples(st.sampled_from("FM"), st.sampled_from([25.0, 35, 45, 55, 70])), min_size=1, max_size=80),
    st.integers(2, 6),
)
def test_intersections_hide_many_or_none_in_every_slice(people, smallest):
    cohort = [person(i, sex, age) for i, (sex, age) in enumerate(people)]
    parts = [partition(cohort, attribute, OPTIONS) for attribute in ("sex", "age")]
    some = intersection(parts, len(cohort))
    kept = some.shown(some.sizes, smallest)
    assert sum(some.sizes) == len(cohort)
    for part in some.slices:
        cells = [c for c in part if not kept[c]]
        hidden = sum(some.sizes[c] for c in cells)
        assert hidden == 0 or hidden >= smallest or len(cells) == len(part)


@pytest.mark.heavy
@given(st.lists(st.tuples(st.sampled_from("FM"), st.floats(10, 70), st.floats(15, 35)), min_size=2, max_size=40))
def test_groups_are_the_samplers(people):
    cohort = [person(i, *values) for i, values in enumerate(people)]
    for attribute in ("sex", "age", "bmi"):
        found = partition(cohort, attribute, OPTIONS)
        if len(found.names) < 2:
            continue  # the samplers refuse
        strata = Grouping((attribute,), {k: v for k, v in PAPERS_BINS.items() if k == attribute}).strata(
            {p.identifier: p for p in cohort}
        )
        theirs = {strata.name(s): set(names) for s, names in enumerate(strata.people)}
        ours = {n: {f"p{i}" for i in m} for n, m in zip(found.names, found.members, strict=True)}
        assert ours == theirs


def test_groups_stand_in_their_order_and_values_outside_are_last():
    cohort = [person(i, age=age) for i, age in enumerate([55, 20, 29.99, 30, 61, 18])]
    found = partition(cohort, "age", OPTIONS)
    assert found.names == ("20-30", "30-40", "50-60", "outside")
    assert [m.tolist() for m in found.members] == [[1, 2], [3], [0], [4, 5]]


def test_missing_values_are_in_no_group():
    found = partition([person(0, "F"), person(1), person(2, "M")], "sex", OPTIONS)
    assert (found.names, found.sizes.tolist()) == (("F", "M"), [1, 1])


def test_columns_without_bins_are_words_or_quarters_whose_edges_nobody_sees():
    cohort = [person(i, weight=f"{50 + 0.37 * i}", site="AB"[i % 2]) for i in range(20)]
    options = GroupOptions(("weight", "site"), {})
    weight = partition(cohort, "weight", options)
    assert weight.names == ("lowest quarter", "second quarter", "third quarter", "highest quarter")
    assert weight.sizes.tolist() == [5, 5, 5, 5]
    assert partition(cohort, "site", options).names == ("A", "B")


def test_an_intersection_holds_people_with_all_values():
    cohort = [person(0, "F", 25), person(1, "F"), person(2, "M", 25), person(3, "M", 35)]
    parts = [partition(cohort, attribute, OPTIONS) for attribute in ("sex", "age")]
    some = intersection(parts, 4)
    assert (some.title, some.names) == ("sex x age", ("F 20-30", "M 20-30", "M 30-40"))
    assert [m.tolist() for m in some.members] == [[0], [2], [3]]
    assert set(some.slices) == {(0, 1, 2), (0,), (1, 2), (0, 1), (2,)}
    assert intersection(parts[:1], 4) is None


@pytest.mark.parametrize(
    ("column", "options", "sentence"),
    [
        ("height", OPTIONS, "value in the column 'height'; the columns with values are sex, site"),
        ("site", GroupOptions(("site",), {"site": [1, 2, 3]}), "edges for the column 'site', but it holds text"),
    ],
)
def test_columns_that_cannot_be_used(column, options, sentence):
    with pytest.raises(ParticipantsError, match=sentence):
        partition([person(0, "F", site="north")], column, options)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GroupOptions(("sex", "sex")), "each once"),
        (lambda: GroupOptions(smallest=1), "--smallest_group is 1"),
        (lambda: GroupOptions(("sex",), {"age": [1, 2, 3]}), "edges for 'age', but --attributes has sex"),
        (lambda: GroupOptions(("age",), {"age": [30, 20, 40]}), "three or more rising edges"),
        (lambda: GroupOptions(("age",), {"age": [20, None, 40]}), "three or more rising edges"),
        (lambda: bins_of([1, 2]), "edges by column are expected"),
        (lambda: bins_of({"age": ["a"]}), "edges by column are expected"),
    ],
)
def test_options_are_checked(make, sentence):
    with pytest.raises(SettingError, match=sentence):
        make()
