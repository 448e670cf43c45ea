"""nnkd.boxes.propagation: the same label map as one object after another, and every slice embedded once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.boxes.propagation import BoxedObject, next_box, ranks, segment

SHAPE = (9, 12, 14)


class Fake:
    """Its embedding is the picture's grey; a box's mask is what is bright in it."""

    def __init__(self):
        self.encoded: list[bytes] = []
        self.most = 0

    def encode(self, image):
        self.encoded.append(image.tobytes())
        return image[..., 0].astype(np.float32)

    def masks(self, embedding, boxes, shape):
        self.most = max(self.most, len(boxes))
        found = np.zeros((len(boxes), *shape), dtype=bool)
        for one, (y0, x0, y1, x1) in zip(found, boxes, strict=True):
            assert 0 <= y0 < y1 <= shape[0]
            assert 0 <= x0 < x1 <= shape[1]
            one[y0:y1, x0:x1] = embedding[y0:y1, x0:x1] > 60 + 20 * ((y0 + x0) % 3)
        return found


def scan(seed: int = 0) -> np.ndarray:
    """Blobs in noise, with a dark slice."""
    grey = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    grey[4] //= 8
    return grey


def pictures(grey: np.ndarray):
    return lambda look, z: np.repeat((grey[z] if look == 0 else 255 - grey[z])[..., None], 3, axis=-1)


def one_by_one(grey: np.ndarray, objects: list[BoxedObject]) -> np.ndarray:
    """The published way, each object on its own, then painted over one another: the smallest box last."""
    label_map, picture, model = np.zeros(SHAPE, dtype=np.uint8), pictures(grey), Fake()
    for _, one in sorted(zip(ranks(objects), objects, strict=True), key=lambda pair: -pair[0]):
        found = np.zeros(SHAPE, dtype=bool)
        for zs in (range(one.middle, one.box[3]), range(one.middle - 1, one.box[0] - 1, -1)):
            for z in zs:
                start, last = z == one.middle, z - 1 if zs.step > 0 else z + 1
                box = one.rows_and_columns if start else next_box(found[last], one.rows_and_columns)
                found[z] = model.masks(model.encode(picture(one.look, z)), np.array([box]), SHAPE[1:])[0]
        label_map[found] = one.label
    return label_map


@st.composite
def some_objects(draw) -> list[BoxedObject]:
    found = []
    for label in range(1, draw(st.integers(1, 5)) + 1):
        low = [draw(st.integers(0, size - 1)) for size in SHAPE]
        high = [draw(st.integers(lowest + 1, size)) for lowest, size in zip(low, SHAPE, strict=True)]
        found.append(BoxedObject(label, (*low, *high), draw(st.integers(0, 1))))
    return found


@settings(max_examples=60)
@given(some_objects(), st.integers(0, 5))
def test_together_as_one_by_one_with_every_slice_embedded_once(objects, seed):
    model, grey = Fake(), scan(seed)
    found = segment(model, pictures(grey), SHAPE, objects)
    assert np.array_equal(found.label_map, one_by_one(grey, objects))
    needed = {(one.look, z) for one in objects for z in range(one.box[0], one.box[3])}
    assert found.encoded == len(model.encoded) == len(needed)
    assert found.decoded == sum(one.box[3] - one.box[0] for one in objects)


@settings(max_examples=40)
@given(some_objects(), st.integers(0, 6))
def test_a_small_memory_costs_time_and_changes_nothing(objects, slices):
    grey = scan()
    free, tight = Fake(), Fake()
    room = slices * 4 * SHAPE[1] * SHAPE[2]
    before, after = (segment(m, pictures(grey), SHAPE, objects, r) for m, r in ((free, 2**30), (tight, room)))
    assert np.array_equal(before.label_map, after.label_map)
    assert before.encoded <= after.encoded
    assert max(Counter(tight.encoded).values()) <= 2


def test_without_any_memory_a_slice_needed_both_ways_is_embedded_twice():
    objects = [BoxedObject(1, (0, 2, 2, 3, 9, 9)), BoxedObject(2, (0, 2, 2, 9, 9, 9))]
    assert [segment(Fake(), pictures(scan()), SHAPE, objects, memory).encoded for memory in (2**30, 0)] == [9, 11]
    assert segment(Fake(), pictures(scan()), SHAPE, objects[:1], 0).encoded == 3  # one object needs none twice


def test_the_first_and_the_last_slice_are_reached():
    grey = np.full(SHAPE, 200, dtype=np.uint8)
    found = segment(Fake(), pictures(grey), SHAPE, [BoxedObject(3, (0, 2, 3, 9, 8, 10))]).label_map
    assert found.any(axis=(1, 2)).all()
    assert not segment(Fake(), pictures(grey), SHAPE, [BoxedObject(3, (2, 2, 3, 5, 8, 10))]).label_map[[0, 1, 5]].any()


def test_the_next_box_has_a_margin_and_stays_in_its_own():
    mask = np.zeros((256, 512), dtype=bool)
    mask[100:110, 2:20] = True
    assert next_box(mask, (0, 0, 256, 512)) == (94, 0, 116, 26)
    assert next_box(mask, (97, 1, 112, 300)) == (97, 1, 112, 26)
    assert next_box(mask, (5, 6, 7, 8)) == (5, 6, 7, 8)  # the mask is elsewhere
    assert next_box(mask & False, (5, 6, 7, 8)) == (5, 6, 7, 8)
    assert next_box(np.ones((1, 40), dtype=bool), (0, 0, 1, 40)) == (0, 0, 1, 40)


def test_the_smaller_box_wins_and_the_loser_is_counted():
    def boxed(*columns):
        objects = [BoxedObject(i + 1, (0, 0, low, 1, 1, high)) for i, (low, high) in enumerate(columns)]
        found = segment(Fake(), lambda *_: np.full((1, 8, 3), 200, np.uint8), (1, 1, 8), objects)
        return found.label_map[0, 0].tolist(), found.lost

    assert boxed((0, 5), (3, 6)) == ([1, 1, 1, 2, 2, 2, 0, 0], {1: 2})
    assert boxed((3, 6), (0, 5)) == ([2, 2, 2, 1, 1, 1, 0, 0], {2: 2})
    assert boxed((0, 8), (5, 8)) == ([1, 1, 1, 1, 1, 2, 2, 2], {1: 3})
    assert boxed((2, 7), (2, 7)) == ([0, 0, 1, 1, 1, 1, 1, 0], {2: 5})  # equal boxes: the lower label
    assert boxed((0, 8), (2, 7), (3, 5)) == ([1, 1, 2, 3, 3, 2, 2, 1], {1: 5, 2: 2})


def test_who_comes_first():
    boxes = [(0, 0, 0, 1, 9, 9), (0, 0, 0, 9, 2, 2), (1, 0, 0, 2, 2, 2), (0, 0, 0, 1, 1, 3)]
    objects = [BoxedObject(label, box) for label, box in zip((1, 3, 2, 4), boxes, strict=True)]
    assert ranks(objects) == [3, 2, 1, 0]
    assert ranks([]) == []


@pytest.mark.parametrize(("label", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_labels_fit(label, dtype):
    found = segment(Fake(), pictures(scan()), SHAPE, [BoxedObject(label, (1, 0, 0, 2, 12, 14))]).label_map
    assert found.dtype == dtype
    assert found.max() == label


def test_large_pictures_are_decoded_in_parts(monkeypatch):
    monkeypatch.setattr("nnkd.boxes.propagation.DECODED", 2 * SHAPE[1] * SHAPE[2])
    objects = [BoxedObject(i + 1, (2, 0, i, 3, 5, i + 5)) for i in range(5)]
    model = Fake()
    assert np.array_equal(segment(model, pictures(scan()), SHAPE, objects).label_map, one_by_one(scan(), objects))
    assert model.most == 2


def test_nothing_to_segment():
    found = segment(Fake(), pictures(scan()), SHAPE, [])
    assert not found.label_map.any()
    assert found.encoded == 0
