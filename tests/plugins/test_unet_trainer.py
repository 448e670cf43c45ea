"""Tests of nnkd_unet.unet_trainer."""

from __future__ import annotations

import torch
from nnkd_unet.unet_trainer import nnUNetTrainerUNet
from planned import configuration, make_plans, preprocess
from toy import toy_dataset, toy_teacher

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Recipe, write_recipe


def test_its_trainer_learns_without_deep_supervision(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    toy_teacher(dataset, "t0")
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    folder = nnunet_folders / "nnUNet_preprocessed" / dataset.name
    recipe = Recipe("nnUNetPlans", ("t0",), options={"norm": "instance", "widths": [4, 6, 8]}, has_regions=False)
    plans = {**read_plans(folder, write_recipe(folder, recipe)), "continue_training": False}
    trainer = nnUNetTrainerUNet(plans, "2d", "all", dict(dataset.spec.json), torch.device("cpu"))
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    batch = next(train)
    assert batch["target"].shape == (2, 2, 16, 16)
    assert trainer.train_step(batch)["loss"] > 0
    assert [block[0].out_channels for block in trainer.network.encoder.blocks] == [4, 6, 8]
    assert any(isinstance(m, torch.nn.InstanceNorm2d) for m in trainer.network.modules())
