"""nnkd.teachers.slice_teacher: a GPU whose memory is full halves the batch and goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnkd.errors import NnkdError
from nnkd.teachers.slice_teacher import SliceTeacher
from nnkd.types import SliceBoxes, TeacherContext, Volume

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
