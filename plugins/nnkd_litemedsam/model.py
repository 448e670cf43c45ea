"""LiteMedSAM: image encoder, prompt encoder, mask decoder, and how slices and boxes are brought to its 256 pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd.errors import BrokenPluginError
from nnkd_litemedsam.folded_decoder import FoldedDecoder
from nnkd_litemedsam.tiny_vit import CHANNELS, GRID, SIZE, TinyViT

SMALLEST = 1e-8  # divisor of a slice of one value


class LiteMedSAM(nn.Module):
    """The whole model, 9,791,300 parameters with the default encoder.

    Source: Ma et al., Nature Communications 2024 (MedSAM), branch LiteMedSAM.

    Attributes:
        image_encoder, prompt_encoder, mask_decoder: As the published weights call them.
    """

    def __init__(self, encoder: nn.Module | None = None):
        """Build it with random weights.

        Args:
            encoder: (B, 3, 256, 256) -> (B, 256, 64, 64); None: TinyViT.

        Raises:
            BrokenPluginError: If the package segment-anything is not installed.
        """
        super().__init__()
        try:
            from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
        except ImportError as error:
            raise BrokenPluginError(
                f"litemedsam needs the package segment-anything ({error}). Install it: "
                f'pip install "nnkd[litemedsam]", or pip install segment-anything.'
            ) from error
        self.image_encoder = TinyViT() if encoder is None else encoder
        self.prompt_encoder = PromptEncoder(CHANNELS, (GRID, GRID), (SIZE, SIZE), mask_in_chans=16)
        self.mask_decoder = MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=8, mlp_dim=2048),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )
        self._folded: FoldedDecoder | None = None

    def fuse(self) -> LiteMedSAM:
        """Make it faster, for good: the encoder's batch norms are fused and, on CPUs, the decoder is folded. Only for
        inference, where it lies: weights that change or move afterwards are not seen everywhere.

        Returns:
            Itself, in evaluation mode.
        """
        self.eval().requires_grad_(False)
        if hasattr(self.image_encoder, "fuse"):
            self.image_encoder.fuse()
        if self.prompt_encoder.no_mask_embed.weight.device.type == "cpu":
            self._folded = FoldedDecoder(self.prompt_encoder, self.mask_decoder)
        return self

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Encode and decode one image: (1, 3, 256, 256) and boxes (n, 4) -> (n, 256, 256) logits."""
        return self.decode(self.image_encoder(image)[0], boxes)

    def decode(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Segment boxes in one embedded image.

        Args:
            embedding: (256, 64, 64).
            boxes: (n, 4) float32, rows (x0, y0, x1, y1) in pixels of the 256.

        Returns:
            (n, 256, 256) logits.
        """
        if self._folded is not None:
            return self._folded.segment(embedding, boxes)
        sparse, dense = self.prompt_encoder(points=None, boxes=boxes, masks=None)
        masks, _ = self.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, 0]


def scaled_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """(H, W) once the longest side has 256 pixels; no side vanishes."""
    factor = SIZE / max(shape)
    return max(1, int(shape[0] * factor + 0.5)), max(1, int(shape[1] * factor + 0.5))


def prepare(image: np.ndarray) -> np.ndarray:
    """A slice as the image encoder wants it: longest side 256, its own lowest value 0 and highest 1, zeros behind.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (3, 256, 256) float32 in [0, 1]; what is right of or below the image is 0.
    """
    height, width = scaled_shape(image.shape[:2])
    scaled = resize(image, (height, width)).astype(np.float32)
    low, high = scaled.min(), scaled.max()
    padded = np.zeros((3, SIZE, SIZE), dtype=np.float32)
    padded[:, :height, :width] = np.moveaxis((scaled - low) / max(high - low, SMALLEST), -1, 0)
    return padded


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize: means over areas when shrinking (OpenCV's INTER_AREA, LiteMedSAM's own), linearly when enlarging.

    Departs: LiteMedSAM enlarges with INTER_AREA too, which makes blocks of the old pixels. Linear pictures look more
    like those it was trained on: in slices of 35 x 50 pixels (every fifth of one hippocampus scan) DSC .70 instead of
    .39 for the anterior part, .72 instead of .65 for the posterior.

    Args:
        image: (H, W, C) uint8.
        shape: (H, W) wanted; both larger, or both smaller, or equal.

    Returns:
        (H, W, C) uint8.
    """
    if image.shape[:2] == shape:
        return image
    rows, columns = _weights(image.shape[0], shape[0]), _weights(image.shape[1], shape[1])
    values = np.einsum("hi,ijc->hjc", rows, image.astype(np.float32), optimize=True)
    values = np.einsum("wj,hjc->hwc", columns, values, optimize=True)
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> np.ndarray:
    """(after, before) float32: how much of each old pixel goes into each new one; rows sum to 1."""
    weights = np.zeros((after, before))
    scale = before / after
    for new in range(after):
        if scale >= 1:
            first, last = new * scale, (new + 1) * scale
            old = np.arange(before)
            weights[new] = np.clip(np.minimum(old + 1, last) - np.maximum(old, first), 0, None)
        else:
            centre = min(max((new + 0.5) * scale - 0.5, 0), before - 1)
            old = int(centre)
            weights[new, old] += 1 - (centre - old)
            weights[new, min(old + 1, before - 1)] += centre - old
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def scaled_boxes(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Boxes in pixels of the slice -> corners as the model was trained on.

    Args:
        boxes: (n, 4) int, rows (y0, x0, y1, x1), upper bounds excluded.
        shape: (H, W) of the slice.

    Returns:
        (n, 4) float32, rows (x0, y0, x1, y1) in whole pixels of the 256.
    """
    y0, x0, y1, x1 = np.asarray(boxes, dtype=np.int64).T
    # Upper bounds stay excluded: with the last row and column inside instead, small slices, which are enlarged, lost
    # up to a pixel of their own at two sides (aorta in a CT of 122 x 101 pixels: DSC .84 instead of .95).
    corners = np.stack([x0, y0, x1, y1], axis=1)
    return np.floor(corners * (SIZE / max(shape))).astype(np.float32)


def enlarge(logits: Tensor, shape: tuple[int, int]) -> Tensor:
    """Logits of the padded 256 pixels -> probabilities on the slice.

    Args:
        logits: (n, 256, 256).
        shape: (H, W) of the slice.

    Returns:
        (n, H, W) in [0, 1].
    """
    height, width = scaled_shape(shape)
    cropped = logits[:, None, :height, :width].float()
    return F.interpolate(cropped, shape, mode="bilinear", align_corners=False)[:, 0].sigmoid()
