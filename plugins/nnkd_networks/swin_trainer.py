"""nnUNetTrainerSwinUNETR: MONAI's Swin UNETR as a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import Tensor, nn

from nnkd.training.options import Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd_networks import swin_weights
from nnkd_networks.swin_unetr import SwinUNETR


@dataclass(kw_only=True)
class SwinUNETROptions(TrainingOptions):
    """Attributes:
    lr: AdamW's learning rate (paper 3's).
    weight_decay: AdamW's (paper 3's).
    feature_size: Features of the finest scale; MONAI's published weights have 48.
    drop_path: Chance that a residual branch of the transformer's last block is left out in training.
    checkpointing: Compute the transformer's blocks again in the backward pass: less memory, more time.
    """

    lr: Positive = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-7
    feature_size: Annotated[int, Field(ge=12, multiple_of=12)] = 24
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpointing: bool = False


class nnUNetTrainerSwinUNETR(nnUNetTrainerKD):
    """Swin UNETR with AdamW; one output, so no deep supervision.

    Source: Hatamizadeh et al., BrainLes 2021; learning rate and weight decay of Yang et al., ASAP.
    Departs: paper 3 says "SwinUNet from MONAI", which has none but this; its optimiser is not said, nor any decay of
        the rate: AdamW with nnU-Net's polynomial decay.
    """

    options_class = SwinUNETROptions
    of_the_network = ("feature_size", "drop_path", "checkpointing")
    takes_foreign_weights = True
    supervises_deeply = False

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Swin UNETR for a configuration; `enable_deep_supervision` has no effect on a network of one output.

        Raises:
            BrokenPluginError: If monai is not installed.
        """
        return SwinUNETR(
            num_input_channels,
            num_output_channels,
            dim=len(configuration_manager.patch_size),
            one_logit=cls.one_logit(plans_manager.plans, num_output_channels),
            **cls.network_options(plans_manager.plans),
        )

    @staticmethod
    def foreign_weights(file: Path, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What -pretrained_weights takes of a file that nnU-Net did not write; see `swin_weights.read`."""
        return swin_weights.read(file, network)

    def configure_optimizers(self) -> tuple[Any, Any]:
        """AdamW with nnU-Net's polynomial decay."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
