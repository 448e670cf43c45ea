"""nnkd_litemedsam.networks.fused_layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nnkd_litemedsam.networks import fused_layers
from nnkd_litemedsam.networks.fused_layers import ROWS, by_rows, has_fused_linear, linear


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16), (2, 3, 4, 16)])
def test_linear_is_torchs(shape, bias, gelu):
    x, weight, b = numbers(*shape), numbers(8, 16), numbers(8) if bias else None
    expected = F.linear(x, weight, b)
    expected = F.gelu(expected) if gelu else expected
    with torch.inference_mode():
        assert torch.allclose(linear(x, weight, b, gelu), expected, atol=1e-4)
        assert torch.allclose(linear(x[::2], weight, b, gelu), expected[::2], atol=1e-4)  # not contiguous


def test_linear_under_autocast_whose_weights_stay_single():
    x, weight, bias = numbers(5, 16), numbers(8, 16), numbers(8)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(linear(x.bfloat16(), weight, bias).float(), F.linear(x, weight, bias).float(), atol=0.2)


def test_gradients_flow_through_linear():
    weight = numbers(8, 16).requires_grad_()
    linear(numbers(5, 16), weight, None, gelu=True).sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("wrong", ["gone", "other numbers"])
def test_a_missing_or_changed_operator_is_not_used(monkeypatch, wrong):
    def fused(x, weight, bias, gelu):
        if wrong == "gone":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")
        return F.linear(x, weight, bias) * 1.5

    monkeypatch.setattr(fused_layers, "_fused_linear", fused)
    has_fused_linear.cache_clear()
    try:
        assert not has_fused_linear(torch.float32)
        x, weight = numbers(5, 16), numbers(8, 16)
        with torch.inference_mode():
            assert torch.equal(linear(x, weight, None), F.linear(x, weight))
    finally:
        has_fused_linear.cache_clear()


def test_types_that_are_not_known_are_left_alone():
    assert not has_fused_linear(torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [2, 2 * ROWS, 6 * ROWS, 2 * ROWS + 6])
def test_strips_give_the_whole(stride, height):
    """A 3 x 3 convolution between two layers that would show a border treated wrongly."""
    x, weight = numbers(2, height, 6, 4), numbers(4, 1, 3, 3)

    def strip(rows, first, number):
        y = F.conv2d((rows + 5).permute(0, 3, 1, 2), weight, stride=stride, padding=1, groups=4).permute(0, 2, 3, 1)
        return y[:, first : first + number] ** 2

    assert torch.allclose(by_rows(strip, x, stride), strip(x, 0, height // stride), atol=1e-3, rtol=1e-4)
