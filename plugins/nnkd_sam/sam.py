"""SAM and MedSAM, on the package segment-anything."""

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
from nnkd_sam.shared import AT_ONCE, SIZE, TABLE, Cache, CheckpointTeacher, corners

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SMALLEST = 1e-8  # divisor of a slice of one value
Model = Literal["vit_b", "vit_l", "vit_h"]


def build(model: Model) -> Sam:
    """segment-anything's own network with random weights.

    Raises:
        BrokenPluginError: If the package segment-anything is not installed.
    """
    try:
        from segment_anything import sam_model_registry
    except ImportError as error:
        raise BrokenPluginError(
            f"sam and medsam need the package segment-anything ({error}). Install it: "
            f'pip install "nnkd[sam]", or pip install segment-anything.'
        ) from error
    return sam_model_registry[model]()


def decode(network: Sam, embedding: Tensor, boxes: Tensor) -> Tensor:
    """Segment boxes in one embedded image.

    Args:
        network: From `build`.
        embedding: (256, 64, 64).
        boxes: (n, 4) float32, rows (x0, y0, x1, y1) in pixels of the 1024.

    Returns:
        (n, 1, 256, 256) logits.
    """
    sparse, dense = network.prompt_encoder(points=None, boxes=boxes, masks=None)
    masks, _ = network.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return masks


def one_box(network: Sam, image: Tensor, boxes: Tensor) -> Tensor:
    """What papers counted: encoder, prompt encoder and decoder."""
    return decode(network, network.image_encoder(image)[0], boxes)


class SAMTeacher(CheckpointTeacher):
    """Segment Anything: the longest side becomes 1024 pixels, zeros fill the rest; masks are logits above 0.

    Source: Kirillov et al., ICCV 2023; preprocessing and answers are those of segment-anything's SamPredictor.
    """

    name: ClassVar[str] = "sam"
    says: ClassVar[str] = "SAM"
    papers: ClassVar[Mapping[str, Paper]] = {
        "vit_h": Paper(TABLE, "635.63 M", "2736.62 G", remark="635.637 M is meant")
    }
    variants: ClassVar[Sequence[Model]] = ("vit_b", "vit_l", "vit_h")
    network: Sam

    def __init__(
        self,
        context: TeacherContext,
        *,
        weights: Path | None = None,
        model: Model = "vit_b",
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
            windows: CT window by label: soft_tissue, lung, bone or [level, width] in HU, as JSON text or file; labels
                that are left out take what their names suggest.
            cache: MiB of memory for embeddings (4 MiB each) that later prompts may ask for again; 0 keeps none. Only
                programs that show one teacher the same slices again profit.
            licence: The weights' licence, for the manifest; checkpoints do not say.

        Raises:
            SettingError: If an option has an impossible value.
            WeightsError: If the weights are missing or of another model.
            BrokenPluginError: If the package segment-anything is not installed.
        """
        super().__init__(context, windows, cache_mib=cache)
        network = self._build(model)
        self._weights, self._doubt = load_weights(
            network, weights, self.name, f"{self.says} {model}", licence, variant=self._variant(model)
        )
        self.network = network.eval().requires_grad_(False).to(context.device)

    def _variant(self, model: Model) -> Mapping[str, str]:
        """The options that decide which published file is its own."""
        return {"model": model}

    def _build(self, model: Model) -> Sam:
        """The network; tests put a small one here."""
        return build(model)

    @classmethod
    def architectures(cls) -> Sequence[Architecture]:
        """Each size on one slice with one box."""
        return cls._architectures(build, one_box)

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        prepared = [self._prepare(image) for image in images]
        return self.network.image_encoder(torch.stack(prepared).to(self.context.device))

    def _decode(self, embedding: Tensor, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        scaled = torch.from_numpy(self._scale(corners(boxes), shape)).float().to(self.context.device)
        answers = [self._answer(decode(self.network, embedding, some), shape) for some in scaled.split(AT_ONCE)]
        return torch.cat(answers)[:, 0].cpu().numpy()

    def _prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, 1024, 1024) float32: the longest side 1024, normalised, padded."""
        scaled = torch.from_numpy(_resizer().apply_image(image)).permute(2, 0, 1)
        return self.network.preprocess(scaled.to(self.context.device).float())

    def _scale(self, edges: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return _resizer().apply_boxes(edges, shape)

    def _answer(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """(n, 1, 256, 256) logits -> (n, 1, H, W) probabilities; above one half where the logit is above 0."""
        seen = _resizer().get_preprocess_shape(*shape, SIZE)
        return self.network.postprocess_masks(logits, seen, shape).float().sigmoid()


class MedSAMTeacher(SAMTeacher):
    """MedSAM: slices are squashed to 1024 x 1024 and stretched to [0, 1]; probabilities are enlarged, not logits.

    Source: Ma et al., Nature Communications 2024; steps as in MedSAM's inference. Departs: boxes' upper bounds are
    excluded, where MedSAM's come from the last row and column inside; 8 bits as `nnkd.data.intensities` makes them.
    """

    name = "medsam"
    says = "MedSAM"
    papers: ClassVar[Mapping[str, Paper]] = {"vit_b": Paper(TABLE, "90.48 M", "371.99 G")}
    variants = ("vit_b",)

    def __init__(
        self,
        context: TeacherContext,
        *,
        weights: Path | None = None,
        windows: Windows | Path | None = None,
        cache: Cache = 0,
        licence: str = "",
    ):
        """Load the weights; arguments and errors as for `SAMTeacher`."""
        super().__init__(context, weights=weights, model="vit_b", windows=windows, cache=cache, licence=licence)

    def _variant(self, model: Model) -> Mapping[str, str]:
        return {}

    def _prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, 1024, 1024) float32 in [0, 1]."""
        from skimage.transform import resize

        squashed = resize(image, (SIZE, SIZE), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
        low, high = int(squashed.min()), int(squashed.max())
        unit = (squashed - low) / max(high - low, SMALLEST)
        return torch.from_numpy(unit).permute(2, 0, 1).float()

    def _scale(self, edges: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        height, width = shape
        return edges / np.array([width, height, width, height]) * SIZE

    def _answer(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        return F.interpolate(logits.float().sigmoid(), shape, mode="bilinear", align_corners=False)


def _resizer() -> Any:
    from segment_anything.utils.transforms import ResizeLongestSide

    return ResizeLongestSide(SIZE)
