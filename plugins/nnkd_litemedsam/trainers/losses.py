"""What box models learn by: masks of many images with one box each, their loss, and the error of embeddings."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.sizes import GRID, SIZE

SMOOTH = 1e-5


class Answer(NamedTuple):
    """What a box model says.

    Attributes:
        logits: (B, 1, 256, 256).
        iou: (B,), the IoU that it expects of its mask.
    """

    logits: Tensor
    iou: Tensor


def decode(model: LiteMedSAM, embeddings: Tensor, boxes: Tensor) -> Answer:
    """Segment one box in each of several embedded images: what `LiteMedSAM.decode` says of each, at once.

    segment-anything's own decoder takes many boxes in one image. Only the mask that a box asks for is computed, so the
    heads of the three others get no gradient.

    Source: Kirillov et al., ICCV 2023 (SAM): the two-way decoder.

    Args:
        model: Not fused.
        embeddings: (B, 256, 64, 64).
        boxes: (B, 4) float32, rows (x0, y0, x1, y1) in pixels of the 256.
    """
    prompts, decoder, number = model.prompt_encoder, model.mask_decoder, len(embeddings)
    sparse, dense = prompts(points=None, boxes=boxes, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(number, -1, -1), sparse], dim=1)
    place = prompts.get_dense_pe().expand(number, -1, -1, -1)
    tokens, pixels = decoder.transformer(embeddings + dense, place, tokens)
    enlarged = decoder.output_upscaling(pixels.transpose(1, 2).reshape(embeddings.shape))
    kernels = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    logits = torch.einsum("bc,bchw->bhw", kernels, enlarged)[:, None]
    return Answer(logits.float(), decoder.iou_prediction_head(tokens[:, 0])[:, 0].float())


class BoxLoss(nn.Module):
    """Dice loss + binary cross-entropy + squared error of the predicted IoU.

    Source: Yang et al. 2024, section 2.2, and its code: MONAI's DiceLoss(sigmoid, squared_pred, mean), the IoU of the
    mask cut at one half.
    """

    def forward(self, answer: Answer, target: Tensor) -> Tensor:
        """The mean over the images, float32.

        Args:
            answer: See `Answer`.
            target: (B, 1, 256, 256) bool.
        """
        logits, truth = answer[0].float(), target.float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, truth)
        expected = F.mse_loss(answer[1].float(), iou_of(logits, target))
        return dice_loss(logits, truth) + cross_entropy + expected


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice of probabilities, with squares in the denominator, image by image; the mean.

    Args:
        logits: (B, 1, H, W) float32.
        target: (B, 1, H, W) float32, 0 or 1.
    """
    probabilities = logits.sigmoid()
    axes = (1, 2, 3)
    common = (probabilities * target).sum(axes)
    squares = probabilities.square().sum(axes) + target.square().sum(axes)
    return (1 - (2 * common + SMOOTH) / (squares + SMOOTH)).mean()


@torch.no_grad()
def iou_of(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of masks (probability above one half) and targets, (B,) float32; two empty masks have 0."""
    found, truth = logits > 0, target > 0.5 if target.is_floating_point() else target
    common = (found & truth).sum((1, 2, 3)).float()
    return common / (found | truth).sum((1, 2, 3)).float().clamp(min=1)


@torch.no_grad()
def dice_of(logits: Tensor, target: Tensor) -> Tensor:
    """DSC of masks (probability above one half) and targets (bool), (B,) float32; two empty masks have 0."""
    found = logits > 0
    common = (found & target).sum((1, 2, 3)).float()
    return 2 * common / (found.sum((1, 2, 3)) + target.sum((1, 2, 3))).float().clamp(min=1)


class EmbeddingLoss(nn.Module):
    """Mean squared error between a student's embeddings and a teacher's.

    Source: Yang et al. 2024, section 2.2. Departs: where the image is padding, embeddings do not count, since no mask
    is ever cut out there; `padding="all"` is the paper's mean over everything.

    Args:
        masked: Whether to leave out padding.
    """

    def __init__(self, masked: bool):
        super().__init__()
        self.masked = masked

    def forward(self, student: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over the images, float32.

        Args:
            student: (B, 256, 64, 64).
            target: The teacher's embeddings, of the same shape, and (B, 2) integers: (h, w) of each image's part of
                the 256 x 256 pixels that is no padding.
        """
        teacher, shapes = target
        errors = (student.float() - teacher.float()).square().mean(1)
        if not self.masked:
            return errors.mean()
        inside = no_padding(shapes.to(errors.device))
        return ((errors * inside).sum((1, 2)) / inside.sum((1, 2))).mean()


def no_padding(shapes: Tensor) -> Tensor:
    """(B, 64, 64) float32, 1 where an embedding's pixel sees some of the image.

    Args:
        shapes: (B, 2) integers, (h, w) in pixels of the 256.
    """
    step = SIZE // GRID
    place = torch.arange(GRID, device=shapes.device) * step
    rows, columns = (place[None] < shapes[:, axis, None] for axis in (0, 1))
    return (rows[:, :, None] & columns[:, None, :]).float()


@torch.no_grad()
def relative_error(student: Tensor, teacher: Tensor, shapes: Tensor) -> Tensor:
    """How far embeddings are off, against the teacher's own length: root of the squared error over the root of the
    teacher's squares, padding left out. 0: the same; 1: as far as an embedding of zeros.

    Args:
        student, teacher: (B, 256, 64, 64).
        shapes: As in `no_padding`.

    Returns:
        (B,) float32.
    """
    inside = no_padding(shapes.to(student.device))[:, None]
    error = ((student.float() - teacher.float()).square() * inside).sum((1, 2, 3))
    return (error / (teacher.float().square() * inside).sum((1, 2, 3)).clamp(min=1e-12)).sqrt()
