"""Tests of nnkd.evaluation.uncertainty, scikit-learn the oracle."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import average_precision_score, roc_auc_score

from nnkd.data.reading.geometry import Grid
from nnkd.evaluation.uncertainty import DROPPED_BITS, MEASURES, SHARES, FolderRanking, Histogram, Ranking, neighbourhood


def rounded(values):
    """What falls into one bin made equal."""
    return (values.view(np.uint32) >> DROPPED_BITS << DROPPED_BITS).view(np.float32)


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), n=st.integers(2, 3000), ties=st.booleans())
def test_equals_scikit_learn(seed, n, ties):
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.5, 1.0, n).astype(np.float32)
    values = np.round(values) if ties else values
    errors = rng.random(n) < values / (1 + values)
    errors[:2] = [True, False]
    histogram = Histogram()
    for part in range(0, n, 1000):  # piece by piece
        histogram.add(values[part : part + 1000], errors[part : part + 1000])
    found = histogram.ranking()
    assert found.voxels == n
    assert found.values["auroc"] == pytest.approx(roc_auc_score(errors, rounded(values)))
    assert found.values["average_precision"] == pytest.approx(average_precision_score(errors, rounded(values)))
    assert found.values["wrong"] == pytest.approx(errors.mean())
    assert set(found.values) == set(MEASURES)
    assert len(found.caught) == len(SHARES)
    assert found.caught[0] == 0
    assert found.caught[-1] == pytest.approx(1)
    assert np.all(np.diff(found.caught) >= -1e-12)


def test_the_first_percent():
    histogram = Histogram()
    values = np.arange(1000, dtype=np.float32)
    errors = np.isin(np.arange(1000), [999, 998, 997, 5])
    histogram.add(values, errors)
    assert histogram.ranking().values["wrong_in_top"] == pytest.approx(0.3)


def test_nothing_to_rank():
    histogram = Histogram()
    histogram.add(np.ones(5, np.float32), np.zeros(5, bool))
    assert histogram.ranking() is None


def test_the_neighbourhood_is_in_mm():
    foreground = np.zeros((5, 60, 60), bool)
    foreground[2, 30, 30] = True
    grid = Grid((5, 60, 60), (6.0, 1.0, 0.5), (0, 0, 0), np.eye(3))
    box, region = neighbourhood(foreground, grid)
    whole = np.zeros_like(foreground)
    whole[box] = region
    z, y, x = np.meshgrid(*(np.arange(n) for n in foreground.shape), indexing="ij")
    distance = np.sqrt((6.0 * (z - 2)) ** 2 + (y - 30.0) ** 2 + (0.5 * (x - 30)) ** 2)
    np.testing.assert_array_equal(whole, distance <= 10)
    assert neighbourhood(np.zeros((2, 3, 4), bool), Grid((2, 3, 4), (1, 1, 1), (0, 0, 0), np.eye(3))) is None


def test_coverage():
    found = FolderRanking()
    found.volumes = [{"label": "a", "inside": True}, {"label": "a", "inside": False}, {"label": "b", "inside": False}]
    assert found.coverage() == {"a": (1, 2), "b": (0, 1)}
    assert found.caught("entropy") is None
    found.maps["entropy"] = {c: Ranking({}, 1, np.full(101, v)) for c, v in (("x", 0.0), ("y", 1.0))}
    assert found.caught("entropy").tolist() == [0.5] * 101
