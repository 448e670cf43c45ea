"""SAM's mask decoder for one box after another in the same image, in fewer operations: for inference.

Attention between few tokens and the 4096 pixels of an embedding never projects the pixels: the projections of keys,
queries, values and outputs are folded into the tokens. The two transposed convolutions, whose strides are as large as
their kernels, are linear layers on pixels. The same function, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnkd_litemedsam.networks.fused_layers import linear

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder, PromptEncoder
    from segment_anything.modeling.transformer import Attention

STRIP = 512  # pixels of the embedding that are enlarged at once, so that what lies between stays in the cache
NORM_EPS = 1e-6


class FoldedDecoder:
    """A mask decoder of segment-anything with its prompt encoder, as `segment` needs them.

    Source: Kirillov et al., ICCV 2023 (SAM): the two-way decoder.
    """

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder):
        """Read the modules' weights; they are shared, not copied.

        Args:
            prompt_encoder: segment_anything's PromptEncoder.
            mask_decoder: segment_anything's MaskDecoder.
        """
        self.prompt_encoder, self.decoder = prompt_encoder, mask_decoder
        first, self.norm, _, second, _ = mask_decoder.output_upscaling
        self.enlarge = [(_by_pixel(layer), layer.bias.repeat(layer.stride[0] ** 2)) for layer in (first, second)]

    def segment(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Segment boxes in one embedded image, one after another: several at once leave the cache.

        Args:
            embedding: (C, h, w) float32.
            boxes: (n, 4) float32, at least one, rows (x0, y0, x1, y1) in pixels of the network's input.

        Returns:
            (n, 4h, 4w) logits.
        """
        return torch.cat([self.segment_at_once(embedding, box) for box in boxes.split(1)])

    def segment_at_once(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """The same with one axis more in every layer: what is exported."""
        number = boxes.shape[0]  # len() would fix it where the decoder is exported
        # Without a mask as prompt the dense part is the same for all boxes, so the first layer's pixels are too.
        pixels = (embedding + self.prompt_encoder.no_mask_embed.weight.view(-1, 1, 1)).flatten(1).t().contiguous()
        place = self.prompt_encoder.get_dense_pe()[0].flatten(1).t().contiguous()
        own = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(number, -1, -1), self._corners(boxes)], dim=1)
        return self._masks(pixels.expand(number, -1, -1), place, tokens, embedding.shape[1:])

    def _corners(self, boxes: Tensor) -> Tensor:
        """(n, 4) -> (n, 2, C): segment-anything's tokens of two corners, without its writing into parts of tensors,
        which would fix n where the decoder is exported."""
        encoder = self.prompt_encoder
        height, width = encoder.input_image_size
        places = (boxes.view(-1, 2, 2) + 0.5) / boxes.new_tensor([width, height])  # of a pixel's middle, in [0, 1]
        angles = 2 * math.pi * ((2 * places - 1) @ encoder.pe_layer.positional_encoding_gaussian_matrix)
        which = torch.cat([encoder.point_embeddings[2].weight, encoder.point_embeddings[3].weight])
        return torch.cat([angles.sin(), angles.cos()], dim=-1) + which

    def _masks(self, pixels: Tensor, place: Tensor, tokens: Tensor, shape: Sequence[int]) -> Tensor:
        """Pixels (n, h w, C), their positions (h w, C), tokens (n, t, C) -> (n, 4h, 4w)."""
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
        kernel = self.decoder.output_hypernetworks_mlps[0](tokens[:, 1])  # of the mask that a box asks for
        return self._enlarged(pixels, kernel, shape)

    def _enlarged(self, pixels: Tensor, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        (first, first_bias), (second, second_bias) = self.enlarge
        parts = []
        for strip in pixels.split(STRIP, dim=1):
            x = linear(strip, first, first_bias).unflatten(2, (4, -1))
            x = F.gelu(F.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias, NORM_EPS))
            x = linear(x, second, second_bias, gelu=True).reshape(strip.shape[0], strip.shape[1] * 16, -1)
            parts.append((x @ kernel[:, :, None])[..., 0])
        height, width = shape
        # A pixel's 16 are numbered (row, column) of the first enlargement, then of the second.
        grid = torch.cat(parts, dim=1).view(-1, height, width, 2, 2, 2, 2)
        return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * height, 4 * width)


def _by_pixel(layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution's kernel (in, out, k, k) as a linear layer's (k k out, in)."""
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()


def _heads(attention: Attention, x: Tensor) -> Tensor:
    """(n, t, heads d) -> (n, heads, t, d)."""
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def _by_head(attention: Attention, weight: Tensor) -> Tensor:
    """A projection's weight (heads d, C) -> (heads, d, C)."""
    return weight.view(attention.num_heads, -1, weight.shape[-1])


def _among(attention: Attention, placed: Tensor, tokens: Tensor) -> Tensor:
    """Attention of tokens (n, t, C) among themselves: segment-anything's own."""
    return attention(q=placed, k=placed, v=tokens)


def _gather(attention: Attention, asking: Tensor, placed: Tensor, pixels: Tensor) -> Tensor:
    """Tokens (n, t, C) look at pixels (n, p, C) -> (n, t, C).

    q (W x + b) = (q W) x + q b: the second part is the same for all pixels, so their softmax does not see it. Values
    are averaged as pixels and projected afterwards, for their weights sum to 1.
    """
    query = _heads(attention, attention.q_proj(asking))
    query = query @ _by_head(attention, attention.k_proj.weight) / math.sqrt(query.shape[-1])
    weights = (query.flatten(1, 2) @ placed.mT).softmax(dim=-1)
    seen = (weights @ pixels).unflatten(1, (attention.num_heads, -1))  # (n, heads, t, C)
    seen = seen @ _by_head(attention, attention.v_proj.weight).mT
    return attention.out_proj(seen.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _spread(attention: Attention, placed: Tensor, asked: Tensor, tokens: Tensor, pixels: Tensor) -> Tensor:
    """Pixels (n, p, C) look at tokens (n, t, C) -> pixels (n, p, C) with what they saw added.

    Each head's weights over the tokens sum to 1, so the output's bias is spread over heads.
    """
    heads = attention.num_heads
    key = _heads(attention, attention.k_proj(asked)) / math.sqrt(attention.internal_dim / heads)
    bias = (key @ attention.q_proj.bias.view(heads, -1, 1)).flatten(1)  # (n, heads t)
    key = (key @ _by_head(attention, attention.q_proj.weight)).flatten(1, 2)  # (n, heads t, C)
    weights = torch.baddbmm(bias[..., None], key, placed.mT).unflatten(1, (heads, -1)).softmax(dim=2)
    out = attention.out_proj.weight.view(len(attention.out_proj.bias), heads, -1).permute(1, 2, 0)  # (heads, d, C)
    value = _heads(attention, attention.v_proj(tokens)) @ out + attention.out_proj.bias / heads
    return torch.baddbmm(pixels, weights.flatten(1, 2).mT, value.flatten(1, 2))
