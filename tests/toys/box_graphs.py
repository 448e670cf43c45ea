"""A box model in torch that says yes to what is bright in a box, taken apart for nnKD_export."""

from __future__ import annotations

import torch
from torch import nn

from nnkd.plugin.networks import BoxGraphs


class Encoder(nn.Module):
    def __init__(self, channels=256):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 4, stride=4)

    def forward(self, image):
        return self.conv(image)


class Decoder(nn.Module):
    def __init__(self, size=256):
        super().__init__()
        self.size = size

    def forward(self, embedding, boxes):
        grid = torch.arange(float(self.size))
        rows = (grid[:, None] >= boxes[:, 1, None, None]) & (grid[:, None] < boxes[:, 3, None, None])
        columns = (grid >= boxes[:, 0, None, None]) & (grid < boxes[:, 2, None, None])
        mean = embedding.mean(0).repeat_interleave(4, 0).repeat_interleave(4, 1)
        return torch.where(rows & columns, mean, -1 - mean.abs())


class Whole(nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image, boxes):
        return self.decoder(self.encoder(image)[0], boxes)


def graphs(size: int = 256, channels: int = 256) -> BoxGraphs:
    torch.manual_seed(0)
    encoder, decoder = Encoder(channels), Decoder(size)
    weights = {"name": "toy.pth", "sha256": "ab" * 32, "licence": "MIT"}
    whole = Whole(encoder, decoder)
    return BoxGraphs("toy", "conv", encoder, decoder, whole, weights, size=size, grid=size // 4, channels=channels)
