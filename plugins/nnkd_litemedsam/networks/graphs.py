"""LiteMedSAM in two parts, as it is exported: what an image costs once, and what every box in it costs."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd.plugin.networks import BoxGraphs
from nnkd_litemedsam.networks.folded_decoder import FoldedDecoder
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.networks.repvit import Block, Excite, Filter, RepViT
from nnkd_litemedsam.networks.tiny_vit import (
    ChannelNorm,
    ConvNorm,
    ConvStage,
    Downsample,
    MBConv,
    Stage,
    TinyViT,
    parts,
)
from nnkd_litemedsam.sizes import CHANNELS, GRID, SIZE


class RepViTGraph(nn.Module):
    """A fused RepViT with channels in front, as runtimes want it: with channels behind, as torch on CPUs has it, half
    of OpenVINO's time went into turning arrays over."""

    def __init__(self, encoder: RepViT):
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """(1, 3, 256, 256) -> (1, 256, 64, 64)."""
        first, second = parts(self.encoder.features[0], ConvNorm)
        x = second.c(F.gelu(first.c(image)))
        for block in parts(self.encoder.features, Block):
            x = self._block(block, x)
        return _neck(self.encoder.neck, x)

    def _block(self, block: Block, x: Tensor) -> Tensor:
        [kernel] = parts(block.token_mixer, Filter)
        x = kernel.conv.c(x)
        for excite in parts(block.token_mixer, Excite):
            x = x * excite.fc2(F.relu(excite.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
        widen, narrow = parts(block.mix, ConvNorm)
        y = narrow.c(F.gelu(widen.c(x)))
        return x + y if block.identity else y


class TinyViTGraph(nn.Module):
    """A fused TinyViT whose first stage, half of its work, has channels in front."""

    def __init__(self, encoder: TinyViT):
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """(1, 3, 256, 256) -> (1, 256, 64, 64)."""
        first, second = parts(self.encoder.patch_embed.seq, ConvNorm)
        x = second.c(F.gelu(first.c(image)))
        [convolutions] = parts(self.encoder.layers, ConvStage)
        for block in parts(convolutions.blocks, MBConv):
            x = F.gelu(x + self._filtered(block, x))
        x = self._filtered(convolutions.downsample, x).permute(0, 2, 3, 1)
        for stage in parts(self.encoder.layers, Stage):
            x = stage(x)
        return _neck(self.encoder.neck, x.permute(0, 3, 1, 2))

    def _filtered(self, layers: MBConv | Downsample, x: Tensor) -> Tensor:
        return layers.conv3.c(F.gelu(layers.conv2.c(F.gelu(layers.conv1.c(x)))))


def _neck(neck: nn.Sequential, x: Tensor) -> Tensor:
    """(B, C, H, W); layer norms over the channels are written out, or they would turn the array over twice each."""
    for layer in neck:
        if not isinstance(layer, ChannelNorm):
            x = layer(x)
            continue
        x = x - x.mean(1, keepdim=True)
        x = x / torch.sqrt((x * x).mean(1, keepdim=True) + layer.eps)
        x = x * layer.weight[:, None, None] + layer.bias[:, None, None]
    return x


GRAPHS = {RepViT: RepViTGraph, TinyViT: TinyViTGraph}


class DecoderGraph(nn.Module):
    """The folded decoder: an embedding (256, 64, 64) and boxes (n, 4) -> (n, 256, 256) logits."""

    def __init__(self, network: LiteMedSAM):
        super().__init__()
        self.prompt_encoder, self.mask_decoder = network.prompt_encoder, network.mask_decoder
        self._folded = FoldedDecoder(self.prompt_encoder, self.mask_decoder)

    def forward(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Boxes in rows (x0, y0, x1, y1) in pixels of the 256."""
        return self._folded.segment_at_once(embedding, boxes)


def graphs_of(network: LiteMedSAM, encoder: str, weights: Mapping[str, str]) -> BoxGraphs:
    """A model taken apart.

    Args:
        network: Nothing of it fused; it stays so.
        encoder: The name of its image encoder.
        weights: "name", "sha256" and "licence" of its checkpoint.
    """
    whole = network.eval().requires_grad_(False)
    ready = copy.deepcopy(whole).fuse()
    turned = GRAPHS.get(type(ready.image_encoder), lambda as_it_is: as_it_is)(ready.image_encoder)
    return BoxGraphs("litemedsam", encoder, turned, DecoderGraph(ready), whole, weights, SIZE, GRID, CHANNELS)
