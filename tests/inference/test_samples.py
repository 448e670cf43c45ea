"""nnkd.inference.samples against brute force: every sample of every window, mirror and fold kept."""

from __future__ import annotations

import weakref
from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import configuration
from torch import nn

from nnkd.errors import BrokenPluginError, PredictionError, SettingError
from nnkd.inference import samples as sampling
from nnkd.inference.predictor import logits_of
from nnkd.inference.probabilistic import ProbabilisticNetwork

LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


class Toy(ProbabilisticNetwork):
    """Samples that differ in the share of a convolution and in an offset."""

    def __init__(self, dim: int, regions: bool, number: int = 3, seed: int = 0):
        super().__init__()
        self.number, self.regions = number, regions
        heads = 2 if regions else 3
        torch.manual_seed(seed)
        self.layer = (nn.Conv2d if dim == 2 else nn.Conv3d)(1, heads, 3, padding=1)
        self.alive: weakref.WeakSet = weakref.WeakSet()
        self.most = 0

    def samples(self, x):
        base = self.layer(x)
        for n in range(self.number):
            shift = torch.sin(torch.arange(base.shape[1], dtype=torch.float32) * (n + 1)).view(
                1, -1, *[1] * (x.ndim - 2)
            )
            found = base * (n + 1) + shift
            found = torch.sigmoid(found) if self.regions else torch.softmax(found, 1)
            self.alive.add(found)
            self.most = max(self.most, len(self.alive))
            yield found

    def forward(self, x):
        return self.answer(x)


class Ordinary(Toy):
    """One answer, and no `samples` that anybody would know of."""

    def forward(self, x):
        return self.layer(x)


def predictor_of(dim, regions, *networks, mirror=True):
    """nnU-Net's predictor with the first network and everybody's weights as folds."""
    name, patch = ("2d", (8, 10)) if dim == 2 else ("3d_fullres", (6, 8, 8))
    plans = PlansManager(
        {
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {name: configuration(name, patch, (1.0,) * dim)},
            "label_manager": "LabelManager",
        }
    )
    json = {"labels": REGIONS if regions else LABELS, "regions_class_order": [1, 2] if regions else None}
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=mirror)
    weights = [deepcopy(n.state_dict()) for n in networks]
    axes = tuple(range(dim))
    predictor.manual_initialization(networks[0], plans, plans.get_configuration(name), weights, json, "Toy", axes)
    return predictor


@torch.no_grad()
def brute_force(predictor, data, networks):
    """Probabilities (folds, samples, mirrors, windows as weights) -> mean, maps and voxels, in float64."""
    patch = predictor.configuration_manager.patch_size
    dim, shape = len(patch), data.shape[1:]
    pad = [max(0, p - n) for p, n in zip(patch, shape[-dim:], strict=True)]
    low = [p // 2 for p in pad]
    wide = [(0, 0)] * (4 - dim) + [(a, p - a) for a, p in zip(low, pad, strict=True)]
    padded = torch.from_numpy(np.pad(data, wide))
    inside = tuple([slice(None)] * (3 - dim) + [slice(a, a + n) for a, n in zip(low, shape[-dim:], strict=True)])
    gaussian = compute_gaussian(tuple(patch), 1 / 8, 10, device=torch.device("cpu")).double()
    places = predictor._internal_get_sliding_window_slicers(padded.shape[1:])
    axes = range(2, 2 + dim) if predictor.use_mirroring else ()
    mirrors = [c for n in range(len(axes) + 1) for c in combinations(axes, n)]
    weight = torch.zeros(padded.shape[1:], dtype=torch.float64)
    for place in places:
        weight[place[1:]] += gaussian
    # each map is kept: member -> [(place, probabilities)]
    members = [[] for network in networks for _ in range(network.number)]
    for f, network in enumerate(networks):
        for place in places:
            for mirror in mirrors:
                found = list(network.samples(torch.flip(padded[place][None], mirror)))
                for n, p in enumerate(found):
                    members[f * network.number + n].append((place, torch.flip(p, mirror)[0].double()))
    heads, regions = members[0][0][1].shape[0], networks[0].regions

    def mean(of):
        total = torch.zeros((*of(members[0][0][1]).shape[: -dim or None], *padded.shape[1:]), dtype=torch.float64)
        for maps in members:
            for place, p in maps:
                where = place if total.ndim == 4 else place[1:]
                total[where] += of(p) * gaussian / weight[place[1:]] / len(mirrors) / len(members)
        return total[(..., *inside)]

    def entropy(p):
        found = -(p * p.log())
        return (found - (1 - p) * (1 - p).log()).sum(0) if regions else found.sum(0)

    p = mean(lambda p: p)
    voxels = np.zeros((len(members), heads if regions else heads - 1))
    valid = torch.zeros_like(weight)
    valid[inside] = 1
    for m, maps in enumerate(members):
        for place, q in maps:
            share = gaussian * valid[place[1:]] / weight[place[1:]] / len(mirrors)
            for label in range(voxels.shape[1]):
                mask = q[label] > 0.5 if regions else q.argmax(0) == label + 1
                voxels[m, label] += float((share * mask).sum())
    maps = {
        "entropy": entropy(p),
        "mutual_information": entropy(p) - mean(entropy),
        "standard_deviation": (mean(lambda p: p**2) - p**2).clamp(min=0).sqrt()[0 if regions else 1 :].amax(0),
    }
    return p.numpy(), {name: m.numpy() for name, m in maps.items()}, voxels


SHAPES = {2: [(3, 17, 13), (2, 5, 12)], 3: [(9, 8, 14), (4, 11, 8)]}
CASES = [(dim, shape) for dim, shapes in SHAPES.items() for shape in shapes]


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("dim", "shape"), CASES)
def test_equals_the_arithmetic_mean_and_brute_force(dim, shape, regions):
    networks = [Toy(dim, regions, seed=seed) for seed in (0, 1)]
    data = np.random.default_rng(0).normal(0, 1, (1, *shape)).astype(np.float32)
    predictor = predictor_of(dim, regions, Toy(dim, regions, seed=0), networks[1])
    p, maps, voxels = brute_force(predictor, data, networks)
    found = sampling.answer(predictor, data, spread=True)
    got = torch.from_numpy(found.logits)
    assert found.logits.dtype == np.float32
    probabilities = torch.sigmoid(got) if regions else torch.softmax(got, 0)
    np.testing.assert_allclose(probabilities.numpy(), p, atol=1e-6)
    np.testing.assert_array_equal(sampling.answer(predictor, data).logits, found.logits)
    np.testing.assert_array_equal(logits_of(predictor, data), found.logits)
    for name, expected in maps.items():
        assert found.spread.maps[name].dtype == np.float32
        np.testing.assert_allclose(
            found.spread.maps[name], expected, atol=1e-3 if name[0] == "s" else 2e-6, err_msg=name
        )
        np.testing.assert_allclose(found.spread.maps[name] ** 2, expected**2, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.spread.voxels, voxels, rtol=1e-4, atol=1e-2)
    stock = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).float()
    geometric = torch.sigmoid(stock) if regions else torch.softmax(stock, 0)
    assert np.abs(geometric.numpy() - p).max() > 1e-4  # so that the test can tell the two apart


def test_certain_voxels_have_no_deviation():
    """Squares in single precision would leave 3e-4."""
    network = Toy(2, False)
    with torch.no_grad():
        network.layer.weight.zero_()
        network.layer.bias.copy_(torch.tensor([60.0, 0.0, 0.0]))
    found = sampling.answer(predictor_of(2, False, network), np.zeros((1, 2, 17, 13), np.float32), spread=True)
    assert found.spread.maps["standard_deviation"].max() < 1e-6
    assert found.spread.voxels.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("regions", [False, True])
def test_ordinary_networks_keep_nnunets_logits(regions, monkeypatch):
    networks = [Ordinary(3, regions, 1, seed) for seed in (0, 1)]
    data = np.random.default_rng(0).normal(0, 1, (1, 9, 8, 14)).astype(np.float32)
    predictor = predictor_of(3, regions, *networks)
    monkeypatch.setattr(sampling, "ProbabilisticNetwork", type("None", (), {}))
    expected = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).numpy()
    found = sampling.answer(predictor, data, spread=True)
    assert found.logits.dtype == np.float16
    np.testing.assert_array_equal(found.logits, expected)
    assert found.spread.voxels.shape == (2, 2)
    assert found.spread.maps["standard_deviation"].max() > 0.01


@pytest.mark.heavy
def test_a_compiled_network_is_known():
    predictor = predictor_of(2, False, Toy(2, False))
    data = np.random.default_rng(0).normal(0, 1, (1, 1, 8, 10)).astype(np.float32)
    expected = sampling.answer(predictor, data)
    predictor.network = torch.compile(predictor.network)
    assert sampling.samples_of(predictor) is predictor.network._orig_mod
    np.testing.assert_array_equal(sampling.answer(predictor, data).logits, expected.logits)


def test_never_many_maps_in_memory():
    network = Toy(2, False, number=40)
    sampling.answer(predictor_of(2, False, network), np.zeros((1, 3, 17, 13), np.float32), spread=True)
    assert 1 <= network.most <= 2


def test_sums_move_to_the_cpu_where_the_gpu_is_full(monkeypatch):
    predictor = predictor_of(2, False, Toy(2, False))
    data = np.random.default_rng(0).normal(0, 1, (1, 2, 17, 13)).astype(np.float32)
    expected = sampling.answer(predictor, data, spread=True)
    predictor.perform_everything_on_device = True
    really, calls = sampling._Windows._window, []

    def full_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise torch.cuda.OutOfMemoryError("full")
        return really(self, *arguments)

    monkeypatch.setattr(sampling._Windows, "_window", full_once)
    found = sampling.answer(predictor, data, spread=True)
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.spread.voxels, expected.spread.voxels)


def test_numbers_that_are_not_finite_are_refused():
    network = Toy(2, False)
    with torch.no_grad():
        network.layer.bias.fill_(torch.nan)
    with pytest.raises(PredictionError, match="not finite"):
        sampling.answer(predictor_of(2, False, network), np.zeros((1, 1, 8, 10), np.float32))


def test_a_network_without_samples_is_named(monkeypatch):
    monkeypatch.setattr(Toy, "samples", lambda *_: iter(()))
    network = Toy(2, False)
    with pytest.raises(BrokenPluginError, match="Toy answers with no sample, but 3 are expected"):
        sampling.answer(predictor_of(2, False, network), np.zeros((1, 1, 8, 10), np.float32))
    with pytest.raises(BrokenPluginError, match="Toy answers with no sample"):
        network.answer(torch.zeros(1, 1, 8, 8))


def test_the_number_of_samples():
    predictor = predictor_of(2, False, Toy(2, False))
    sampling.set_samples(predictor, 1)
    assert predictor.network.number == 1
    with pytest.raises(SettingError, match="nothing spreads"):
        sampling.check_spread(predictor)
    sampling.set_samples(predictor, 5)
    sampling.check_spread(predictor)
    with pytest.raises(SettingError, match="--samples got 0"):
        sampling.set_samples(predictor, 0)
    predictor.network = nn.Identity()
    with pytest.raises(SettingError, match="Toy trains one that gives a single answer"):
        sampling.set_samples(predictor, 5)
    with pytest.raises(SettingError, match="nothing spreads"):
        sampling.check_spread(predictor)
