"""SAM 2 and MedSAM2 slice by slice, on the package sam2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnkd.data.intensities import Windows
from nnkd.errors import BrokenPluginError
from nnkd.plugin.networks import Architecture, Paper
from nnkd.types import TeacherContext
from nnkd_sam.checkpoints import load_weights
from nnkd_sam.shared import AT_ONCE, TABLE, Cache, CheckpointTeacher, corners

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

Model = Literal["hiera_t", "hiera_s", "hiera_b+", "hiera_l"]
Version = Literal["2.0", "2.1"]
CONFIGURATIONS = {"2.0": "configs/sam2/sam2_{}.yaml", "2.1": "configs/sam2.1/sam2.1_{}.yaml"}
CORNERS = (2, 3)  # a box is two points with these labels
FOLDS = (4, 2, 1)  # the feature maps' sides, in sides of the coarsest
CHANNELS = (32, 64, 256)


def missing_package(error: ImportError) -> BrokenPluginError:
    """What to say without the package sam2."""
    return BrokenPluginError(
        f"sam2 and medsam2 need the package sam2 ({error}). Install it: SAM2_BUILD_CUDA=0 "
        f'pip install "nnkd[sam2]", or pip install sam2.'
    )


def build(model: Model, version: Version = "2.0") -> SAM2Base:
    """sam2's own network with random weights, on torch's default device.

    Raises:
        BrokenPluginError: If the package sam2 is not installed.
    """
    try:
        from sam2.build_sam import build_sam2
    except ImportError as error:
        raise missing_package(error) from error
    device = torch.get_default_device()
    with torch.device("cpu"):  # it asks for numbers while it is built, which "meta" has not
        return build_sam2(CONFIGURATIONS[version].format(model), None, device="cpu").to(device)


def features(network: SAM2Base, images: Tensor) -> list[Tensor]:
    """Feature maps of images (B, 3, 1024, 1024): (B, 32, 256, 256), (B, 64, 128, 128), (B, 256, 64, 64)."""
    maps = list(network.forward_image(images)["backbone_fpn"][-len(FOLDS) :])
    if network.directly_add_no_mem_embed:  # there is no memory of other slices
        maps[-1] = maps[-1] + network.no_mem_embed.view(1, -1, 1, 1)
    return maps


def fold(maps: Sequence[Tensor]) -> Tensor:
    """Feature maps as one embedding (B, 1024, 64, 64): finer ones are folded into more channels, nothing is lost."""
    return torch.cat([F.pixel_unshuffle(m, by) if by > 1 else m for m, by in zip(maps, FOLDS, strict=True)], 1)


def unfold(embedding: Tensor) -> list[Tensor]:
    """`fold`, undone."""
    parts = embedding.split([c * by**2 for c, by in zip(CHANNELS, FOLDS, strict=True)], 1)
    return [F.pixel_shuffle(part, by) if by > 1 else part for part, by in zip(parts, FOLDS, strict=True)]


def decode(network: SAM2Base, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Segment boxes in one image.

    Args:
        network: From `build`.
        maps: Its feature maps, B = 1.
        boxes: (n, 4) float32, rows (x0, y0, x1, y1) in pixels of the 1024.

    Returns:
        (n, 1, 256, 256) logits.
    """
    labels = torch.tensor([CORNERS], dtype=torch.int, device=boxes.device).expand(len(boxes), 2)
    sparse, dense = network.sam_prompt_encoder(points=(boxes.view(-1, 2, 2), labels), boxes=None, masks=None)
    masks, *_ = network.sam_mask_decoder(
        image_embeddings=maps[-1],
        image_pe=network.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=len(boxes) > 1,
        high_res_features=list(maps[:-1]),
    )
    return masks


def one_box(network: SAM2Base, image: Tensor, boxes: Tensor) -> Tensor:
    """What papers counted: image encoder, prompt encoder and decoder, no memory."""
    return decode(network, features(network, image), boxes)


class SAM2Teacher(CheckpointTeacher):
    """SAM 2 in image mode: slices are squashed to 1024 x 1024; masks are logits above 0.

    Source: Ravi et al., ICLR 2025; preprocessing and answers are those of sam2's SAM2ImagePredictor, without its
    filling of holes.
    """

    name: ClassVar[str] = "sam2"
    says: ClassVar[str] = "SAM"
    doubt: str = ""  # what to say of weights whose tensors have the names of another model's
    papers: ClassVar[Mapping[str, Paper]] = {
        "hiera_l": Paper(
            TABLE, "216.90 M", "2813.98 G", remark="2813.98 is very likely a typo: 813.98 G is what comes out"
        )
    }
    variants: ClassVar[Sequence[Model]] = ("hiera_t", "hiera_s", "hiera_b+", "hiera_l")
    network: SAM2Base

    def __init__(
        self,
        context: TeacherContext,
        *,
        weights: Path | None = None,
        model: Model = "hiera_t",
        version: Version = "2.1",
        windows: Windows | Path | None = None,
        cache: Cache = 0,
        licence: str = "",
    ):
        """Load the weights.

        Args:
            context: Labels, device, threads.
            weights: A checkpoint as published, or as training writes it; None: the published one in the store, where
                nnKD_weights puts it.
            model: Size of its image encoder.
            version: Of the weights: 2.0 (July 2024) or 2.1 (September 2024).
            windows: CT window by label: soft_tissue, lung, bone or [level, width] in HU, as JSON text or file; labels
                that are left out take what their names suggest.
            cache: MiB of memory for embeddings (16 MiB each) that later prompts may ask for again; 0 keeps none. Only
                programs that show one teacher the same slices again profit.
            licence: The weights' licence, for the manifest; checkpoints do not say.

        Raises:
            SettingError: If an option has an impossible value.
            WeightsError: If the weights are missing or of another model.
            BrokenPluginError: If the package sam2 is not installed.
        """
        super().__init__(context, windows, cache_mib=cache)
        network = self._build(model, version)
        says = f"{self.says} {version} {model}" if self.says == "SAM" else self.says
        self._weights, self._doubt = load_weights(
            network, weights, self.name, says, licence, self.doubt, self._variant(model, version)
        )
        self.network = network.eval().requires_grad_(False).to(context.device)
        self._transforms = _transforms(network.image_size)

    def _variant(self, model: Model, version: Version) -> Mapping[str, str]:
        """The options that decide which published file is its own."""
        return {"model": model, "version": version}

    def _build(self, model: Model, version: Version) -> SAM2Base:
        """The network; tests put a ready one here."""
        return build(model, version)

    @classmethod
    def architectures(cls) -> Sequence[Architecture]:
        """Each size on one slice with one box; the memory that videos need is there, but not run."""
        return cls._architectures(build, one_box)

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        prepared = torch.stack([self._transforms(image) for image in images])
        return fold(features(self.network, prepared.to(self.context.device)))

    def _decode(self, embedding: Tensor, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        edges = torch.from_numpy(corners(boxes)).float().to(self.context.device)
        scaled = self._transforms.transform_boxes(edges, normalize=True, orig_hw=shape).reshape(-1, 4)
        maps = unfold(embedding[None])
        answers = [self._answer(decode(self.network, maps, some), shape) for some in scaled.split(AT_ONCE)]
        return torch.cat(answers)[:, 0].cpu().numpy()

    def _answer(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """(n, 1, 256, 256) logits -> (n, 1, H, W) probabilities; above one half where the logit is above 0."""
        return self._transforms.postprocess_masks(logits, shape).sigmoid()


def _transforms(size: int) -> Any:
    from sam2.utils.transforms import SAM2Transforms

    return SAM2Transforms(size, mask_threshold=0.0)
