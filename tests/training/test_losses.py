"""Tests of nnkd.training.losses."""

from __future__ import annotations

import pytest
import torch

from nnkd.training.losses import DistillationLoss, pool_target


def hand_made(p: torch.Tensor, t: torch.Tensor) -> float:
    """Equation 1 of paper 1 for one binary label, written out."""
    intersection, union = (p * t).sum(), p.sum() + t.sum() - (p * t).sum()
    entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    return float(1 - (intersection + 1) / (union + 1) + entropy)


def test_one_label_equals_equation_1_in_both_forms():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 6, 5, generator=generator)
    t = torch.rand(1, 1, 6, 5, generator=generator)
    expected = hand_made(torch.sigmoid(x), t)
    as_softmax = torch.cat((torch.zeros_like(x), x), 1)
    assert float(DistillationLoss(regions=False)(as_softmax, t)) == pytest.approx(expected, rel=1e-5)
    assert float(DistillationLoss(regions=True)(x, t)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("iou", ["soft", "jml"])
def test_the_optimum_of_jml_is_the_target_and_that_of_soft_iou_is_not(iou):
    target = torch.full((1, 1, 40, 40), 1 / 3)
    logit = torch.zeros(1, requires_grad=True)
    loss = DistillationLoss(regions=True, iou=iou)
    optimizer = torch.optim.Adam([logit], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(logit.expand(1, 1, 40, 40), target).backward()
        optimizer.step()
    probability = float(torch.sigmoid(logit.detach()))
    if iou == "jml":
        assert probability == pytest.approx(1 / 3, abs=0.02)
    else:
        assert probability > 1 / 3 + 0.05  # the bias of soft IoU for soft targets


def test_a_label_without_vote_is_merged_with_the_background():
    logits = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(2)) / 3
    target[:, 2] = -1
    loss = DistillationLoss(regions=False)
    merged = torch.cat((torch.logsumexp(logits[:, [0, 3]], 1, keepdim=True), logits[:, 1:3]), 1)
    torch.testing.assert_close(loss(logits, target), loss(merged, target[:, :2]))


def test_voxels_and_labels_without_any_vote_have_no_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.rand(1, 2, 4, 4) / 2
    target[:, :, 0] = -1
    DistillationLoss(regions=False)(logits, target).backward()
    assert (logits.grad[:, :, 0] == 0).all()
    assert (logits.grad[:, :, 1:] != 0).any()


def test_a_batch_without_any_vote_gives_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = DistillationLoss(regions=False)(logits, torch.full((1, 2, 4, 4), -1.0))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(logits.grad.abs().max()) == pytest.approx(0, abs=1e-6)


def test_weight_zero_equals_no_vote():
    logits = torch.randn(1, 2, 4, 4)
    target = torch.rand(1, 1, 4, 4)
    weight = torch.ones(1, 1, 4, 4)
    weight[..., 0] = 0
    without = target.clone()
    without[..., 0] = -1
    weighted = DistillationLoss(regions=False, weighted=True)(logits, torch.cat((target, weight), 1))
    torch.testing.assert_close(weighted, DistillationLoss(regions=False)(logits, without))


def test_half_precision_logits_are_computed_in_float32():
    logits = (torch.randn(1, 2, 8, 8) * 30).half()
    loss = DistillationLoss(regions=False)(logits, torch.rand(1, 1, 8, 8))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("shape", [(8, 6), (4, 8, 6)])
def test_pooling_averages_the_voxels_that_have_a_vote(shape):
    target = torch.rand(2, *shape)
    half = tuple(n // 2 for n in shape)
    torch.testing.assert_close(pool_target(target, half).mean(), target.mean())
    target[0] = -1
    pooled = pool_target(target, half)
    assert (pooled[0] == -1).all()
    assert (pooled[1] >= 0).all()
    block = torch.tensor([[[0.2, -1.0], [0.4, -1.0]]])
    torch.testing.assert_close(pool_target(block, (1, 1)), torch.tensor([[[0.3]]]))


def test_over_the_batch_equals_one_long_image():
    generator = torch.Generator().manual_seed(3)
    logits, target = torch.randn(2, 2, 4, 4, generator=generator), torch.rand(2, 1, 4, 4, generator=generator)
    joined = torch.cat(tuple(logits), 1)[None], torch.cat(tuple(target), 1)[None]
    over_batch = DistillationLoss(regions=False, over_batch=True)(logits, target)
    torch.testing.assert_close(over_batch, DistillationLoss(regions=False)(*joined))
