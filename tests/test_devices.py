"""nnkd.devices."""

from __future__ import annotations

import pytest
import torch

from nnkd.devices import check_device
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
