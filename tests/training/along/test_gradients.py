"""Tests of nnkd.training.along.gradients: against gradients taken one by one, and two processes against one."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import on_two
from torch import nn
from torch.nn.functional import cross_entropy

from nnkd.errors import RecipeError
from nnkd.training.along.gradients import Alignment, SecondPass, binary_heads


class Small(nn.Module):
    """Two outputs, as with deep supervision, batch normalisation and dropout; one parameter nobody uses."""

    def __init__(self, outputs: int = 4, norm: type[nn.Module] = nn.BatchNorm2d, dropout: float = 0.5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), norm(6), nn.ReLU(), nn.Dropout(dropout))
        self.decoder = nn.Module()
        self.decoder.seg_layers = nn.ModuleList([nn.Conv2d(6, outputs, 1), nn.Conv2d(6, outputs, 1)])
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        features = self.body(x)
        return [layer(features) for layer in self.decoder.seg_layers]


def loss_of(outputs, target):
    return sum(cross_entropy(output, target) for output in outputs)


def data(seed: int = 0, number: int = 4, labels: int = 4):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number, 1, 8, 8, generator=generator)
    return images, torch.randint(0, labels, (number, 8, 8), generator=generator)


def started(shared: bool = False, **keywords):
    """A network whose target gradient stands there, its second pass, and an auxiliary batch."""
    torch.manual_seed(0)
    network = Small(2 if shared else 4, **keywords)
    heads = None if shared else binary_heads(network, 2)
    images, target = data(1, labels=2 if shared else 4)
    loss_of(network(images), target).backward()
    return network, SecondPass(network, heads), data(2, labels=2)


@pytest.mark.parametrize("shared", [False, True])
def test_the_alignment_is_that_of_gradients_taken_apart(shared):
    network, second, (images, target) = started(shared, dropout=0.0)
    before = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    parameters = [p for p in second.parameters if p is not network.unused]
    apart = torch.autograd.grad(loss_of(second(images), target), parameters, allow_unused=True)
    loss, found = second.train(lambda: loss_of(second(images), target))
    names = {id(p): name for name, p in network.named_parameters()}
    both = [
        (g, before[names[id(p)]]) for g, p in zip(apart, parameters, strict=True) if g is not None and id(p) in names
    ]
    assert len(both) == (8 if shared else 4)
    a, t = (torch.cat([pair[i].flatten() for pair in both]) for i in (0, 1))
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(a, t, 0)), abs=1e-6)
    assert found.norms(1, 1) == pytest.approx((float(a.norm()), float(t.norm())), rel=1e-5)
    assert loss == pytest.approx(loss_of(second(images), target).item(), rel=1e-6)
    for gradient, parameter in zip(apart, parameters, strict=True):
        old = before.get(names.get(id(parameter), ""))
        expected = old if gradient is None else gradient if old is None else gradient + old
        torch.testing.assert_close(parameter.grad, expected)
    assert network.unused.grad is None


def test_scores_change_nothing():
    network, second, (images, target) = started()
    state = copy.deepcopy({**network.state_dict(), **second.heads.state_dict()})
    grads = [None if p.grad is None else p.grad.clone() for p in second.parameters]
    streams = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    def loss():
        np.random.rand(), random.random()  # as a loader in this process would
        return loss_of(second(images), target)

    _, found, scale = second.score(loss)
    assert -1 <= found.cosine <= 1
    assert scale == 1
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    for parameter, grad in zip(second.parameters, grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == streams[1:]


def test_a_score_draws_other_numbers_than_training_and_than_the_next_score():
    _, second, (images, target) = started()
    drawn: set[float] = set()

    def loss():
        drawn.update((float(torch.rand(1)), np.random.rand(), random.random()))
        return loss_of(second(images), target)

    for _ in range(3):
        second.score(loss)
    loss()
    assert len(drawn) == 4 * 3


def test_a_score_is_what_training_would_hear():
    _, second, (images, target) = started(dropout=0.0)
    loss, score, _ = second.score(lambda: loss_of(second(images), target))
    heard, trained = second.train(lambda: loss_of(second(images), target))
    assert (heard, trained.cosine) == pytest.approx((loss, score.cosine), rel=1e-6)


def test_statistics_for_prediction_stay_the_targets():
    network, second, (images, target) = started()
    before = copy.deepcopy(dict(network.named_buffers()))
    second.train(lambda: loss_of(second(10 * images), target))
    assert {name: torch.equal(b, before[name]) for name, b in network.named_buffers()} == dict.fromkeys(before, True)


@pytest.mark.parametrize("scale", [65536.0, 0.5])
def test_the_cosine_does_not_depend_on_the_scale_of_both_losses(scale):
    _, second, (images, target) = started(dropout=0.0)
    plain = second.train(lambda: loss_of(second(images), target))[1]
    other, second, _ = started(dropout=0.0)
    for parameter in other.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(scale)
    scaled = second.train(lambda: loss_of(second(images), target), scale)[1]
    assert scaled.cosine == pytest.approx(plain.cosine, abs=1e-6)
    assert scaled.norms(scale, scale) == pytest.approx(plain.norms(1, 1), rel=1e-5)


def test_an_overflow_is_no_cosine_and_a_score_is_tried_again_with_less():
    _, second, (images, target) = started(dropout=0.0)
    loss = lambda: loss_of(second(images), target)  # noqa: E731
    _, found, scale = second.score(loss, 1e38)
    assert found.is_finite
    assert 1 <= scale < 1e38
    assert np.isnan(second.train(loss, float("inf"))[1].cosine)
    assert not second.target_is_finite()
    assert np.isnan(Alignment(0.0, 0.0, 1.0).cosine)


def test_heads_begin_as_background_and_the_mean_of_the_labels():
    network = Small()
    layer, (head, _) = network.decoder.seg_layers[0], binary_heads(network, 2)
    torch.testing.assert_close(head.weight[0], layer.weight[0])
    torch.testing.assert_close(head.bias[1], layer.bias[1:].mean())
    (one, _) = binary_heads(network, 1)
    assert (one.out_channels, one.weight.shape[0]) == (1, 1)
    torch.testing.assert_close(one.weight[0], layer.weight.mean(0))
    with pytest.raises(RecipeError, match=r"Linear has no convolutions named decoder\.seg_layers"):
        binary_heads(nn.Linear(1, 1), 2)


# --- several processes --------------------------------------------------------------------------------------------


def steps(network, second, images, target, aux_images, aux_target):
    """Two steps of descent; what was heard of each."""
    optimizer = torch.optim.SGD(second.parameters, 0.1)
    wrapped = network if not second.several else nn.parallel.DistributedDataParallel(network)
    heard = []
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        loss_of(wrapped(images), target).backward()
        scored = second.score(lambda: loss_of(second(aux_images), aux_target))
        loss, found = second.train(lambda: loss_of(second(aux_images), aux_target))
        optimizer.step()
        heard.append([loss, found.cosine, scored[0], scored[1].cosine, *scored[1].norms(1, 1)])
    return heard, {name: p.detach().flatten().tolist() for name, p in network.named_parameters()}


def made():
    torch.manual_seed(0)
    network = Small(norm=nn.InstanceNorm2d, dropout=0.0)
    del network.unused
    return network, binary_heads(network, 2)


def one_rank(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="localhost")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network, heads = made()
    mine = slice(2 * rank, 2 * rank + 2)
    parts = [tensor[mine] for tensor in (*data(1), *data(2, labels=2))]
    found = steps(network, SecondPass(network, heads, several=True), *parts)
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_with_the_joined_batch(tmp_path):
    on_two(one_rank, str(tmp_path))
    network, heads = made()
    heard, weights = steps(network, SecondPass(network, heads), *data(1), *data(2, labels=2))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    np.testing.assert_allclose(first[0], heard, rtol=1e-4)
    for name, values in weights.items():
        np.testing.assert_allclose(first[1][name], values, atol=1e-6, err_msg=name)
