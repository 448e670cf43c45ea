"""bfloat16 on the CPU, without the convolutions whose gradients oneDNN gets wrong.

Where an image is smaller than the kernel in some axis (two slices under a 3x3x3 kernel), oneDNN 3.13 leaves most of a
bfloat16 weight gradient unwritten: whatever stood in memory, without an error. Networks reach such sizes at their
coarsest levels. There the convolution is computed in single precision, which at that size costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


class _SmallInSinglePrecision(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in CONVOLUTIONS or not _is_small(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_single, args), **{name: _single(value) for name, value in kwargs.items()})


def _is_small(input: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> bool:
    kernel = weight.shape[2:]
    return any(size < wide for size, wide in zip(input.shape[-len(kernel) :], kernel, strict=True))


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


@contextmanager
def bfloat16_on_cpu() -> Iterator[None]:
    """torch's autocast to bfloat16 on the CPU; backward may run outside."""
    with torch.autocast("cpu", dtype=torch.bfloat16), _SmallInSinglePrecision():
        yield
