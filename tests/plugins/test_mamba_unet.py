"""Mamba-UNet with random weights and eight features."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_networks import state_space
from nnkd_networks.mamba_trainer import MambaUNetOptions, nnUNetTrainerMambaUNet
from nnkd_networks.mamba_unet import MambaUNet

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Recipe, write_recipe
from nnkd.errors import SettingError
from nnkd.networks.costs import count
from nnkd.networks.students import architectures, build_network
from nnkd.plugin.options import parse_options
from nnkd.training.losses import DistillationLoss
from nnkd.weights import pretrained

NAME = "nnUNetTrainerMambaUNet"
SMALL = {"embed": 8, "depths": (1, 1), "state": 2}
PUBLISHED = 19_121_664  # Mamba-UNet's parameters with three channels and four labels


@pytest.fixture(scope="module")
def slices() -> MambaUNet:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return MambaUNet(1, 3, dim=2, **SMALL)


@pytest.fixture(scope="module")
def volumes() -> MambaUNet:
    torch.manual_seed(0)
    return MambaUNet(1, 2, dim=3, one_logit=True, **SMALL)


# --- scanning -----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=3))
def test_each_axis_is_the_fastest_once_both_ways_and_pixels_come_back(size):
    x = torch.arange(float(math.prod(size))).reshape(1, *size, 1)
    found = state_space.sequences(x)
    assert found.shape == (1, 2 * len(size), x.numel(), 1)
    strides = set()
    for forwards, backwards in zip(found[0, : len(size)], found[0, len(size) :], strict=True):
        assert sorted(forwards.flatten().tolist()) == list(range(x.numel()))
        assert torch.equal(forwards.flip(0), backwards)
        if min(size) > 1:
            strides.add(int(forwards[1] - forwards[0]))
    assert min(size) == 1 or strides == {math.prod(size[i + 1 :]) for i in range(len(size))}
    assert torch.equal(state_space.image(found, size), 2 * len(size) * x)


def test_a_block_carries_what_it_sees_to_every_pixel():
    torch.manual_seed(0)
    block = state_space.Block(8, 2, 4, "auto", drop=0.0)
    x = torch.randn(1, 5, 6, 8, requires_grad=True)
    reached = torch.autograd.grad(block(x)[0, 2, 3].sum(), x)[0]
    assert reached.abs().sum(-1).ne(0).all()


def test_merging_takes_neighbours_in_the_published_order():
    merge = state_space.Merge(1, 2)
    merge.norm, merge.mix = torch.nn.Identity(), torch.nn.Identity()
    x = torch.arange(8.0).reshape(1, 2, 4, 1)
    assert merge(x).flatten(0, 2).tolist() == [[0, 4, 1, 5], [2, 6, 3, 7]]  # down first, then right


@pytest.mark.parametrize("dim", [2, 3])
def test_expanding_puts_features_next_to_each_other(dim):
    expand = state_space.Expand(3, 1, dim, 2)
    expand.norm = torch.nn.Identity()
    x = torch.randn(1, *[2] * dim, 3)
    y = expand(x)
    assert y.shape == (1, *[4] * dim, 1)
    corner = y[(0, *[slice(2)] * dim)].flatten()
    torch.testing.assert_close(corner, expand.spread(x)[(0, *[0] * dim)])


def test_dropped_images_go_around_the_block():
    torch.manual_seed(0)
    block = state_space.Block(8, 2, 2, "auto", drop=0.5).train()
    x = torch.randn(40, 2, 2, 8)
    y, kept = block(x), block.eval()(x)
    around = (y == x).flatten(1).all(1)
    assert 5 < int(around.sum()) < 35
    torch.testing.assert_close((y - x)[~around], 2 * (kept - x)[~around])


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "channels", "outputs", "one_logit", "expected"),
    [(2, 3, 4, False, PUBLISHED + 4), (2, 1, 2, True, 19_118_305), (3, 1, 2, True, 24_198_409)],
)  # ours has a bias for each label
def test_its_size_is_the_published_one(dim, channels, outputs, one_logit, expected):
    with torch.device("meta"):
        network = MambaUNet(channels, outputs, dim=dim, one_logit=one_logit)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("size", [(8, 8), (1, 3), (17, 9)])
def test_any_size_of_slices(slices, size):
    assert slices.train()(torch.rand(1, 1, *size)).shape == (1, 3, *size)


def test_any_size_of_volumes_and_one_logit(volumes):
    with torch.no_grad():
        logits = volumes.eval()(torch.rand(1, 1, 5, 17, 8))
    assert logits.shape == (1, 2, 5, 17, 8)
    assert volumes.decoder.seg_layers[0].out_channels == 1
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.sigmoid(logits[:, 1]))


def test_an_image_is_padded_with_zeros_around_it(slices):
    padded = torch.zeros(1, 1, 16, 8)
    padded[..., 3:13, 0:7] = torch.rand(1, 1, 10, 7)
    with torch.no_grad():
        window = slices.eval()(padded)[..., 3:13, 0:7]
        found = slices(padded[..., 3:13, 0:7])
    torch.testing.assert_close(found, window)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_gradient_reaches_every_parameter_and_checkpointing_changes_none(dim):
    torch.manual_seed(0)
    image = torch.randn(2, 2, *[16] * dim)
    target = (torch.rand(2, 2, *[16] * dim) > 0.5).float()
    target[:, 1] = 0
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = MambaUNet(2, 3, dim=dim, checkpointing=checkpointing, drop_path=0.1, **SMALL).train()
        DistillationLoss(regions=False)(network(image), target).backward()
        assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_it_computes_in_bfloat16_and_loses_in_float32(slices):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = slices.train()(torch.randn(1, 1, 8, 8))
        loss = DistillationLoss(regions=False)(output, torch.rand(1, 2, 8, 8) / 2)
    assert (output.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    loss.backward()
    gradients = [p.grad for p in slices.parameters()]
    assert all(g.isfinite().all() for g in gradients)
    slices.zero_grad()


@pytest.mark.heavy
def test_torch_compile_takes_it_whole(slices):
    image = torch.rand(1, 1, 8, 8)
    compiled = torch.compile(slices.train(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), slices(image))
    compiled(image).sum().backward()
    slices.zero_grad()


def test_the_trainer_builds_it_with_the_recipes_options():
    options = {"embed": 12, "depths": ["1", "2", "1"], "state": 4, "drop_path": 0.2, "checkpointing": True}
    with torch.device("meta"):
        network = build_network(nnUNetTrainerMambaUNet, (64, 64), 3, 2, options)
    assert network.decoder.seg_layers[0].weight.shape == (3, 12, 1, 1)
    assert network.encoder.embed.weight.shape == (12, 3, 4, 4)
    assert network.encoder.stages[2].blocks[0].space.decay_log.shape == (4, 96, 4)
    assert [block.drop for stage in network.encoder.stages for block in stage.blocks] == pytest.approx(
        [0, 0.2 / 3, 0.4 / 3, 0.2]
    )
    assert [block.drop for stage in network.decoder.stages for block in stage.blocks] == pytest.approx(
        [0.2 / 3, 0.4 / 3, 0]
    )
    assert network.decoder.deep_supervision is False
    assert [key for key in network.state_dict() if ".seg_layers." in key] == [
        "decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"),
    [("embed", "10"), ("depths", "2"), ("depths", "2,0"), ("depths", "a"), ("state", "0"), ("scan", "cuda")],
)
def test_options_that_make_no_network_are_refused(option, value):
    with pytest.raises(SettingError, match=re.escape(f"'{NAME}.{option}' got '{value}'")):
        parse_options(MambaUNetOptions, {option: value}, NAME)


def test_its_scan_is_counted_with_the_rest():
    (row,) = architectures(nnUNetTrainerMambaUNet, NAME, (224, 224), options={"depths": "2,2,2,2"})
    found = count(row)
    assert found.parameters == 19_118_305
    # four multiply-adds for each state of each channel, pixel and direction; 4 blocks a level but the coarsest
    per_block = [4 * 4 * 16 * (2 * 96 * 2**level) * (56 // 2**level) ** 2 for level in range(4)]
    assert found.by_operation["selective_scan"] == 4 * sum(per_block[:3]) + 2 * per_block[3]


# --- the trainer ------------------------------------------------------------------------------------------------------


def test_its_trainer_trains_and_validates_and_starts_from_a_checkpoint(nnunet_folders, monkeypatch, slices, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from planned import configuration, make_plans, preprocess
    from toy import toy_dataset, toy_teacher

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    toy_teacher(dataset, "t0")
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    folder = nnunet_folders / "nnUNet_preprocessed" / dataset.name
    short = {"epochs": 1, "iterations": 1, "val_iterations": 1, **SMALL}
    name = write_recipe(folder, Recipe("nnUNetPlans", ("t0",), options=short, has_regions=False))
    plans = {**read_plans(folder, name), "continue_training": False}
    trainer = nnUNetTrainerMambaUNet(plans, "2d", "all", dict(dataset.spec.json), torch.device("cpu"))
    trainer.on_train_start()
    more_labels = MambaUNet(1, 5, dim=2, **SMALL)
    torch.save({"network_weights": more_labels.state_dict()}, tmp_path / "checkpoint_final.pth")
    checkpoint = str(tmp_path / "checkpoint_final.pth")
    with pretrained.as_nnunets(checkpoint, type(trainer), plans, "2d", dataset.spec.json) as file:
        load_pretrained_weights(trainer.network, file)
    weight = "encoder.stages.0.blocks.0.space.project"
    assert torch.equal(trainer.network.state_dict()[weight], more_labels.state_dict()[weight])
    batch = next(trainer.dataloader_train)
    trainer.network.train()
    assert trainer.train_step(batch)["loss"].ndim == 0
    assert not torch.equal(trainer.network.state_dict()[weight], more_labels.state_dict()[weight])
    trainer.network.eval()
    assert trainer.validation_step(batch)["tp_hard"].shape == (2,)
    weights, others = trainer.optimizer.param_groups
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (trainer.initial_lr, weights["weight_decay"], others["weight_decay"]) == (3e-4, 1e-7, 0)
    assert sum(len(g["params"]) for g in (weights, others)) == len(list(trainer.network.parameters()))
    assert len(others["params"]) == 2 * 3  # decays and skips of three blocks
