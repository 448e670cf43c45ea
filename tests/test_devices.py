"""nnkd.devices."""

from __future__ import annotations

import pytest
import torch

from nnkd.devices import check_device, has_bfloat16
from nnkd.errors import FolderError


def test_the_cpu_is_always_there():
    check_device("cpu")


@pytest.mark.parametrize(
    ("device", "switch"), [("cuda", "torch.cuda.is_available"), ("mps", "torch.backends.mps.is_available")]
)
def test_a_device_that_is_not_here_is_said(device, switch, monkeypatch):
    monkeypatch.setattr(switch, lambda: True)
    check_device(device)
    monkeypatch.setattr(switch, lambda: False)
    with pytest.raises(FolderError, match=f"^-device {device} .* Say -device cpu"):
        check_device(device)


def test_torch_is_what_we_ask():
    assert callable(torch.cuda.is_available)
    assert callable(torch.backends.mps.is_available)


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({}, False), ({"avx512_bf16": False}, False), ({"amx_bf16": True}, True)]
)
def test_bfloat16_is_what_the_cpu_says(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16() is expected


def test_an_older_torch_does_not_know_bfloat16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bfloat16()
