"""nnkd.boxes.pictures: 8-bit pictures of slices, by label where CT windows differ."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnkd.boxes.images import BoxImage
from nnkd.boxes.pictures import CtWindows, looks_of, read_windows
from nnkd.data.intensities import WINDOWS, grey_scale, to_uint8
from nnkd.errors import SettingError

CT = np.random.default_rng(0).integers(-1024, 1500, (4, 8, 9)).astype(np.int16)


def image(data: np.ndarray, **more) -> BoxImage:
    return BoxImage(data, data.shape[0] == 1, data.shape[:3], lambda *_: None, **more)


def test_ct_is_seen_in_each_labels_window():
    labels = ("lung", "left_lung", "liver")
    looks = looks_of(image(CT), labels, "CT", read_windows(None, labels))
    assert (
        looks.by_label == {"lung": 0, "left_lung": 0, "liver": 1} or looks.by_label["lung"] != looks.by_label["liver"]
    )
    for label, window in (("lung", "lung"), ("liver", "soft_tissue")):
        expected = to_uint8(CT[2], grey_scale(CT, "CT", WINDOWS[window]))
        found = looks.picture(looks.by_label[label], 2)
        assert found.shape == (8, 9, 3)
        assert np.array_equal(found[..., 1], expected)
    assert looks.notes()["liver"] == {"kind": "window", "low": -160.0, "high": 240.0}
    assert looks.assumed == ""


def test_what_is_assumed_without_a_modality():
    looks = looks_of(image(CT), ["liver"], "", CtWindows())
    assert (looks.assumed, looks.scales[0].kind) == ("CT", "window")
    looks = looks_of(image(abs(CT)), ["liver"], "", CtWindows())
    assert (looks.assumed, looks.scales[0].kind) == ("not CT", "percentiles")
    assert looks_of(image(CT), ["liver"], "mr", CtWindows()).scales[0].kind == "percentiles"
    assert looks_of(image(abs(CT[:1])), ["liver"], "", CtWindows()).assumed == ""  # a picture of 16 bits


def test_8_bits_stay_as_they_are():
    grey = np.arange(72, dtype=np.uint8).reshape(1, 8, 9)  # dark, which a volume of other numbers might be, too
    assert np.array_equal(
        looks_of(image(grey, eight_bit=True), ["x"], "CT", CtWindows()).picture(0, 0)[..., 2], grey[0]
    )
    colour = np.random.default_rng(0).integers(0, 256, (1, 8, 9, 3)).astype(np.uint8)
    assert np.array_equal(looks_of(image(colour, eight_bit=True), ["x"], "", CtWindows()).picture(0, 0), colour[0])


@pytest.mark.parametrize(("text", "window"), [("lung", (-600, 1500)), ("40,400", (40, 400)), ("-50,350", (-50, 350))])
def test_one_window_for_all(text, window):
    assert read_windows(text, ["liver"]).of("liver") == window
    assert read_windows(text, []).of("7") == window


def test_windows_from_a_file(tmp_path):
    file = tmp_path / "windows.json"
    file.write_text(json.dumps({"nodule": "lung"}), encoding="utf-8")
    found = read_windows(str(file), ["nodule", "liver"])
    assert (found.of("nodule"), found.of("liver")) == (WINDOWS["lung"], WINDOWS["soft_tissue"])


@pytest.mark.parametrize("text", ["brain", "40", "40,x", "1,2,3"])
def test_no_window(text):
    with pytest.raises(SettingError, match=f"--window got '{text}'"):
        read_windows(text, ["liver"])
    with pytest.raises(SettingError, match="width above 0"):
        read_windows("40,0", ["liver"])
