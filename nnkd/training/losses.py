"""Losses that learn from soft votes.

Targets are (B, L, *S) float: per label a probability in [0, 1], or NO_VOTE (-1) where it stays out of the loss. With
a softmax network, a label without vote is merged with the background at that voxel: "not one of the answered labels"
is all that is known. A voxel where no label has a vote contributes nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

IouForm = Literal["soft", "jml"]


class DistillationLoss(nn.Module):
    """IoU loss plus (binary) cross-entropy, always computed in float32.

    Source: Li et al., MICCAI 2025, Eq. 1.
    Departs: several labels share one softmax, where the paper trains one binary model per label; with one label
        both are the same, because a softmax over (0, x) is sigmoid(x).

    Args:
        regions: True for independent sigmoid outputs (nnU-Net's regions), False for softmax with background first.
        iou: "soft" is 1 - (I + 1) / (U - I + 1), biased for soft targets; "jml" is the Jaccard metric loss, whose
            optimum is the soft target itself (Wang et al., NeurIPS 2023).
        weighted: Whether the target's last channel is a weight per voxel in [0, 1].
        over_batch: Sum the IoU over the whole batch (nnU-Net's batch_dice) instead of image by image.
    """

    def __init__(self, regions: bool, iou: IouForm = "soft", weighted: bool = False, over_batch: bool = False):
        super().__init__()
        self.regions = regions
        self.iou = iou
        self.weighted = weighted
        self.over_batch = over_batch

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean over the batch of IoU loss + cross-entropy.

        Args:
            logits: (B, L + 1, *S), or (B, L, *S) with regions.
            target: (B, L, *S) float, plus one weight channel if `weighted`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            weight = target[:, -1:].float() if self.weighted else None
            soft = (target[:, :-1] if self.weighted else target).float()
            answered = soft >= 0
            soft = soft.clamp(0, 1)
            if self.regions:
                probabilities = torch.sigmoid(logits)
                entropy, counted = _binary_cross_entropy(logits, soft, answered)
            else:
                soft = _shares(soft, answered)
                log_probabilities = torch.log_softmax(logits, 1)
                probabilities = log_probabilities[:, 1:].exp()
                entropy, counted = _merged_cross_entropy(log_probabilities, soft, answered)
            entropy = _mean(entropy, counted if weight is None else counted * weight)
            iou = _iou_loss(probabilities, soft, answered, weight, self.iou, self.over_batch)
            return iou + entropy


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, regions: bool) -> torch.Tensor:
    """Cross-entropy voxel by voxel, in nats; 0 where there is no vote.

    Args:
        logits: (B, L + 1, *S), or (B, L, *S) with regions; float32.
        target: (B, L, *S) float, NO_VOTE where a label stays out.
        regions: True for independent sigmoid outputs, False for softmax with background first.

    Returns:
        (B, 1, *S), or (B, L, *S) with regions.
    """
    answered, soft = target >= 0, target.clamp(0, 1)
    if regions:
        entropy, counted = _binary_cross_entropy(logits, soft, answered)
    else:
        entropy, counted = _merged_cross_entropy(torch.log_softmax(logits, 1), _shares(soft, answered), answered)
    return entropy * counted


def _shares(soft: torch.Tensor, answered: torch.Tensor) -> torch.Tensor:
    """Where labels overlap, so that they exceed one together, each gets its share."""
    return soft / soft.mul(answered).sum(1, keepdim=True).clamp(min=1)


def _binary_cross_entropy(
    logits: torch.Tensor, soft: torch.Tensor, answered: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, *S) nats, and where they count."""
    return functional.binary_cross_entropy_with_logits(logits, soft, reduction="none"), answered.float()


def _merged_cross_entropy(
    log_probabilities: torch.Tensor, soft: torch.Tensor, answered: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1, *S) nats, and where they count."""
    soft = soft * answered
    foreground = -(soft * log_probabilities[:, 1:]).sum(1, keepdim=True)
    merged = log_probabilities[:, 1:].masked_fill(answered, float("-inf"))
    rest = torch.logsumexp(torch.cat((log_probabilities[:, :1], merged), 1), 1, keepdim=True)
    background = -(1 - soft.sum(1, keepdim=True)).clamp(min=0) * rest
    return foreground + background, answered.any(1, keepdim=True).float()


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (values * weight).sum() / weight.expand_as(values).sum().clamp(min=1)


def _iou_loss(
    probabilities: torch.Tensor,
    soft: torch.Tensor,
    answered: torch.Tensor,
    weight: torch.Tensor | None,
    form: IouForm,
    over_batch: bool,
) -> torch.Tensor:
    """Mean over answered labels (and images); sums run over the voxels of one image, or of the batch."""
    inside = answered.float() if weight is None else answered * weight
    axes = ((0,) if over_batch else ()) + tuple(range(2, probabilities.ndim))
    total = ((probabilities + soft) * inside).sum(axes)
    if form == "jml":
        distance = ((probabilities - soft).abs() * inside).sum(axes)
        ratio = (total - distance + 1) / (total + distance + 1)
    else:
        intersection = (probabilities * soft * inside).sum(axes)
        ratio = (intersection + 1) / (total - intersection + 1)
    seen = answered.flatten(2).any(2).float()
    seen = seen.amax(0) if over_batch else seen
    return _mean(1 - ratio, seen)


def pool_target(target: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """A soft target on a coarser grid, for deep supervision: the mean of the voxels that have a vote.

    Args:
        target: (B, L, *S) or (L, *S) float, -1 without vote.
        size: The coarser grid.

    Returns:
        The same with spatial shape `size`; -1 where no voxel had a vote.
    """
    if tuple(target.shape[-len(size) :]) == tuple(size):
        return target
    answered = (target >= 0).float()
    share = _pooled(answered, size)
    mean = _pooled(target.clamp(min=0) * answered, size) / share.clamp(min=1e-6)
    return torch.where(share > 0, mean, torch.full_like(mean, -1.0))


def _pooled(values: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if len(size) == 3:
        return functional.adaptive_avg_pool3d(values, (size[0], size[1], size[2]))
    return functional.adaptive_avg_pool2d(values, (size[0], size[1]))
