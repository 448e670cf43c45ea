"""A box model in torch that says yes to what is bright in a box, taken apart for nnKD_export."""

from __future__ import annotations

import torch
from torch import nn

from nnkd.plugin.networks import BoxGraphs


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 256, 4, stride=4)

    def forward(self, image):
        return self.conv(image)


class Decoder(nn.Module):
    def forward(self, embedding, boxes):
        grid = torch.arange(256.0)
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


def graphs() -> BoxGraphs:
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder()
    weights = {"name": "toy.pth", "sha256": "ab" * 32, "licence": "MIT"}
    return BoxGraphs("toy", "conv", encoder, decoder, Whole(encoder, decoder), weights)
