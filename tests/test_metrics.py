"""Metrics: MONAI is the oracle for surfaces, arithmetic for counts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.metrics import METRICS, Counts, LabelResult, Structures, compare

# MONAI computes the rank of its percentile in single precision: values differ by up to 1e-6 of the distances' range.
CLOSE = {"rel": 2e-6, "abs": 5e-6}
LABELS = {"liver": (1,), "spleen": (2,), "both": (1, 2)}


def measure(prediction, reference, spacing, labels=LABELS, ignore=None, tolerance=2.0):
    ignored = reference == ignore if ignore is not None else None
    structures = [Structures(m, labels, spacing, ignored=ignored) for m in (prediction, reference)]
    voxels = None if ignored is None else int((~ignored).sum())
    return compare(*structures, tolerance=tolerance, voxels=voxels)


def monai(prediction, reference, spacing, tolerance):
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if reference.shape[0] == 1:
        prediction, reference, spacing = prediction[0], reference[0], spacing[1:]
    p, r = (torch.from_numpy(m)[None, None] for m in (prediction, reference))
    keys = {"include_background": True, "spacing": [float(s) for s in spacing]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "HD": float(compute_hausdorff_distance(p, r, **keys)),
            "HD95": float(compute_hausdorff_distance(p, r, percentile=95, **keys)),
            "NSD": float(compute_surface_dice(p, r, class_thresholds=[tolerance], **keys)),
        }


def blobs(shape, seed, share=0.4):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    sigma = [1.5 if n > 1 else 0 for n in shape]
    noise = gaussian_filter(rng.normal(size=shape), sigma)
    return np.digitize(noise, np.quantile(noise, [1 - share, 1 - share / 2])).astype(np.int32)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 0.8, 0.8), (5, 0.4, 1.3)])
@pytest.mark.parametrize("shape", [(12, 14, 16), (1, 30, 40), (5, 1, 20)])
def test_values_are_monais(shape, spacing):
    prediction, reference = blobs(shape, 1), blobs(shape, 2)
    ours = measure(prediction, reference, spacing)
    for name, values in LABELS.items():
        theirs = monai(np.isin(prediction, values), np.isin(reference, values), spacing, 2.0)
        for metric, value in theirs.items():
            assert ours[name].values[metric] == pytest.approx(value, **CLOSE), (name, metric)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_values_are_monais_on_any_small_masks(data):
    shape = data.draw(st.sampled_from([(3, 4, 5), (1, 5, 6), (4, 1, 3), (2, 2, 2)]))
    spacing = data.draw(st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.7, 1.1)]))
    bits = st.lists(st.integers(0, 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    prediction, reference = (np.array(data.draw(bits), np.int32).reshape(shape) for _ in range(2))
    result = measure(prediction, reference, spacing, {"a": (1,)}, tolerance=1.1)["a"]
    if result.state == "compared":
        theirs = monai(prediction == 1, reference == 1, spacing, 1.1)
        assert {k: result.values[k] for k in theirs} == pytest.approx(theirs, **CLOSE)
    else:
        assert not (prediction.any() and reference.any())


def test_one_voxel_each_in_opposite_corners():
    prediction, reference = np.zeros((2, 4, 8, 8), np.int32)
    prediction[0, 0, 0] = reference[3, 7, 7] = 1
    values = measure(prediction, reference, (2.0, 1.0, 0.5), {"a": (1,)})["a"].values
    assert values["HD"] == values["HD95"] == pytest.approx(np.sqrt(36 + 49 + 12.25), rel=1e-6)
    assert values["DSC"] == values["NSD"] == 0


def test_masks_that_fill_the_image_touch_every_border():
    full = np.ones((4, 5, 6), np.int32)
    hollow = full.copy()
    hollow[2, 2, 2] = 0
    values = measure(hollow, full, (1, 1, 1), {"a": (1,)})["a"].values
    assert {k: values[k] for k in ("HD", "HD95", "NSD")} == pytest.approx(monai(hollow == 1, full == 1, (1, 1, 1), 2.0))


def test_a_tolerance_that_is_met_exactly_counts_as_met():
    prediction, reference = np.zeros((2, 1, 20, 3), np.int32)
    prediction[0, 3], reference[0, 8] = 1, 1  # five rows of 0.4 mm apart
    assert measure(prediction, reference, (1, 0.4, 0.4), {"a": (1,)}, tolerance=2.0)["a"].values["NSD"] == 1


def test_both_empty_is_not_counted():
    empty = np.zeros((3, 4, 5), np.int32)
    result = measure(empty, empty, (1, 1, 1))["liver"]
    assert result.state == "both_empty"
    assert result.values == {}
    assert result.counts == Counts(0, 0, 0, 60)


@pytest.mark.parametrize("missing", ["prediction", "reference"])
def test_exactly_one_empty_gets_the_worst_values(missing):
    full, empty = np.zeros((2, 3, 4, 5), np.int32)
    full[1, 1, 1] = 1
    pair = (empty, full) if missing == "prediction" else (full, empty)
    result = measure(*pair, (2, 1, 1))["liver"]
    diagonal = np.sqrt(36 + 16 + 25)
    assert result.state == f"{missing}_empty"
    assert result.values == pytest.approx({"DSC": 0, "HD": diagonal, "HD95": diagonal, "NSD": 0})


def test_no_distance_exceeds_what_a_missing_organ_costs():
    for seed in range(5):
        prediction, reference = blobs((6, 9, 12), seed, 0.05), blobs((6, 9, 12), seed + 50, 0.05)
        for result in measure(prediction, reference, (3, 1, 0.5)).values():
            worst = np.linalg.norm([18, 9, 6])
            assert result.values["HD95"] <= result.values["HD"] < worst


def test_the_diagonal_of_a_2d_image_lies_in_its_plane():
    full, empty = np.ones((1, 3, 4), np.int32), np.zeros((1, 3, 4), np.int32)
    assert measure(empty, full, (999.0, 1, 1))["liver"].values["HD"] == pytest.approx(5)


def test_ignored_voxels_are_left_out_of_both_masks():
    reference, prediction = np.zeros((2, 1, 10, 10), np.int32)
    reference[0, :, :5], prediction[0, :, :5] = 1, 1
    reference[0, :3], prediction[0, :3] = 9, 2  # 9 = ignore; whatever was predicted there does not matter
    result = measure(prediction, reference, (1, 1, 1), ignore=9)
    assert result["liver"].values == pytest.approx({"DSC": 1, "HD": 0, "HD95": 0, "NSD": 1})
    assert result["spleen"].state == "both_empty"
    assert result["liver"].counts == Counts(35, 0, 0, 35)


def test_regions_are_the_union_of_their_labels():
    reference, prediction = np.zeros((2, 1, 4, 4), np.int32)
    reference[0, :2], prediction[0, :2] = 1, 2
    result = measure(prediction, reference, (1, 1, 1))
    assert result["both"].values["DSC"] == 1
    assert result["liver"].values["DSC"] == 0


def test_results_survive_the_cache():
    result = measure(blobs((4, 5, 6), 1), blobs((4, 5, 6), 2), (1, 1, 1))["liver"]
    assert LabelResult.from_json(result.to_json()) == result


def test_every_metric_is_worst_where_it_says():
    prediction, reference = blobs((6, 9, 12), 1), blobs((6, 9, 12), 2)
    good = measure(prediction, reference, (1, 1, 1))["liver"].values
    worst = measure(prediction * 0, reference, (1, 1, 1))["liver"].values
    for name, metric in METRICS.items():
        assert (good[name] > worst[name]) == metric.higher_is_better
