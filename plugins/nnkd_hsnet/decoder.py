"""HSNet's decoder: from the four scales of a pyramid vision transformer to four maps of logits.

Source: Zhang et al., Computers in Biology and Medicine 2022 (HSNet); sizes as in its published model. Written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 320, 512)  # of PVTv2-b2, at a fourth, an eighth, a 16th and a 32nd of the size
COMMON = 64  # channels of the four scales where they are compared
FOREGROUND_LOGIT = -3.0  # an output that starts at p = 1/2 everywhere takes a small learning rate long to leave


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs))


def _tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return image.flatten(2).transpose(1, 2)


def _image(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, H W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(shape))


class _ChannelGate(nn.Module):
    """A factor in (0, 1) per channel, from the channel's mean and those of its four neighbours: (B, C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = self.mean(x).flatten(1).unsqueeze(1)
        return torch.sigmoid(self.conv(means)).squeeze(1)[..., None, None]


class _SpatialGate(nn.Module):
    """A factor in (0, 1) per pixel: (B, 1, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = _conv_norm(width, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class _TransformerBlock(nn.Module):
    """Attention of every pixel to every other with one head, then two linear layers with a depthwise convolution
    between them; (B, N, C)."""

    def __init__(self, width: int):
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_and_value = nn.Linear(width, 2 * width, bias=False)
        self.mix = nn.Linear(width, width)
        self.before_layers = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The new tokens, and the queries."""
        normed = self.before_attention(x)
        query = self.query(normed)
        key, value = self.key_and_value(normed).chunk(2, dim=-1)
        # four axes: torch's fast kernels take no less, and none of them holds the matrix of all pairs
        attended = functional.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])
        x = x + self.mix(attended[:, 0])
        wide = self.depthwise(_image(self.widen(self.before_layers(x)), shape))
        return x + self.narrow(functional.gelu(_tokens(wide))), query


class _Bottleneck(nn.Module):
    """Three convolutions with a residual; (B, C, H, W)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        middle = outputs // 4
        self.direct = _conv_norm(inputs, outputs, 1)
        self.convs = nn.Sequential(
            _conv_norm(inputs, middle, 1),
            nn.ReLU(inplace=True),
            _conv_norm(middle, middle, 3),
            nn.ReLU(inplace=True),
            _conv_norm(middle, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.direct(x) + self.convs(x))


class HybridSemantic(nn.Module):
    """A transformer's view of an image times a convolutional one, at twice the size: (B, inputs, H, W) -> (B, outputs,
    2 H, 2 W).

    The gates look at the square of the queries: the published model was to multiply them with the keys, but multiplies
    them with themselves, and this is what was trained and counted.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.embed = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.after_embed = nn.LayerNorm(outputs)
        self.block = _TransformerBlock(outputs)
        self.after_block = nn.LayerNorm(outputs)
        self.channel_gate = _ChannelGate()
        self.spatial_gate = _SpatialGate(outputs)
        self.local = _Bottleneck(inputs, outputs)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[2:]
        tokens, query = self.block(self.after_embed(_tokens(self.embed(x))), shape)
        squares = _image(query * query, shape)
        far = _image(self.after_block(tokens), shape) * self.channel_gate(squares) * self.spatial_gate(squares)
        return self.enlarge(far * self.local(x))


class HybridAttention(nn.Module):
    """Half the channels gated by place, as the other half says, and the other half by channel, as the first says;
    (B, C, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.channel_gate = _ChannelGate()
        self.spatial_gate = _SpatialGate(half)
        self.conv = _conv_norm(half, half, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat((first * self.spatial_gate(second), self.conv(second) * self.channel_gate(first)), dim=1)


class _Coefficients(nn.Module):
    """How much each scale's output counts in an image: (B, 4) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.compare = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, COMMON, 1), nn.BatchNorm2d(COMMON)) for width in WIDTHS
        )
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.layers = nn.Sequential(nn.Linear(COMMON, COMMON), nn.ReLU(inplace=True), nn.Linear(COMMON, len(WIDTHS)))

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        means = [self.mean(layer(scale)).flatten(1) for layer, scale in zip(self.compare, scales, strict=True)]
        return torch.sigmoid(self.layers(torch.stack(means).sum(0)))


class Decoder(nn.Module):
    """From the transformer's four scales to four maps of logits on the same grids.

    nnU-Net's names: `seg_layers` are skipped by -pretrained_weights; `deep_supervision` is always off, because all four
    outputs are compared with the whole target.

    Args:
        outputs: Logits of each output.
        paper_exact: Keep the attention block that the published model has but never calls; it is not trained.
    """

    def __init__(self, outputs: int, paper_exact: bool = False):
        super().__init__()
        self.deep_supervision = False
        self.transfer = _conv_norm(WIDTHS[-1], WIDTHS[-1], 1)
        self.semantic = nn.ModuleList(HybridSemantic(*pair) for pair in pairwise(WIDTHS[::-1]))
        self.attention = nn.ModuleList(HybridAttention(width) for width in WIDTHS[-2::-1])
        if paper_exact:  # frozen: DDP waits for a gradient of whatever is trained
            self.never_called = HybridAttention(WIDTHS[-1]).requires_grad_(False)
        self.coefficients = _Coefficients()
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in WIDTHS)
        for layer in self.seg_layers:
            bias = nn.init.zeros_(layer.get_parameter("bias"))
            with torch.no_grad():  # a coefficient starts near one half; head 0 of several is a softmax's background
                bias[0 if outputs == 1 else 1 :] = 2 * FOREGROUND_LOGIT

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Logits (B, outputs, ...) at a fourth, an eighth, a 16th and a 32nd of the size."""
        x = self.transfer(scales[-1])
        found = [x]
        for semantic, attention, skip in zip(self.semantic, self.attention, scales[-2::-1], strict=True):
            x = semantic(x) * attention(skip)
            found.insert(0, x)
        coefficients = self.coefficients(found).split(1, dim=1)
        return [
            layer(scale) * coefficient[..., None, None]
            for layer, scale, coefficient in zip(self.seg_layers, found, coefficients, strict=True)
        ]
