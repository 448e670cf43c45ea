"""What paper 1 counted of the Probabilistic U-Net: its training graph, and its answer of ten samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from nnkd.plugin.networks import Paper, PaperGraph

if TYPE_CHECKING:
    from nnkd_unet.punet_network import PUNet

AT = "512x512, one channel, one label"


def training_graph(network: PUNet, image: Tensor) -> Tensor:
    """Prior, posterior and U-Net, all but the layers that see the latent: what paper 1's figure was counted on."""
    masks = torch.zeros_like(image[:, :1]).expand(-1, network.posterior.masks, *image.shape[2:])
    network.prior(image)
    network.posterior(image, masks)
    return network.decoder.features(network.encoder(image))


def ten_samples(network: PUNet, image: Tensor) -> Tensor:
    """Prior and U-Net once, then all layers that see the latent for each of ten samples, as papers write them down.
    (The network's own answer computes the first layer's share of the features once.)"""
    mean = network.prior(image).mean
    features = network.decoder.features(network.encoder(image))
    latent = mean[(..., *[None] * (image.ndim - 2))].expand(-1, -1, *image.shape[2:])
    total = torch.zeros(())
    for _ in range(10):
        x = torch.cat((features, latent), 1)
        for layer in network.combine:
            x = functional.relu(layer(x))
        total = network.decoder.seg_layers[0](x)
    return total


PAPER_GRAPHS = (
    PaperGraph(
        "paper, training",
        {"norm": "none"},
        Paper("paper 1, Table 4,", "5.00 M", "96.95 G", at=AT, counted_parameters="all"),
        run=training_graph,
        graph="U-Net, prior and posterior, without the layers that see the latent: the published code's training graph",
    ),
    PaperGraph(
        "paper, 10 samples",
        {"norm": "none"},
        Paper(
            "paper 1, Table 4,",
            "5.00 M",
            at=AT,
            counted_parameters="all",
            remark="it prints no figure for inference, where ten samples take 82.2 G",
        ),
        run=ten_samples,
        graph="U-Net and prior once, and the layers that see the latent ten times",
    ),
)
