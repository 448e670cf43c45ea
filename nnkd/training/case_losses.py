"""A batch's loss taken case by case, so that a sampler can weigh it and hear it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import distributed, nn
from torch.utils._pytree import tree_map

from nnkd.errors import RecipeError
from nnkd.plugin.samplers import WeighingSampler
from nnkd.training.loader import Draw


@runtime_checkable
class _Gathers(Protocol):
    """nnU-Net's Dice losses."""

    ddp: bool


class CaseLosses(nn.Module):
    """The weighted mean of a loss over the cases of a batch.

    Departs: a loss that is summed over the batch (`iou_over=batch`, nnU-Net's batch_dice) is one per case here.

    Args:
        loss: Called with one case at a time. It returns a scalar, or a named tuple of terms of which the first is the
            loss.
        weights: (B,) float, a factor for each case.

    Attributes:
        found: (B,) float32 losses before weighing, of the last call; None before the first.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float]):
        super().__init__()
        self.loss = loss
        self.weights = weights
        self.found: torch.Tensor | None = None

    def forward(self, output: Any, target: Any) -> Any:
        """What `loss` returns, as a weighted mean over the cases.

        Args:
            output, target: Tensors (B, ...), or lists or tuples of such; what has no axis (B,) goes on whole.
        """
        number = len(self.weights)
        each = [self.loss(_case(output, index, number), _case(target, index, number)) for index in range(number)]
        first = torch.stack([result if isinstance(result, torch.Tensor) else result[0] for result in each])
        self.found = first.detach().float()
        weights = torch.as_tensor(self.weights, dtype=torch.float32, device=first.device)
        if isinstance(each[0], torch.Tensor):
            return (first * weights).mean()
        terms = [torch.stack(term) for term in zip(*each, strict=True)]
        return type(each[0])(*(torch.tensordot(weights, term, 1) / number for term in terms))


def _case(value: Any, index: int, number: int) -> Any:
    """One case of a batch, as a batch of one."""

    def cut(tensor: Any) -> Any:
        batched = isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[0] == number
        return tensor[index : index + 1] if batched else tensor

    return tree_map(cut, value)


@contextmanager
def _within_process(loss: Any) -> Iterator[None]:
    """nnU-Net's batch_dice gathers from all ranks in each call; ranks with fewer cases would call less often, and the
    others wait for ever."""
    modules = loss.modules() if isinstance(loss, nn.Module) else ()
    gathering = [module for module in modules if isinstance(module, _Gathers) and module.ddp is True]
    for module in gathering:
        module.ddp = False
    try:
        yield
    finally:
        for module in gathering:
            module.ddp = True


@contextmanager
def weighing(trainer: Any, draw: Draw | None, cases: Sequence[str], scale: float = 1.0) -> Iterator[None]:
    """A training step whose loss is weighed by the sampler, which hears it afterwards; other samplers change nothing.

    Args:
        trainer: Has `loss`, called once in the step, and `is_ddp`.
        draw: The sampler and its participants.
        cases: The batch's identifiers.
        scale: The sampler hears losses times this: samplers expect means over voxels.

    Raises:
        RecipeError: If the step did not call `loss`.
    """
    if draw is None or not isinstance(draw.sampler, WeighingSampler):
        yield
        return
    plain = trainer.loss
    trainer.loss = CaseLosses(plain, draw.sampler.weights(draw.participants, cases))
    try:
        with _within_process(plain):
            yield
        found = trainer.loss.found
    finally:
        trainer.loss = plain
    if found is None:
        raise RecipeError(
            f"{type(trainer).__name__} does not tell its loss case by case, but the sampler "
            f"{type(draw.sampler).__name__} weighs it. Choose another student or another sampler."
        )
    mine = (list(cases), (found * scale).tolist())
    heard = [mine]
    if trainer.is_ddp:  # every rank hears the same, so that their weights stay equal
        heard = [mine] * distributed.get_world_size()
        distributed.all_gather_object(heard, mine)
    draw.sampler.update(
        draw.participants, [case for part, _ in heard for case in part], [loss for _, part in heard for loss in part]
    )
