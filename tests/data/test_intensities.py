"""nnkd.data.intensities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnkd.data.intensities import (
    UNCHANGED,
    WINDOWS,
    GreyScale,
    grey_scale,
    is_8bit,
    is_ct,
    kind_of_image,
    to_uint8,
    windows_of,
)
from nnkd.errors import SettingError

FINITE = arrays(np.float32, st.integers(1, 40), elements=st.floats(-3000, 3000, width=32))
ANY = arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32))
MODALITY = st.sampled_from(["CT", "MRI", "R"])


@given(ANY, MODALITY, st.sampled_from(sorted(WINDOWS.values())))
def test_any_image_becomes_8_bits(data, modality, window):
    result = to_uint8(data, grey_scale(data, modality, window))
    assert (result.shape, result.dtype) == (data.shape, np.uint8)


@given(FINITE, MODALITY, st.sampled_from(sorted(WINDOWS.values())))
def test_a_brighter_voxel_never_becomes_darker(data, modality, window):
    scale = grey_scale(data, modality, window)
    kept = data[data > 0] if scale.keep_zero else data  # 0 stays 0 even where the scale begins below it
    result = to_uint8(np.sort(kept), scale)
    assert (np.diff(result.astype(int)) >= 0).all()


@given(FINITE, st.sampled_from(sorted(WINDOWS.values())))
def test_a_window_goes_from_its_low_to_its_high_end(data, window):
    level, width = window
    scale = grey_scale(data * 2.5 - 0.25, "CT", window)
    assert (scale.kind, scale.low, scale.high) == ("window", level - width / 2, level + width / 2)
    result = to_uint8(data, scale)
    assert (result[data <= scale.low] == 0).all()
    assert (result[data >= scale.high] == 255).all()
    inside = (data > scale.low) & (data < scale.high)
    exact = (data[inside].astype(float) - scale.low) / width * 255
    assert np.abs(result[inside] - np.floor(exact)).max(initial=0) <= 1


def test_soft_tissue_by_hand():
    data = np.array([-1000, -160, -159, 40, 239, 240, 3000], dtype=np.float32)
    assert to_uint8(data, grey_scale(data, "CT")).tolist() == [0, 0, 0, 127, 254, 255, 255]


def test_percentiles_leave_the_background_out():
    rng = np.random.default_rng(0)
    data = np.zeros(2000, dtype=np.float32)
    data[:1000] = rng.uniform(100, 900, 1000)
    scale = grey_scale(data, "MRI")
    assert (scale.kind, scale.keep_zero) == ("percentiles", True)
    assert (scale.low, scale.high) == pytest.approx(np.percentile(data[:1000], (0.5, 99.5)))
    result = to_uint8(data, scale)
    assert (result[1000:] == 0).all()
    assert result.max() == 255


def test_where_zero_is_no_background_all_voxels_count():
    data = np.random.default_rng(0).normal(0, 1000, 5000).astype(np.float32)  # a z-score
    scale = grey_scale(data, "LGE")
    assert (scale.low, scale.high) == pytest.approx(np.percentile(data, (0.5, 99.5)))
    assert not scale.keep_zero
    assert np.median(to_uint8(data, scale)) == pytest.approx(127, abs=5)


def test_zero_stays_zero_where_the_scale_begins_below_it():
    assert to_uint8(np.float32([0, 50]), GreyScale("percentiles", -50, 50, keep_zero=True)).tolist() == [0, 255]


def test_nan_and_infinities():
    data = np.array([np.nan, -np.inf, np.inf, 40], dtype=np.float32)
    assert to_uint8(data, grey_scale(data, "CT")).tolist() == [0, 0, 255, 127]
    noisy = np.concatenate([data, np.linspace(1.5, 1000, 500, dtype=np.float32)])
    assert to_uint8(noisy, grey_scale(noisy, "MRI"))[:3].tolist() == [0, 0, 255]


@pytest.mark.parametrize("value", [0.0, 7.5, -3.0, np.nan, np.inf])
def test_images_of_one_value(value):
    data = np.full((2, 3), value, dtype=np.float32)
    assert np.unique(to_uint8(data, grey_scale(data, "MRI"))).size == 1


def test_8_bits_stay_as_they_are_whatever_the_modality():
    data = np.arange(256, dtype=np.float32)
    for modality in ("CT", "MRI", "R"):
        scale = grey_scale(data, modality)
        assert scale is UNCHANGED
        assert np.array_equal(to_uint8(data, scale), data)


@pytest.mark.parametrize("data", [[-1, 200], [0, 256], [0, 100], [0.5, 200], [np.nan, 200], []], ids=str)
def test_what_is_not_8_bits(data):
    assert not is_8bit(np.array(data, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "expected"), [("CT", True), ("ct_portal", True), ("PET/CT", True), ("OCT", False), ("T1", False)]
)
def test_ct_is_a_word(name, expected):
    assert is_ct(name) is expected


def test_windows_by_what_labels_are_called():
    labels = ["liver", "lung_upper_lobe_left", "ribs", "Vertebra L1", "iliac_artery", "hipp", "Lungs"]
    expected = ["soft_tissue", "lung", "bone", "bone", "soft_tissue", "soft_tissue", "lung"]
    assert list(windows_of(labels).values()) == [WINDOWS[name] for name in expected]


def test_the_user_has_the_last_word(tmp_path):
    wishes = {"lung": "soft_tissue", "stent": [300, 1500]}
    file = tmp_path / "windows.json"
    file.write_text(json.dumps(wishes))
    for given_ in (wishes, file):
        assert windows_of(["lung", "stent", "rib"], given_) == {
            "lung": (40, 400), "stent": (300, 1500), "rib": (400, 1800),
        }  # fmt: skip


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"lvier": "lung"}, "windows names lvier, but the dataset's labels are liver"),
        ({"liver": "lugn"}, "The window 'lugn' of 'liver' is neither soft_tissue, lung, bone nor"),
        ({"liver": [40, 0]}, "width above 0"),
        ({"liver": [40]}, "neither"),
        ({"liver": [40, float("inf")]}, "neither"),
        ({"liver": [True, 3]}, "neither"),
        ({"liver": 5}, "neither"),
    ],
)
def test_wrong_wishes(wishes, message):
    with pytest.raises(SettingError, match=message):
        windows_of(["liver"], wishes)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "no valid JSON"), (b"[1]", "holds a list"), (b"\xff", "no valid JSON"), (None, "cannot be read")],
)
def test_wrong_files(tmp_path, content, message):
    file = tmp_path / "windows.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match=message):
        windows_of(["liver"], file)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CT", "ct"), ("ct (portal venous)", "ct"), ("CBCT", "ct"), ("MRI", "mri"), ("T1w", "mri"), ("t2_flair", "mri"),
        ("ADC", "mri"), ("FDG-PET", "pet"), ("ultrasound", "us"), ("PET-CT", ""), ("noNorm", ""), ("R", ""), ("", ""),
    ],
)  # fmt: skip
def test_what_an_image_is_by_its_channels_name(name, kind):
    assert kind_of_image(name) == kind
