"""Paper 2's first teacher: a small Swin transformer that begins with a token for each pixel.

Source: Liu et al., ICCV 2021 (Swin); sizes and names as in paper 2's published code. Paper 2 calls it Swin-T, but it is
not the usual one: tokens of 1 x 1 pixels, halved twice instead of three times, and a position table. Tensors between
layers are (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd_litemedsam.networks.fused_layers import ROWS, in_strips, linear
from nnkd_litemedsam.sizes import SIZE

APART = -100.0  # added to the attention between tokens that are no neighbours, in logits
SPREAD = 0.02  # standard deviation of weights at the start


class Attention(nn.Module):
    """Attention inside windows, with a bias learned for each distance; (B, rows, columns, tokens, C)."""

    index: Tensor
    bias: Tensor | None

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=SPREAD)
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        away = place[:, None] - place + window - 1  # (tokens, tokens, 2)
        self.register_buffer("index", away[..., 0] * (2 * window - 1) + away[..., 1], persistent=False)
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask: (rows, columns, tokens, tokens), added to what tokens of a window pay each other; None: nothing."""
        images, tokens, width = len(x), *x.shape[3:]
        qkv = linear(x, self.qkv.weight, self.qkv.bias)
        query, key, value = qkv.view(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        bias = self._bias() if self.bias is None else self.bias
        if mask is not None:
            bias = (bias + mask.flatten(0, 1)[:, None]).repeat(images, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(x.dtype))
        return linear(mixed.transpose(1, 2).reshape(x.shape), self.proj.weight, self.proj.bias)

    def _bias(self) -> Tensor:
        """(1, heads, tokens, tokens)"""
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)[None]

    @torch.no_grad()
    def fuse(self) -> None:
        """Look the biases up once."""
        self.bias = self._bias().contiguous()


class MLP(nn.Module):
    """Two linear layers; (..., C)."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = linear(x, self.fc1.weight, self.fc1.bias, gelu=True)
        return linear(y, self.fc2.weight, self.fc2.bias)


class Block(nn.Module):
    """Attention in windows, then two linear layers: residuals, which training leaves out at times; (B, H, W, C)."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop: float):
        super().__init__()
        self.window, self.shift, self.drop = window, shift, drop
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._left_out(self._attend(self.norm1(x)))
        if not in_strips(x):
            return x + self._left_out(self.mlp(self.norm2(x)))
        parts = [[y + self.mlp(self.norm2(y)) for y in image.split(ROWS, 1)] for image in x.split(1)]
        return torch.cat([torch.cat(strips, 1) for strips in parts])

    def _left_out(self, x: Tensor) -> Tensor:
        """In training, for some images of the batch nothing, for the others as much more."""
        if not self.training or not self.drop:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
        return x * (kept / (1 - self.drop)).to(x.dtype)

    def _attend(self, x: Tensor) -> Tensor:
        """Pads to whole windows, then moves them; the padded tokens take part, as in the published code."""
        images, height, width, channels = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        padded = x.shape
        rows, columns = padded[1] // side, padded[2] // side
        x = x.view(images, rows, side, columns, side, channels).transpose(2, 3).flatten(3, 4)
        x = self._in_windows(x)
        x = x.unflatten(3, (side, side)).transpose(2, 3).reshape(padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _in_windows(self, x: Tensor) -> Tensor:
        _, rows, columns, _, _ = x.shape
        mask = _apart(rows, columns, self.window, self.shift, x) if self.shift else None
        if not in_strips(x):
            return self.attn(x, mask)
        # a row of windows at once stays in the cache
        masks = [None] * rows if mask is None else mask.split(1)
        return torch.cat([self.attn(part, one) for part, one in zip(x.split(1, 1), masks, strict=True)], 1)


def _apart(rows: int, columns: int, window: int, shift: int, like: Tensor) -> Tensor:
    """What moving the windows joins though it lies at opposite edges: (rows, columns, tokens, tokens), 0 or APART."""
    sides = []
    for number in (rows, columns):
        place = torch.arange(number * window, device=like.device)
        end = number * window
        sides.append(((place >= end - window).int() + (place >= end - shift).int()).view(number, window))
    region = 3 * sides[0][:, None, :, None] + sides[1][None, :, None, :]  # (rows, columns, window, window)
    region = region.flatten(2)
    return torch.zeros((), device=like.device).masked_fill(region[..., None] != region[..., None, :], APART)


class Merge(nn.Module):
    """Four neighbours become one token of twice the width; (B, H, W, C)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return linear(self.norm(torch.cat(parts, -1)), self.reduction.weight, None)


class Stage(nn.Module):
    """Blocks whose windows lie in place and moved by turns; (B, H, W, C)."""

    def __init__(self, width: int, heads: int, window: int, drops: Sequence[float], merge: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, window, window // 2 * (i % 2), drop) for i, drop in enumerate(drops)
        )
        self.downsample = Merge(width) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Tokens(nn.Module):
    """A token for each pixel; (B, 3, H, W) -> (B, H, W, C)."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """(B, 3, 256, 256) float32 in [0, 1] -> (B, 256, 64, 64); 11,188,908 parameters.

    4,194,304 of them are the position table. `norm0`, `norm1` and `norm2`, of earlier stages' outputs, are never used,
    but published and counted.
    """

    norm3: nn.LayerNorm

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 8, 8),
        window: int = 7,
        drop_path: float = 0.2,
        size: int = SIZE,
    ):
        """Build it.

        Args:
            width: Channels of the first stage; the second has twice, the third and the fourth four times as many.
            depths: Blocks of the four stages.
            heads: Attention heads.
            window: Side of the windows in tokens.
            drop_path: Probability with which training leaves out a residual, for the last block; 0 for the first, and
                linear between them.
            size: Pixels of a side of the image.
        """
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.patch_embed = Tokens(width)
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, width, size, size))
        nn.init.trunc_normal_(self.absolute_pos_embed, std=SPREAD)
        drops = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.layers = nn.ModuleList(
            Stage(widths[i], heads[i], window, [next(drops) for _ in range(depths[i])], merge=i < 2) for i in range(4)
        )
        for i in range(4):
            self.add_module(f"norm{i}", nn.LayerNorm(widths[i]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.absolute_pos_embed.permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x)
        return self.norm3(x).permute(0, 3, 1, 2).contiguous()

    def fuse(self) -> Swin:
        """Make it faster, for good: biases of attention are looked up.

        Returns:
            Itself, in evaluation mode.
        """
        self.eval()
        for module in self.modules():
            if isinstance(module, Attention):
                module.fuse()
        return self
