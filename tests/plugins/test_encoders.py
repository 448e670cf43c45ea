"""nnkd_litemedsam's image encoders: paper 2's numbers, gradients at the start, fusing, windows."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from extras import needs
from nnkd_litemedsam.networks import architectures, swin
from nnkd_litemedsam.networks.encoders import ENCODERS, build_encoder
from nnkd_litemedsam.networks.repvit import M0_6, RepViT
from torch import nn

from nnkd.errors import UnknownNameError
from nnkd.networks.costs import count
from nnkd.networks.papers import paper_count

needs_sam = needs("litemedsam", "segment_anything")
SMALL = {
    "tinyvit": {"widths": (4, 8, 8, 8), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2)},
    "repvit": {"blocks": ((8, True), (8, False), (16, False), (16, True))},
    "swin": {"width": 8, "depths": (2, 1, 2, 1), "heads": (2, 2, 2, 2), "size": 64},
}


def used(name: str) -> nn.Module:
    """A small encoder whose norms and biases are what training may make of them."""
    torch.manual_seed(0)
    network = build_encoder(name, **SMALL[name]).train()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(2):  # so that batch norms have seen something
            network(torch.rand(2, 3, 64, 64))
    return network.eval()


# --- paper 2's numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("tinyvit", 5_726_740, 217), ("repvit", 2_434_100, 261), ("swin", 11_188_908, 175)],
)
def test_parameters(name, parameters, tensors):
    with torch.device("meta"):
        found = list(build_encoder(name).parameters())
    assert (sum(p.numel() for p in found), len(found)) == (parameters, tensors)


def rows() -> dict:
    return {row.variant: row for row in architectures.architectures()}


@pytest.mark.heavy
@needs_sam
@pytest.mark.parametrize(
    ("variant", "parameters", "macs"),
    [
        ("default", 9_791_300, 39_286_704_128),
        ("repvit", 6_498_660, 11_236_141_952),
        ("swin", 15_253_468, 45_729_862_912),
        ("repvit encoder", 2_434_100, 9_423_790_464),
        ("swin encoder", 11_188_908, 43_917_511_424),
    ],
)
def test_what_they_cost(variant, parameters, macs):
    found = count(rows()[variant])
    assert (found.parameters, found.macs) == (parameters, macs)


@pytest.mark.heavy
@needs_sam
@pytest.mark.parametrize(
    ("variant", "parameters", "macs", "printed"),
    [
        ("swin", 15_253_468, 46_007_798_272, ("14.55 M", "42.85 G")),
        ("repvit encoder", 2_434_100, 9_665_454_464, ("2.32 M", "9.00 G")),
    ],
)
def test_as_paper_2_counted(variant, parameters, macs, printed):
    row = rows()[variant]
    found = paper_count(row)
    assert (found.parameters, found.macs) == (parameters, macs)
    assert (f"{parameters / 2**20:.2f} M", f"{macs / 2**30:.2f} G") == printed == (row.paper.parameters, row.paper.macs)


# --- RepViT -------------------------------------------------------------------------------------------------------


def without_gradient(network: nn.Module) -> list[str]:
    """Names of parameters whose gradient is 0 in one step of distillation."""
    generator = torch.Generator().manual_seed(0)
    network.zero_grad()
    out = network(torch.rand(1, 3, 64, 64, generator=generator))
    (out - torch.randn(out.shape, generator=generator)).square().mean().backward()
    return [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_gradients_at_the_start():
    """The last batch norm of blocks with a residual starts at 0, so what lies before it follows one step later."""
    torch.manual_seed(0)
    network = RepViT().train()
    residuals = [name for name in without_gradient(network) if ".channel_mixer.m." in name]
    assert residuals == without_gradient(network)
    assert len(residuals) == 4 * sum(block.identity for block in network.features[1:]) == 56
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 1e-3 * parameter.grad
    assert without_gradient(network) == []


def test_gradients_at_the_published_start():
    torch.manual_seed(0)
    assert len(without_gradient(RepViT(zero_init=True).train())) == 245


def as_published(network: RepViT, x: torch.Tensor) -> torch.Tensor:
    """The published layers one by one, channels before rows and columns."""

    def normed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return layer.bn(layer.c(x))

    def neck_normed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        return layer.weight[:, None, None] * x + layer.bias[:, None, None]

    stem, neck = network.features[0], network.neck
    x = normed(stem[2], F.gelu(normed(stem[0], x)))
    for block in network.features[1:]:
        mixer, excite = block.token_mixer
        x = mixer.bn(normed(mixer.conv, x) + mixer.conv1(x) + x)
        if not isinstance(excite, nn.Identity):
            x = x * excite.fc2(F.relu(excite.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
        layers = block.channel_mixer.m if block.identity else block.channel_mixer
        y = normed(layers[2], F.gelu(normed(layers[0], x)))
        x = x + y if block.identity else y
    return neck_normed(neck[3], neck[2](neck_normed(neck[1], neck[0](x))))


def test_repvit_is_the_published_one():
    network, image = used("repvit"), torch.rand(2, 3, 64, 64)
    assert torch.allclose(network(image), as_published(network, image), atol=1e-5)


def test_blocks_of_one_width_have_residuals():
    network = RepViT()
    assert [i for i, block in enumerate(network.features) if i and not block.identity] == [3, 6, 16]
    assert len(network.features) == 1 + len(M0_6) == 18


# --- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_fusing_changes_nothing(name):
    network, image = used(name), torch.rand(2, 3, 64, 64)
    before = network(image).detach()  # with gradients: as it is trained, not in strips
    with torch.inference_mode():
        assert torch.allclose(network(image), before, atol=1e-5)
        assert torch.allclose(network.fuse()(image), before, atol=1e-5)
        assert torch.allclose(network.fuse()(image), before, atol=1e-5)  # twice is once
    assert before.shape == (2, 256 if name != "swin" else 32, 16, 16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ENCODERS)
def test_bfloat16_is_close(name):
    network, image = used(name).fuse(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        exact = network(image)
        rough = network.to(torch.bfloat16)(image.to(torch.bfloat16))
    assert rough.dtype == torch.bfloat16
    assert (exact - rough).abs().mean() < 0.1 * exact.abs().mean()


def test_a_name_that_no_encoder_has():
    with pytest.raises(UnknownNameError, match=r"no image encoder 'vit_b'\. There are: tinyvit, repvit, swin"):
        build_encoder("vit_b")


def test_torch_is_not_imported_for_a_list():
    code = "import sys; from nnkd_litemedsam.networks.encoders import ENCODERS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Swin ---------------------------------------------------------------------------------------------------------


def attend_pixel_by_pixel(block: swin.Block, x: torch.Tensor) -> torch.Tensor:
    """What a block's attention is, written with a table of all pairs of tokens: (1, H, W, C) -> (1, H, W, C)."""
    _, height, width, channels = x.shape
    side, shift, heads = block.window, block.shift, block.attn.heads
    rows, columns = -(-height // side) * side, -(-width // side) * side
    padded = torch.zeros(rows, columns, channels)
    padded[:height, :width] = x[0]
    places = torch.cartesian_prod((torch.arange(rows) - shift) % rows, (torch.arange(columns) - shift) % columns)
    ends = torch.tensor([rows, columns])
    region = (places >= ends - side).int() + (places >= ends - shift).int() if shift else torch.zeros_like(places)
    together = (places[:, None] // side == places // side).all(-1)
    apart = (region[:, None] != region).any(-1)
    away = (places[:, None] - places).clamp(1 - side, side - 1) + side - 1
    bias = block.attn.relative_position_bias_table[away[..., 0] * (2 * side - 1) + away[..., 1]].permute(2, 0, 1)
    query, key, value = (
        block.attn.qkv(padded.view(-1, channels)).view(-1, 3, heads, channels // heads).permute(1, 2, 0, 3)
    )
    logits = query @ key.transpose(1, 2) / (channels // heads) ** 0.5 + bias - 100.0 * apart
    mixed = logits.masked_fill(~together, -torch.inf).softmax(-1) @ value
    out = block.attn.proj(mixed.transpose(0, 1).flatten(1))
    return out.view(1, rows, columns, channels)[:, :height, :width]


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("shape", [(14, 21), (16, 9), (5, 7)])
def test_attention_in_windows(shape, shift):
    torch.manual_seed(0)
    block = swin.Block(8, heads=2, window=7, shift=shift, drop=0.0)
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(2, *shape, 8)
    expected = torch.cat([attend_pixel_by_pixel(block, one) for one in x.split(1)])
    assert torch.allclose(block._attend(x), expected, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(block._attend(x), expected, atol=1e-5)  # a row of windows at once


def test_windows_move_by_turns_and_residuals_are_left_out_more_and_more():
    with torch.device("meta"):
        network = swin.Swin()
    blocks = [block for stage in network.layers for block in stage.blocks]
    assert [block.shift for block in blocks] == [0, 3] * 6
    assert [block.drop for block in blocks] == pytest.approx([0.2 * i / 11 for i in range(12)])


def test_residuals_are_left_out_in_training_only():
    block = swin.Block(8, heads=2, window=7, shift=0, drop=0.25)
    x = torch.ones(4000, 1, 1, 1)
    torch.manual_seed(0)
    left = block.train()._left_out(x)
    assert left.unique().tolist() == pytest.approx([0, 4 / 3])
    assert left.mean() == pytest.approx(1, abs=0.03)
    assert torch.equal(block.eval()._left_out(x), x)


def test_merging_is_timms():
    timm = pytest.importorskip("timm.models.swin_transformer", reason="needs timm to compare with")
    torch.manual_seed(0)
    ours, theirs = swin.Merge(4), timm.PatchMerging(4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 8, 4)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
