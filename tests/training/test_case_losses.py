"""Tests of nnkd.training.case_losses: weights by case, whatever shape outputs and losses have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnkd.errors import RecipeError
from nnkd.plugin.samplers import WeighingSampler
from nnkd.training.case_losses import CaseLosses, weighing
from nnkd.training.loader import Draw
from nnkd.training.losses import DistillationLoss


class Terms(NamedTuple):
    loss: torch.Tensor
    parts: torch.Tensor


class Heard(WeighingSampler):
    """Weighs the first case alone and writes down what it hears."""

    def __init__(self):
        self.heard = []

    def batches(self, participants, batch_size, rng):
        yield []

    def weights(self, participants, cases):
        return [2.0, 0.0]

    def update(self, participants, cases, losses):
        self.heard.append((cases, losses))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_equal_weights_change_nothing():
    torch.manual_seed(0)
    output, target = torch.randn(3, 3, 8, 8, requires_grad=True), torch.rand(3, 2, 8, 8)
    plain = DistillationLoss(regions=False)
    weighed = CaseLosses(plain, [1.0, 1.0, 1.0])
    assert weighed(output, target).item() == pytest.approx(plain(output, target).item(), rel=1e-5)
    each = [plain(output[i : i + 1], target[i : i + 1]).item() for i in range(3)]
    np.testing.assert_allclose(weighed.found.numpy(), each, rtol=1e-5)
    assert not weighed.found.requires_grad


def test_a_case_of_weight_zero_has_no_gradient():
    output = torch.randn(2, 3, 4, 4, requires_grad=True)
    CaseLosses(DistillationLoss(regions=False), [2.0, 0.0])(output, torch.rand(2, 2, 4, 4)).backward()
    assert output.grad[0].abs().sum() > 0
    assert output.grad[1].abs().sum() == 0


def test_lists_and_named_tuples_are_cut_and_put_together():
    outputs = [torch.tensor([1.0, 3.0]), (torch.tensor([10.0, 30.0]), torch.tensor(5.0))]

    def loss(output, target):
        return Terms(output[0].mean() + target.mean(), torch.stack([output[1][0].mean(), output[1][1]]))

    found = CaseLosses(loss, [0.5, 1.5])(outputs, torch.zeros(2))
    assert isinstance(found, Terms)
    assert found.loss.item() == pytest.approx((0.5 * 1 + 1.5 * 3) / 2)
    assert found.parts.tolist() == pytest.approx([(0.5 * 10 + 1.5 * 30) / 2, 5.0])


def test_the_sampler_hears_each_step_and_the_loss_comes_back():
    def plain(output, target):
        return (output - target).mean()

    trainer = SimpleNamespace(loss=plain, is_ddp=False)
    draw = Draw(Heard(), {}, 2, slice(None), 0, 1)
    with weighing(trainer, draw, ["a", "b"]):
        assert trainer.loss(torch.tensor([3.0, 7.0]), torch.zeros(2)).item() == 3.0
    assert draw.sampler.heard == [(["a", "b"], [3.0, 7.0])]
    assert trainer.loss is plain
    with pytest.raises(RecipeError, match="does not tell its loss case by case"), weighing(trainer, draw, ["a", "b"]):
        pass
    with weighing(trainer, None, ["a", "b"]):
        assert trainer.loss is plain


def test_the_sampler_hears_losses_at_its_own_scale():
    trainer = SimpleNamespace(loss=lambda output, _: output.sum(), is_ddp=False)
    draw = Draw(Heard(), {}, 2, slice(None), 0, 1)
    with weighing(trainer, draw, ["a", "b"], scale=1 / 4):
        assert trainer.loss(torch.full((2, 4), 3.0), torch.zeros(2)).item() == 12.0
    assert draw.sampler.heard == [(["a", "b"], [3.0, 3.0])]


def test_a_loss_that_gathers_from_all_ranks_stays_within_the_process():
    """Without processes, gathering is an error; with unequal batches, ranks would wait for each other for ever."""
    dice = MemoryEfficientSoftDiceLoss(batch_dice=True, do_bg=False, ddp=True)
    trainer = SimpleNamespace(loss=dice, is_ddp=False)
    with weighing(trainer, Draw(Heard(), {}, 2, slice(None), 0, 1), ["a", "b"]):
        assert torch.isfinite(trainer.loss(torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4)))
    assert dice.ddp
    with pytest.raises((RuntimeError, ValueError)):
        dice(torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4))
