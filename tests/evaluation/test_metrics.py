"""Metrics: MONAI and surface-distance are the oracles for surfaces, arithmetic for counts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.evaluation.metrics import METRICS, RANKED, Counts, LabelResult, Structures, compare
from nnkd.evaluation.surfaces import CORNERS, contour_lengths, surfel_areas

# MONAI computes the rank of its percentile in single precision: values differ by up to 1e-6 of the distances' range.
CLOSE = {"rel": 2e-6, "abs": 5e-6}
LABELS = {"liver": (1,), "spleen": (2,), "both": (1, 2)}


def measure(prediction, reference, spacing, labels=LABELS, ignore=None, tolerance=2.0, definition="monai"):
    ignored = reference == ignore if ignore is not None else None
    keys = {"ignored": ignored, "definition": definition}
    structures = [Structures(m, labels, spacing, **keys) for m in (prediction, reference)]
    voxels = None if ignored is None else int((~ignored).sum())
    return compare(*structures, tolerance=tolerance, voxels=voxels)


def monai(prediction, reference, spacing, tolerance):
    import torch

    pytest.importorskip("monai", reason='needs monai: pip install "nnkd[networks]"')
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

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
            "ASSD": float(compute_average_surface_distance(p, r, symmetric=True, **keys)),
        }


def surface_distance(prediction, reference, spacing, tolerance):
    package = pytest.importorskip("surface_distance", reason='pip install "nnkd[test]"')
    if reference.shape[0] == 1:
        prediction, reference, spacing = prediction[0], reference[0], spacing[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = package.compute_surface_distances(reference, prediction, spacing)
    directed = package.compute_average_surface_distance(found)
    areas = [found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()]
    return {
        "HD": package.compute_robust_hausdorff(found, 100),
        "HD95": package.compute_robust_hausdorff(found, 95),
        "NSD": package.compute_surface_dice_at_tolerance(found, tolerance),
        "ASSD": np.average(directed, weights=areas),
    }


ORACLES = {"monai": monai, "surfel": surface_distance}
definitions = pytest.mark.parametrize("definition", ORACLES)


def blobs(shape, seed, share=0.4):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    sigma = [1.5 if n > 1 else 0 for n in shape]
    noise = gaussian_filter(rng.normal(size=shape), sigma)
    return np.digitize(noise, np.quantile(noise, [1 - share, 1 - share / 2])).astype(np.int32)


@pytest.mark.heavy
@definitions
@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 0.8, 0.8), (5, 0.4, 1.3)])
@pytest.mark.parametrize("shape", [(12, 14, 16), (1, 30, 40), (5, 1, 20)])
def test_values_are_the_oracles(shape, spacing, definition):
    prediction, reference = blobs(shape, 1), blobs(shape, 2)
    ours = measure(prediction, reference, spacing, definition=definition)
    for name, values in LABELS.items():
        theirs = ORACLES[definition](np.isin(prediction, values), np.isin(reference, values), spacing, 2.0)
        for metric, value in theirs.items():
            assert ours[name].values[metric] == pytest.approx(value, **CLOSE), (name, metric)


@pytest.mark.heavy
@definitions
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_values_are_the_oracles_on_any_small_masks(definition, data):
    shape = data.draw(st.sampled_from([(3, 4, 5), (1, 5, 6), (4, 1, 3), (2, 2, 2)]))
    spacing = data.draw(st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.7, 1.1)]))
    bits = st.lists(st.integers(0, 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    prediction, reference = (np.array(data.draw(bits), np.int32).reshape(shape) for _ in range(2))
    result = measure(prediction, reference, spacing, {"a": (1,)}, tolerance=1.1, definition=definition)["a"]
    if result.state == "compared":
        theirs = ORACLES[definition](prediction == 1, reference == 1, spacing, 1.1)
        assert {k: result.values[k] for k in theirs} == pytest.approx(theirs, **CLOSE)
    else:
        assert not (prediction.any() and reference.any())


@definitions
def test_one_voxel_each_in_opposite_corners(definition):
    prediction, reference = np.zeros((2, 4, 8, 8), np.int32)
    prediction[0, 0, 0] = reference[3, 7, 7] = 1
    spacing = (2.0, 1.0, 0.5)
    values = measure(prediction, reference, spacing, {"a": (1,)}, definition=definition)["a"].values
    assert values["HD"] == pytest.approx(np.sqrt(36 + 49 + 12.25), rel=1e-6)
    assert values["DSC"] == values["NSD"] == 0
    theirs = ORACLES[definition](prediction == 1, reference == 1, spacing, 2.0)
    assert {k: values[k] for k in theirs} == pytest.approx(theirs, **CLOSE)


@definitions
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6)])
def test_masks_that_fill_the_image_touch_every_border(definition, shape):
    full = np.ones(shape, np.int32)
    hollow = full.copy()
    hollow[shape[0] // 2, 2, 2] = 0
    spacing = (3, 1, 0.7)
    values = measure(hollow, full, spacing, {"a": (1,)}, tolerance=0.5, definition=definition)["a"].values
    theirs = ORACLES[definition](hollow == 1, full == 1, spacing, 0.5)
    assert {k: values[k] for k in theirs} == pytest.approx(theirs, **CLOSE)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.7)])
def test_surfels_of_every_neighbourhood_are_as_large_as_surface_distances(spacing):
    tables = pytest.importorskip("surface_distance.lookup_tables", reason='pip install "nnkd[test]"')
    areas = tables.create_table_neighbour_code_to_surface_area(spacing)
    lengths = tables.create_table_neighbour_code_to_contour_length(spacing[1:])
    for code, area in enumerate(surfel_areas(spacing)):
        theirs = sum(tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL[c] for bit, c in enumerate(CORNERS) if code >> bit & 1)
        assert area == pytest.approx(areas[theirs], rel=1e-12, abs=1e-12)
    for code, length in enumerate(contour_lengths(spacing[1:])):
        theirs = sum(tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL[c[1:]] for b, c in enumerate(CORNERS[:4]) if code >> b & 1)
        assert length == pytest.approx(lengths[theirs], rel=1e-12, abs=1e-12)


@definitions
@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 20, 20)])
def test_what_lies_in_several_pieces_is_the_same(definition, shape, monkeypatch):
    prediction, reference = blobs(shape, 1), blobs(shape, 2)
    whole = measure(prediction, reference, (2, 1, 0.7), definition=definition)
    for piece in (1, 2 * shape[1] * shape[2]):
        monkeypatch.setattr("nnkd.evaluation.surfaces.PIECE", piece)
        monkeypatch.setattr("nnkd.evaluation.metrics.LINE", piece)
        assert measure(prediction, reference, (2, 1, 0.7), definition=definition) == whole


@definitions
def test_large_integers_and_any_type(definition):
    prediction, reference = blobs((6, 9, 8), 1), blobs((6, 9, 8), 2)
    small = measure(prediction.astype(np.uint8), reference, (2, 1, 1), {"a": (2,)}, definition=definition)["a"]
    large = [np.where(m == 2, 70_000, m).astype(np.int32) for m in (prediction, reference)]
    assert measure(*large, (2, 1, 1), {"a": (70_000,)}, definition=definition)["a"] == small


def test_the_mean_improves_with_a_missed_organ_in_monai_but_not_here():
    """MONAI's percentile of infinite distances is no number, and its mean leaves out what is none."""
    import torch

    pytest.importorskip("monai", reason='needs monai: pip install "nnkd[networks]"')
    from monai.metrics import HausdorffDistanceMetric

    reference = np.zeros((2, 6, 12, 12), np.int32)
    reference[:, 2:4, 3:8, 3:8] = 1
    poor = np.roll(reference, (0, 3), axis=(0, 2))
    poor[1] = np.roll(reference[1], 1, axis=1)
    missing = poor.copy()
    missing[0] = 0  # the case that was worse

    def mean_of_monai(predictions):
        metric = HausdorffDistanceMetric(include_background=True, percentile=95, reduction="mean")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric(*(torch.from_numpy(m)[:, None] for m in (predictions, reference)))
        return float(metric.aggregate())

    def means(predictions):
        pairs = zip(predictions, reference, strict=True)
        found = [measure(p, r, (1, 1, 1), {"a": (1,)})["a"].values for p, r in pairs]
        return {name: np.mean([values[name] for values in found]) for name in RANKED}

    assert mean_of_monai(missing) < mean_of_monai(poor)
    before, after = means(poor), means(missing)
    for name in RANKED:
        assert (after[name] < before[name]) == METRICS[name].higher_is_better, name


def test_volume_differences_have_a_sign():
    prediction, reference = np.zeros((2, 2, 10, 10), np.int32)
    reference[:, :, :5], prediction[:, :, :4] = 1, 1  # 100 and 80 voxels of 5 mm3
    labels, spacing = {"a": (1,)}, (5, 1, 1)
    smaller, larger = (
        measure(*pair, spacing, labels)["a"].values for pair in ((prediction, reference), (reference, prediction))
    )
    assert (smaller["VD"], larger["VD"]) == pytest.approx((-0.1, 0.1))
    assert (smaller["RVD"], larger["RVD"]) == pytest.approx((-0.2, 0.25))
    nothing = measure(prediction * 0, reference, spacing, labels)["a"].values
    assert (nothing["VD"], nothing["RVD"]) == pytest.approx((-0.5, -1))
    invented = measure(reference, reference * 0, spacing, labels)["a"].values
    assert invented["VD"] == pytest.approx(0.5)
    assert invented["RVD"] is None


def test_each_label_has_its_tolerance():
    prediction, reference = np.zeros((2, 1, 20, 8), np.int32)
    reference[0, 4:8], prediction[0, 6:10] = 1, 1
    reference[0, 12:16], prediction[0, 14:18] = 2, 2
    tolerance = {"liver": 1.0, "spleen": 2.0, "both": 2.0}
    found = measure(prediction, reference, (1, 1, 1), tolerance=tolerance)
    assert found["liver"].values["NSD"] < found["spleen"].values["NSD"] == 1


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
    assert {k: result.values[k] for k in ("DSC", "HD", "HD95", "NSD", "ASSD")} == pytest.approx(
        {"DSC": 0, "HD": diagonal, "HD95": diagonal, "NSD": 0, "ASSD": diagonal}
    )


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
    assert result["liver"].values == pytest.approx({**dict.fromkeys(METRICS, 0), "DSC": 1, "NSD": 1})
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
    for name in RANKED:
        assert (good[name] > worst[name]) == METRICS[name].higher_is_better
