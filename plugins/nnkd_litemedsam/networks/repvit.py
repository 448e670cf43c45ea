"""Paper 2's image encoder: RepViT-M0.6 whose blocks keep the size, so that it answers on a grid of 64 x 64.

Source: Wang et al., CVPR 2024 (RepViT); paper 2: every stride of its blocks is 1, and LiteMedSAM's neck follows.
Weights have the published names; tensors between layers are (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd_litemedsam.networks.fused_layers import linear
from nnkd_litemedsam.networks.tiny_vit import ChannelNorm, ConvNorm, parts
from nnkd_litemedsam.sizes import CHANNELS

# Width of each block, and whether its channels are weighted (squeeze and excite)
M0_6 = (
    *((40, True), (40, False)),
    *((80, False), (80, True), (80, False)),
    *((160, False), (160, True), (160, False), (160, True), (160, False)),
    *((160, True), (160, False), (160, True), (160, False), (160, False)),
    *((320, False), (320, True)),
)


class Filter(nn.Module):
    """A depthwise filter of three branches (3 x 3, 1 x 1 and nothing), which inference makes one; (B, H, W, C)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = ConvNorm(width, width, 3, groups=width)
        self.conv1: nn.Conv2d | None = nn.Conv2d(width, width, 1, groups=width)
        self.bn: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is None:
            return self.conv(x)
        if torch.is_grad_enabled():  # a factor for each channel: on CPUs the convolution took half of a training step
            y = self.conv(x) + torch.addcmul(self.conv1.get_parameter("bias"), x, self.conv1.weight.flatten() + 1)
        else:
            y = self.conv(x) + x + self.conv1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.bn(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    @torch.no_grad()
    def fuse(self) -> None:
        """Put the branches and the batch norms into one convolution: the same function, once training is over."""
        if self.conv1 is None or isinstance(self.bn, nn.Identity):
            return
        self.conv.fuse()
        convolution, bias = self.conv.c, self.conv.c.get_parameter("bias")
        convolution.weight[..., 1:2, 1:2] += self.conv1.weight + 1  # the middle of the 3 x 3
        factor = self.bn.weight / torch.sqrt(self.bn.get_buffer("running_var") + self.bn.eps)
        convolution.weight.mul_(factor[:, None, None, None])
        bias.add_(self.conv1.get_parameter("bias") - self.bn.get_buffer("running_mean"))
        bias.mul_(factor).add_(self.bn.bias)
        self.conv1, self.bn = None, nn.Identity()


class Excite(nn.Module):
    """Weighs the channels by what they are in the whole image; (B, H, W, C)."""

    def __init__(self, width: int):
        super().__init__()
        inside = max(8, (width // 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(width, inside, 1)
        self.fc2 = nn.Conv2d(inside, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.linear(x.mean((1, 2)), self.fc1.weight.flatten(1), self.fc1.bias))
        weights = F.linear(y, self.fc2.weight.flatten(1), self.fc2.bias).sigmoid()
        return x * weights[:, None, None]


class Residual(nn.Module):
    """What is added to what comes in. A module of its own because the published names have one."""

    def __init__(self, layers: nn.Sequential):
        super().__init__()
        self.m = layers


class Block(nn.Module):
    """Filter each channel, then mix them: widened twofold, with GELU, and, where the width stays, as a residual;
    (B, H, W, C)."""

    def __init__(self, inside: int, outside: int, excite: bool, zero_init: bool):
        super().__init__()
        self.token_mixer = nn.Sequential(Filter(inside), Excite(inside) if excite else nn.Identity())
        widen, narrow = ConvNorm(inside, 2 * inside), ConvNorm(2 * inside, outside)
        self.identity = inside == outside
        if self.identity or zero_init:
            nn.init.zeros_(narrow.bn.get_parameter("weight"))
        mix = nn.Sequential(widen, nn.GELU(), narrow)
        self.channel_mixer: Residual | nn.Sequential = Residual(mix) if self.identity else mix

    @property
    def mix(self) -> nn.Sequential:
        """What mixes the channels: a convolution, GELU, a convolution."""
        return self.channel_mixer.m if isinstance(self.channel_mixer, Residual) else self.channel_mixer

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        widen, narrow = parts(self.mix, ConvNorm)
        y = narrow(widen(x, gelu=True))  # not in strips: on this small grid they took a tenth longer
        return x + y if self.identity else y


class RepViT(nn.Module):
    """(B, 3, 256, 256) float32 in [0, 1] -> (B, 256, 64, 64); 2,434,100 parameters in 261 tensors."""

    def __init__(self, blocks: Sequence[tuple[int, bool]] = M0_6, zero_init: bool = False):
        """Build it.

        Departs: the published code sets the last batch norm of every block to 0. Where the width changes nothing
        passes beside it, so everything up to there starts at 0: 245 of 261 tensors get no gradient, and those that do
        explode. Here only blocks with a residual start so.

        Args:
            blocks: Width of each, and whether its channels are weighted.
            zero_init: Start as the published code does.
        """
        super().__init__()
        width = blocks[0][0]
        stem = nn.Sequential(ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2))
        layers: list[nn.Module] = [stem]
        for outside, excite in blocks:
            layers.append(Block(width, outside, excite, zero_init))
            width = outside
        self.features = nn.ModuleList(layers)
        self.neck = nn.Sequential(
            nn.Conv2d(width, CHANNELS, 1, bias=False),
            ChannelNorm(CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            ChannelNorm(CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = parts(self.features[0], ConvNorm)
        x = second(first(x.permute(0, 2, 3, 1), gelu=True))
        for block in self.features[1:]:
            x = block(x)
        narrow, *others = self.neck
        x = linear(x, narrow.get_parameter("weight").flatten(1), None).permute(0, 3, 1, 2)
        for layer in others:
            x = layer(x)
        return x

    def fuse(self) -> RepViT:
        """Make it faster, for good: branches and batch norms go into their convolutions.

        Returns:
            Itself, in evaluation mode.
        """
        self.eval()
        for module in self.modules():
            if isinstance(module, Filter | ConvNorm):
                module.fuse()
        return self.to(memory_format=torch.channels_last)
