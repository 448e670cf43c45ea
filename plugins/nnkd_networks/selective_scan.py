"""Mamba's selective scan in plain torch, with gradients and little memory; mamba-ssm's kernel where it is installed.

For each channel d and state n, with h[-1] = 0:

    h[t, n, d] = exp(delta[t, d] A[d, n]) h[t-1, n, d] + delta[t, d] B[t, n] u[t, d]
    y[t, d]    = sum over n of C[t, n] h[t, n, d]

A loop over t spends its time on calls. Here a sequence is cut into segments, whose states alone are in memory at any
time, and a segment into chunks that advance side by side: first to their last states as if each began with zero, which
then pass on from chunk to chunk, then once more from the right beginnings. Nothing is divided, and all factors are at
most 1, so it is as exact as the loop.

Source: Gu and Dao, Mamba, 2023, Algorithm 2.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

log = logging.getLogger("nnkd")

MULTIPLY_ADDS = 4  # a state and step: delta A, (delta u) B, the step itself, C h
MOST_STATES = 256  # that mamba-ssm's kernel takes
# Numbers in a segment's states, and those that are advanced in one call. On a CPU a segment stays in the cache and a
# call's arithmetic outweighs the call; a GPU wants few large calls.
SEGMENT, CALL = {"cpu": 2**19}, {"cpu": 2**15}
SEGMENT_ELSEWHERE, CALL_ELSEWHERE = 2**25, 2**20
SHORTEST = 16  # steps of a segment: what is kept for the backward pass is at most this part of all states


def selective_scan(
    u: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, *, kernel: Callable[..., Tensor] | None = None
) -> Tensor:
    """Scan K sequences of each image, each with its own parameters.

    Args:
        u: (B, K, L, D) what enters; computed in float32, or in float64 where this is float64, under autocast too.
        delta: (B, K, L, D) step sizes, at least 0.
        decay: (K, D, N) A, at most 0.
        b: (B, K, L, N) how states take in.
        c: (B, K, L, N) how states are read out.
        kernel: mamba-ssm's (`mambas_kernel`), to be taken on CUDA; None: plain torch everywhere.

    Returns:
        (B, K, L, D) y, float32 or float64.
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    given = [x.to(dtype) for x in (u, delta, decay, b, c)]
    if kernel is not None and u.is_cuda and dtype == torch.float32 and decay.shape[-1] <= MOST_STATES:
        return through(kernel, *given)
    return _scan(*given)[0]


def step_by_step(u: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The definition as a loop, for tests and benchmarks; arguments and result as `selective_scan`."""
    h = torch.zeros_like(decay) + torch.zeros_like(u[:, :, 0, :, None])
    y = []
    for t in range(u.shape[2]):
        step = delta[:, :, t, :, None]
        h = torch.exp(step * decay) * h + step * b[:, :, t, None, :] * u[:, :, t, :, None]
        y.append((h * c[:, :, t, None, :]).sum(-1))
    return torch.stack(y, 2)


# --- mamba-ssm ----------------------------------------------------------------------------------------------------


@cache
def mambas_kernel() -> Callable[..., Tensor] | None:
    """mamba-ssm's `selective_scan_fn`; None where the package is not installed, or does not fit this torch."""
    if find_spec("mamba_ssm") is None:
        return None
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:  # built for another torch
        log.warning("mamba-ssm is installed but does not load (%s), so plain torch scans.", error)
        return None
    return torch.compiler.disable(selective_scan_fn)


def through(kernel: Callable[..., Tensor], u: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """What a function in mamba-ssm's layout gives: (B, K D, L) for channels, (B, K, N, L) for b and c."""
    channels = [x.transpose(2, 3).flatten(1, 2).contiguous() for x in (u, delta)]
    groups = [x.transpose(2, 3).contiguous() for x in (b, c)]
    y = kernel(*channels, decay.flatten(0, 1).contiguous(), *groups)
    return y.unflatten(1, decay.shape[:2]).transpose(2, 3)


# --- how a sequence is cut ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """Attributes:
    segments, length: How many, and the steps of each; the last may be shorter.
    chunks, steps: Of a segment; together at least its length.
    """

    segments: int
    length: int
    chunks: int
    steps: int


def cut_of(length: int, numbers: int, device: str) -> Cut:
    """How to cut a sequence.

    Args:
        length: Its steps.
        numbers: Of one step's states: B K N D.
        device: torch's name for the kind of device.
    """
    longest = max(SHORTEST, SEGMENT.get(device, SEGMENT_ELSEWHERE) // numbers)
    segments = -(-length // longest)
    each = -(-length // segments)
    chunks = max(1, min(math.isqrt(2 * each), CALL.get(device, CALL_ELSEWHERE) // numbers))
    return Cut(segments, each, chunks, -(-each // chunks))


def _chunks(x: Tensor, start: int, cut: Cut) -> Tensor:
    """(B, K, L, F) -> (steps, chunks, B, K, F): a segment. Behind its end are zeros, with which states stay."""
    piece = x[:, :, start : start + cut.length]
    missing = cut.chunks * cut.steps - piece.shape[2]
    if missing:
        piece = torch.nn.functional.pad(piece, (0, 0, 0, missing))
    return piece.unflatten(2, (cut.chunks, cut.steps)).permute(3, 2, 0, 1, 4).contiguous()


def _put(x: Tensor, into: Tensor, start: int, cut: Cut) -> None:
    """Write a segment (steps, chunks, B, K, F) where it belongs in (B, K, L, F)."""
    end = min(start + cut.length, into.shape[2])
    into[:, :, start:end] = x.permute(2, 3, 1, 0, 4).flatten(2, 3)[:, :, : end - start]


# --- the scan -------------------------------------------------------------------------------------------------------


def _room(cut: Cut, u: Tensor, decay: Tensor) -> Tensor:
    """Memory for a number of each state of a segment, which every segment takes in turn."""
    return u.new_empty(cut.steps, cut.chunks, *u.shape[:2], *decay.shape[1:])


def _factors(delta: Tensor, decay: Tensor, out: Tensor) -> Tensor:
    """Write factors of each step (steps, chunks, B, K, N, D) and return those of whole chunks (chunks, B, K, N, D)."""
    torch.mul(delta.unsqueeze(-2), decay, out=out).exp_()
    return (delta.sum(0).unsqueeze(-2) * decay).exp_()


def _states(factors: Tensor, whole: Tensor, h: Tensor, first: Tensor) -> Tensor:
    """Make states of what enters, in place.

    Args:
        factors, h: (steps, chunks, B, K, N, D); `h` holds delta B u before, the states after.
        whole: (chunks, B, K, N, D).
        first: (B, K, N, D) the state before the segment.

    Returns:
        (chunks, B, K, N, D) the state before each chunk.
    """
    steps, chunks = h.shape[:2]
    before = first.unsqueeze(0)
    if chunks > 1:
        end = h[0].clone()
        for t in range(1, steps):
            torch.addcmul(h[t], factors[t], end, out=end)
        before = torch.empty_like(end)
        before[0] = first
        for i in range(1, chunks):
            torch.addcmul(end[i - 1], whole[i - 1], before[i - 1], out=before[i])
    last = before
    for t in range(steps):
        last = h[t].addcmul_(factors[t], last)
    return before


def _adjoint_states(factors: Tensor, whole: Tensor, g: Tensor, after: Tensor) -> Tensor:
    """Make gradients of the states of what each gives by its own y, in place; the scan in reverse.

    Args:
        factors, g: (steps, chunks, B, K, N, D); `g` holds C dy before, the gradients after.
        whole: (chunks, B, K, N, D).
        after: (B, K, N, D) what the segment's last state gets from later segments.

    Returns:
        (B, K, N, D) what the state before the segment gets.
    """
    steps, chunks = g.shape[:2]
    later = after.unsqueeze(0)
    if chunks > 1:
        begin = g[-1].clone()
        for t in range(steps - 2, -1, -1):
            torch.addcmul(g[t], factors[t + 1], begin, out=begin)
        begin.mul_(factors[0])
        later = torch.empty_like(begin)
        later[-1] = after
        for i in range(chunks - 1, 0, -1):
            torch.addcmul(begin[i], whole[i], later[i], out=later[i - 1])
    g[-1].add_(later)
    for t in range(steps - 2, -1, -1):
        g[t].addcmul_(factors[t + 1], g[t + 1])
    return factors[0, 0] * g[0, 0]


@torch.library.custom_op(
    "nnkd::selective_scan",
    mutates_args=(),
    schema="(Tensor u, Tensor delta, Tensor decay, Tensor b, Tensor c) -> (Tensor, Tensor)",
)
def _scan(u: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """y, and the state before each segment (segments, B, K, N, D) for the backward pass."""
    cut = _cut(u, decay)
    decay = decay.transpose(1, 2).contiguous()  # channels last: the longer axis, in which memory lies
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    starts = u.new_zeros(_starts(cut, u, decay.shape[1]))
    factors, h = _room(cut, u, decay), _room(cut, u, decay)
    for i in range(cut.segments):
        start = i * cut.length
        inputs, step, takes, reads = (_chunks(x, start, cut) for x in (u, delta, b, c))
        whole = _factors(step, decay, out=factors)
        torch.mul(takes.unsqueeze(-1), (step * inputs).unsqueeze(-2), out=h)
        _states(factors, whole, h, starts[i])
        if i + 1 < cut.segments:
            starts[i + 1] = h[-1, -1]
        # products and sums in place took a third of the time of batched matrix products here, and below
        _put(h.mul_(reads.unsqueeze(-1)).sum(-2), y, start, cut)
    return y, starts


@torch.library.custom_op(
    "nnkd::selective_scan_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor u, Tensor delta, Tensor decay, Tensor b, Tensor c, Tensor starts)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _gradients(
    dy: Tensor, u: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, starts: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, decay, b and c, of that of y; the states are computed again, segment by segment."""
    cut = _cut(u, decay)
    decay = decay.transpose(1, 2).contiguous()
    du, ddelta, db, dc = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, b, c))
    ddecay = torch.zeros_like(decay)
    after = torch.zeros_like(starts[0])
    factors, h, g = (_room(cut, u, decay) for _ in range(3))
    for i in reversed(range(cut.segments)):
        start = i * cut.length
        inputs, step, takes, reads, out = (_chunks(x, start, cut) for x in (u, delta, b, c, dy))
        whole = _factors(step, decay, out=factors)
        entered = step * inputs
        torch.mul(takes.unsqueeze(-1), entered.unsqueeze(-2), out=h)
        before = _states(factors, whole, h, starts[i])
        torch.mul(reads.unsqueeze(-1), out.unsqueeze(-2), out=g)
        after = _adjoint_states(factors, whole, g, after)
        exponent = factors.mul_(g)  # from here on the gradient of delta A
        exponent[0].mul_(before)
        exponent[1:].mul_(h[:-1])
        _put(h.mul_(out.unsqueeze(-2)).sum(-1), dc, start, cut)
        _put(torch.mul(g, entered.unsqueeze(-2), out=h).sum(-1), db, start, cut)
        ddecay += torch.mul(exponent, step.unsqueeze(-2), out=h).sum((0, 1, 2))
        of_entered = g.mul_(takes.unsqueeze(-1)).sum(-2)
        _put(of_entered * step, du, start, cut)
        _put(of_entered * inputs + exponent.mul_(decay).sum(-2), ddelta, start, cut)
    return du, ddelta, ddecay.transpose(1, 2).contiguous(), db, dc


def _cut(u: Tensor, decay: Tensor) -> Cut:
    return cut_of(u.shape[2], u.shape[0] * decay.numel(), u.device.type)


def _starts(cut: Cut, u: Tensor, states: int) -> tuple[int, ...]:
    return cut.segments, *u.shape[:2], states, u.shape[3]


# --- what torch has to know of it -------------------------------------------------------------------------------------


@_scan.register_fake
def _(u: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty(_starts(_cut(u, decay), u, decay.shape[2]))


@_gradients.register_fake
def _(dy: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in given[:5])


def _keep(ctx: Any, inputs: Sequence[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    return _gradients(dy, *ctx.saved_tensors)


_scan.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.nnkd.selective_scan)
def _operations(u: Sequence[int], delta: Sequence[int], decay: Sequence[int], *_: object, **__: object) -> int:
    """Two a multiply-add; what the definition takes, not what chunks add to it."""
    return 2 * MULTIPLY_ADDS * math.prod(u) * decay[2]
