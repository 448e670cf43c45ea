"""SAM's mask decoder for one box after another in the same image, in fewer operations: for inference.

Attention between few tokens and the 4096 pixels of an embedding never projects the pixels: the projections of keys,
queries, values and outputs are folded into the tokens. The two transposed convolutions, whose strides are as large as
their kernels, are linear layers on pixels. The same function, up to rounding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd_litemedsam.fused_layers import linear

STRIP = 512  # pixels of the embedding that are enlarged at once, so that what lies between stays in the cache
NORM_EPS = 1e-6


class FoldedDecoder:
    """A mask decoder of segment-anything with its prompt encoder, as `segment` needs them.

    Source: Kirillov et al., ICCV 2023 (SAM): the two-way decoder.
    """

    def __init__(self, prompt_encoder: nn.Module, mask_decoder: nn.Module):
        """Read the modules' weights; they are shared, not copied.

        Args:
            prompt_encoder: segment_anything's PromptEncoder.
            mask_decoder: segment_anything's MaskDecoder.
        """
        self.prompt_encoder, self.decoder = prompt_encoder, mask_decoder
        first, self.norm, _, second, _ = mask_decoder.output_upscaling
        self.enlarge = [(_by_pixel(layer), layer.bias.repeat(layer.stride[0] ** 2)) for layer in (first, second)]

    def segment(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Segment boxes in one embedded image.

        Args:
            embedding: (C, h, w) float32.
            boxes: (n, 4) float32, at least one, rows (x0, y0, x1, y1) in pixels of the network's input.

        Returns:
            (n, 4h, 4w) logits.
        """
        sparse, dense = self.prompt_encoder(points=None, boxes=boxes, masks=None)
        # Without a mask as prompt the dense part is the same for all boxes, so the first layer's pixels are too.
        pixels = (embedding + dense[0]).flatten(1).t().contiguous()
        place = self.prompt_encoder.get_dense_pe()[0].flatten(1).t().contiguous()
        own = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        return torch.stack(
            [self._one(pixels, place, torch.cat([own, corners]), embedding.shape[1:]) for corners in sparse]
        )

    def _one(self, pixels: Tensor, place: Tensor, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        """Pixels (h w, C), their positions (h w, C), tokens (t, C) -> (4h, 4w)."""
        transformer, point = self.decoder.transformer, tokens
        placed = pixels + place
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                tokens = _among(layer.self_attn, tokens, tokens)
            else:
                tokens = tokens + _among(layer.self_attn, tokens + point, tokens)
            tokens = layer.norm1(tokens)
            tokens = layer.norm2(tokens + _gather(layer.cross_attn_token_to_image, tokens + point, placed, pixels))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            pixels = layer.norm4(_spread(layer.cross_attn_image_to_token, placed, tokens + point, tokens, pixels))
            placed = pixels + place
        attention = transformer.final_attn_token_to_image
        tokens = transformer.norm_final_attn(tokens + _gather(attention, tokens + point, placed, pixels))
        kernel = self.decoder.output_hypernetworks_mlps[0](tokens[1])  # of the mask that a box asks for
        return self._enlarged(pixels, kernel, shape)

    def _enlarged(self, pixels: Tensor, kernel: Tensor, shape: tuple[int, int]) -> Tensor:
        (first, first_bias), (second, second_bias) = self.enlarge
        parts = []
        for strip in pixels.split(STRIP):
            x = linear(strip, first, first_bias).view(len(strip) * 4, -1)
            x = F.gelu(F.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias, NORM_EPS))
            x = linear(x, second, second_bias, gelu=True)
            parts.append(x.view(len(strip) * 16, -1) @ kernel)
        height, width = shape
        # A pixel's 16 are numbered (row, column) of the first enlargement, then of the second.
        grid = torch.cat(parts).view(height, width, 2, 2, 2, 2)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(4 * height, 4 * width)


def _by_pixel(layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution's kernel (in, out, k, k) as a linear layer's (k k out, in)."""
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()


def _heads(attention: nn.Module, x: Tensor) -> Tensor:
    """(t, heads d) -> (heads, t, d)."""
    return x.view(len(x), attention.num_heads, -1).transpose(0, 1)


def _by_head(attention: nn.Module, weight: Tensor) -> Tensor:
    """A projection's weight (heads d, C) -> (heads, d, C)."""
    return weight.view(attention.num_heads, -1, weight.shape[-1])


def _among(attention: nn.Module, placed: Tensor, tokens: Tensor) -> Tensor:
    """Attention of tokens (t, C) among themselves: segment-anything's own, without its batch axis."""
    return attention(q=placed[None], k=placed[None], v=tokens[None])[0]


def _gather(attention: nn.Module, asking: Tensor, placed: Tensor, pixels: Tensor) -> Tensor:
    """Tokens (t, C) look at pixels (p, C) -> (t, C).

    q (W x + b) = (q W) x + q b: the second part is the same for all pixels, so their softmax does not see it. Values
    are averaged as pixels and projected afterwards, for their weights sum to 1.
    """
    query = _heads(attention, attention.q_proj(asking))
    query = query @ _by_head(attention, attention.k_proj.weight) / math.sqrt(query.shape[-1])
    weights = (query.flatten(0, 1) @ placed.t()).softmax(dim=-1)
    seen = (weights @ pixels).view(query.shape)  # (heads, t, C)
    seen = seen @ _by_head(attention, attention.v_proj.weight).transpose(1, 2)
    return attention.out_proj(seen.transpose(0, 1).flatten(1) + attention.v_proj.bias)


def _spread(attention: nn.Module, placed: Tensor, asked: Tensor, tokens: Tensor, pixels: Tensor) -> Tensor:
    """Pixels (p, C) look at tokens (t, C) -> pixels (p, C) with what they saw added.

    Each head's weights over the tokens sum to 1, so the output's bias is spread over heads.
    """
    heads = attention.num_heads
    key = _heads(attention, attention.k_proj(asked)) / math.sqrt(attention.internal_dim / heads)
    bias = (key @ attention.q_proj.bias.view(heads, -1, 1)).flatten()  # (heads t,)
    key = (key @ _by_head(attention, attention.q_proj.weight)).flatten(0, 1)  # (heads t, C)
    weights = torch.addmm(bias[:, None], key, placed.t()).view(heads, len(tokens), -1).softmax(dim=1)
    out = attention.out_proj.weight.view(len(attention.out_proj.bias), heads, -1).permute(1, 2, 0)  # (heads, d, C)
    value = _heads(attention, attention.v_proj(tokens)) @ out + attention.out_proj.bias / heads
    return torch.addmm(pixels, weights.flatten(0, 1).t(), value.flatten(0, 1))
