"""What the Probabilistic U-Net minimises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from nnkd.training.losses import cross_entropy
from nnkd_unet.punet_network import Gaussian, Reconstruction


class Terms(NamedTuple):
    """The loss and what it is made of, in nats per image.

    Attributes:
        loss: () reconstruction + beta * KL + L2 term.
        reconstruction: () cross-entropy summed over the voxels.
        kl: (latent,) divergence of the posterior from the prior, by latent dimension.
    """

    loss: torch.Tensor
    reconstruction: torch.Tensor
    kl: torch.Tensor


class EvidenceLoss(nn.Module):
    """Negative log-likelihood of the drawn mask plus beta times the KL divergence, always computed in float32.

    Each image's cross-entropy is summed over its voxels; images are averaged, so that the weight of the divergence does
    not depend on the batch.

    Source: Li et al., MICCAI 2025, Eq. 2; beta and L2 as in SimonKohl/probabilistic_unet, whose 1e-5 stands before the
        sum of the norms in stefanknegt/Probabilistic-Unet-Pytorch.

    Args:
        regions: True for independent sigmoid outputs, False for softmax with background first.
        beta: Weight of the divergence.
        l2: Weight of the parameters' norms, the U-Net's left out.
        weighted: Whether the target's last channel is a weight per voxel in [0, 1].
    """

    def __init__(self, regions: bool, beta: float = 1.0, l2: float = 1e-5, weighted: bool = False):
        super().__init__()
        self.regions, self.beta, self.l2, self.weighted = regions, beta, l2, weighted

    def forward(self, found: Reconstruction, target: torch.Tensor) -> Terms:
        """The terms of one batch.

        Args:
            found: What the network made of images and masks.
            target: (B, L, *S) float, NO_VOTE where a label stays out, plus one weight channel if `weighted`.
        """
        with torch.autocast(target.device.type, enabled=False):
            soft = (target[:, :-1] if self.weighted else target).float()
            entropy = cross_entropy(found.logits.float(), soft, self.regions)
            if self.weighted:
                entropy = entropy * target[:, -1:].float()
            reconstruction = entropy.flatten(1).sum(1).mean()
            kl = divergence(found.posterior, found.prior).mean(0)
            return Terms(reconstruction + self.beta * kl.sum() + self.l2 * found.norms, reconstruction, kl)


def divergence(posterior: Gaussian, prior: Gaussian) -> torch.Tensor:
    """Kullback-Leibler divergence of diagonal normal distributions by dimension, in nats: (B, latent)."""
    narrower = posterior.log_sigma - prior.log_sigma
    shift = (posterior.mean - prior.mean) * torch.exp(-prior.log_sigma)
    return (torch.exp(2 * narrower) + shift**2 - 1) / 2 - narrower
