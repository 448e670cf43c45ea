"""nnkd.inference.label_maps against nnU-Net's own export."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape as theirs
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import configuration

from nnkd.inference import label_maps
from nnkd.inference.label_maps import Axis, label_map, on_image

LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "part": [2, 3], "core": 3}


def managers(spacing=(1.0, 1.0, 1.0), transpose=(0, 1, 2), labels=None, order=None, **more):
    """nnU-Net's three managers of a made-up model."""
    name = "2d" if len(spacing) == 2 else "3d_fullres"
    plans = PlansManager(
        {
            "transpose_forward": list(transpose),
            "transpose_backward": [list(transpose).index(i) for i in range(3)],
            "configurations": {name: configuration(name, (8,) * len(spacing), spacing, **more)},
            "label_manager": "LabelManager",
        }
    )
    json = {"labels": labels or LABELS, "regions_class_order": order}
    return plans, plans.get_configuration(name), plans.get_label_manager(json)


def properties(spacing, before, crop=None):
    """As nnU-Net's preprocessor leaves them; `before` and `crop` in transposed order."""
    crop = crop or [[0, n] for n in before]
    return {
        "spacing": list(spacing),
        "shape_before_cropping": tuple(before),
        "shape_after_cropping_and_before_resampling": tuple(high - low for low, high in crop),
        "bbox_used_for_cropping": crop,
    }


def check(logits, made, facts):
    ours = label_map(logits, *made, facts)
    expected = theirs(logits.copy(), *made, facts, num_threads_torch=1)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)
    return ours


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@pytest.mark.heavy
@settings(max_examples=150)
@given(
    shape=sizes, target=sizes, low=st.tuples(*[st.integers(0, 3)] * 3), high=st.tuples(*[st.integers(0, 3)] * 3),
    spacing=st.tuples(*[st.sampled_from((0.5, 1.0, 1.25, 4.0))] * 3),
    new=st.tuples(*[st.sampled_from((1.0, 2.0, 5.0))] * 3),
    transpose=st.permutations((0, 1, 2)), kind=st.sampled_from(("labels", "ignore", "regions", "2d")),
    half=st.booleans(), levels=st.sampled_from((0, 2)), seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_nnunet(shape, target, low, high, spacing, new, transpose, kind, half, levels, seed):
    """Any shapes, spacings (anisotropic ones go slice by slice), transposes, crops; `levels`: few values, many ties."""
    regions = kind == "regions"
    named = REGIONS if regions else {**LABELS, **({"ignore": 4} if kind == "ignore" else {})}
    made = managers(new[1:] if kind == "2d" else new, transpose, named, [1, 2, 3] if regions else None)
    logits = np.random.default_rng(seed).normal(0, 2, (3 if regions else 4, *shape))
    logits = (np.round(logits * levels) / levels if levels else logits).astype(np.float16 if half else np.float32)
    crop = [[a, a + n] for a, n in zip(low, target, strict=True)]
    before = [a + n + b for a, n, b in zip(low, target, high, strict=True)]
    check(logits, made, properties(spacing, before, crop))


@pytest.mark.parametrize("separate", [True, False])
def test_plans_may_force_slice_by_slice(separate):
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": separate}
    made = managers((3.0, 1.0, 1.0), resampling_fn_probabilities_kwargs=kwargs)
    logits = np.random.default_rng(0).normal(0, 1, (4, 5, 7, 6)).astype(np.float16)
    check(logits, made, properties((2.0, 1.0, 1.0), (8, 9, 11)))


@pytest.mark.parametrize(
    "more",
    [
        {"resampling_fn_probabilities": "resample_torch_fornnunet", "resampling_fn_probabilities_kwargs": {
            "is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}},
        {"resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}},
    ],
)  # fmt: skip
def test_other_resamplings_go_nnunets_way(more, monkeypatch):
    made = managers(**more)
    logits = np.random.default_rng(0).normal(0, 1, (4, 5, 7, 6)).astype(np.float32)
    monkeypatch.setattr(label_maps.Resampling, "of", None)
    check(logits, made, properties((1.0, 1.0, 1.0), (8, 9, 11)))


def test_a_map_is_resampled_as_probabilities_are():
    made = managers((3.0, 1.0, 1.0), (1, 2, 0))
    array = np.random.default_rng(0).normal(0, 1, (5, 7, 6)).astype(np.float32)
    facts = properties((1.0, 1.0, 1.0), (9, 11, 12), [[1, 9], [0, 11], [3, 12]])
    ours = on_image(array, *made[:2], facts)
    rule = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    expected = np.zeros((9, 11, 12), np.float32)
    expected[1:9, :, 3:] = resample_data_or_seg_to_shape(
        array[None], (8, 11, 9), (3.0, 1.0, 1.0), (1.0, 1.0, 1.0), **rule
    )
    np.testing.assert_allclose(ours, expected.transpose(2, 0, 1), atol=1e-6)


@given(size=st.integers(1, 50), new=st.integers(1, 50))
def test_axes_stay_inside(size, new):
    for axis in (Axis.linear(size, new), Axis.nearest(size, new)):
        assert len(axis.first) == len(axis.second) == len(axis.weight) == new
        assert 0 <= axis.first.min() <= axis.second.max() < size
        assert np.all((axis.weight >= 0) & (axis.weight < 1))


def test_many_labels_need_16_bits():
    labels = {"background": 0, **{f"l{i}": i for i in range(1, 300)}}
    logits = np.zeros((300, 2, 2, 2), np.float32)
    logits[299, 0], logits[260, 1] = 1, 1
    result = check(logits, managers(labels=labels), properties((1.0, 1.0, 1.0), (2, 3, 3)))
    assert set(result.ravel()) == {260, 299}
