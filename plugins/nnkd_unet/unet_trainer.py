"""nnUNetTrainerUNet: paper 1's UNet as a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import nn

from nnkd.data.recipes import Recipe
from nnkd.plugin.networks import Paper, PaperGraph
from nnkd.plugin.options import parse_options
from nnkd.training.options import AtLeastOne, Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd_unet.unet import Norm, UNet

OF_THE_NETWORK = ("norm", "widths")  # options that say how it is built


@dataclass(kw_only=True)
class UNetOptions(TrainingOptions):
    """Attributes:
    lr: Adam's learning rate (the Probabilistic U-Net's; paper 1 gives none).
    weight_decay: Adam's.
    norm: Normalisation layer; "none" is the paper's.
    widths: Features of each level, finest first; their number says how many levels there are.
    """

    lr: Positive = 1e-4
    weight_decay: float = 0.0
    norm: Norm = "batch"
    widths: Annotated[tuple[AtLeastOne, ...], Field(min_length=2, max_length=8)] = (32, 64, 128, 192)


class nnUNetTrainerUNet(nnUNetTrainerKD):
    """Paper 1's UNet with Adam; one output, so no deep supervision.

    Departs: batch normalisation by default; `--set norm=none` is the paper's.
    """

    options_class = UNetOptions
    supervises_deeply = False
    paper_graphs = (
        PaperGraph(
            "paper",
            {"norm": "none"},
            Paper("paper 1, Table 4,", "2.26 M", "55.65 G", at="512x512, one channel, one label"),
        ),
    )

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The UNet for a configuration; `enable_deep_supervision` has no effect on a network of one output."""
        recipe = Recipe.of_plans(plans_manager.plans)
        known = {key: value for key, value in recipe.options.items() if key in OF_THE_NETWORK}
        options = parse_options(UNetOptions, known, "nnUNetTrainerUNet")
        return UNet(
            num_input_channels,
            num_output_channels,
            dim=len(configuration_manager.patch_size),
            norm=options["norm"],
            widths=options["widths"],
            one_logit=num_output_channels == 2 and not recipe.has_regions,
        )

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Adam with nnU-Net's polynomial decay."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
