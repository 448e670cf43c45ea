"""What a Mamba U-Net is made of: blocks that scan an image along its axes, and changes of resolution.

Images are (B, *S, C) here, channels last, S of two or three axes.

Source: Liu et al., VMamba, 2024 (block and cross-scan); Wang et al., Mamba-UNet, 2024 (merging and expanding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nnkd_networks.selective_scan import mambas_kernel, selective_scan

Scan = Literal["auto", "torch"]

EXPAND = 2  # features inside of a block over those outside
CHANNELS_PER_RANK = 16  # step sizes come from a 16th as many numbers as there are channels
STEP_SIZES = 1e-3, 0.1  # at the start
SPREAD = 0.02  # of linear layers' weights at the start


def sequences(x: Tensor) -> Tensor:
    """An image read in two ways per axis: with each axis as the fastest one in turn, forwards and backwards.

    Departs: in 3D, where VMamba has nothing, three orders (rotations of the axes) of the six, both ways.

    Args:
        x: (B, *S, C).

    Returns:
        (B, 2 dim, L, C), L the number of pixels; the second half is the first, reversed.
    """
    dim = x.ndim - 2
    forwards = torch.stack([x.permute(0, *_order(dim, k), -1).flatten(1, -2) for k in range(dim)], 1)
    return torch.cat((forwards, forwards.flip(2)), 1)


def image(y: Tensor, size: Sequence[int]) -> Tensor:
    """Where each pixel of `sequences` came from, summed over the ways.

    Args:
        y: (B, 2 dim, L, C).
        size: *S.

    Returns:
        (B, *S, C).
    """
    dim = len(size)
    y = y[:, :dim] + y[:, dim:].flip(2)
    total = y[:, 0].unflatten(1, size)
    for k in range(1, dim):
        order = _order(dim, k)
        seen = y[:, k].unflatten(1, [size[axis - 1] for axis in order])
        total = total + seen.permute(0, *[1 + order.index(axis) for axis in range(1, dim + 1)], -1)
    return total


def _order(dim: int, k: int) -> list[int]:
    """The spatial axes, rotated k times."""
    return [1 + (axis + k) % dim for axis in range(dim)]


class StateSpace(nn.Module):
    """The visual state-space layer: each pixel hears of all others through states that are carried along.

    Args:
        width: C.
        dim: 2 or 3.
        state: States per channel, N.
        scan: "auto" takes mamba-ssm's kernel on CUDA where it is installed; "torch" never does.
    """

    def __init__(self, width: int, dim: int, state: int, scan: Scan):
        super().__init__()
        inner, rank, ways = EXPAND * width, math.ceil(width / CHANNELS_PER_RANK), 2 * dim
        self.sizes = (rank, state, state)
        self.kernel = mambas_kernel() if scan == "auto" else None  # not in the forward pass, which may be compiled
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.conv = (nn.Conv2d, nn.Conv3d)[dim - 2](inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Parameter(torch.empty(ways, inner, sum(self.sizes)).uniform_(-1, 1) / math.sqrt(inner))
        self.delta_weight = nn.Parameter(torch.empty(ways, rank, inner).uniform_(-1, 1) / math.sqrt(rank))
        low, high = map(math.log, STEP_SIZES)
        steps = torch.empty(ways, inner).uniform_(low, high).exp()
        self.delta_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus makes these steps of it
        self.decay_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(ways, inner, 1))
        self.skip = nn.Parameter(torch.ones(ways, inner))
        self.norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, width, bias=False)
        for layer in (self.enter, self.leave):
            nn.init.trunc_normal_(layer.weight, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) -> the same shape."""
        x, gate = self.enter(x).chunk(2, -1)
        x = functional.silu(self.conv(x.movedim(-1, 1))).movedim(1, -1)
        u = sequences(x)
        delta, b, c = (u @ self.project).split(self.sizes, -1)
        delta = functional.softplus((delta @ self.delta_weight).float() + self.delta_bias.unsqueeze(1))
        y = selective_scan(u, delta, -self.decay_log.float().exp(), b, c, kernel=self.kernel)
        # every way adds its skip times the very pixel: one product does for all
        y = image(y, x.shape[1:-1]) + x * self.skip.sum(0)
        return self.leave(self.norm(y) * functional.silu(gate))


class Block(nn.Module):
    """A state-space layer on what is normalised, added to its input.

    Args:
        width, dim, state, scan: See `StateSpace`.
        drop: Chance that in training an image goes around the layer.
    """

    def __init__(self, width: int, dim: int, state: int, scan: Scan, drop: float):
        super().__init__()
        self.drop = drop
        self.norm = nn.LayerNorm(width)
        self.space = StateSpace(width, dim, state, scan)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) -> the same shape."""
        added = self.space(self.norm(x))
        if self.training and self.drop > 0:
            kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.drop
            added = added * kept / (1 - self.drop)
        return x + added


class Stage(nn.Module):
    """Blocks of one resolution.

    Args:
        drops: Each block's chance of being left out.
        checkpointing: Compute blocks again in the backward pass instead of keeping what they made.
        width, dim, state, scan: See `StateSpace`.
    """

    def __init__(self, width: int, dim: int, state: int, scan: Scan, drops: Sequence[float], checkpointing: bool):
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(Block(width, dim, state, scan, drop) for drop in drops)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) -> the same shape."""
        for block in self.blocks:
            again = self.checkpointing and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x


class Merge(nn.Module):
    """Half the resolution, twice the features: what lies in two pixels per axis, normalised and mixed."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(2**dim * width)
        self.mix = linear(2**dim * width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) -> (B, *S / 2, 2 C); sides are even."""
        dim = x.ndim - 2
        for axis in range(dim):
            x = x.unflatten(1 + 2 * axis, (-1, 2))
        x = x.permute(0, *range(1, 2 * dim, 2), *range(2 * dim, 0, -2), -1)  # the last axis' pairs are the slowest
        return self.mix(self.norm(x.flatten(dim + 1)))


class Expand(nn.Module):
    """A finer resolution: each pixel is turned into several, which are normalised.

    Args:
        width: Features before.
        features: Features after.
        dim: 2 or 3.
        factor: How many pixels per axis.
    """

    def __init__(self, width: int, features: int, dim: int, factor: int):
        super().__init__()
        self.factor = factor
        self.spread = linear(width, factor**dim * features)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, width) -> (B, *S * factor, features)."""
        dim = x.ndim - 2
        x = self.spread(x).unflatten(-1, (*[self.factor] * dim, -1))
        x = x.permute(0, *[axis for i in range(1, dim + 1) for axis in (i, dim + i)], -1)
        for axis in range(1, dim + 1):
            x = x.flatten(axis, axis + 1)
        return self.norm(x)


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A linear layer as they start here."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.trunc_normal_(layer.weight, std=SPREAD)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
