"""nnkd.teachers.slice_teacher: which slices are asked for; a GPU whose memory is full halves the batch and goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnkd.data.intensities import UNCHANGED, GreyScale
from nnkd.errors import NnkdError, PredictionError
from nnkd.teachers.slice_teacher import BoxedSlice, SliceTeacher, boxed_slices, empty_answers, join, picture
from nnkd.types import SliceBoxes, TeacherContext, TextPrompt, Volume

SHAPE = (7, 12, 10)
BOXES = [(z, 2, 3, 8, 9) for z in range(7)] + [(3, 0, 0, 2, 2), (3, 9, 0, 12, 2)]


class Narrow(SliceTeacher):
    """Fits so many slices and boxes at once; answers with its boxes."""

    def __init__(self, slices: int, boxes: int, batch: int):
        super().__init__(TeacherContext(("liver",)), batch=batch)
        self.slices, self.boxes, self.tried = slices, boxes, []

    def _encode(self, images):
        self.tried.append(len(images))
        if len(images) > self.slices:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor([[[[float(image.sum())]]] for image in images])

    def _decode(self, embedding, boxes, shape):
        if len(boxes) > self.boxes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = np.zeros((len(boxes), *shape), np.float32)
        for mask, (y0, x0, y1, x1) in zip(found, boxes, strict=True):
            mask[y0:y1, x0:x1] = 1 + float(embedding) % 7
        return found


def scan() -> Volume:
    data = np.random.default_rng(0).normal(0, 200, (1, *SHAPE)).astype(np.float32)
    return Volume("x", data, (1, 1, 1), (0, 0, 0), np.eye(3), ("CT",))


def answer(teacher: Narrow) -> np.ndarray:
    return teacher.predict(scan(), {"liver": SliceBoxes(BOXES)})["liver"]


@pytest.mark.parametrize(("slices", "tried"), [(9, [7]), (3, [7, 3, 3, 1]), (1, [7, 3, 1, 1, 1, 1, 1, 1, 1])])
def test_a_full_gpu_gives_the_same_answer(slices, tried):
    teacher = Narrow(slices, 1, 8)
    assert np.array_equal(answer(teacher), answer(Narrow(99, 99, 1)))
    assert teacher.tried == tried
    assert teacher.notes()["encoded_slices"] == 7
    before = len(teacher.tried)
    answer(teacher)
    assert max(teacher.tried[before:]) <= max(slices, 1)  # it does not run into the same wall again


def test_nothing_fits():
    with pytest.raises(NnkdError, match="A single slice needs more memory than cpu has left"):
        answer(Narrow(0, 9, 4))
    with pytest.raises(NnkdError, match="A single box needs more memory"):
        answer(Narrow(9, 0, 4))


SOFT, LUNG = GreyScale("window", -160, 240), GreyScale("window", -1350, 150)


def volume(data: np.ndarray, names: tuple[str, ...] = ("CT",)) -> Volume:
    """A volume (C, Z, Y, X) with nothing else to it."""
    return Volume("x", data.astype(np.float32), (1, 1, 1), (0, 0, 0), np.eye(3), names)


def test_labels_of_one_scale_share_a_slice():
    prompts = {
        "liver": SliceBoxes([(3, 0, 0, 4, 4), (1, 0, 0, 2, 2), (3, 1, 1, 2, 2)]),
        "lung": SliceBoxes([(3, 2, 2, 4, 4)]),
        "spleen": SliceBoxes([(3, 0, 1, 2, 3)]),
        "absent": SliceBoxes([]),
    }
    scales = {"liver": SOFT, "lung": LUNG, "spleen": SOFT, "absent": SOFT}
    found = boxed_slices(prompts, scales, (5, 4, 4))
    assert [(one.z, one.scale, one.labels) for one in found] == [
        (1, SOFT, ["liver"]), (3, SOFT, ["liver", "liver", "spleen"]), (3, LUNG, ["lung"]),
    ]  # fmt: skip
    assert found[1].boxes == [(0, 0, 4, 4), (1, 1, 2, 2), (0, 1, 2, 3)]


def test_no_box_no_slice():
    assert boxed_slices({"liver": SliceBoxes([])}, {"liver": SOFT}, (5, 4, 4)) == []
    assert boxed_slices({}, {}, (5, 4, 4)) == []


@pytest.mark.parametrize(
    "box", [(5, 0, 0, 1, 1), (-1, 0, 0, 1, 1), (0, 0, 0, 5, 1), (0, 0, -1, 1, 1), (0, 2, 0, 2, 1), (0, 0, 3, 1, 2)]
)
def test_boxes_outside_or_without_area(box):
    with pytest.raises(PredictionError, match="leaves the volume of 5x4x4 voxels"):
        boxed_slices({"liver": SliceBoxes([box])}, {"liver": SOFT}, (5, 4, 4))


def test_another_kind_of_prompt():
    with pytest.raises(PredictionError, match="'liver' is prompted by a TextPrompt, but boxes are expected"):
        boxed_slices({"liver": TextPrompt("liver")}, {"liver": SOFT}, (5, 4, 4))


def test_grey_pictures_have_three_equal_channels():
    data = np.linspace(-200, 300, 2 * 3 * 5).reshape(1, 2, 3, 5)
    found = picture(volume(data), BoxedSlice(1, SOFT))
    assert (found.shape, found.dtype) == ((3, 5, 3), np.uint8)
    assert (found == found[..., :1]).all()
    assert found.flags["C_CONTIGUOUS"]


def test_colour_stays_colour():
    data = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 6))
    for names in (("R", "G", "B"), ("red", "green", "blue")):
        assert np.array_equal(picture(volume(data, names), BoxedSlice(0, UNCHANGED)), np.moveaxis(data[:, 0], 0, -1))


def test_three_channels_that_are_no_colours():
    data = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 6))
    found = picture(volume(data, ("T1", "T2", "FLAIR")), BoxedSlice(0, UNCHANGED))
    assert np.array_equal(found, np.repeat(data[0, 0, ..., None], 3, axis=-1))


def test_boxes_of_one_label_are_joined_by_their_maximum():
    answers = empty_answers(["liver", "spleen"], (2, 1, 3))
    one = BoxedSlice(1, SOFT, ["liver", "spleen", "liver"], [(0, 0, 1, 1)] * 3)
    join(answers, one, np.float32([[[0.1, 0.9, 0.2]], [[0.3, 0.3, 0.3]], [[0.4, 0.2, 0.2]]]))
    assert np.allclose(answers["liver"][1], [[0.4, 0.9, 0.2]])
    assert np.allclose(answers["spleen"][1], 0.3)
    assert answers["liver"].dtype == np.float32
    assert not answers["liver"][0].any()
