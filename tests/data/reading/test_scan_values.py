"""Tests of nnkd.data.reading.scan_values."""

from __future__ import annotations

import numpy as np
import pytest
from toy import REAL_DATA, needs_real_data, toy_dataset, write_image

from nnkd.data.reading import formats, readers, scan_values

STATISTICS = {"foreground_intensity_properties_per_channel": {"0": {"percentile_00_5": -20, "percentile_99_5": 180}}}


def body(noise=10.0):
    """A CT in HU: air around a body of fat, soft tissue and a bone, with a lung in it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-32:32, -32:32]
    hu = np.full((6, 64, 64), -1000.0)
    for radius, value in ((28, -100), (24, 40), (3, 700)):
        hu[:, y**2 + x**2 < radius**2] = value
    hu[:, y**2 + (x - 14) ** 2 < 36] = -850
    return hu + rng.normal(0, noise, hu.shape)


def window(hu):
    return (np.clip(hu, -160, 240) + 160) / 400


CHANGES = {
    "1024 added": (lambda hu: hu + 1024, "stored with 1024 added: in HU they would be -1"),
    "1000 added": (lambda hu: hu + 1000, "stored with 1024 added"),
    "air made 0": (lambda hu: np.maximum(hu + 1024, 0).astype(np.uint16), "stored with 1024 added"),
    "padding": (lambda hu: np.where(hu < -960, -2000, hu + 1024), "stored with 1024 added"),
    "taken off twice": (lambda hu: hu - 1024, "stored with 1024 taken off twice"),
    "0 to 1": (window, "look scaled"),
    "-1 to 1": (lambda hu: window(hu) * 2 - 1, "look scaled"),
    "z-score": (lambda hu: (hu - hu.mean()) / hu.std(), "look scaled"),
    "thousands": (lambda hu: hu / 1000, "look scaled"),
    "8 bits": (lambda hu: np.rint(window(hu) * 255).astype(np.uint8), "a window's 8 bits"),
    "16 bits": (lambda hu: np.rint(window(hu) * 65535).astype(np.uint16), "no Hounsfield units"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_hounsfield_units_is_told(change):
    make, says = CHANGES[change]
    found = scan_values.not_hounsfield(make(body()))
    assert "are no Hounsfield units" in found
    assert says in found
    noisy = scan_values.not_hounsfield(make(body(noise=60)))
    assert "are no Hounsfield units" in noisy


@pytest.mark.parametrize("noise", [1, 10, 60])
@pytest.mark.parametrize("part", [np.s_[:], np.s_[:, 8:56, 8:56], np.s_[:, 24:40, 4:36], np.s_[:1]])
def test_no_word_about_hounsfield_units(noise, part):
    hu = body(noise)[part]
    for values in (hu, np.clip(hu, -160, 240), np.clip(hu, -1024, 3071), np.where(hu < -900, -3024, hu)):
        assert scan_values.not_hounsfield(values) == ""


@pytest.mark.parametrize("around", [None, 0, -1024])
@pytest.mark.parametrize("value", [10, 40, 150, -800])
def test_an_organ_alone_is_no_cause_for_a_word(value, around):
    """Cut so close that there is no fat, lung or air in it, or with all around it set to one value."""
    rng = np.random.default_rng(0)
    organ = rng.normal(value, 30, (6, 20, 20))
    organ[0, 0, 0] = -40  # some fat at its edge
    if around is not None:
        organ = np.pad(organ, ((0, 0), (12, 12), (12, 12)), constant_values=around)
    assert scan_values.not_hounsfield(organ) == ""
    for make in (lambda hu: hu + 1024, lambda hu: np.rint(window(hu) * 255), window):
        if value > -160:  # else nothing is left of it
            assert "no Hounsfield units" in scan_values.not_hounsfield(make(organ))


def test_mostly_air_with_1024_added_is_told():
    """Its middle value is that of soft tissue in HU."""
    hu = np.full((6, 40, 40), -1000.0) + np.random.default_rng(0).normal(0, 10, (6, 40, 40))
    hu[:, 15:25, 15:25] += 1040
    assert scan_values.not_hounsfield(hu) == ""
    assert "no Hounsfield units" in scan_values.not_hounsfield(hu + 1024)
    assert "no Hounsfield units" in scan_values.not_hounsfield(hu + 1000)


@needs_real_data("trunk_ct")
def test_a_real_scan_and_what_is_cut_of_it():
    hu = formats.read(REAL_DATA / "trunk_ct" / "ct.nii.gz").array[0]
    assert scan_values.not_hounsfield(hu) == ""
    assert not any(scan_values.not_hounsfield(hu[z : z + 8]) for z in range(0, len(hu), 8))
    assert scan_values.not_hounsfield(hu[:, 20:90, 20:80]) == ""
    for make, _ in CHANGES.values():
        assert "no Hounsfield units" in scan_values.not_hounsfield(make(hu.astype(np.float64)))


def test_channels_are_looked_at_by_their_names():
    offset, flat = body() + 1024, np.zeros((2, 3, 3))
    assert scan_values.oddities([offset], ["MRI"]) == []
    assert scan_values.oddities([offset], ["CBCT"]) == []
    assert scan_values.oddities([offset], ["PET/CT"]) == []  # which of both, it does not say
    (told,) = scan_values.oddities([body(), offset], ["T1", "CT venous"])
    assert told.startswith("Channel 1 (CT venous) should be CT, but its values, from ")
    (told,) = scan_values.oddities([flat], ["MRI"])
    assert told == "The image has the one value 0 everywhere: there is nothing to be seen in it."


def test_every_command_that_reads_a_case_says_it(tmp_path, caplog):
    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=1)
    write_image((body() + 1024).astype(np.float32), dataset.folder / "imagesTr" / "toy_000_0000.nii.gz")
    _, _, properties = dataset.images().read("toy_000")
    assert "'toy_000': The image should be CT, but its values, from " in caplog.text
    assert readers.noted(properties)["images"] == [caplog.records[-1].getMessage()]


@pytest.mark.parametrize(
    ("values", "says"),
    [(window(body()) - 100, True), (body() + 2000, True), (body(), False), (np.linspace(0, 1e-3, 9), True)],
)
def test_beyond_what_a_model_was_trained_on(values, says):
    found = scan_values.unlike_training(values[None], STATISTICS, ["CTNormalization"])
    assert bool(found) == says
    assert scan_values.unlike_training(values[None], STATISTICS, ["ZScoreNormalization"]) == []
    assert scan_values.unlike_training(values[None], {}, ["CTNormalization"]) == []
