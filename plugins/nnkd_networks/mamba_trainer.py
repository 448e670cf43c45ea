"""nnUNetTrainerMambaUNet: a U-Net of visual state-space blocks as a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import nn

from nnkd.training.options import AtLeastOne, Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd_networks.mamba_unet import MambaUNet
from nnkd_networks.state_space import Scan

NEVER_DECAY = ("decay_log", "skip")  # parameters that would lose what they mean at zero


@dataclass(kw_only=True)
class MambaUNetOptions(TrainingOptions):
    """Attributes:
    lr: AdamW's learning rate (paper 3's).
    weight_decay: AdamW's (paper 3's).
    embed: Features of the finest level, a multiple of 4; each level below has twice as many.
    depths: Blocks of each level, finest first; their number says how many levels there are.
    state: States per channel.
    drop_path: Chance that the encoder's last block is left out in training; it grows from 0 at the first one.
    checkpointing: Compute blocks again in the backward pass: less memory, more time.
    scan: "auto" takes mamba-ssm's kernel on CUDA where it is installed; "torch" never does.
    """

    lr: Positive = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-7
    embed: Annotated[int, Field(ge=4, multiple_of=4)] = 96
    depths: Annotated[tuple[AtLeastOne, ...], Field(min_length=2, max_length=6)] = (2, 2, 2, 2)
    state: Annotated[int, Field(ge=1, le=256)] = 16
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpointing: bool = False
    scan: Scan = "auto"


class nnUNetTrainerMambaUNet(nnUNetTrainerKD):
    """Mamba-UNet with AdamW; one output, so no deep supervision.

    Source: Wang et al., Mamba-UNet, 2024; learning rate and weight decay of Yang et al., ASAP.
    Departs: paper 3's "MambaUNet" takes volumes, and the one published under that name slices; this one takes both. Its
        optimiser is not said, nor any decay of the rate: AdamW with nnU-Net's polynomial decay. No block is left out by
        default.
    """

    options_class = MambaUNetOptions
    of_the_network = ("embed", "depths", "state", "drop_path", "checkpointing", "scan")
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
        """Mamba-UNet for a configuration; `enable_deep_supervision` has no effect on a network of one output."""
        return MambaUNet(
            num_input_channels,
            num_output_channels,
            dim=len(configuration_manager.patch_size),
            one_logit=cls.one_logit(plans_manager.plans, num_output_channels),
            **cls.network_options(plans_manager.plans),
        )

    def configure_optimizers(self) -> tuple[Any, Any]:
        """AdamW with nnU-Net's polynomial decay; weights decay, the scans' own decays and skips do not."""
        groups: tuple[list, list] = ([], [])
        for name, parameter in self.network.named_parameters():
            groups[name.rpartition(".")[2] in NEVER_DECAY].append(parameter)
        settings = [
            {"params": groups[0], "weight_decay": self.weight_decay},
            {"params": groups[1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(settings, self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
