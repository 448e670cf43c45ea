"""nnkd.training.bfloat16: gradients on CPUs that compute in bfloat16."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnkd.training.bfloat16 import bfloat16_on_cpu

SIZES = [(2, 4, 4), (2, 2, 2), (1, 5, 3), (3, 2, 2), (4, 4, 1), (4, 4, 4)]


def _gradients(layer, x, precision):
    layer.zero_grad()
    junk = [torch.full_like(layer.weight, 1e20) for _ in range(4)]  # what an unwritten gradient would show
    del junk
    with precision:
        y = layer(x)
    y.float().square().sum().backward()
    return layer.weight.grad.clone()


def _relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradients_of_small_volumes(size, stride):
    torch.manual_seed(0)
    layer, x = nn.Conv3d(16, 16, 3, stride=stride, padding=1), torch.randn(2, 16, *size)
    expected = _gradients(layer, x, torch.autocast("cpu", enabled=False))
    assert _relative(_gradients(layer, x, bfloat16_on_cpu()), expected) < 0.02


@pytest.mark.parametrize(("size", "kernel", "stride"), [((3, 3), 7, 4), ((4, 1), 3, 2), ((8, 8), 3, 1)])
def test_weight_gradients_of_small_images(size, kernel, stride):
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, kernel, stride=stride, padding=kernel // 2)
    x = torch.randn(2, 16, *size)
    expected = _gradients(layer, x, torch.autocast("cpu", enabled=False))
    assert _relative(_gradients(layer, x, bfloat16_on_cpu()), expected) < 0.02


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 99))
def test_only_small_convolutions_leave_bfloat16(size, seed):
    torch.manual_seed(seed)
    with bfloat16_on_cpu():
        y = nn.Conv3d(4, 4, 3, padding=1)(torch.randn(1, 4, *size))
    assert (y.dtype == torch.bfloat16) == (min(size) >= 3)


def test_keywords_and_what_is_no_convolution():
    x, weight = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)
    with bfloat16_on_cpu():
        assert torch.conv2d(x, weight, bias=None, padding=1).dtype == torch.float32
        assert torch.conv2d(input=x, weight=weight, bias=torch.ones(1), padding=1).dtype == torch.float32
        assert torch.conv2d(x[0], weight, padding=1).shape == (1, 2, 2)  # one image, no batch
        assert nn.functional.linear(x, x[0, 0]).dtype == torch.bfloat16
    assert torch.conv2d(x, weight, padding=1).dtype == torch.float32


def test_it_ends_with_an_error():
    with pytest.raises(ValueError, match="stop"), bfloat16_on_cpu():
        raise ValueError("stop")
    assert not torch.is_autocast_enabled("cpu")
    assert nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 4, 4)).dtype == torch.float32
