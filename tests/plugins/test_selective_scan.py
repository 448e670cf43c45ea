"""The selective scan against its definition as a loop, on the CPU; mamba-ssm's kernel where it can run."""

from __future__ import annotations

import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nnkd_networks import selective_scan as scan
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

HAS_MAMBA = torch.cuda.is_available() and importlib.util.find_spec("mamba_ssm") is not None
NAMES = ("u", "delta", "decay", "b", "c")


def some(batch=2, ways=3, length=37, channels=4, states=3, *, seed=0, spread=1.0, dtype=torch.float32, device="cpu"):
    """Arguments of a scan that want gradients; `spread` makes step sizes, and with them factors, more different."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = (
        random(batch, ways, length, channels),
        functional.softplus(spread * random(batch, ways, length, channels)),
        -(spread * random(ways, channels, states)).exp(),
        random(batch, ways, length, states),
        random(batch, ways, length, states),
    )
    return [x.to(device, dtype).requires_grad_() for x in made]


def with_gradients(function, arguments) -> list[torch.Tensor]:
    """What it gives, and the gradients of a weighted sum of it, in float64."""
    y = function(*arguments)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [x.double().cpu() for x in (y.detach(), *torch.autograd.grad((y * weights).sum(), arguments))]


def assert_equal(found, expected, tolerance=1e-5):
    for name, one, other in zip(("y", *NAMES), found, expected, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= tolerance * scale, name


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setitem(scan.SEGMENT, "cpu", 1000)
    monkeypatch.setitem(scan.CALL, "cpu", 300)


@pytest.mark.heavy
@settings(max_examples=20, deadline=None)
@example(batch=1, ways=2, length=31, channels=1, states=1, spread=4.0, segment=200, call=50, seed=87)  # cancels
@given(
    batch=st.integers(1, 2),
    ways=st.integers(1, 3),
    length=st.integers(1, 60),
    channels=st.integers(1, 5),
    states=st.integers(1, 4),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    segment=st.sampled_from([1, 200, 1000, 2**19]),
    call=st.sampled_from([1, 50, 2**15]),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop_however_it_is_cut(batch, ways, length, channels, states, spread, segment, call, seed):
    sizes = (batch, ways, length, channels, states)
    exact = with_gradients(scan.step_by_step, some(*sizes, seed=seed, spread=spread, dtype=torch.float64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scan.SEGMENT, "cpu", segment)
        patch.setitem(scan.CALL, "cpu", call)
        found = with_gradients(scan.selective_scan, some(*sizes, seed=seed, spread=spread))
    # logarithms of decays are added up: where they are large, so is what float32 rounds off
    assert_equal(found, exact, 1e-5 * max(1.0, spread**2))


def test_in_float64_its_gradient_is_the_numerical_one(small_pieces):
    assert scan.cut_of(12, 2 * 4, "cpu") == scan.Cut(1, 12, 4, 3)
    assert torch.autograd.gradcheck(scan.selective_scan, some(2, 1, 12, 2, 2, dtype=torch.float64))


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 10**6), st.sampled_from(["cpu", "cuda"]))
def test_cuts_hold_the_whole_sequence_and_bound_the_memory(length, numbers, device):
    cut = scan.cut_of(length, numbers, device)
    assert cut.segments * cut.length >= length > (cut.segments - 1) * cut.length
    assert cut.chunks * cut.steps >= cut.length > (cut.chunks - 1) * (cut.steps - 1)
    most = max(scan.SEGMENT.get(device, scan.SEGMENT_ELSEWHERE), scan.SHORTEST * numbers)
    assert cut.length * numbers <= most
    assert cut.segments <= 1 + 2 * length * numbers / most


def test_what_is_kept_for_the_backward_pass_is_a_small_part_of_all_states(small_pieces):
    u, *others = some(1, 2, 400, 8, 4)
    y, starts = torch.ops.nnkd.selective_scan(u, *others)
    assert starts.numel() * scan.SHORTEST <= y.numel() * 4
    kept = sum(x.numel() for x in y.grad_fn.saved_tensors)
    assert kept == sum(x.numel() for x in (u, *others, starts))


def test_extreme_steps_stay_finite():
    u, delta, decay, b, c = some(1, 1, 64, 4, 3)
    with torch.no_grad():
        delta[:, :, ::7] = 1e4  # states are forgotten at once
        delta[:, :, 3::7] = 0  # states stay
    found = with_gradients(scan.selective_scan, [u, delta, decay, b, c])
    assert all(x.isfinite().all() for x in found)
    y = scan.selective_scan(u, delta, decay, b, c)
    torch.testing.assert_close(y, scan.step_by_step(u, delta, decay, b, c), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_computes_in_float32(dtype, small_pieces):
    plain = some(length=50)
    halves = [x.detach().to(dtype).requires_grad_() for x in plain]
    exact = with_gradients(scan.selective_scan, [x.detach().float().requires_grad_() for x in halves])
    with torch.autocast("cpu", dtype=dtype):
        assert scan.selective_scan(*halves).dtype == torch.float32
        assert_equal(with_gradients(scan.selective_scan, [x.detach().float().requires_grad_() for x in halves]), exact)


def test_torch_knows_the_operator():
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.nnkd.selective_scan.default, tuple(some(1, 2, 9, 2, 2)), test_utils=tests)


def test_its_multiply_adds_are_counted_without_numbers():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        u, b = torch.empty(2, 4, 100, 6), torch.empty(2, 4, 100, 5)
        y = scan.selective_scan(u, u, torch.empty(4, 6, 5), b, b)
    assert (y.device.type, y.shape) == ("meta", u.shape)
    assert counter.get_total_flops() == 2 * 4 * (2 * 4 * 100 * 6 * 5)


# --- mamba-ssm --------------------------------------------------------------------------------------------------------


def in_mambas_layout(u, delta, decay, b, c):
    """The loop, in the layout that mamba-ssm documents: u (B, D, L), A (D, N), B and C (B, G, N, L)."""
    b, c = (x.repeat_interleave(u.shape[1] // x.shape[1], 1) for x in (b, c))
    h, y = torch.zeros(*u.shape[:2], decay.shape[1]), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = torch.exp(step * decay) * h + step * u[:, :, t, None] * b[..., t]
        y.append((h * c[..., t]).sum(-1))
    return torch.stack(y, 2)


def test_mambas_layout_is_taken_and_undone():
    def theirs(*arguments):
        return scan.through(in_mambas_layout, *arguments)

    assert_equal(with_gradients(theirs, some()), with_gradients(scan.step_by_step, some()))


def test_without_mamba_ssm_nothing_is_said(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    scan.mambas_kernel.cache_clear()
    assert scan.mambas_kernel() is None
    assert caplog.records == []
    scan.mambas_kernel.cache_clear()


def test_a_mamba_ssm_that_does_not_load_is_named_once(monkeypatch, caplog):
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(logging.getLogger("nnkd"), "propagate", True)
    scan.mambas_kernel.cache_clear()
    assert (scan.mambas_kernel(), scan.mambas_kernel()) == (None, None)
    assert ["does not load" in r.message for r in caplog.records] == [True]
    scan.mambas_kernel.cache_clear()


@pytest.mark.skipif(not HAS_MAMBA, reason="needs mamba-ssm (pip install mamba-ssm, which wants nvcc) and a CUDA device")
def test_mambas_kernel_gives_the_same():
    given = some(length=300, channels=16, states=16, device="cuda")
    found = with_gradients(lambda *x: scan.selective_scan(*x, kernel=scan.mambas_kernel()), given)
    exact = some(length=300, channels=16, states=16, dtype=torch.float64)
    for name, one, other in zip(("y", *NAMES), found, with_gradients(scan.step_by_step, exact), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()), msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_is_the_loop(monkeypatch):
    monkeypatch.setattr(scan, "SEGMENT_ELSEWHERE", 2000)
    monkeypatch.setattr(scan, "CALL_ELSEWHERE", 300)
    found = with_gradients(scan.selective_scan, some(device="cuda"))
    assert_equal(found, with_gradients(scan.step_by_step, some(dtype=torch.float64)))
