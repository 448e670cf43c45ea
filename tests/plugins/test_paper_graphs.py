"""Students' networks and graphs as paper 1's Table 4 counts them, in exact numbers."""

from __future__ import annotations

import pytest
import torch
from extras import needs
from nnkd_hsnet.trainer import nnUNetTrainerHSNet
from nnkd_unet.paper_graphs import ten_samples, training_graph
from nnkd_unet.punet_network import PUNet
from nnkd_unet.punet_trainer import nnUNetTrainerPUNet

from nnkd.networks.costs import count
from nnkd.networks.papers import paper_count
from nnkd.networks.students import architectures

needs_thop = needs("profile")
needs_timm = needs("hsnet")
EXPECTED = [
    (nnUNetTrainerPUNet, "paper, training", 4_998_393, 96_949_768_704),
    (nnUNetTrainerPUNet, "paper, 10 samples", 4_998_393, 82_215_700_736),
    pytest.param(nnUNetTrainerHSNet, "paper", 29_849_657, 23_152_363_520, marks=needs_timm),
]


def rows(trainer) -> dict:
    return {row.variant: row for row in architectures(trainer, trainer.__name__, (512, 512))}


@pytest.mark.heavy
@needs_thop
@pytest.mark.parametrize(("trainer", "variant", "parameters", "macs"), EXPECTED)
def test_as_the_paper_counted(trainer, variant, parameters, macs):
    row = rows(trainer)[variant]
    found = paper_count(row)
    assert (found.parameters, found.macs) == (parameters, macs)
    if row.paper.macs:
        assert f"{macs / 1e9:.2f} G" == row.paper.macs
    assert f"{parameters / 1e6:.2f} M" == row.paper.parameters


@pytest.mark.heavy
def test_ten_samples_are_cheaper_than_written_down():
    found = {variant: count(row) for variant, row in rows(nnUNetTrainerPUNet).items()}
    assert found["paper, training"].parameters == 4_998_393
    assert found["default"].macs == 79_289_127_040 < found["paper, 10 samples"].macs == 82_208_360_704


@pytest.mark.heavy
@needs_timm
def test_hsnets_attention_is_counted_by_torchs_counter():
    found = rows(nnUNetTrainerHSNet)
    assert count(found["default"]).parameters == 29_257_010
    assert count(found["paper"]).macs > 29e9


@pytest.mark.parametrize("dim", [2, 3])
def test_graphs_run_with_several_labels_and_channels(dim):
    network = PUNet(3, 4, dim=dim, widths=(2, 3)).eval()
    image = torch.rand(1, 3, *[16] * dim)
    assert training_graph(network, image).shape[2:] == image.shape[2:]
    assert ten_samples(network, image).shape == (1, 4, *image.shape[2:])
