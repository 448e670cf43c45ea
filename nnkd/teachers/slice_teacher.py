"""Teachers that segment what lies in boxes of axial slices: all they share but the network."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nnkd.data.intensities import GreyScale, Windows, grey_scale, is_colour, to_uint8, windows_of
from nnkd.devices import threads
from nnkd.errors import NnkdError, PredictionError
from nnkd.plugin.teachers import BoxTeacher
from nnkd.teachers.embeddings import MIB, EmbeddingCache
from nnkd.types import Prompt, SliceBoxes, TeacherContext, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("nnkd")
FULL = torch.cuda.OutOfMemoryError  # torch.OutOfMemoryError, by the name that older versions have, too
PATIENCE_S = 10.0  # a case that takes longer shows how far it is


class SliceTeacher(BoxTeacher):
    """Each slice becomes 8 bits and is encoded once for all labels that share a grey scale; slices without a box are
    never encoded.

    Attributes:
        windows: CT window by label, level and width in HU.
        batch: Slices that are encoded at once; halved when the GPU's memory is full.
    """

    channels = "colour"

    def __init__(
        self, context: TeacherContext, windows: Windows | Path | None = None, batch: int = 1, cache_mib: int = 0
    ):
        """Read the windows.

        Args:
            context: Labels, device, threads.
            windows: See `nnkd.data.intensities.windows_of`.
            batch: Slices that are encoded at once.
            cache_mib: Memory for embeddings that later prompts may ask for again.

        Raises:
            SettingError: If a window is wrong.
        """
        super().__init__(context)
        self.batch = batch
        self.windows = windows_of(context.labels, windows)
        self.windows_file = windows if isinstance(windows, Path) else None
        self._cache = EmbeddingCache(cache_mib * MIB)
        self._notes: dict[str, object] = {}

    @abstractmethod
    def _encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Slices (H, W, 3) uint8, all of one shape -> (B, channels, h, w) float32 on the device."""

    @abstractmethod
    def _decode(self, embedding: Tensor, boxes: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.float32]:
        """An embedding (channels, h, w) on the device and boxes (n, 4), at least one -> (n, H, W) float32
        probabilities."""

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> Mapping[str, NDArray[np.bool_ | np.floating]]:
        """Segment one case: float32 probabilities (Z, Y, X) for each prompted label; the others are abstentions."""
        scales = self._scales(volume, prompts)
        slices = boxed_slices(prompts, scales, volume.shape)
        answers = empty_answers(prompts, volume.shape)
        encoded, batch = 0, self.batch  # the latter may shrink meanwhile
        with self._computing(), _progress(volume.case, len(slices)) as bar:
            for start in range(0, len(slices), batch):
                some = slices[start : start + batch]
                embeddings, fresh = self._embed([picture(volume, one) for one in some])
                for one, embedding in zip(some, embeddings, strict=True):
                    join(answers, one, self._segment(embedding, np.asarray(one.boxes), volume.shape[1:]))
                bar.update(len(some))
                encoded += fresh
        self._note(scales, encoded)
        return answers

    def _scales(self, volume: Volume, prompts: Mapping[str, Prompt]) -> dict[str, GreyScale]:
        """How a case's intensities become 8 bits, by label."""
        modality = volume.modality()
        by_window = {w: grey_scale(volume.data, modality, w) for w in {self.windows[label] for label in prompts}}
        return {label: by_window[self.windows[label]] for label in prompts}

    def _note(self, scales: Mapping[str, GreyScale], encoded: int) -> None:
        self._notes = {
            "intensities": {label: scale.note() for label, scale in scales.items()},
            "encoded_slices": encoded,
        }

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one slice, (H, W, 3) uint8 -> (channels, h, w) float32, the caller's own."""
        with self._computing():
            return self._embed([image])[0][0].cpu().numpy().copy()  # what is kept must not change with it

    def decode(
        self, embedding: NDArray[np.float32], boxes: NDArray[np.integer], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Segment boxes (n, 4) in an embedded slice of `shape` (H, W) -> (n, H, W) float32 probabilities."""
        with self._computing():
            return self._segment(torch.from_numpy(embedding), boxes, shape)

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The file of windows, if there is one."""
        return {} if self.windows_file is None else {"windows": self.windows_file}

    def notes(self) -> Mapping[str, object]:
        """How intensities became 8 bits, by label; how many slices were encoded."""
        return self._notes

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> tuple[list[Tensor], int]:
        """Embeddings, and how many of them had to be computed."""
        found = [self._cache.get(image) for image in images]
        missing = [i for i, embedding in enumerate(found) if embedding is None]
        if missing:
            for i, embedding in zip(missing, self._encode_all([images[i] for i in missing]), strict=True):
                self._cache.put(images[i], embedding)
                found[i] = embedding
        return [embedding for embedding in found if embedding is not None], len(missing)

    def _encode_all(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """`_encode` in as few batches as the GPU's memory allows; a smaller batch that was needed once is kept."""
        found: list[Tensor] = []
        while len(found) < len(images):
            some = images[len(found) : len(found) + max(1, self.batch)]
            try:
                found += list(self._encode(some))
            except FULL as error:
                if len(some) == 1:
                    raise _too_large("A single slice", self.context.device) from error
                self.batch = len(some) // 2
                log.warning("The GPU's memory is full: from now on %d slice(s) are encoded at once.", self.batch)
            else:
                continue
            _free()  # out of the handler: the error's traceback holds on to what was computed
        return found

    def _segment(self, embedding: Tensor, boxes: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.float32]:
        if not len(boxes):
            return np.zeros((0, *shape), dtype=np.float32)
        try:
            return self._decode(embedding.to(self.context.device), boxes, shape)
        except FULL as error:
            if len(boxes) == 1:
                raise _too_large("A single box", self.context.device) from error
        _free()
        half = len(boxes) // 2
        return np.concatenate([self._segment(embedding, some, shape) for some in (boxes[:half], boxes[half:])])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, and as many threads as the user allows, for as long as it takes."""
        with threads(max(1, self.context.workers)), torch.inference_mode():
            yield


def _too_large(what: str, device: str) -> NnkdError:
    return NnkdError(
        f"{what} needs more memory than {device} has left. Close what else computes there, raise --max_memory if it is "
        f"set, or say -device cpu."
    )


def _free() -> None:
    """Give back what torch keeps of a GPU's memory for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _progress(case: str, slices: int) -> tqdm:
    """A bar below that of the cases, in terminals only, once a case turns out to take long."""
    return tqdm(total=slices, desc=case, unit="slice", leave=False, delay=PATIENCE_S, disable=None)


@dataclass
class BoxedSlice:
    """One slice that must be looked at in one grey scale, and the boxes in it.

    Attributes:
        z: Its index in the volume.
        scale: How its intensities become 8 bits.
        labels: The label of each box.
        boxes: (n, 4) int, rows (y0, x0, y1, x1) in voxels, upper bounds excluded.
    """

    z: int
    scale: GreyScale
    labels: list[str] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)


def boxed_slices(
    prompts: Mapping[str, Prompt], scales: Mapping[str, GreyScale], shape: Sequence[int]
) -> list[BoxedSlice]:
    """Sort boxes by slice and grey scale, so that each slice is encoded once for all labels that share a scale.

    Args:
        prompts: `SliceBoxes` by label.
        scales: Grey scale by label.
        shape: (Z, Y, X) of the volume.

    Returns:
        Slices with at least one box, from feet to head.

    Raises:
        PredictionError: If a prompt is no `SliceBoxes`, or a box leaves the volume or has no area.
    """
    found: dict[tuple[int, GreyScale], BoxedSlice] = {}
    for label, prompt in prompts.items():
        if not isinstance(prompt, SliceBoxes):
            raise PredictionError(f"'{label}' is prompted by a {type(prompt).__name__}, but boxes are expected.")
        for row in prompt.boxes:
            z, y0, x0, y1, x1 = (int(v) for v in row)
            if not (0 <= z < shape[0] and 0 <= y0 < y1 <= shape[1] and 0 <= x0 < x1 <= shape[2]):
                raise PredictionError(
                    f"The box {[z, y0, x0, y1, x1]} for '{label}' leaves the volume of {'x'.join(map(str, shape))} "
                    f"voxels (z, y, x), or has no area. Correct it."
                )
            one = found.setdefault((z, scales[label]), BoxedSlice(z, scales[label]))
            one.labels.append(label)
            one.boxes.append((y0, x0, y1, x1))
    return sorted(found.values(), key=lambda one: one.z)


def picture(volume: Volume, one: BoxedSlice) -> NDArray[np.uint8]:
    """A slice as (H, W, 3) uint8: colour if the volume has it, else its first channel three times."""
    data = volume.data[:, one.z] if is_colour(volume.channel_names) else volume.data[:1, one.z]
    grey = to_uint8(data, one.scale)
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(grey, 0, -1), (*grey.shape[1:], 3)))


def empty_answers(prompts: Mapping[str, Prompt], shape: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """A float32 zero for each voxel of each prompted label; memory is taken only where something is written."""
    return {label: np.zeros(tuple(shape), dtype=np.float32) for label in prompts}


def join(answers: Mapping[str, NDArray[np.float32]], one: BoxedSlice, probabilities: NDArray[np.float32]) -> None:
    """Put a slice's answers where they belong; several boxes of one label are joined by their maximum.

    Args:
        answers: (Z, Y, X) float32 by label, changed in place.
        one: The slice.
        probabilities: (n, H, W) float32, one for each of its boxes.
    """
    for label, values in zip(one.labels, probabilities, strict=True):
        np.maximum(answers[label][one.z], values, out=answers[label][one.z])
