"""Boxes around objects of a scan -> a label map: from each object's middle slice outwards, every slice embedded once
for all objects. numpy alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SIDE = 256  # pixels of the longest side, as the models that boxes prompt see a slice
MARGIN = 3  # of these pixels, around the last slice's mask
DECODED = 2**26  # pixels of masks that are decoded at once: 241 boxes in 4096 x 4096 pixels would be 4 GB and more
NOBODY = np.iinfo(np.int32).max
MEMORY = 2 * 2**30  # bytes

Box = tuple[int, int, int, int]
Picture = Callable[[int, int], NDArray[np.uint8]]


class BoxModel(Protocol):
    """What segments a slice in boxes; see `nnkd.boxes.model`."""

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one slice, (H, W, 3) uint8 -> an embedding, the caller's own."""

    def masks(
        self, embedding: NDArray[np.float32], boxes: NDArray[np.integer], shape: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Segment boxes (n, 4) int, rows (y0, x0, y1, x1), upper bounds excluded -> (n, H, W) bool."""


@dataclass(frozen=True)
class BoxedObject:
    """An object and the box around it.

    Attributes:
        label: Its integer in the label map, above 0.
        box: (z0, y0, x0, z1, y1, x1) in voxels, upper bounds excluded. A box in one slice has z1 = z0 + 1.
        look: Which of a slice's pictures shows it, such as the one in the lung's window.
    """

    label: int
    box: tuple[int, int, int, int, int, int]
    look: int = 0

    @property
    def middle(self) -> int:
        """The slice at which it begins; of two middle ones the lower."""
        return (self.box[0] + self.box[3] - 1) // 2

    @property
    def rows_and_columns(self) -> Box:
        """(y0, x0, y1, x1)."""
        _, y0, x0, _, y1, x1 = self.box
        return y0, x0, y1, x1


@dataclass
class Segmentation:
    """What came of it.

    Attributes:
        label_map: (Z, Y, X) uint8, or uint16 where a label needs it.
        lost: Voxels that objects of several labels claimed, by the label that lost them.
        encoded: How often a slice was embedded.
        decoded: How many boxes were.
        seconds: Wall time of "encode" and "decode".
    """

    label_map: NDArray[np.unsignedinteger]
    lost: dict[int, int] = field(default_factory=dict)
    encoded: int = 0
    decoded: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0})


def segment(
    model: BoxModel, picture: Picture, shape: tuple[int, int, int], objects: Sequence[BoxedObject], memory: int = MEMORY
) -> Segmentation:
    """Segment all objects of a scan.

    Each object begins at its middle slice with its box. The next slice's box is drawn around the mask with a margin of
    3 of the 256 pixels that the model sees, within its own; after an empty mask it is its own again. All objects go up
    together, then down, slice by slice. So a slice is embedded once, or twice if both ways need it and its embedding
    did not fit into the memory between them.

    Source: Ma et al., Nature Communications 2024 (MedSAM), branch LiteMedSAM. Departs: the first and last slice of each
    box are reached. No box leaves the object's own, for masks run away (DSC of nine organs in one CT .81 instead of
    .79, of its spleen .93 instead of .79; of three lesions .89 instead of .88). Where objects overlap, the one with the
    smaller box in the slice wins, of equals the lower label (the same nine organs: .83; the higher probability .81, the
    later object .78; thirty nuclei and their cells: .79 and .82; .16 and .69; .03 and .68).

    Args:
        model: Encodes and decodes.
        picture: (look, z) -> (Y, X, 3) uint8.
        shape: (Z, Y, X).
        objects: What to segment; boxes inside the shape and not empty.
        memory: Bytes that embeddings may take from one slice to the next.

    Returns:
        The label map, and what it took.
    """
    work = _Work(model, picture, shape, objects, memory)
    starts = [one.rows_and_columns for one in objects]
    upwards = list(starts)
    downwards = list(starts)
    for look, z, chosen in _visits(work.up):
        for i, mask in work.masks(look, z, chosen, upwards, True):
            upwards[i] = next_box(mask, starts[i])
            if z == objects[i].middle:
                downwards[i] = upwards[i]
    for look, z, chosen in reversed(list(_visits(work.down))):
        for i, mask in work.masks(look, z, chosen, downwards, False):
            downwards[i] = next_box(mask, starts[i])
    return work.result


def next_box(mask: NDArray[np.bool_], own: Box) -> Box:
    """The box for the next slice: around this one's mask (Y, X), with a margin, within the object's own box; its own if
    nothing of the mask is in it."""
    y0, x0, y1, x1 = own
    inside = mask[y0:y1, x0:x1]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return own
    margin = max(1, round(MARGIN * max(mask.shape) / SIDE))
    return (
        max(y0, y0 + int(rows[0]) - margin),
        max(x0, x0 + int(columns[0]) - margin),
        min(y1, y0 + int(rows[-1]) + 1 + margin),
        min(x1, x0 + int(columns[-1]) + 1 + margin),
    )


def ranks(objects: Sequence[BoxedObject]) -> list[int]:
    """Each object's place among those that overlap, 0 the first: smaller boxes (rows x columns) before larger ones."""
    order = sorted(range(len(objects)), key=lambda i: (_area(objects[i].rows_and_columns), objects[i].label, i))
    return [place for _, place in sorted((i, place) for place, i in enumerate(order))]


def _area(box: Box) -> int:
    y0, x0, y1, x1 = box
    return (y1 - y0) * (x1 - x0)


Visits = dict[tuple[int, int], list[int]]  # indices of objects by (z, look)


def _visits(of: Visits) -> Iterator[tuple[int, int, list[int]]]:
    """Look, slice and objects, from the lowest slice to the highest."""
    for z, look in sorted(of):
        yield look, z, of[z, look]


class _Work:
    """One scan's segmentation as it grows."""

    def __init__(
        self,
        model: BoxModel,
        picture: Picture,
        shape: tuple[int, int, int],
        objects: Sequence[BoxedObject],
        memory: int,
    ):
        self.model, self.picture, self.objects = model, picture, objects
        self.up: Visits = {}
        self.down: Visits = {}
        for i, one in enumerate(objects):
            for z in range(one.box[0], one.box[3]):
                (self.up if z >= one.middle else self.down).setdefault((z, one.look), []).append(i)
        highest = max((one.label for one in objects), default=0)
        self.result = Segmentation(np.zeros(shape, dtype=np.uint8 if highest < 2**8 else np.uint16))
        self._open: dict[int, int] = {}  # how many visits a slice still has before it, by slice
        for z, _ in (*self.up, *self.down):
            self._open[z] = self._open.get(z, 0) + 1
        self._ranks = ranks(objects)
        self._owners: dict[int, np.ndarray] = {}  # ranks of those that won so far, by slice that is visited again
        again = len({z for z, _ in self.up} & {z for z, _ in self.down})
        self._room = memory - again * shape[1] * shape[2] * 4
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def masks(
        self, look: int, z: int, chosen: Sequence[int], boxes: Sequence[Box], upwards: bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Segment objects in one slice and draw them; yields each one's index and its own mask (Y, X)."""
        embedding = self._embedding(z, look, upwards and (z, look) in self.down)
        shape = self.result.label_map.shape[1:]
        owners = self._owners.pop(z, None)
        owners = np.full(shape, NOBODY, dtype=np.int32) if owners is None else owners
        step = max(1, DECODED // (shape[0] * shape[1]))
        for first in range(0, len(chosen), step):
            some = chosen[first : first + step]
            begun = time.perf_counter()
            found = self.model.masks(embedding, np.array([boxes[i] for i in some]), shape)
            self.result.seconds["decode"] += time.perf_counter() - begun
            self.result.decoded += len(some)
            for i, mask in zip(some, found, strict=True):
                self._draw(z, self.objects[i].label, mask, self._ranks[i], owners)
                yield i, mask
        self._open[z] -= 1
        if self._open[z]:
            self._owners[z] = owners

    def _draw(self, z: int, label: int, mask: np.ndarray, rank: int, owners: np.ndarray) -> None:
        drawn = self.result.label_map[z]
        wins = mask & (rank < owners)
        contested = mask & (drawn != 0) & (drawn != label)
        if contested.any():
            for loser, lost in [(label, contested & ~wins), *_by_value(drawn, contested & wins)]:
                if lost.any():
                    self.result.lost[loser] = self.result.lost.get(loser, 0) + int(lost.sum())
        owners[wins] = rank
        drawn[wins] = label

    def _embedding(self, z: int, look: int, again: bool) -> np.ndarray:
        """One slice's, from memory if it is there; kept if it is needed again."""
        kept = self._kept.pop((z, look), None)
        if kept is not None:
            self._room += kept.nbytes
            return kept
        begun = time.perf_counter()
        embedding = self.model.encode(self.picture(look, z))
        self.result.seconds["encode"] += time.perf_counter() - begun
        self.result.encoded += 1
        if again:
            self._keep((z, look), embedding)
        return embedding

    def _keep(self, key: tuple[int, int], embedding: np.ndarray) -> None:
        self._kept[key] = embedding
        self._room -= embedding.nbytes
        while self._room < 0 and self._kept:
            self._room += self._kept.pop(min(self._kept)).nbytes  # the way down needs the lowest last


def _by_value(drawn: np.ndarray, where: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Where each label of a slice is, as far as wanted."""
    return [(int(value), where & (drawn == value)) for value in np.unique(drawn[where])]
