"""A U-Net of visual state-space blocks, for slices and volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnkd_networks.state_space import Expand, Merge, Scan, Stage, linear

DEPTHS = (2, 2, 2, 2)
PATCH = 4  # pixels per axis of what the first layer turns into one


class Encoder(nn.Module):
    """The way down.

    Args:
        inputs: Image channels.
        stages: One a level.
        widths: Features of each level.
        dim: 2 or 3.
    """

    def __init__(self, inputs: int, stages: Sequence[Stage], widths: Sequence[int], dim: int):
        super().__init__()
        self.embed = (nn.Conv2d, nn.Conv3d)[dim - 2](inputs, widths[0], PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(widths[0])
        self.stages = nn.ModuleList(stages)
        self.merges = nn.ModuleList(Merge(width, dim) for width in widths[:-1])
        self.last_norm = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, *S) -> what enters each level but the coarsest, finest first: (B, *S / 4, widths[0]) ...; then
        what leaves the coarsest."""
        x = self.norm(self.embed(x).movedim(1, -1))
        skips = []
        for stage, merge in zip(self.stages[:-1], self.merges, strict=True):
            skips.append(x)
            x = merge(stage(x))
        return [*skips, self.last_norm(self.stages[-1](x))]


class Decoder(nn.Module):
    """The way up, and the last layer. nnU-Net's names: `seg_layers` (skipped by -pretrained_weights) and
    `deep_supervision` (always off: there is one output).

    Args:
        logits: Of the last layer.
        stages: One for each level but the coarsest, coarse ones first.
        widths: Features of each level.
        features: Of the last layer's input.
        dim: 2 or 3.
    """

    def __init__(self, logits: int, stages: Sequence[Stage], widths: Sequence[int], features: int, dim: int):
        super().__init__()
        self.deep_supervision = False
        up = widths[-2::-1]
        self.expands = nn.ModuleList(Expand(2 * width, width, dim, 2) for width in up)
        self.joins = nn.ModuleList(linear(2 * width, width, bias=True) for width in up)
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(widths[0])
        self.last_expand = Expand(widths[0], features, dim, PATCH)
        self.seg_layers = nn.ModuleList([(nn.Conv2d, nn.Conv3d)[dim - 2](features, logits, 1)])

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """What the encoder gives -> (B, logits, *S)."""
        x = skips[-1]
        for skip, expand, join, stage in zip(reversed(skips[:-1]), self.expands, self.joins, self.stages, strict=True):
            x = stage(join(torch.cat((expand(x), skip), -1)))
        return self.seg_layers[0](self.last_expand(self.norm(x)).movedim(-1, 1))


class MambaUNet(nn.Module):
    """Mamba-UNet for 2D or 3D images of any size (padded inside with zeros to multiples of 32 with four levels, cropped
    after).

    A level's width is twice that of the one above. The skip connection of a level is what enters it. With one channel
    and one logit, 19,118,305 parameters in 2D and 24,198,409 in 3D.

    Source: Wang et al., Mamba-UNet, 2024; layers as in ziyangwang007/Mamba-UNet.
    Departs: one image channel is not repeated to three; the last layer has a bias. In 3D, which it has not, full
        resolution has a fourth as many features, because 96 of them would take most of the memory.

    Args:
        inputs: Image channels.
        outputs: nnU-Net's number of heads.
        dim: 2 or 3.
        embed: Features of the finest level, a multiple of 4.
        depths: Blocks of each level, finest first; the way up has as many, but none at the coarsest.
        state: States per channel.
        drop_path: Chance that the encoder's last block is left out in training; it grows from 0 at its first one.
        checkpointing: Compute blocks again in the backward pass instead of keeping what they made.
        scan: See `StateSpace`.
        one_logit: Give (0, x) for two softmax heads, whose softmax is sigmoid(x).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dim: int = 2,
        embed: int = 96,
        depths: Sequence[int] = DEPTHS,
        state: int = 16,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        scan: Scan = "auto",
        one_logit: bool = False,
    ):
        super().__init__()
        self.one_logit = one_logit
        self.multiple = PATCH * 2 ** (len(depths) - 1)
        widths = [embed * 2**level for level in range(len(depths))]
        blocks = iter(range(sum(depths)))
        last = max(1, sum(depths) - 1)
        drops = [[drop_path * next(blocks) / last for _ in range(depth)] for depth in depths]

        def stages(levels: Sequence[int]) -> list[Stage]:
            return [Stage(widths[i], dim, state, scan, drops[i], checkpointing) for i in levels]

        down = range(len(depths))
        self.encoder = Encoder(inputs, stages(down), widths, dim)
        features = embed if dim == 2 else embed // 4
        self.decoder = Decoder(1 if one_logit else outputs, stages(down[-2::-1]), widths, features, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *S) -> (B, outputs, *S) logits."""
        size = x.shape[2:]
        missing = [-n % self.multiple for n in size]
        x = functional.pad(x, [amount for m in reversed(missing) for amount in (m // 2, m - m // 2)])
        window = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
        logits = self.decoder(self.encoder(x))[(..., *window)]
        return torch.cat((torch.zeros_like(logits), logits), 1) if self.one_logit else logits
