"""Linear layers with GELU in one go, and layers computed strip by strip, for inference on CPUs.

On one thread of a CPU with AVX-512, oneDNN's linear layer with GELU took 16 ms where torch's own two calls took 50 (1.7
GMAC), and a block at 256 x 256 x 256 took 42 ms in strips that fit into the cache where it took 184 ms at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 8  # of a strip; 8 to 16 were fastest
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """A linear layer over the last axis, with or without GELU behind it: the fastest way there is here.

    Args:
        x: (..., inside).
        weight: (outside, inside).
        bias: (outside,) or None.
        gelu: Whether GELU follows.

    Returns:
        (..., outside).
    """
    inference = x.device.type == "cpu" and not torch.is_grad_enabled()
    if inference and x.dtype == weight.dtype and has_fused_linear(x.dtype):  # under autocast dtypes differ
        return _fused_linear(x, weight, bias, gelu)
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


@cache
def has_fused_linear(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have the fused layer, and it computes the same as the plain one. It is no public
    function of torch, so it may go or change."""
    if dtype not in TOLERANCE or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 3, 16), (8, 16), (8,)))
    try:
        pairs = [(_fused_linear(x, weight, bias, gelu), F.linear(x, weight, bias)) for gelu in (False, True)]
    except (RuntimeError, AttributeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    (plain, expected), (curved, before) = pairs
    much = TOLERANCE[dtype]
    return torch.allclose(plain, expected, much, much) and torch.allclose(curved, F.gelu(before), much, much)


def _fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")


def by_rows(strip: Callable[[Tensor, int, int], Tensor], x: Tensor, stride: int = 1) -> Tensor:
    """Compute a layer that has one 3 x 3 convolution strip by strip, so that what lies between stays in the cache.

    Args:
        strip: From (rows of x with what the convolution sees beyond them, first row wanted, number of rows wanted) to
            the rows wanted; rows are counted in the output.
        x: (B, H, W, C).
        stride: 1 or 2; H must be a multiple of it.

    Returns:
        (B, H / stride, ...), the same as strip(x, 0, H / stride).
    """
    height = x.shape[1]
    images = []
    for image in x.split(1):
        parts = []
        for first in range(0, height // stride, ROWS):
            last = min(first + ROWS, height // stride)
            above, below = max(0, stride * (first - 1)), min(height, stride * (last - 1) + 2)
            parts.append(strip(image[:, above:below], first - above // stride, last - first))
        images.append(torch.cat(parts, dim=1))
    return torch.cat(images) if len(images) > 1 else images[0]


def in_strips(x: Tensor) -> bool:
    """Whether strips pay: on CPUs, for inference."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()
