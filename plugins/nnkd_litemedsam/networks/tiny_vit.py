"""LiteMedSAM's image encoder: a TinyViT without the strides of its stem and of its last stage.

Source: Wu et al., ECCV 2022 (TinyViT); names and sizes as in LiteMedSAM's published weights. Tensors between layers are
(B, H, W, C), which convolutions (channels last), linear layers and layer norms all read without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd_litemedsam.networks.fused_layers import ROWS, by_rows, in_strips, linear
from nnkd_litemedsam.sizes import CHANNELS

M = TypeVar("M", bound=nn.Module)


def parts(container: nn.Module, kind: type[M]) -> list[M]:
    """The modules of one class in a list or sequence of torch's, in order."""
    return [module for module in container.children() if isinstance(module, kind)]


class ConvNorm(nn.Module):
    """A convolution and its batch norm; (B, H, W, C)."""

    def __init__(self, inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.c = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(outside)

    @property
    def fused(self) -> bool:
        """Whether the batch norm is part of the convolution."""
        return isinstance(self.bn, nn.Identity)

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        if self.fused and self.c.kernel_size == (1, 1):
            return linear(x, self.c.weight.flatten(1), self.c.bias, gelu)
        y = self.bn(self.c(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return F.gelu(y) if gelu else y

    @torch.no_grad()
    def fuse(self) -> None:
        """Put the batch norm into the convolution: the same function, once training is over."""
        if isinstance(self.bn, nn.Identity):
            return
        factor = self.bn.weight / torch.sqrt(self.bn.get_buffer("running_var") + self.bn.eps)
        self.c.weight.copy_(self.c.weight * factor[:, None, None, None])
        self.c.bias = nn.Parameter(self.bn.bias - self.bn.get_buffer("running_mean") * factor)
        self.bn = nn.Identity()


class MBConv(nn.Module):
    """Widen, filter, narrow, with a residual; (B, H, W, C)."""

    def __init__(self, width: int, expansion: int = 4):
        super().__init__()
        self.conv1 = ConvNorm(width, width * expansion)
        self.conv2 = ConvNorm(width * expansion, width * expansion, 3, groups=width * expansion)
        self.conv3 = ConvNorm(width * expansion, width)

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(self._strip, x) if in_strips(x) else self._strip(x, 0, x.shape[1])

    def _strip(self, x: Tensor, first: int, rows: int) -> Tensor:
        y = self.conv2(self.conv1(x, gelu=True))[:, first : first + rows]
        return F.gelu(x[:, first : first + rows] + self.conv3(F.gelu(y)))


class Downsample(nn.Module):
    """Another width and, with stride 2, half the size; (B, H, W, C)."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv1 = ConvNorm(inside, outside)
        self.conv2 = ConvNorm(outside, outside, 3, stride, groups=outside)
        self.conv3 = ConvNorm(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        if in_strips(x):
            return by_rows(self._strip, x, self.stride)
        return self._strip(x, 0, x.shape[1] // self.stride)

    def _strip(self, x: Tensor, first: int, rows: int) -> Tensor:
        y = self.conv2(self.conv1(x, gelu=True))[:, first : first + rows]
        return self.conv3(F.gelu(y))


class Attention(nn.Module):
    """Attention inside windows, with a bias learned for each distance; (windows, tokens, C)."""

    index: Tensor
    bias: Tensor | None

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        # Distances are numbered row by row: the first token's distances to all others come in this very order.
        index = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        windows, tokens, width = x.shape
        qkv = linear(self.norm(x), self.qkv.weight, self.qkv.bias)
        query, key, value = qkv.view(windows, tokens, self.heads, 3, width // self.heads).permute(3, 0, 2, 1, 4)
        # With a mask of four axes torch takes its fast kernel on CPUs, with three the slow one (29 against 14 ms).
        bias = self.attention_biases[None, :, self.index] if self.bias is None else self.bias
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return linear(mixed.transpose(1, 2).reshape(windows, tokens, width), self.proj.weight, self.proj.bias)

    @torch.no_grad()
    def fuse(self) -> None:
        """Look the biases up once."""
        self.bias = self.attention_biases[None, :, self.index].contiguous()


class MLP(nn.Module):
    """Two linear layers behind a layer norm; (..., C)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = linear(self.norm(x), self.fc1.weight, self.fc1.bias, gelu=True)
        return linear(y, self.fc2.weight, self.fc2.bias)


class Block(nn.Module):
    """Attention in windows, a depthwise convolution, two linear layers; (B, H, W, C)."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.window = window
        self.attn = Attention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self._attend(x))
        if not in_strips(x):
            return x + self.mlp(x)
        return torch.cat([torch.cat([y + self.mlp(y) for y in image.split(ROWS, 1)], 1) for image in x.split(1)])

    def _attend(self, x: Tensor) -> Tensor:
        """Pads to whole windows; the padded tokens take part, as they did in training."""
        images, height, width, channels = x.shape
        side = self.window
        bottom, right = -height % side, -width % side
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = (height + bottom) // side, (width + right) // side
        x = x.view(images * rows, side, columns, side, channels).transpose(1, 2)
        parts = x.split(1) if in_strips(x) else (x,)  # a row of windows at once stays in the cache
        parts = [self.attn(part.reshape(-1, side * side, channels)).view(part.shape) for part in parts]
        x = torch.cat(parts).transpose(1, 2)
        return x.reshape(images, height + bottom, width + right, channels)[:, :height, :width]


class ConvStage(nn.Module):
    """The first stage; (B, H, W, C)."""

    def __init__(self, width: int, depth: int, after: int):
        super().__init__()
        self.blocks = nn.ModuleList(MBConv(width) for _ in range(depth))
        self.downsample = Downsample(width, after, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class Stage(nn.Module):
    """A stage with attention; (B, H, W, C)."""

    def __init__(self, width: int, depth: int, heads: int, window: int, after: int, stride: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, window) for _ in range(depth))
        self.downsample = Downsample(width, after, stride) if stride else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels; (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Two convolutions pixel by pixel; (B, H, W, C)."""

    def __init__(self, width: int):
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2), nn.GELU(), ConvNorm(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq[2](self.seq[0](x, gelu=True))


class TinyViT(nn.Module):
    """(B, 3, 256, 256) float32 in [0, 1] -> (B, 256, 64, 64); 5,726,740 parameters with LiteMedSAM's sizes."""

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
    ):
        """Build it.

        Args:
            widths: Channels of the four stages.
            depths: Blocks of the four stages.
            heads: Attention heads; the first stage has no attention.
            windows: Sides of the windows in tokens; likewise.
        """
        super().__init__()
        self.patch_embed = Stem(widths[0])
        stages: list[nn.Module] = [ConvStage(widths[0], depths[0], widths[1])]
        for i, stride in ((1, 2), (2, 1), (3, 0)):
            after = widths[min(i + 1, 3)]
            stages.append(Stage(widths[i], depths[i], heads[i], windows[i], after, stride))
        self.layers = nn.ModuleList(stages)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[3], CHANNELS, 1, bias=False),
            ChannelNorm(CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            ChannelNorm(CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.permute(0, 2, 3, 1).contiguous())
        for layer in self.layers:
            x = layer(x)
        return self.neck(x.permute(0, 3, 1, 2))

    def fuse(self) -> TinyViT:
        """Make it faster, for good: batch norms go into their convolutions, biases of attention are looked up.

        Returns:
            Itself, in evaluation mode.
        """
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvNorm | Attention):
                module.fuse()
        return self.to(memory_format=torch.channels_last)
