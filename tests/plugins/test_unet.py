"""Tests of nnkd_unet.unet."""

from __future__ import annotations

import pytest
import torch
from nnkd_unet.unet import UNet


def test_paper_1s_number_of_parameters():
    assert sum(p.numel() for p in UNet(1, 2, one_logit=True).parameters()) == 2_260_161


@pytest.mark.parametrize("size", [(61, 43), (8, 8), (7, 100), (1, 3)])
@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
def test_any_image_size(size, norm):
    network = UNet(3, 4, norm=norm, widths=(4, 6, 8)).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 4, *size)


def test_three_dimensions():
    assert UNet(1, 3, dim=3, widths=(2, 3))(torch.rand(1, 1, 5, 9, 7)).shape == (1, 3, 5, 9, 7)


def test_one_logit_is_a_softmax_that_is_a_sigmoid():
    logits = UNet(1, 2, one_logit=True, widths=(2, 3))(torch.rand(1, 1, 8, 8))
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.sigmoid(logits[:, 1]))


def test_it_starts_with_little_foreground_and_learns_from_there():
    torch.manual_seed(0)
    network = UNet(1, 3, norm="none", widths=(4, 8))
    image = torch.zeros(4, 1, 16, 16)
    image[:, :, 4:12, 4:12] = 2
    target = (image[:, 0] > 1).long()
    assert float(network(image).softmax(1)[:, 1:].sum(1).mean().detach()) < 0.15
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), target).backward()
        optimizer.step()
    assert float((network(image).argmax(1) == target).float().mean()) > 0.95


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1])
def test_with_normalisation_it_soon_tells_two_labels_apart(seed):
    torch.manual_seed(seed)
    network = UNet(1, 3, norm="batch", widths=(8, 16))
    target = torch.zeros(4, 16, 16, dtype=torch.long)
    target[:, 4:8, 6:10], target[:, 8:12, 6:10] = 1, 2
    image = (target > 0)[:, None] + 0.1 * torch.randn(4, 1, 16, 16)
    image[:, :, 4:8, 7:9] -= 0.5
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), target).backward()
        optimizer.step()
    labelled = target > 0
    assert float((network(image).argmax(1) == target)[labelled].float().mean()) > 0.9


def test_names_that_nnunet_relies_on():
    network = UNet(1, 2)
    assert network.decoder.deep_supervision is False
    skipped = [key for key in network.state_dict() if ".seg_layers." in key]
    assert skipped == ["decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"]


@pytest.mark.heavy
def test_a_compiled_graph_equals_the_eager_one():
    network = UNet(1, 2, norm="batch", widths=(2, 3)).eval()
    image = torch.rand(1, 1, 9, 10)
    exported = torch.export.export(network, (image,))
    torch.testing.assert_close(exported.module()(image), network(image))
