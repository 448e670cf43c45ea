"""Tests of nnkd.votes.ballots: counting a case once gives what counting voxel by voxel gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import GeometryError, VotesError
from nnkd.votes import ballots, bits
from nnkd.votes.ballots import Ballots


def spec_of(labels: dict, **more) -> DatasetSpec:
    return DatasetSpec({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", **more}, "toy")


PLAIN = spec_of({"background": 0, "b": 2, "a": 1, "far": 300})
REGIONS = spec_of({"background": 0, "whole": [1, 2, 300], "core": [2, 300]}, regions_class_order=[1, 2])


@st.composite
def label_maps(draw):
    """K label maps, mostly background, of any size and of 1 or 2 bytes."""
    k, size = draw(st.integers(1, 9)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    integers = [1, 2, 300] if dtype is np.uint16 else [1, 2, 255]
    said = rng.choice(integers, (k, size)) * (rng.random((k, size)) < draw(st.sampled_from([0, 0.05, 0.9])))
    return [m.reshape(1, size).astype(dtype) for m in said]


@pytest.mark.heavy
@given(label_maps(), st.integers(1, 4), st.sampled_from([1, 8, 1 << 20]))
def test_a_case_is_its_distinct_ballots(maps, groups, dense):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ballots, "CHUNK", 8 * groups)
        patch.setattr(ballots, "DENSE", dense)
        found = Ballots.of(maps)
        stacked = np.stack(maps).reshape(len(maps), -1).T
        assert found.counts.sum() == len(stacked)
        assert (found.distinct[0] == 0).all()
        assert len(np.unique(found.distinct, axis=0)) == len(found.distinct)
        for ballot, count in zip(found.distinct, found.counts, strict=True):
            assert (stacked == ballot).all(axis=1).sum() == count
        for k, label_map in enumerate(maps):
            np.testing.assert_array_equal(found.paint(found.distinct[:, k]), label_map)


@settings(max_examples=40)
@given(label_maps())
def test_counts_and_label_maps_are_those_of_the_voxels(maps):
    for spec in (PLAIN, REGIONS):
        k = len(maps)
        found, packed = Ballots.of(maps), bits.pack(maps, spec)
        counts = found.count_patterns(spec)
        np.testing.assert_array_equal(counts, bits.count_patterns(packed, k))
        table = np.random.default_rng(k).random(counts.shape).astype(np.float32)
        painted = found.paint(bits.apply_to_label_maps(found.columns(), table, spec))
        np.testing.assert_array_equal(painted, bits.to_label_map(bits.look_up(packed, table), spec))


def test_who_says_what_and_what_was_chosen():
    maps = [np.array([[0, 1, 2, 300]], dtype=np.uint16), np.array([[0, 1, 1, 2]], dtype=np.uint16)]
    found = Ballots.of(maps)
    answers = np.array([[True, True, True], [False, True, True]])  # the second teacher knows no "a", the first label
    said = found.said(PLAIN, answers)
    by_ballot = {tuple(b): tuple(s) for b, s in zip(found.distinct.tolist(), said.tolist(), strict=True)}
    assert by_ballot == {(0, 0): (0, 0), (1, 1): (1, 0), (2, 1): (2, 0), (300, 2): (3, 2)}
    values = np.where((found.distinct == [1, 1]).all(axis=1), 1, 0)
    np.testing.assert_array_equal(found.count_chosen(values, PLAIN), [[0, 0, 0, 1], [0] * 4, [0] * 4])


def test_label_maps_in_another_memory_order():
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (3, 5, 7)).astype(np.uint8) for _ in range(3)]
    turned = Ballots.of([np.asfortranarray(m) for m in maps])
    np.testing.assert_array_equal(turned.paint(turned.distinct[:, 1]), maps[1])


def test_what_cannot_vote_together_is_refused():
    small, large = np.zeros((1, 2, 3), dtype=np.uint8), np.zeros((1, 2, 4), dtype=np.uint8)
    with pytest.raises(GeometryError, match="1x2x3, 1x2x4 voxels"):
        Ballots.of([small, large])
    with pytest.raises(VotesError, match="17 teachers"):
        Ballots.of([small] * 17)
