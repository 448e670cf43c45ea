"""Tests of benchmarks/calibration.py."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import brier_score_loss

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import PredictionError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from calibration import (
    brier_score,
    expected_calibration_error,
    read_probabilities,
    reference_masks,
)

SPEC = DatasetSpec(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}, "Toy"
)


def by_hand(p, mask, bins):
    """Bin by bin, as the definition is written."""
    total = 0.0
    for b in range(bins):
        inside = (p >= b / bins) & ((p < (b + 1) / bins) | (b == bins - 1))
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - mask[inside].mean())
    return total


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), bins=st.integers(1, 20))
def test_against_the_definition(seed, bins):
    rng = np.random.default_rng(seed)
    p = rng.random((2, 300)).astype(np.float32)
    masks = rng.random((2, 300)) < p
    expected = np.mean([by_hand(a.astype(float), m, bins) for a, m in zip(p, masks, strict=True)])
    assert expected_calibration_error(p, masks, bins) == pytest.approx(expected, abs=1e-6)
    expected = np.mean([brier_score_loss(m, a, pos_label=True) for a, m in zip(p, masks, strict=True)])
    assert brier_score(p, masks) == pytest.approx(expected, abs=1e-6)


def test_calibrated_and_not():
    p = np.repeat([[0.1, 0.9]], 1000, axis=1)
    truth = np.concatenate([np.arange(1000) < 100, np.arange(1000) < 900])[None]
    assert expected_calibration_error(p, truth) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(p, ~truth) == pytest.approx(0.8)
    assert brier_score(truth.astype(float), truth) == 0
    assert expected_calibration_error(truth.astype(float), truth) == 0


def test_from_files(tmp_path):
    label_map = np.array([[[0, 1], [2, 2]]])
    one_hot = np.stack([label_map == i for i in range(3)]).astype(np.float32)
    np.savez_compressed(tmp_path / "case.npz", probabilities=one_hot)
    found = read_probabilities(tmp_path / "case.npz", SPEC)
    assert brier_score(found, reference_masks(label_map, SPEC)) == 0
    np.savez_compressed(tmp_path / "other.npz", probabilities=one_hot[:2])
    with pytest.raises(PredictionError, match="3 heads of a volume are expected"):
        read_probabilities(tmp_path / "other.npz", SPEC)
    (tmp_path / "broken.npz").write_bytes(b"x")
    with pytest.raises(PredictionError, match="holds no probabilities"):
        read_probabilities(tmp_path / "broken.npz", SPEC)


def test_what_does_not_fit_is_refused():
    with pytest.raises(PredictionError, match="do not fit masks"):
        brier_score(np.zeros((1, 3)), np.zeros((1, 4), bool))
    with pytest.raises(PredictionError, match="between 0 and 1"):
        expected_calibration_error(np.full((1, 3), 2.0), np.zeros((1, 3), bool))
