"""Batches of training slices: which slice of a case, flips, a label's mask and the box around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from nnkd.boxes.pixels import prepare
from nnkd.errors import DatasetError
from nnkd.files import sha256_text
from nnkd.training.loader import Draw
from nnkd_litemedsam.sizes import SIZE
from nnkd_litemedsam.slices.store import SMALLEST, Slices, StoredCase
from nnkd_litemedsam.trainers.embedding_files import EmbeddingFiles

BoxOf = Literal["label", "component"]


@dataclass(frozen=True)
class Targets:
    """How a target and its box are made of a slice's label map.

    Attributes:
        box: Around all of a label, or around one connected component of it, which is then the target.
        jitter: Each side of the box is moved outwards by a number drawn from 0 to this, in pixels of the 256.
    """

    box: BoxOf = "label"
    jitter: float = 10.0


@dataclass
class Sample:
    """One slice as the networks see it.

    Attributes:
        key: The case, with its dataset in front where there are several.
        image: (3, 256, 256) float32 in [0, 1].
        shape: (h, w), what of it is no padding.
        label: The target's label; empty without one.
        mask: (256, 256) bool target; None without one.
        box: (x0, y0, x1, y1) float32 in whole pixels of the 256, upper bounds excluded; None without a target.
        file: Where the teacher's embedding of exactly this image is kept, or would be; None: nowhere.
    """

    key: str
    image: NDArray[np.float32]
    shape: tuple[int, int]
    label: str = ""
    mask: NDArray[np.bool_] | None = None
    box: NDArray[np.float32] | None = None
    file: Path | None = None


@dataclass(frozen=True)
class Reader:
    """Slices of one or several datasets as samples.

    Attributes:
        datasets: By name.
        prefixed: Whether keys have the dataset's name in front ("Dataset702_Name/case").
        targets: How targets are made; None: images only.
        files: Where embeddings are kept; None: nowhere.
    """

    datasets: Mapping[str, Slices] = field(repr=False)
    prefixed: bool
    targets: Targets | None = None
    files: EmbeddingFiles | None = field(default=None, repr=False)

    def where(self, key: str) -> tuple[Slices, str]:
        """The dataset of a key, and its case there."""
        if self.prefixed:
            name, _, case = key.partition("/")
            return self.datasets[name], case
        return next(iter(self.datasets.values())), key

    def record(self, key: str) -> StoredCase:
        """What is known of a case."""
        slices, case = self.where(key)
        return slices.index.cases[case]

    def choices(self, key: str) -> Sequence[int]:
        """Slices of a case that can be drawn."""
        record = self.record(key)
        return list(record.targets()) if self.targets is not None else record.content()

    def sample(self, key: str, z: int, rng: np.random.Generator, flips: bool, jitter: bool = True) -> Sample:
        """One slice, with one of its labels if there are to be targets.

        Args:
            key: The case.
            z: The slice.
            rng: Draws the label (or, without targets, the grey scale), flips and jitter.
            flips: Whether to flip, each axis with one half's chance.
            jitter: Whether to move the box's sides.
        """
        slices, case = self.where(key)
        record = slices.index.cases[case]
        labels = record.targets()[z] if self.targets is not None else []
        label = labels[rng.integers(len(labels))] if labels else ""
        grey = slices.index.grey_of[label] if label else int(rng.integers(len(slices.index.windows)))
        picture, stored = slices.read(case, z, grey)
        mask = slices.mask(stored, label) if label else None
        for axis in (0, 1):
            if flips and rng.random() < 0.5:  # of the slice, before it is padded: another picture, another embedding
                picture = np.flip(picture, axis)
                mask = None if mask is None else np.flip(mask, axis)
        picture = np.ascontiguousarray(picture)
        shape = picture.shape[:2]
        file = self.files.file(slices.name, picture) if self.files is not None else None
        sample = Sample(key, prepare(picture, SIZE), (shape[0], shape[1]), label, file=file)
        if mask is not None and self.targets is not None:
            smallest = SMALLEST * mask.size / (record.shape[0] * record.shape[1])
            if self.targets.box == "component":
                mask = _component(mask, smallest, rng)
            sample.box = box_around(mask, self.targets.jitter if jitter else 0.0, rng)
            sample.mask = np.zeros((SIZE, SIZE), dtype=bool)
            sample.mask[: shape[0], : shape[1]] = mask
        return sample

    def fixed(self, keys: Sequence[str], most: int | None = None) -> list[tuple[str, int]]:
        """Slices of these cases in an order that is always the same and mixes the cases; at most `most`."""
        every = [(key, z) for key in keys for z in self.choices(key)]
        every.sort(key=lambda pair: sha256_text(f"{pair[0]} {pair[1]}"))
        return every[:most]


def _component(mask: np.ndarray, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """One connected component, of those that are large enough or else the largest one."""
    numbered, found = ndimage.label(mask, structure=np.ones((3, 3)))
    if found == 1:
        return mask
    sizes = np.bincount(numbered.ravel())[1:]
    large = np.flatnonzero(sizes >= smallest)
    chosen = large[rng.integers(len(large))] if len(large) else int(np.argmax(sizes))
    return numbered == chosen + 1


def box_around(mask: NDArray[np.bool_], jitter: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The box around a mask, each side moved outwards by a number drawn from 0 to `jitter` pixels.

    Source: Yang et al. 2024, section 3.3, and its code: at most 10 pixels, never inwards.

    Args:
        mask: (h, w) bool, not empty.
        jitter: Pixels.
        rng: For the jitter.

    Returns:
        (x0, y0, x1, y1) float32 in whole pixels, upper bounds excluded, inside the slice.
    """
    low, high = [], []
    for axis in (1, 0):  # x, y
        inside = np.flatnonzero(mask.any(axis=1 - axis))
        out = rng.uniform(0, jitter, 2) if jitter else np.zeros(2)
        low.append(max(0.0, np.floor(inside[0] - out[0])))
        high.append(min(float(mask.shape[axis]), np.floor(inside[-1] + 1 + out[1])))
    return np.array([*low, *high], dtype=np.float32)


def collated(samples: Sequence[Sample]) -> dict[str, Any]:
    """A batch.

    Returns:
        "data" (B, 3, 256, 256) float32, "shapes" (B, 2) int64, "keys"; with targets "target" (B, 1, 256, 256) bool and
        "boxes" (B, 4) float32; where embeddings are kept "files" and "embeddings", a tensor (256, 64, 64) float16 for
        each that is there, None for the others.
    """
    batch: dict[str, Any] = {
        "data": torch.from_numpy(np.stack([sample.image for sample in samples])),
        "shapes": torch.tensor([sample.shape for sample in samples]),
        "keys": [sample.key for sample in samples],
        "labels": [sample.label for sample in samples],
    }
    masks = [sample.mask for sample in samples if sample.mask is not None]
    boxes = [sample.box for sample in samples if sample.box is not None]
    if len(masks) == len(boxes) == len(samples):
        batch["target"] = torch.from_numpy(np.stack(masks)[:, None])
        batch["boxes"] = torch.from_numpy(np.stack(boxes))
    if samples[0].file is not None:
        batch["files"] = [str(sample.file) for sample in samples]
        batch["embeddings"] = [EmbeddingFiles.read(sample.file) for sample in samples]
    return batch


class DrawnSlices:
    """Batches for ever: a sampler says which cases, and of each case one slice is drawn.

    Args:
        reader: The slices.
        draw: The sampler, and how its batches are dealt to the loader's workers.
        flips: Whether slices are flipped.
    """

    def __init__(self, reader: Reader, draw: Draw, flips: bool):
        self.reader, self.draw, self.flips = reader, draw, flips
        self.thread_id = 0
        self._batches: Iterator[list[str]] | None = None
        self._rng: np.random.Generator | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None, "_rng": None}  # each worker has its own

    def set_thread_id(self, number: int) -> None:
        """batchgenerators' way to tell a worker its number."""
        self.thread_id = number

    def __iter__(self) -> DrawnSlices:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._batches is None or self._rng is None:
            self._batches = self.draw.batches(self.thread_id)
            self._rng = np.random.default_rng()  # entropy of this process: workers must not draw alike
        rng = self._rng
        keys = next(self._batches)
        chosen = [(key, self.reader.choices(key)) for key in keys]
        return collated(
            [self.reader.sample(key, zs[int(rng.integers(len(zs)))], rng, self.flips) for key, zs in chosen]
        )


class FixedSlices:
    """The same slices again and again, never flipped, with the same label each time and boxes that are exact: for
    validation.

    Args:
        reader: The slices.
        pairs: Cases and slices, from `Reader.fixed`.
        batch_size: Of all batches but the last of a round.
    """

    draw = None

    def __init__(self, reader: Reader, pairs: Sequence[tuple[str, int]], batch_size: int):
        self.reader, self.pairs, self.batch_size = reader, list(pairs), batch_size
        self._next = 0

    def __len__(self) -> int:
        """Batches in a round."""
        return math.ceil(len(self.pairs) / self.batch_size)

    def set_thread_id(self, number: int) -> None:
        """Only one worker may read them.

        Raises:
            DatasetError: If there is another one.
        """
        if number:
            raise DatasetError("Slices for validation are read in order, by one worker; several were started.")

    def __iter__(self) -> FixedSlices:
        return self

    def __next__(self) -> dict[str, Any]:
        first = self._next * self.batch_size
        some = self.pairs[first : first + self.batch_size]
        self._next = (self._next + 1) % len(self)
        rngs = [np.random.default_rng(first + place) for place in range(len(some))]
        return collated(
            [self.reader.sample(key, z, rng, False, False) for (key, z), rng in zip(some, rngs, strict=True)]
        )
