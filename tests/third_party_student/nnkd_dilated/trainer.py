"""nnUNetTrainerDilated: dilated convolutions that learn the teachers' votes by their Brier score."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from nnkd.errors import RecipeError
from nnkd.training.options import Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD


@dataclass(kw_only=True)
class DilatedOptions(TrainingOptions):
    """What --set can change beside nnkd's own: `--set width=32`.

    Attributes:
        lr: Adam's learning rate.
        width: Features of each layer.
    """

    lr: Positive = 1e-3
    width: Annotated[int, Field(ge=1)] = 16


class Dilated(nn.Module):
    """Convolutions with holes of 1, 2, 4 and 8 voxels; (B, channels, *S) -> logits (B, outputs, *S)."""

    def __init__(self, channels: int, outputs: int, dim: int, width: int):
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv3d, nn.BatchNorm3d)
        layers = []
        for before, holes in ((channels, 1), (width, 2), (width, 4), (width, 8)):
            layers += [convolution(before, width, 3, padding=holes, dilation=holes), norm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, convolution(width, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All at full resolution."""
        return self.layers(x)


class BrierLoss(nn.Module):
    """Mean squared error of probabilities, over what has a vote.

    Args:
        regions: Whether outputs are independent of each other; else they are a softmax with background first.
    """

    def __init__(self, regions: bool):
        super().__init__()
        self.regions = regions

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits (B, L + 1, *S), or (B, L, *S) of regions; target (B, L, *S), -1 where nobody voted."""
        logits = logits.float()  # in half precision on a GPU
        probabilities = logits.sigmoid() if self.regions else logits.softmax(1)[:, 1:]
        voted = (target >= 0).float()
        return ((probabilities - target) ** 2 * voted).sum() / voted.sum().clamp(min=1)


class nnUNetTrainerDilated(nnUNetTrainerKD):
    """Dilated convolutions with Adam; one output, so no deep supervision."""

    options_class = DilatedOptions
    of_the_network = ("width",)  # options that say how the network is built
    supervises_deeply = False
    usual_aggregator = "mean"  # where -a is not given

    @classmethod
    def check_options(cls, options, patch_size):
        """Refused before anything is written."""
        if min(patch_size[-2:]) < 16:
            raise RecipeError(
                f"{cls.__name__} looks 16 voxels far, but patches have {list(patch_size)}. Set a larger patch_size."
            )

    @classmethod
    def build_network_architecture(
        cls, plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        """Used in training and in prediction; all that it may depend on stands in the plans."""
        return Dilated(
            num_input_channels,
            num_output_channels,
            dim=len(configuration_manager.patch_size),
            **cls.network_options(plans_manager.plans),
        )

    def distillation_loss(self):
        """Against votes; without teachers, nnU-Net's loss on labelsTr is used."""
        return BrierLoss(self.label_manager.has_regions)

    def configure_optimizers(self):
        """Adam at a constant learning rate."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
