"""nnkd.data.boxes: boxes as users write them, and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnkd.data.boxes import GivenBoxes, challenge_box, check_form, checked, fingerprint
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.errors import DatasetError, PredictionError, SettingError

SHAPE = (10, 20, 30)
NAN, INF = float("nan"), float("inf")


def test_boxes_of_volumes_slices_and_pictures():
    assert checked([1, 2, 3, 4, 5, 6], SHAPE, False, "") == (1, 2, 3, 4, 5, 6)
    assert checked([9, 0, 0, 20, 30], SHAPE, False, "") == (9, 0, 0, 10, 20, 30)
    assert checked([2, 3, 5, 6], (1, 20, 30), True, "") == (0, 2, 3, 1, 5, 6)
    assert checked([0, 2, 3, 5, 6], (1, 20, 30), True, "") == (0, 2, 3, 1, 5, 6)
    assert checked([0.5, 2.2, 3, 4.1, 5, 6.9], SHAPE, False, "") == (0, 2, 3, 5, 5, 7)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([1, 2, 3, 4, 5, 31], "leaves the image of 10x20x30"),
        ([-1, 2, 3, 4, 5, 6], "leaves the image"),
        ([10, 0, 0, 20, 30], "leaves the image"),
        ([0, 0, 0, 30, 20, 10], "It would fit in the order x, y, z: z comes first here"),
        ([4, 2, 3, 1, 5, 6], "with swapped corners"),
        ([1, 2, 6, 4, 5, 3], "with swapped corners"),
        ([1, 2, 3, 1, 5, 6], "which has no volume"),
        ([1, 2, 3, NAN, 5, 6], "but the finite numbers"),
        ([1, 2, 3, INF, 5, 6], "but the finite numbers"),
        ([1, 2, 3, 10**400, 5, 6], "but the finite numbers"),
        ([1, 2, 3, True, 5, 6], "but the finite numbers"),
        ([1, 2, 3, "4", 5, 6], "but the finite numbers"),
        ("123456", "but the finite numbers"),
        ([1, 2, 3, 4], r"of 4 numbers, but a volume has \[z0, y0, x0, z1, y1, x1\] or \[z, y0, x0, y1, x1\]"),
    ],
)
def test_a_wrong_box_is_one_sentence(box, words):
    with pytest.raises(PredictionError, match=words) as caught:
        checked(box, SHAPE, False, "'boxes.json' has for 'liver' of 'scan'")
    assert str(caught.value).startswith("'boxes.json' has for 'liver' of 'scan' the box")


def test_a_pictures_box():
    with pytest.raises(PredictionError, match=r"of 6 numbers, but a picture has \[y0, x0, y1, x1\]"):
        checked([0, 2, 3, 1, 5, 6], (1, 20, 30), True, "x")
    with pytest.raises(PredictionError, match="which has no area"):
        checked([2, 3, 2, 6], (1, 20, 30), True, "x")
    with pytest.raises(PredictionError, match=r"leaves the image of 20x30 \(height, width\)"):
        checked([2, 3, 22, 6], (1, 20, 30), True, "x")
    with pytest.raises(
        PredictionError, match=r"\(height, width\)\. It would fit in the order x, y: y comes first here"
    ):
        checked([3, 2, 25, 6], (1, 20, 30), True, "x")


def test_the_challenges_boxes():
    assert challenge_box([3, 2, 6, 5], (1, 20, 30), "") == (0, 2, 3, 1, 5, 6)
    assert challenge_box([3, 2, 1, 6, 5, 4], SHAPE, "") == (1, 2, 3, 5, 5, 6)  # z1 is segmented, too
    assert challenge_box([3, 2, 4, 6, 5, 4], SHAPE, "") == (4, 2, 3, 5, 5, 6)  # a single slice
    assert challenge_box([3, 2, 1, 6, 5, 9], SHAPE, "") == (1, 2, 3, 10, 5, 6)
    assert challenge_box([3, 2, 1, 6, 5, 10], SHAPE, "") == (1, 2, 3, 10, 5, 6)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([3, 2, 1, 6, 5, 11], r"the box \[3, 2, 1, 6, 5, 11\], which leaves the image"),
        ([0, 0, 0, 10, 20, 29], "It would fit in the order z, y, x: x comes first here"),
        ([3, 2, 5, 6, 5, 4], "with swapped corners"),
        ([3, 2, 1, 3, 5, 4], "which has no volume"),
        ([3.5, 2, NAN, 6, 5, 4], r"finite numbers \[x0, y0, z0, x1, y1, z1\] are expected"),
    ],
)
def test_a_wrong_box_of_the_challenge(box, words):
    with pytest.raises(PredictionError, match=words):
        challenge_box(box, SHAPE, "'a.npz' has")


@pytest.mark.parametrize("box", [[1, 2, 3, 4, 5, 600], [900, 0, 0, 20, 30], [2, 3, 5, 6], [0.5, 2, 3, 4, 5, 6]])
def test_a_boxes_form_is_checked_without_its_image(box):
    check_form(box, "")
    wrong = [*box[:-1], box[-1] - 1000]
    with pytest.raises(PredictionError, match=r"'a' has the box .* with swapped corners"):
        check_form(wrong, "'a' has")
    with pytest.raises(PredictionError, match="of 3 numbers, but a volume has"):
        check_form(box[:3], "'a' has")


SIDEWAYS = Orientation(Grid(SHAPE, (1, 1, 1), (0, 0, 0), np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)))


def test_boxes_are_seen_as_the_image_is():
    given = GivenBoxes(
        "boxes.json", {"a": {"liver": [[1, 2, 3, 4, 5, 6]], "spleen": []}, "b": {"liver": [[1, 0, 0, 2, 3]]}}
    )
    assert given.seen("a", None, SHAPE, False, "") == {"liver": [(1, 2, 3, 4, 5, 6)], "spleen": []}
    assert given.seen("a", SIDEWAYS, SHAPE, False, "") == {"liver": [SIDEWAYS.turn((1, 2, 3, 4, 5, 6))], "spleen": []}
    with pytest.raises(DatasetError, match=r"'boxes\.json' has for 'liver' of 'b' a box for one slice.*or do that\."):
        given.seen("b", SIDEWAYS, SHAPE, False, "do that")
    with pytest.raises(PredictionError, match=r"has for 'liver' of 'b'.* leaves the image"):
        given.seen("b", None, (1, 20, 30), False, "")


def test_a_file_of_boxes(tmp_path):
    file = tmp_path / "boxes.json"
    content = {"a": {"liver": [[1, 2, 3, 4]], "spleen": []}, "b": {"aorta": [], "liver": []}, "c": [[1, 2, 3, 4]]}
    file.write_text(json.dumps(content), encoding="utf-8")
    found = GivenBoxes.read(file)
    assert found.labels == ["liver", "spleen", "aorta", "1"]
    assert found.of("a") == content["a"]
    assert found.of("c") == {"1": [[1, 2, 3, 4]]}
    assert fingerprint(found.of("a")) != fingerprint(found.of("b"))
    with pytest.raises(PredictionError, match=r"'boxes\.json' has no boxes for 'd'"):
        found.of("d")


@pytest.mark.parametrize("content", [{"a": {"liver": 3}}, {"a": "box"}, {"a": None}])
def test_no_lists_of_boxes(tmp_path, content):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    found = GivenBoxes.read(file)
    assert found.labels in ([], ["liver"])
    with pytest.raises(PredictionError, match="no lists of boxes by label for 'a'"):
        found.of("a")


def test_no_json(tmp_path):
    with pytest.raises(SettingError, match="cannot be read"):
        GivenBoxes.read(tmp_path / "boxes.json")
