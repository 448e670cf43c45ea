"""Tests of nnkd.training.recipe_trainer: a student of labelsTr that is not nnUNetTrainerKD."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from planned import configuration, make_plans, preprocess, preprocessed_folder
from torch import nn
from toy import toy_dataset

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Recipe, write_recipe
from nnkd.training.options import TrainingOptions
from nnkd.training.recipe_trainer import RecipeTrainer


@dataclass(kw_only=True)
class Options(TrainingOptions):
    """One more."""

    width: int = 2


class Flat(nn.Module):
    """Has no decoder, which nnU-Net would switch deep supervision of."""

    def __init__(self, channels: int, outputs: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class FlatTrainer(RecipeTrainer):
    """Without votes."""

    options_class = Options
    of_the_network = ("width",)
    supervises_deeply = False

    @classmethod
    def build_network_architecture(
        cls, plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return Flat(num_input_channels, num_output_channels, **cls.network_options(plans_manager.plans))


@pytest.fixture
def trainer(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    folder = preprocessed_folder(dataset)
    splits = [{"train": ["toy_000", "toy_001"], "val": ["toy_003"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    options = {"epochs": 1, "iterations": 2, "val_iterations": 1, "width": 3}
    name = write_recipe(folder, Recipe("nnUNetPlans", options=options, has_regions=False))
    plans = {**read_plans(folder, name), "continue_training": False}
    return FlatTrainer(plans, "2d", 0, dict(dataset.spec.json), torch.device("cpu"))


@pytest.mark.heavy
def test_it_trains_on_label_maps(trainer):
    trainer.run_training()
    assert trainer.network.layers[0].out_channels == 3
    assert np.isfinite(trainer.logger.get_value("train_losses", None)).all()
    assert len(trainer.logger.get_value("val_losses", None)) == 1
    trainer.perform_actual_validation()


def test_options_of_the_network_come_from_the_recipe(trainer):
    plans = trainer.plans_manager.plans
    assert FlatTrainer.network_options(plans) == {"width": 3}
    assert FlatTrainer.network_options({**plans, "nnkd": Recipe("nnUNetPlans").content()}) == {"width": 2}
    assert FlatTrainer.one_logit(plans, 2)
    assert not FlatTrainer.one_logit(plans, 3)
    assert not FlatTrainer.one_logit({**plans, "nnkd": Recipe("nnUNetPlans").content()}, 2)  # of regions
