"""Tests of nnkd.networks.students."""

from __future__ import annotations

import pytest
from extras import needs
from nnkd_unet.unet_trainer import nnUNetTrainerUNet

from nnkd.errors import BrokenPluginError, SettingError
from nnkd.networks.costs import count
from nnkd.networks.papers import paper_count
from nnkd.networks.students import architectures, build_network, made_up_plans
from nnkd.training.trainer import nnUNetTrainerKD

needs_thop = needs("profile")


def rows(trainer, **more):
    return {row.variant: row for row in architectures(trainer, trainer.__name__, **{"size": (512, 512), **more})}


def test_the_papers_unet():
    found = rows(nnUNetTrainerUNet)
    assert list(found) == ["default", "paper"]
    paper = count(found["paper"])
    assert (paper.parameters, paper.macs) == (2_260_161, 55_650_025_472)
    assert count(found["default"]).parameters == 2_264_001  # with batch norm


@needs_thop
def test_the_papers_unet_as_the_paper_counted():
    found = paper_count(rows(nnUNetTrainerUNet)["paper"])
    assert (found.parameters, found.macs) == (2_260_161, 55_653_695_488)


def test_options_are_those_of_a_training():
    found = rows(nnUNetTrainerUNet, options={"norm": "none"})
    assert list(found) == ["as set", "paper"]
    assert count(found["as set"]).parameters == 2_260_161
    with pytest.raises(SettingError, match="has no option 'nrm'"):
        rows(nnUNetTrainerUNet, options={"nrm": "none"})
    with pytest.raises(SettingError, match="norm"):
        rows(nnUNetTrainerUNet, options={"norm": "layer"})


def test_another_packages_trainer_has_no_options():
    class Theirs:
        @staticmethod
        def build_network_architecture(*_, **__): ...

    assert list(rows(Theirs)) == ["default"]
    with pytest.raises(SettingError, match="has no options"):
        rows(Theirs, options={"norm": "none"})


def test_channels_and_labels():
    few, many = (count(rows(nnUNetTrainerUNet, channels=c, labels=n)["paper"]) for c, n in ((1, 1), (3, 5)))
    assert many.parameters - few.parameters == 2 * 9 * 32 + 5 * 33  # two more channels; six logits instead of one


@pytest.mark.parametrize(
    ("size", "seen"),
    [((512, 512), (512, 512)), ((64, 128, 128), (64, 128, 128)), ((9, 8), (10, 8)), ((500, 501), (512, 512))],
)
def test_nnunets_network_sees_images_padded_as_planned(size, seen):
    row = rows(nnUNetTrainerKD, size=size)["default"]
    assert row.inputs == ((1, 1, *seen),)
    assert count(row).macs > 0
    assert rows(nnUNetTrainerUNet, size=size)["default"].inputs == ((1, 1, *size),)


def test_too_small_for_nnunets_network():
    with pytest.raises(BrokenPluginError, match="not be run on 1x1x5x5"):
        count(rows(nnUNetTrainerKD, size=(5, 5))["default"])
    assert count(rows(nnUNetTrainerUNet, size=(5, 5))["default"]).macs > 0


def test_the_plan_is_nnunets():
    """512 x 512 and 64 x 128 x 128 as nnU-Net's planner writes them."""
    plane = made_up_plans((512, 512), 1, {})["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert plane["features_per_stage"] == [32, 64, 128, 256, 512, 512, 512, 512]
    assert plane["strides"] == [[1, 1]] + [[2, 2]] * 7
    cube = made_up_plans((64, 128, 128), 1, {})["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert cube["features_per_stage"] == [32, 64, 128, 256, 320, 320]
    assert cube["strides"] == [[1, 1, 1]] + [[2, 2, 2]] * 4 + [[1, 2, 2]]


def test_a_network_with_weights():
    network = build_network(nnUNetTrainerUNet, (32, 32), 1, 1, {"norm": "none"})
    assert {p.device.type for p in network.parameters()} == {"cpu"}
