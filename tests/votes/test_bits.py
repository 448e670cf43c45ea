"""Tests of nnkd.votes.bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd import Aggregator
from nnkd.data.dataset import DatasetSpec
from nnkd.data.predictions import CaseRecord
from nnkd.errors import BrokenPluginError, GeometryError, VotesError
from nnkd.votes import bits as votes

SHAPE = (2, 3, 4)


def spec_of(labels: dict, **more) -> DatasetSpec:
    return DatasetSpec({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", **more}, "toy")


PLAIN = spec_of({"background": 0, "b": 2, "a": 1, "c": 3, "ignore": 4})
REGIONS = spec_of({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}, regions_class_order=[1, 2, 3])


class MeanOfAnswers(Aggregator):
    def table(self, counts, answers):
        bits = (np.arange(counts.shape[1])[None] >> np.arange(len(answers))[:, None]) & 1
        return ((answers.T @ bits) / np.maximum(answers.sum(0), 1)[:, None]).astype(np.float32)


class Returns(Aggregator):
    def __init__(self, make):
        self.make = make

    def table(self, counts, answers):
        return self.make(counts)


@st.composite
def teachers(draw, most=9, integers=4):
    k = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [rng.integers(0, integers, SHAPE).astype(np.int32) for _ in range(k)]


@settings(deadline=None)
@given(teachers(most=votes.MAX_TEACHERS))
def test_packing_and_unpacking(maps):
    packed = votes.pack(maps, PLAIN)
    assert packed.dtype == (np.uint8 if len(maps) <= 8 else np.uint16)
    assert packed.shape == (3, *SHAPE)
    unpacked = votes.unpack(packed, len(maps))
    for k, label_map in enumerate(maps):
        for index, integer in enumerate((1, 2, 3)):  # in the order of nnU-Net's heads, not of dataset.json
            np.testing.assert_array_equal(unpacked[k, index], label_map == integer)


@pytest.mark.heavy
@settings(deadline=None)
@given(teachers())
def test_a_region_is_the_or_of_its_integers(maps):
    unpacked = votes.unpack(votes.pack(maps, REGIONS), len(maps))
    for k, label_map in enumerate(maps):
        for index, name in enumerate(REGIONS.labels):
            np.testing.assert_array_equal(unpacked[k, index], REGIONS.mask(label_map, name))


@settings(deadline=None)
@given(teachers(), st.data())
def test_merging_counts_is_packing_fewer_teachers(maps, data):
    keep = data.draw(st.lists(st.integers(0, len(maps) - 1), min_size=1, unique=True))
    counts = votes.count_patterns(votes.pack(maps, PLAIN), len(maps))
    assert counts.dtype == np.int64
    assert (counts.sum(axis=1) == np.prod(SHAPE)).all()
    fewer = votes.count_patterns(votes.pack([maps[k] for k in keep], PLAIN), len(keep))
    np.testing.assert_array_equal(votes.merge(counts, keep), fewer)


@settings(deadline=None)
@given(teachers(), st.data())
def test_an_expanded_table_is_the_table_of_the_kept_teachers(maps, data):
    keep = data.draw(st.lists(st.integers(0, len(maps) - 1), min_size=1, unique=True))
    rng = np.random.default_rng(len(maps))
    table = rng.random((3, 1 << len(keep))).astype(np.float32)
    of_all = votes.look_up(votes.pack(maps, PLAIN), votes.expand(table, keep, len(maps)))
    np.testing.assert_array_equal(of_all, votes.look_up(votes.pack([maps[k] for k in keep], PLAIN), table))


def test_counting_and_looking_up_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 8, (2, 5, 7)).astype(np.uint8)
    table = rng.random((2, 8)).astype(np.float32)
    counts, values = votes.count_patterns(packed, 3), votes.look_up(packed, table)
    monkeypatch.setattr(votes, "CHUNK", 4)
    np.testing.assert_array_equal(votes.count_patterns(packed, 3), counts)
    np.testing.assert_array_equal(votes.look_up(packed, table), values)
    np.testing.assert_array_equal(values[1], table[1][packed[1]])
    # what the loader does: crop first, then look up in a view
    np.testing.assert_array_equal(votes.look_up(packed[:, 1:4, 2:6], table), values[:, 1:4, 2:6])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_a_mean_over_six_where_one_abstains_is_a_mean_over_five(seed, absent):
    maps = list(np.random.default_rng(seed).integers(0, 4, (6, *SHAPE)).astype(np.int32))
    answers = np.ones((6, 3), dtype=bool)
    answers[absent, 1] = False
    packed = votes.pack(maps, PLAIN)  # the bit of the abstaining teacher is set on purpose: it must not matter
    of_six = votes.look_up(packed, votes.fit(MeanOfAnswers(), votes.count_patterns(packed, 6), answers))
    five = [m for k, m in enumerate(maps) if k != absent]
    np.testing.assert_allclose(of_six[1], np.mean([m == 2 for m in five], axis=0), atol=1e-6)
    np.testing.assert_allclose(of_six[0], np.mean([m == 1 for m in maps], axis=0), atol=1e-6)


def test_abstaining_bits_are_cleared_before_the_aggregator_sees_the_counts():
    seen = []
    answers = np.array([[True], [False]])
    votes.fit(Returns(lambda c: seen.append(c.copy()) or np.zeros(c.shape)), np.array([[10, 5, 3, 2]]), answers)
    np.testing.assert_array_equal(seen[0], [[13, 7, 0, 0]])


def test_a_label_that_nobody_answers_for_has_no_vote():
    answers = np.array([[True, False, True], [True, False, True]])
    table = votes.fit(
        Returns(lambda c: np.array([[0.25], [np.nan], [0.25]]).repeat(4, axis=1)), np.ones((3, 4), int), answers
    )
    assert table.dtype == np.float32
    assert (table[1] == votes.NO_VOTE).all()
    assert (table[[0, 2]] == 0.25).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: np.zeros((1, 4)), r"shape \(1, 4\), but \(3, 4\)"),
        (lambda c: np.zeros(c.shape, dtype=np.int64), "int64"),
        (lambda c: np.full(c.shape, 1.5), r"1\.5.*\[0, 1\]"),
        (lambda c: np.full(c.shape, np.nan), r"\[0, 1\]"),
        (lambda c: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(make, message):
    with pytest.raises(BrokenPluginError, match=f"Returns.*{message}"):
        votes.fit(Returns(make), np.ones((3, 4), dtype=np.int64), np.ones((2, 3), dtype=bool))


def test_at_most_sixteen_teachers_of_one_size():
    one = np.zeros(SHAPE, dtype=np.int32)
    with pytest.raises(VotesError, match="17 teachers"):
        votes.pack([one] * 17, PLAIN)
    with pytest.raises(VotesError, match="0 teachers"):
        votes.pack([], PLAIN)
    with pytest.raises(GeometryError, match="2x3x4, 2x3x5"):
        votes.pack([one, np.zeros((2, 3, 5), dtype=np.int32)], PLAIN)


def test_who_answers():
    record = CaseRecord(inputs={}, output="", answers=["c", "a"])
    matrix = votes.answers_matrix({"one": record, "two": None}, PLAIN.labels)
    np.testing.assert_array_equal(matrix, [[True, False, True], [False, False, False]])


def test_a_label_needs_more_than_half_and_the_earlier_one_wins_ties():
    p = np.zeros((3, 1, 1, 5), dtype=np.float32)
    p[:, 0, 0] = np.array([[0.5, 0, 0], [0.6, 0.9, 0], [0.7, 0.7, 0], [-1, -1, 0.8], [0, 0.51, 0.6]]).T
    np.testing.assert_array_equal(votes.to_label_map(p, PLAIN)[0, 0], [0, 2, 1, 3, 3])


def test_regions_are_painted_in_order():
    p = np.zeros((3, 1, 1, 3), dtype=np.float32)
    p[:, 0, 0] = np.array([[0.9, 0.5, 0.1], [0.9, 0.6, 0.5], [0.6, 0.6, 0.6]]).T
    np.testing.assert_array_equal(votes.to_label_map(p, REGIONS)[0, 0], [1, 2, 3])


@pytest.mark.parametrize("spec", [PLAIN, REGIONS])
def test_label_by_label_is_all_at_once(spec):
    rng = np.random.default_rng(3)
    maps = list(rng.integers(0, 4, (5, *SHAPE)).astype(np.int32))
    table = rng.random((3, 32)).astype(np.float32)
    np.testing.assert_array_equal(
        votes.apply_to_label_maps(maps, table, spec),
        votes.to_label_map(votes.look_up(votes.pack(maps, spec), table), spec),
    )
