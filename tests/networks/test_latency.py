"""Tests of nnkd.networks.latency. No time is compared with another."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from nnkd.errors import BrokenPluginError, SettingError
from nnkd.networks import latency
from nnkd.networks.latency import measure, measure_here
from nnkd.plugin.networks import Architecture

MIB = 2**20


class Counts(nn.Module):
    """Counts its runs and the threads it had."""

    def __init__(self):
        super().__init__()
        self.threads: list[int] = []

    def forward(self, x):
        self.threads.append(torch.get_num_threads())
        return x


def holds(mib: int) -> Architecture:
    """A network of that size."""
    return Architecture("default", partial(nn.Linear, mib * MIB // 4, 1, bias=False), ((1, 4),), run=_touch)


def _touch(network, x):
    return network.weight.sum() + x.sum()


def imports(mib: int, on_meta: bool) -> Architecture:
    """The same, from a plugin that first imports packages of 200 MiB, and may be unable to build on "meta"."""
    return Architecture("default", partial(_after_imports, mib, on_meta), ((1, 4),), run=_touch)


def _after_imports(mib: int, on_meta: bool) -> nn.Module:
    if "of_a_plugin" not in sys.modules:
        module = ModuleType("of_a_plugin")
        module.content = b"x" * (200 * MIB)
        sys.modules["of_a_plugin"] = module
    network = holds(mib).build()
    if not on_meta:
        network.weight[0, 0].item()
    return network


def breaks() -> Architecture:
    raise ValueError("no such thing")


def refuses() -> Architecture:
    raise SettingError("one sentence.")


def dies() -> Architecture:
    import os

    os._exit(9)


def test_the_first_run_does_not_count():
    network = Counts()
    found = measure_here(lambda: Architecture("x", lambda: network, ((1, 2),)), "cpu", 2, runs=3)
    assert network.threads == [2] * 4
    assert (found.runs, found.threads, found.device) == (3, 2, "cpu")


def test_a_slow_network_runs_once(monkeypatch):
    monkeypatch.setattr(latency, "ENOUGH_S", 0.0)
    network = Counts()
    assert len(latency._time(network, [torch.zeros(1)], "cpu", 5)) == 1
    assert len(network.threads) == 1


def test_memory_is_that_of_a_process_of_its_own():
    ballast = torch.ones(64 * MIB // 4)  # this process's own must not count
    found = measure(partial(holds, 96), runs=1)
    assert found.peak is not None
    assert 90 * MIB < found.peak < 140 * MIB
    assert "resident" in found.peak_is
    assert ballast[0] == 1


@pytest.mark.parametrize("on_meta", [True, False])
def test_imported_packages_are_not_the_networks_memory(on_meta):
    found = measure(partial(imports, 96, on_meta), runs=1)
    assert 90 * MIB < found.peak < 140 * MIB


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (breaks, BrokenPluginError, "It could not be timed: ValueError: no such thing"),
        (dies, BrokenPluginError, "its process was killed"),
        (refuses, SettingError, "one sentence"),
    ],
)
def test_what_goes_wrong_is_told(what, error, message):
    with pytest.raises(error, match=message):
        measure(what, runs=1)


def test_a_peak_that_may_be_an_earlier_one_is_no_figure(monkeypatch):
    """Where it cannot be set back, and the network stayed below what the process had held before."""
    monkeypatch.setattr(latency, "CLEAR_REFS", Path("no such file"))
    monkeypatch.setattr(latency, "_resident_peak", lambda: 10**15)
    assert measure_here(partial(holds, 1), runs=1).peak is None
    highest = iter((10**14, 10**15))
    monkeypatch.setattr(latency, "_resident_peak", lambda: next(highest))
    assert measure_here(partial(holds, 1), runs=1).peak > 10**14


def test_where_the_system_tells_nothing(monkeypatch):
    monkeypatch.setattr(latency, "_resident_peak", lambda: None)
    found = measure_here(partial(holds, 1), runs=1)
    assert (found.peak, found.peak_is) == (None, latency.NO_SUCH_FIGURE)
