"""nnkd.boxes.pixels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.boxes.pixels import masks_of_logits, prepare, probabilities_of_logits, resize, scaled_boxes, scaled_shape

SIDES = st.integers(1, 600)


def hills(number: int, seed: int) -> np.ndarray:
    """Logits (n, 256, 256) with a few smooth hills each."""
    coarse = np.random.default_rng(seed).normal(-3, 8, (number, 10, 10)).astype(np.float32)
    return np.kron(coarse, np.ones((1, 26, 26), dtype=np.float32))[:, :256, :256]


def theirs(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same as torch computes it."""
    torch = pytest.importorskip("torch")
    height, width = scaled_shape(shape, 256)
    cropped = torch.from_numpy(logits)[:, None, :height, :width]
    return torch.nn.functional.interpolate(cropped, shape, mode="bilinear", align_corners=False)[:, 0].numpy()


@pytest.mark.parametrize(
    ("shape", "scaled"),
    [((256, 256), (256, 256)), ((35, 50), (179, 256)), ((512, 300), (256, 150)), ((1, 900), (1, 256))],
)
def test_the_longest_side_becomes_256(shape, scaled):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    prepared = prepare(image, 256)
    assert scaled_shape(shape, 256) == scaled
    assert (prepared.shape, prepared.dtype) == ((3, 256, 256), np.float32)
    inside = prepared[:, : scaled[0], : scaled[1]]
    assert (inside.min(), inside.max()) == (0, 1)
    assert not prepared[:, scaled[0] :].any()
    assert not prepared[:, :, scaled[1] :].any()


def test_other_models_see_other_sizes():
    image = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    assert (scaled_shape((30, 60), 1024), prepare(image, 120).shape) == ((512, 1024), (3, 120, 120))
    assert scaled_boxes(np.array([[5, 10, 20, 60]]), (30, 60), 120).tolist() == [[20, 10, 120, 40]]
    logits = np.full((1, 120, 120), -1, dtype=np.float32)
    logits[0, 10:40, 20:] = 1
    masks = masks_of_logits(logits, (30, 60))
    assert (masks[0, 5:20, 10:].all(), masks.sum()) == (True, 15 * 50)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_slice_of_one_value_is_black(value):
    assert not prepare(np.full((30, 40, 3), value, dtype=np.uint8), 256).any()


def test_colours_share_one_lowest_and_highest_value():
    image = np.zeros((256, 256, 3), dtype=np.uint8)
    image[..., 0], image[..., 1], image[0, 0, 2] = 100, 50, 200
    assert prepare(image, 256)[:, 5, 5] == pytest.approx([0.5, 0.25, 0])


def test_shrinking_takes_means_over_areas():
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    exact = image.reshape(3, 2, 2, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(resize(image, (3, 2)), np.floor(exact + 0.5))
    row = np.repeat(np.array([[[30], [60], [90]]], dtype=np.uint8), 3, axis=0)
    assert resize(row, (2, 2))[0, :, 0].tolist() == [40, 80]  # (30 + 60/2) / 1.5, (60/2 + 90) / 1.5


def test_enlarging_is_linear_between_the_centres_of_pixels():
    row = np.array([[[0], [100]]], dtype=np.uint8).repeat(2, axis=0)
    assert resize(row, (4, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
    assert resize(row[:, :1], (4, 4))[..., 0].tolist() == [[0] * 4] * 4


@pytest.mark.parametrize("shape", [(35, 50), (50, 35), (7, 5)])
def test_enlarging_is_torchs(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = scaled_shape(shape, 256)
    torch = pytest.importorskip("torch")
    batch = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float32))
    theirs = torch.nn.functional.interpolate(batch, wanted, mode="bilinear", align_corners=False)[0].numpy()
    assert np.abs(np.moveaxis(theirs, 0, -1) - resize(image, wanted)).max() <= 0.51


@pytest.mark.parametrize("shape", [(417, 534), (334, 296), (241, 244), (358, 110), (425, 199)])
def test_one_channel_gives_what_three_equal_ones_do(shape):
    """Sums ran in another order, so that one pixel at exactly one half came out one lower."""
    grey = np.random.default_rng(0).integers(0, 256, (*shape, 1), dtype=np.uint8)
    wanted = scaled_shape(shape, 256)
    np.testing.assert_array_equal(resize(grey, wanted), resize(np.repeat(grey, 3, -1), wanted)[..., :1])


@pytest.mark.parametrize("shape", [(512, 512), (512, 400), (180, 300), (257, 256), (400, 3)])
def test_shrinking_is_opencvs(shape):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless to compare with")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = scaled_shape(shape, 256)
    theirs = cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(theirs.astype(int) - resize(image, wanted)).max() <= 1  # they count in 11 bits


@pytest.mark.parametrize(
    ("box", "shape", "expected"),
    [
        ((0, 0, 100, 50), (100, 50), (0, 0, 128, 256)),
        ((1, 2, 4, 9), (300, 512), (1, 0, 4, 2)),
        ((3, 5, 4, 6), (256, 9), (5, 3, 6, 4)),
    ],
)
def test_boxes_are_scaled_to_whole_pixels(box, shape, expected):
    found = scaled_boxes(np.array([box]), shape, 256)
    assert found.dtype == np.float32
    assert found.tolist() == [list(expected)]


def test_probabilities_lie_where_the_logits_did():
    """A square in the 256 pixels comes back as the square of the slice that it stands for; the padding is cut off."""
    for shape, inside in (
        ((128, 64), (20, 30, 60, 50)),
        ((300, 512), (100, 200, 250, 400)),
        ((256, 256), (0, 0, 9, 9)),
    ):
        factor = 256 / max(shape)
        y0, x0, y1, x1 = (round(v * factor) for v in inside)
        logits = np.full((1, 256, 256), -20, dtype=np.float32)
        logits[:, y0:y1, x0:x1] = 20
        found = probabilities_of_logits(logits, shape)[0] > 0.5
        expected = np.zeros(shape, dtype=bool)
        expected[inside[0] : inside[2], inside[1] : inside[3]] = True
        assert found.shape == shape
        assert (found != expected).mean() < 0.01


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, st.integers(0, 9))
def test_probabilities_and_masks_are_torchs(height, width, seed):
    logits, shape = hills(2, seed), (height, width)
    expected = 1 / (1 + np.exp(-theirs(logits, shape).astype(np.float64)))
    found = probabilities_of_logits(logits, shape)
    assert (found.shape, found.dtype) == ((2, height, width), np.float32)
    assert np.abs(found - expected).max() < 1e-5
    masks = masks_of_logits(logits, shape)
    assert (masks.shape, masks.dtype) == (found.shape, bool)
    clear = np.abs(expected - 0.5) > 1e-5
    assert np.array_equal(masks[clear], expected[clear] > 0.5)


def test_a_single_positive_logit_and_none():
    """Only what lies around positive logits is computed: nothing may be missing at its border."""
    for y, x in ((0, 0), (255, 255), (100, 3)):
        logits = np.full((2, 256, 256), -1, dtype=np.float32)
        logits[0, y, x] = 50
        masks = masks_of_logits(logits, (700, 700))
        assert np.array_equal(masks[0], theirs(logits, (700, 700))[0] > 0)
        assert masks[0].sum() > 4
        assert not masks[1].any()


def test_no_boxes_no_masks():
    nothing = np.zeros((0, 256, 256), dtype=np.float32)
    assert masks_of_logits(nothing, (30, 40)).shape == (0, 30, 40)
    assert probabilities_of_logits(nothing, (30, 40)).shape == (0, 30, 40)


def test_what_is_no_number_is_no_mask():
    logits = np.full((1, 256, 256), np.nan, dtype=np.float32)
    assert not masks_of_logits(logits, (300, 300)).any()


def test_huge_logits_do_not_overflow():
    logits = np.full((1, 256, 256), -1e4, dtype=np.float32)
    logits[:, :128] = 1e4
    with np.errstate(all="raise"):
        found = probabilities_of_logits(logits, (256, 256))
    assert np.array_equal(np.unique(found), [0, 1])


@pytest.mark.parametrize("shape", [(256, 256), (35, 50), (600, 400)])
def test_a_grey_picture_stands_for_three_equal_channels(shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    colour = prepare(np.repeat(grey[..., None], 3, axis=2), 256)
    assert np.abs(prepare(grey, 256) - colour).max() <= 1.01 / 200  # sums in another order may round the other way


def test_torch_is_not_imported():
    code = "import sys, nnkd.boxes.pixels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
