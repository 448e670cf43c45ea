"""Who teaches embeddings: a whole LiteMedSAM with any image encoder, or another installed teacher prompted by boxes."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnkd.errors import RecipeError
from nnkd.files import sha256
from nnkd.plugin.teachers import BoxTeacher
from nnkd_litemedsam import model_files, weights
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.sizes import CHANNELS, GRID, SIZE

SHAPE = (CHANNELS, GRID, GRID)
OWN = "litemedsam"


class EmbeddingTeacher(ABC):
    """Embeds slices of 256 pixels, and segments boxes in what it embedded.

    Attributes:
        name: For logs.
        digest: Hash of what it is; empty where it does not say which weights it has.
    """

    name: str
    digest: str

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, 256, 256) float32 in [0, 1] on the device -> (B, 256, 64, 64) float32 there."""

    @abstractmethod
    def masks(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """An embedding (256, 64, 64) and boxes (n, 4), rows (x0, y0, x1, y1) -> (n, 256, 256) bool."""

    def decoder(self) -> dict[str, Tensor]:
        """Tensors of prompt_encoder and mask_decoder by LiteMedSAM's names; empty where they are of another kind."""
        return {}


class ModelTeacher(EmbeddingTeacher):
    """A whole LiteMedSAM.

    Args:
        name: For logs.
        model: With its weights.
        digest: sha256 of the file.
        device: Where to compute.
    """

    def __init__(self, name: str, model: LiteMedSAM, digest: str, device: torch.device):
        self.name, self.digest = name, digest
        kept = ("prompt_encoder.", "mask_decoder.")
        self._decoder = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(kept)}
        self.model = model.to(device).fuse()

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """See `EmbeddingTeacher`."""
        return self.model.image_encoder(images).float()

    @torch.no_grad()
    def masks(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """See `EmbeddingTeacher`."""
        return self.model.decode(embedding, boxes) > 0

    def decoder(self) -> dict[str, Tensor]:
        """See `EmbeddingTeacher`."""
        return self._decoder


class PluginTeacher(EmbeddingTeacher):
    """Any installed teacher prompted by boxes. It sees the padded square in 8 bits, so that one that squashes images
    into a square and one that pads them embed the same pixels at the same place.

    Args:
        name: The installed one's.
        teacher: Made with its options.
        device: Where embeddings go.

    Raises:
        RecipeError: If its embeddings have another shape.
    """

    def __init__(self, name: str, teacher: BoxTeacher, device: torch.device):
        self.name, self.teacher, self.device = name, teacher, device
        shape = tuple(teacher.encode(np.zeros((SIZE, SIZE, 3), dtype=np.uint8)).shape)
        if shape != SHAPE:
            raise RecipeError(
                f"The teacher '{name}' gives embeddings of shape {'x'.join(map(str, shape))}, but the student's have "
                f"{'x'.join(map(str, SHAPE))}. Choose another teacher, or other teacher_options."
            )
        known = [str(file.get("sha256") or "") for file in teacher.weights()]
        text = json.dumps([name, type(teacher).__qualname__, known])
        self.digest = hashlib.sha256(text.encode()).hexdigest() if known and all(known) else ""

    def embed(self, images: Tensor) -> Tensor:
        """See `EmbeddingTeacher`."""
        pictures = (images * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        found = [torch.from_numpy(np.array(self.teacher.encode(picture))) for picture in pictures]
        return torch.stack(found).float().to(self.device)

    def masks(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """See `EmbeddingTeacher`."""
        rows = boxes.cpu().numpy().astype(np.int64)[:, [1, 0, 3, 2]]
        found = self.teacher.decode(embedding.cpu().numpy(), rows, (SIZE, SIZE))
        return torch.from_numpy(np.asarray(found) > 0.5).to(self.device)


def model_file(teacher: str) -> Path | None:
    """The checkpoint that the option teacher asks for; None where it names another installed teacher.

    Raises:
        WeightsError: If there is no such file, or the published weights are not installed.
    """
    if teacher == OWN:
        return weights.published()
    return model_files.find(teacher, "teacher") if model_files.is_file_name(teacher) else None


def check_kind(name: str, kind: type) -> None:
    """Whether an installed teacher's class can teach embeddings.

    Raises:
        RecipeError: If it has none.
    """
    if not issubclass(kind, BoxTeacher):
        raise RecipeError(
            f"The teacher '{name}' has no embeddings of slices to learn from. Choose litemedsam, a file of a model "
            f"that nnUNetTrainerLiteMedSAM trained, or another teacher prompted by boxes (nnKD_plugins lists them)."
        )


def from_file(file: Path, name: str, device: torch.device) -> ModelTeacher:
    """A whole LiteMedSAM from a checkpoint; errors as `weights.load_model`."""
    model, _, info = weights.load_model(file)
    return ModelTeacher(name, model, info["sha256"], device)


def lineage_of_file(name: str, file: Path) -> list[dict[str, str]]:
    """A model file and whatever it learned from, with their licences.

    Args:
        name: What to call it.
        file: A checkpoint of the whole model.
    """
    if sha256(file) == weights.SHA256:
        return [{"name": OWN, "licence": "Apache-2.0", "weights_licence": weights.LICENCE}]
    info = weights.load_model(file)[2]
    inherited = _inherited(file)
    own = {"name": name, "licence": "Apache-2.0", "weights_licence": info.get("licence", "")}
    return [own, *(model for model in inherited if model["name"] != name)]


def _inherited(file: Path) -> list[dict[str, str]]:
    """The lineage in a checkpoint that nnU-Net's training wrote."""
    from nnkd.weights import published

    content: Any = published.everything(file, weights.MODEL)
    for key in ("init_args", "plans", "nnkd", "lineage"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return [dict(model) for model in content or ()]
