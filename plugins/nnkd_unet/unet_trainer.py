"""nnUNetTrainerUNet: paper 1's UNet as a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import nn

from nnkd.plugin.networks import Paper, PaperGraph
from nnkd.training.options import AtLeastOne, Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd_unet.unet import Norm, UNet


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
    of_the_network = ("norm", "widths")
    supervises_deeply = False
    paper_graphs = (
        PaperGraph(
            "paper",
            {"norm": "none"},
            Paper("paper 1, Table 4,", "2.26 M", "55.65 G", at="512x512, one channel, one label"),
        ),
    )

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The UNet for a configuration; `enable_deep_supervision` has no effect on a network of one output."""
        return UNet(
            num_input_channels,
            num_output_channels,
            dim=len(configuration_manager.patch_size),
            one_logit=cls.one_logit(plans_manager.plans, num_output_channels),
            **cls.network_options(plans_manager.plans),
        )

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Adam with nnU-Net's polynomial decay."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
