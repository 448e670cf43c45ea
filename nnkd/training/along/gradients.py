"""The second backward pass of a training step, over an auxiliary task, and how its gradient lies to the target's.

The target's gradient stands in every parameter's `grad` when the second pass begins. A hook on each parameter sees the
auxiliary gradient before it is added, so three running products are all that is kept: no copy of either gradient.

Source: Yang et al., ASAP, Eq. 2 and Algorithm 1, lines 9-11.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite, nan, sqrt

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call

from nnkd.errors import RecipeError

HEADS = "decoder.seg_layers."
PART = 2**17  # numbers in one sum: a CPU's float32 sum over a layer's 2.8 million is wrong in the fourth digit
SMALLER = 16.0  # a score that overflows is tried again with the loss scaled so many times less


@dataclass(frozen=True)
class Alignment:
    """How two gradients lie to each other, over the parameters that both losses reach.

    Attributes:
        product: Of the auxiliary's gradient with the target's.
        squared: Of the auxiliary's with itself.
        squared_target: Of the target's with itself.
    """

    product: float
    squared: float
    squared_target: float

    @property
    def cosine(self) -> float:
        """In [-1, 1]; not a number where a gradient is 0, or not finite."""
        length = sqrt(self.squared) * sqrt(self.squared_target) if self.is_finite else 0.0
        return max(-1.0, min(1.0, self.product / length)) if length > 0 else nan

    @property
    def is_finite(self) -> bool:
        """Whether neither gradient overflowed."""
        return isfinite(self.product) and isfinite(self.squared) and isfinite(self.squared_target)

    def norms(self, scale: float, target_scale: float) -> tuple[float, float]:
        """Euclidean norms of the auxiliary's and of the target's gradient, of losses that were scaled."""
        if not self.is_finite:
            return nan, nan
        return sqrt(self.squared) / scale, sqrt(self.squared_target) / target_scale


def binary_heads(network: nn.Module, outputs: int) -> nn.ModuleList:
    """Copies of a network's last layers for one foreground: they begin as its background and the mean of its labels, or
    with one output as that mean.

    Args:
        network: nnU-Net's kind; its last layers are the convolutions `decoder.seg_layers`.
        outputs: 2 for a softmax, 1 for a sigmoid.

    Raises:
        RecipeError: If the network has no such layers.
    """
    layers = getattr(getattr(network, "decoder", None), "seg_layers", None)
    if layers is None or not all(isinstance(layer, nn.Conv2d | nn.Conv3d) for layer in layers):
        raise RecipeError(
            f"{type(network).__name__} has no convolutions named decoder.seg_layers as its last layers, so that "
            f"auxiliary tasks cannot have heads of their own. Choose another student, or -as none."
        )
    return nn.ModuleList(_with_outputs(layer, outputs) for layer in layers)


def _with_outputs(layer: nn.Conv2d | nn.Conv3d, outputs: int) -> nn.Module:
    copied = deepcopy(layer)
    copied.out_channels = outputs
    for name, tensor in layer.named_parameters():
        rows = tensor.detach()
        made = rows.mean(0, keepdim=True) if outputs == 1 else torch.stack((rows[0], rows[1:].mean(0)))
        setattr(copied, name, nn.Parameter(made.clone()))
    return copied


class SecondPass:
    """Forward and backward passes over auxiliary tasks through the network of a training.

    Batch statistics that layers keep for prediction stay the target's: passes see and change copies of them.

    Args:
        network: As it is trained, compiled or not; not wrapped for several processes.
        heads: What stands in for the network's last layers; None: the target's own ones.
        several: Whether this is one of several processes. Exactness then costs one more gradient in memory: hooks would
            see each process's own gradient alone, and the mean of products is not the product of means.
    """

    def __init__(self, network: nn.Module, heads: nn.ModuleList | None, several: bool = False):
        self.network, self.heads, self.several = network, heads, several
        own = dict(network.named_parameters())
        prefix = "_orig_mod." if hasattr(network, "_orig_mod") else ""  # torch.compile's
        self._exchanged = {} if heads is None else {f"{prefix}{HEADS}{n}": p for n, p in heads.named_parameters()}
        self.shared = [p for name, p in own.items() if p.requires_grad and name not in self._exchanged]
        self.parameters = [*own.values(), *self._exchanged.values()]
        self._seeds = random.Random(random.getrandbits(64))  # goes on from score to score: each is of other numbers

    def __call__(self, data: Tensor) -> Tensor | list[Tensor]:
        """The network's answer through the auxiliary heads, (B, outputs, *S)."""
        kept = {n: b.clone() for n, b in self.network.named_buffers() if b.is_floating_point() or b.ndim == 0}
        exchanged = {**self._exchanged, **kept}
        return functional_call(self.network, exchanged, (data,)) if exchanged else self.network(data)

    def train(self, loss_of: Callable[[], Tensor], scale: float = 1.0) -> tuple[float, Alignment]:
        """Add the auxiliary gradient to the target's.

        Args:
            loss_of: Computes the loss of a batch.
            scale: Of the loss, the same as of the target's.

        Returns:
            The loss and how the gradients lie; the same in all processes.
        """
        loss = loss_of()
        backward = self._backward_of_several if self.several else self._backward
        return self._heard(loss, backward(loss * scale if scale != 1 else loss, True))

    def score(self, loss_of: Callable[[], Tensor], scale: float = 1.0) -> tuple[float, Alignment, float]:
        """As `train`, but nothing changes: no gradient, no statistics, no generator of random numbers.

        Returns:
            The loss, how the gradients lie, and the scale that the loss had at last.
        """
        backward = self._backward_of_several if self.several else self._backward
        without = [p for p in self.parameters if p.grad is None]
        while True:
            with undisturbed(self.parameters[0].device, self._seeds.getrandbits(32)):
                loss = loss_of()
                found = self._heard(loss, backward(loss * scale, False))
            for parameter in without:
                parameter.grad = None
            if found[1].is_finite or scale <= 1:
                return *found, scale
            scale = max(1.0, scale / SMALLER)

    def target_is_finite(self) -> bool:
        """Whether the gradients that stand there did not overflow."""
        grads = [p.grad for p in self.shared if p.grad is not None]
        return bool(torch.stack([grad.sum() for grad in grads]).isfinite().all()) if grads else False

    def _backward(self, loss: Tensor, keep: bool) -> list[Tensor]:
        products: list[Tensor] = []
        with _watched(self.shared, products, keep):
            loss.backward()
        return products

    def _backward_of_several(self, loss: Tensor, keep: bool) -> list[Tensor]:
        """The target's gradient, already the mean of all processes, steps aside, so that the auxiliary's becomes the
        mean by itself."""
        target = [p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        number = distributed.get_world_size()
        made = [p.grad for p in self.parameters if p.grad is not None]
        for work in [distributed.all_reduce(grad, async_op=True) for grad in made]:
            work.wait()
        products = []
        shared = {id(p) for p in self.shared}
        for parameter, before in zip(self.parameters, target, strict=True):
            grad = parameter.grad
            if grad is not None:
                grad.div_(number)
                if before is not None and id(parameter) in shared:
                    products.append(_products(grad, before))
            if not keep or grad is None:
                parameter.grad = before
            elif before is not None:
                grad.add_(before)
        return products

    def _heard(self, loss: Tensor, products: Iterable[Tensor]) -> tuple[float, Alignment]:
        found = [loss.detach().float().reshape(1), *products]
        if self.several:
            distributed.all_reduce(found[0])
            found[0] /= distributed.get_world_size()
        whole = torch.cat(found)
        if self.several:  # other machines may sum in another order, but all schedulers must hear the same
            distributed.broadcast(whole, 0)
        numbers = whole.cpu().double()
        sums = numbers[1:].reshape(-1, 3).sum(0).tolist() if len(numbers) > 1 else [0.0, 0.0, 0.0]
        return float(numbers[0]), Alignment(*sums)


def _products(grad: Tensor, target: Tensor) -> Tensor:
    """(3,) float32: with the target's, with itself, the target's with itself."""
    a, t = grad.flatten().float(), target.flatten().float()
    size = PART if a.device.type == "cpu" else max(1, a.numel())
    parts = zip(a.split(size), t.split(size), strict=True)
    return torch.stack([torch.stack((u.dot(v), u.dot(u), v.dot(v))) for u, v in parts]).sum(0)


@contextmanager
def _watched(parameters: Iterable[nn.Parameter], products: list[Tensor], keep: bool) -> Iterator[None]:
    """In a backward pass, note the products of what is to be added to each `grad` with what stands there; a parameter
    without any is not reached by both losses. Unless to be kept, zeros are added."""

    def watch(parameter: nn.Parameter) -> Callable[[Tensor], Tensor | None]:
        def see(grad: Tensor) -> Tensor | None:
            if parameter.grad is not None:
                products.append(_products(grad, parameter.grad))
            return None if keep else grad.new_zeros(()).expand_as(grad)

        return see

    handles = [parameter.register_hook(watch(parameter)) for parameter in parameters]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def undisturbed(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers go on afterwards as if nothing had been drawn: torch's, numpy's and Python's of this process.
    Within, they begin with a seed and so are others than those to come: a loader in this process would make the same
    batch twice."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
