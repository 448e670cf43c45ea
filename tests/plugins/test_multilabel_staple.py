"""Tests of nnkd_basic.multilabel_staple: SimpleITK's answers, abstentions and degenerate cases."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_basic.multilabel_staple import MultilabelStaple, fit_confusion
from nnkd_basic.staple import Staple

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import SettingError
from nnkd.votes import bits
from nnkd.votes.ballots import Ballots

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 4}  # 3 is not in use
SPEC = DatasetSpec({"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz"}, "toy")
CLASSES = list(LABELS.values())


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def teachers(k: int, seed: int) -> list[np.ndarray]:
    """(8, 30, 30) label maps: three balls, moved and speckled."""
    rng, grid = np.random.default_rng(seed), np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (8, 30, 30)]))
    grid = np.moveaxis(grid, 1, 2)
    truth = np.zeros(grid.shape[1:], dtype=np.uint8)
    for label, centre in ((1, -0.5), (2, 0.1), (4, 0.6)):
        truth[(grid[0] ** 2 / 2 + (grid[1] - centre) ** 2 + (grid[2] - centre) ** 2) < 0.12] = label
    maps = []
    for _ in range(k):
        said = np.roll(truth, rng.integers(-1, 2, 3), (0, 1, 2))
        flipped = rng.random(said.shape) < rng.uniform(0, 0.08)
        said[flipped] = rng.choice(CLASSES, flipped.sum())
        maps.append(said)
    return maps


def case_of(maps: list[np.ndarray], answers: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    answers = np.ones((len(maps), len(LABELS) - 1), dtype=bool) if answers is None else answers
    ballots = Ballots.of(maps)
    return ballots.said(SPEC, answers), ballots.counts, answers


def label_map(maps: list[np.ndarray]) -> np.ndarray:
    table = bits.fit_joint(MultilabelStaple(), *case_of(maps))
    return Ballots.of(maps).paint(bits.joint_label_map(table, SPEC))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [3, 4, 6])
def test_it_is_simpleitks(seed, k):
    maps = teachers(k, seed)
    reference = sitk.MultiLabelSTAPLEImageFilter()
    reference.SetLabelForUndecidedPixels(0)
    reference.SetTerminationUpdateThreshold(1e-9)  # both until nothing moves: see "Departs" on how ITK starts
    expected = sitk.GetArrayFromImage(reference.Execute([sitk.GetImageFromArray(m) for m in maps]))
    np.testing.assert_array_equal(label_map(maps), expected)
    matrices = fit_confusion(*case_of(maps), converged=1e-9).matrices
    for mine, theirs in zip(matrices, map(reference.GetConfusionMatrix, range(k)), strict=True):
        theirs = np.array(theirs).reshape(6, 5)[np.ix_(CLASSES, CLASSES)]
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_no_voxel_differs_from_simpleitks_where_it_stops(seed):
    maps = teachers(5, seed)
    expected = sitk.GetArrayFromImage(sitk.MultiLabelSTAPLE([sitk.GetImageFromArray(m) for m in maps], 0))
    np.testing.assert_array_equal(label_map(maps), expected)


@pytest.mark.heavy
@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_probabilities_and_estimates_are_what_they_should_be(k, seed):
    case = case_of(teachers(k, seed))
    table = bits.fit_joint(MultilabelStaple(), *case)
    assert (table.sum(axis=1) <= 1 + 1e-9).all()
    found = MultilabelStaple().joint_estimates(*case)
    fitted = fit_confusion(*case)
    np.testing.assert_allclose(found["sensitivity"], fitted.matrices.diagonal(axis1=1, axis2=2)[:, 1:], atol=1e-4)
    for values in found.values():
        assert ((values >= -1e-9) & (values <= 1 + 1e-9)).all()
    # specificity counted from the definition: of voxels that are something else, the share not called so
    weights = fitted.weights * case[1][:, None]
    for teacher in range(k):
        for label in range(1, 4):
            other = np.delete(weights, label, axis=1).sum(axis=1)
            expected = other[case[0][:, teacher] != label].sum() / other.sum()
            assert found["specificity"][teacher, label - 1] == pytest.approx(expected, abs=1e-5)


@settings(max_examples=10)
@given(st.integers(3, 5), st.integers(0, 2**32 - 1))
def test_the_order_of_teachers_does_not_matter(k, seed):
    said, counts, answers = case_of(teachers(k, seed))
    order = np.random.default_rng(seed).permutation(k)
    rule = MultilabelStaple()
    np.testing.assert_allclose(
        rule.joint_table(said[:, order], counts, answers), rule.joint_table(said, counts, answers), atol=1e-4
    )


def test_ballots_that_come_twice_count_twice():
    said, counts, answers = case_of(teachers(4, 0))
    half = counts // 2
    twice = fit_confusion(np.concatenate([said, said]), np.concatenate([half, counts - half]), answers)
    np.testing.assert_allclose(twice.matrices, fit_confusion(said, counts, answers).matrices, atol=1e-9)


def test_with_one_label_it_is_almost_binary_staple():
    maps = [(m == 1).astype(np.uint8) for m in teachers(5, 1)]
    said, counts, _ = case_of(maps)
    answers = np.ones((5, 1), dtype=bool)
    binary = bits.fit(Staple(), Ballots.of(maps).count_patterns(SPEC)[:1], answers)[0]
    patterns = (said << np.arange(5)).sum(axis=1)
    np.testing.assert_allclose(MultilabelStaple().joint_table(said, counts, answers)[:, 0], binary[patterns], atol=1e-4)


def test_who_abstains_from_a_label_says_nothing_against_it():
    maps = teachers(5, 2)
    answers = np.ones((5, 3), dtype=bool)
    answers[3:, 1] = False  # two teachers do not know the spleen
    for teacher in (3, 4):
        maps[teacher] = np.where(maps[teacher] == 2, 0, maps[teacher])
    case = case_of(maps, answers)
    table = bits.fit_joint(MultilabelStaple(), *case)
    three = np.flatnonzero((case[0][:, :3] == 2).all(axis=1) & (case[0][:, 3:] == 0).all(axis=1))
    assert len(three) == 1
    assert table[three[0], 1] > 0.99
    found = bits.found_out(MultilabelStaple(), answers, lambda: MultilabelStaple().joint_estimates(*case))
    assert np.isnan(found["sensitivity"][3:, 1]).all()
    assert (found["sensitivity"][:3, 1] > 0.2).all()  # teachers are moved by up to a voxel


@pytest.mark.parametrize("k", [1, 2, 3])
def test_nobody_says_anything_and_all_say_the_same(k):
    nothing = [np.zeros((2, 3, 4), dtype=np.uint8)] * k
    assert (label_map(nothing) == 0).all()
    found = MultilabelStaple().joint_estimates(*case_of(nothing))
    assert np.isnan(found["sensitivity"]).all()
    assert (found["specificity"] == 1).all()
    same = [teachers(1, 0)[0]] * k
    np.testing.assert_array_equal(label_map(same), same[0])
    full = [np.full((2, 3, 4), 4, dtype=np.uint8)] * k
    assert (label_map(full) == 4).all()


def test_of_two_teachers_only_what_both_say_stays():
    maps = teachers(2, 0)
    np.testing.assert_array_equal(label_map(maps), np.where(maps[0] == maps[1], maps[0], 0))


def test_it_has_no_table_for_a_label():
    with pytest.raises(SettingError, match=r"looks at all labels at once.*nnKD_aggregate.*-t imported"):
        bits.fit(MultilabelStaple(), np.ones((1, 4), dtype=np.int64), np.ones((2, 1), dtype=bool))
