"""Tests of nnkd.networks.costs."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from extras import needs
from torch import nn
from torch.nn import functional

from nnkd.errors import BrokenPluginError, SettingError
from nnkd.networks.costs import count, random_inputs, ready_network
from nnkd.networks.papers import paper_count
from nnkd.plugin.networks import Architecture, Paper

needs_thop = needs("profile")


class Attends(nn.Module):
    """One linear layer, attention of two heads, and a parameter of its own that no layer has."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 24, bias=False)
        self.own = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        query, key, value = (self.layer(x) + self.own.repeat(3)).view(1, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value)


class LooksAtNumbers(nn.Module):
    """Cannot be run on "meta"."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) < 1 else x


class Twice(nn.Module):
    """The same layer under two names, run once."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1)
        self.again = self.first

    def forward(self, x):
        return self.first(x)


def architecture(build, shape=(1, 5, 8), **more) -> Architecture:
    return Architecture("default", build, (shape,), **more)


def test_multiply_adds_of_a_convolution():
    found = count(architecture(lambda: nn.Conv2d(3, 7, 3, padding=1), (2, 3, 10, 11)))
    assert (found.parameters, found.macs) == (7 * 3 * 9 + 7, 2 * 7 * 3 * 9 * 110)
    assert found.by_operation == {"convolution": found.macs}


def test_attention_counts():
    found = count(architecture(Attends))
    linear, attention = 5 * 8 * 24, 2 * 2 * 5 * 5 * 4  # two products, two heads, 5 x 5 tokens, 4 channels
    assert (found.parameters, found.macs) == (8 * 24 + 8, linear + attention)


@needs_thop
def test_thop_counts_neither_attention_nor_loose_parameters():
    found = paper_count(architecture(Attends))
    assert found.by.startswith("thop 0.1.1")
    assert (found.parameters, found.macs, found.problem) == (8 * 24, 5 * 8 * 24, "")


@needs_thop
def test_all_parameters_where_the_paper_counted_all():
    found = paper_count(architecture(Attends, paper=Paper("x", counted_parameters="all")))
    assert (found.parameters, found.macs) == (8 * 24 + 8, 5 * 8 * 24)


@needs_thop
def test_derived_layers_count_like_their_base():
    class Own(nn.LayerNorm):
        pass

    assert paper_count(architecture(lambda: Own(8))).macs == paper_count(architecture(lambda: nn.LayerNorm(8))).macs > 0


@needs_thop
def test_layers_of_two_names_are_not_left_to_thop():
    assert paper_count(architecture(Twice, (1, 1, 4, 4))).problem.startswith("not counted: some layers")
    assert count(architecture(Twice, (1, 1, 4, 4))).macs == 16


class OwnNorm(nn.LayerNorm):
    """Written out in the published code, so that fvcore sees no norm there."""

    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize(("training", "operations"), [(False, 2), (True, 5)])
def test_norms_by_fvcores_rules(training, operations):
    paper = Paper("x", counter="fvcore", training=training)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(6), OwnNorm(6))
    found = paper_count(architecture(lambda: network, (1, 3, 5, 6), paper=paper))
    numbers = 4 * 5 * 6
    assert (found.parameters, found.kilo) == (16 + 8 + 12 + 12, 1024)
    assert found.macs == 3 * numbers + operations * numbers + 5 * numbers


def test_a_reason_why_thop_would_be_wrong():
    found = paper_count(architecture(Attends, uncountable="its layers are functions"))
    assert (found.macs, found.parameters) == (None, None)
    if importlib.util.find_spec("thop") is not None:
        assert found.problem == "not counted: its layers are functions"


def test_without_thop(monkeypatch):
    monkeypatch.setitem(sys.modules, "thop", None)
    found = paper_count(architecture(Attends))
    assert (found.macs, found.problem) == (None, 'not counted: thop is not installed (pip install "nnkd[profile]")')


def test_a_network_that_looks_at_numbers_is_counted_on_the_cpu():
    found = count(architecture(LooksAtNumbers, (3, 4)))
    assert (found.parameters, found.macs) == (20, 3 * 4 * 4)


def test_another_graph():
    twice = architecture(lambda: nn.Linear(4, 4), (3, 4), run=lambda network, x: network(network(x)))
    assert count(twice).macs == 2 * 3 * 4 * 4
    assert count(twice).parameters == 20


def test_counting_takes_no_memory():
    huge = architecture(lambda: nn.Linear(1 << 20, 1 << 20, bias=False), (1, 1 << 20))  # 4 TiB
    assert count(huge).parameters == count(huge).macs == 1 << 40


@pytest.mark.parametrize("wrong", ["build", "run"])
def test_what_cannot_be_built_or_run_is_told_in_a_sentence(wrong):
    def build():
        if wrong == "build":
            raise ValueError("no such width\nmore")
        return nn.Linear(3, 3)

    with pytest.raises(BrokenPluginError, match=r"could not be built, or not be run on 1x5x8 \(\w+: ") as caught:
        count(architecture(build))
    assert "\n" not in str(caught.value)


def test_our_own_errors_pass():
    def build():
        raise SettingError("one sentence.")

    with pytest.raises(SettingError, match="one sentence"):
        count(architecture(build))


def test_a_network_as_it_computes():
    made = []
    one = architecture(lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout()), ready=made.append)
    network = ready_network(one, "cpu")
    assert made == [network]
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    first, again = random_inputs(one, "cpu"), random_inputs(one, "cpu")
    assert torch.equal(first[0], again[0])
    assert (first[0].shape, first[0].dtype) == ((1, 5, 8), torch.float32)
