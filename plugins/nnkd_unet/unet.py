"""Paper 1's UNet, whole and in parts.

Three 3x3 convolutions with ReLU a block, widths 32, 64, 128, 192, average pooling down, bilinear up, one 1x1 layer to
the logits: exactly 2,260,161 parameters with one input, one logit and no normalisation.

Source: Li et al., MICCAI 2025, Table 4; layers as in stefanknegt/Probabilistic-Unet-Pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 192)
Norm = Literal["none", "batch", "instance"]
FOREGROUND_BIAS = -3.0  # without normalisation a U-Net that starts at p = 1/2 everywhere stays at DSC 0


class Block(nn.Sequential):
    """Three times convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, width: int, dim: int, norm: Norm):
        layers: list[nn.Module] = []
        for i in range(3):
            conv = (nn.Conv2d, nn.Conv3d)[dim - 2](inputs if i == 0 else width, width, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.get_parameter("bias"))
            layers += [conv, *_norm(norm, width, dim), nn.ReLU(inplace=True)]
        super().__init__(*layers)


def _norm(norm: Norm, width: int, dim: int) -> list[nn.Module]:
    if norm == "batch":
        return [(nn.BatchNorm2d, nn.BatchNorm3d)[dim - 2](width)]
    if norm == "instance":
        return [(nn.InstanceNorm2d, nn.InstanceNorm3d)[dim - 2](width, affine=True)]
    return []


class Encoder(nn.Module):
    """The way down: (B, inputs, *S) -> (B, width, *S / 2**level) for each level."""

    def __init__(self, inputs: int, widths: Sequence[int], dim: int, norm: Norm):
        super().__init__()
        sizes = (inputs, *widths)
        self.blocks = nn.ModuleList(Block(sizes[i], sizes[i + 1], dim, norm) for i in range(len(widths)))
        self.pool = (nn.AvgPool2d, nn.AvgPool3d)[dim - 2](2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features of each level, finest first."""
        skips = []
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.pool(x))
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """The way up, and the last layer. nnU-Net's names: `seg_layers` (skipped by -pretrained_weights) and
    `deep_supervision` (always off here)."""

    def __init__(self, logits: int, widths: Sequence[int], dim: int, norm: Norm):
        super().__init__()
        self.deep_supervision = False
        self.mode = "bilinear" if dim == 2 else "trilinear"
        pairs = list(pairwise(widths))[::-1]
        self.blocks = nn.ModuleList(Block(low + high, low, dim, norm) for low, high in pairs)
        last = (nn.Conv2d, nn.Conv3d)[dim - 2](widths[0], logits, 1)
        # without normalisation features are as large as they like, and logits would be, too; with it, so small a start
        # takes hundreds of iterations to grow out of, in which all labels are alike
        nn.init.normal_(last.weight, std=0.01 if norm == "none" else (2 / widths[0]) ** 0.5)
        bias = nn.init.zeros_(last.get_parameter("bias"))
        with torch.no_grad():
            # softmax networks: head 0 is the background. With regions, or one logit, all heads are foreground; a
            # lower start does not hurt head 0 then either, because its bias is learned first.
            bias[0 if logits == 1 else 1 :] = FOREGROUND_BIAS
        self.seg_layers = nn.ModuleList([last])

    def features(self, skips: list[torch.Tensor]) -> torch.Tensor:
        """What the last layer sees: (B, widths[0], *S)."""
        x = skips[-1]
        for skip, block in zip(reversed(skips[:-1]), self.blocks, strict=True):
            x = functional.interpolate(x, scale_factor=2, mode=self.mode, align_corners=True)
            x = block(torch.cat((x, skip), 1))
        return x

    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        """(B, logits, *S)."""
        return self.seg_layers[0](self.features(skips))


def padded(x: torch.Tensor, levels: int) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """An image as a network with that many levels needs it: each axis a multiple of 2**(levels - 1).

    Args:
        x: (B, C, *S), any size.
        levels: How many widths the network has.

    Returns:
        The image with zeros around it, and where the image is in it: `y[(..., *window)]`.
    """
    multiple, size = 2 ** (levels - 1), x.shape[2:]
    # at least two voxels at the coarsest level: instance normalisation has no variance over one
    missing = [max(2 * multiple - n, -n % multiple) for n in size]
    padding = [amount for m in reversed(missing) for amount in (m // 2, m - m // 2)]
    window = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
    return functional.pad(x, padding), window


class UNet(nn.Module):
    """Paper 1's UNet, for 2D or 3D images of any size (padded inside to a multiple of 8, at least 16, cropped after).

    Args:
        inputs: Image channels.
        outputs: nnU-Net's number of heads.
        dim: 2 or 3.
        norm: Normalisation between convolution and ReLU; "none" is the paper's.
        one_logit: Give (0, x) for two softmax heads, whose softmax is sigmoid(x): the paper's single logit.
        widths: Channels per level.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dim: int = 2,
        norm: Norm = "none",
        one_logit: bool = False,
        widths: Sequence[int] = WIDTHS,
    ):
        super().__init__()
        self.one_logit = one_logit
        self.levels = len(widths)
        self.encoder = Encoder(inputs, widths, dim, norm)
        self.decoder = Decoder(1 if one_logit else outputs, widths, dim, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, *S) -> (B, outputs, *S) logits."""
        x, window = padded(x, self.levels)
        logits = self.decoder(self.encoder(x))[(..., *window)]
        return torch.cat((torch.zeros_like(logits), logits), 1) if self.one_logit else logits
