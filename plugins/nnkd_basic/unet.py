"""Paper 1's UNet as a student.

Three 3x3 convolutions with ReLU a block, widths 32, 64, 128, 192, average pooling down, bilinear up, one 1x1 layer to
the logits: exactly 2,260,161 parameters with one input, one logit and no normalisation.

Source: Li et al., MICCAI 2025, Table 4; layers as in stefanknegt/Probabilistic-Unet-Pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.nn import functional

from nnkd.recipes import Recipe
from nnkd.settings import parse_options
from nnkd.trainer import nnUNetTrainerKD
from nnkd.training_options import Positive, TrainingOptions

WIDTHS = (32, 64, 128, 192)
Norm = Literal["none", "batch", "instance"]
FOREGROUND_BIAS = -3.0  # without normalisation a U-Net that starts at p = 1/2 everywhere stays at DSC 0


class _Block(nn.Sequential):
    def __init__(self, inputs: int, width: int, dim: int, norm: Norm):
        layers: list[nn.Module] = []
        for i in range(3):
            conv = (nn.Conv2d, nn.Conv3d)[dim - 2](inputs if i == 0 else width, width, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            layers += [conv, *_norm(norm, width, dim), nn.ReLU(inplace=True)]
        super().__init__(*layers)


def _norm(norm: Norm, width: int, dim: int) -> list[nn.Module]:
    if norm == "batch":
        return [(nn.BatchNorm2d, nn.BatchNorm3d)[dim - 2](width)]
    if norm == "instance":
        return [(nn.InstanceNorm2d, nn.InstanceNorm3d)[dim - 2](width, affine=True)]
    return []


class _Encoder(nn.Module):
    def __init__(self, inputs: int, widths: Sequence[int], dim: int, norm: Norm):
        super().__init__()
        sizes = (inputs, *widths)
        self.blocks = nn.ModuleList(_Block(sizes[i], sizes[i + 1], dim, norm) for i in range(len(widths)))
        self.pool = (nn.AvgPool2d, nn.AvgPool3d)[dim - 2](2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        skips = []
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.pool(x))
            skips.append(x)
        return skips


class _Decoder(nn.Module):
    """nnU-Net's names: `seg_layers` (skipped by -pretrained_weights) and `deep_supervision` (always off here)."""

    def __init__(self, logits: int, widths: Sequence[int], dim: int, norm: Norm):
        super().__init__()
        self.deep_supervision = False
        self.mode = "bilinear" if dim == 2 else "trilinear"
        pairs = list(pairwise(widths))[::-1]
        self.blocks = nn.ModuleList(_Block(low + high, low, dim, norm) for low, high in pairs)
        last = (nn.Conv2d, nn.Conv3d)[dim - 2](widths[0], logits, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.seg_layers = nn.ModuleList([last])

    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        x = skips[-1]
        for skip, block in zip(reversed(skips[:-1]), self.blocks, strict=True):
            x = functional.interpolate(x, scale_factor=2, mode=self.mode, align_corners=True)
            x = block(torch.cat((x, skip), 1))
        return self.seg_layers[0](x)


class UNet(nn.Module):
    """Paper 1's UNet, for 2D or 3D images of any size (padded inside to a multiple of 8, at
    least 16, cropped after).

    Args:
        inputs: Image channels.
        outputs: nnU-Net's number of heads.
        dim: 2 or 3.
        norm: Normalisation between convolution and ReLU; "none" is the paper's.
        one_logit: Give (0, x) for two softmax heads, whose softmax is sigmoid(x): the paper's single logit.
        widths: Channels per level.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dim: int = 2,
        norm: Norm = "none",
        one_logit: bool = False,
        widths: Sequence[int] = WIDTHS,
    ):
        super().__init__()
        self.one_logit = one_logit
        self.multiple = 2 ** (len(widths) - 1)
        self.encoder = _Encoder(inputs, widths, dim, norm)
        self.decoder = _Decoder(1 if one_logit else outputs, widths, dim, norm)
        self._start_with_little_foreground()

    def _start_with_little_foreground(self) -> None:
        bias = self.decoder.seg_layers[0].bias
        with torch.no_grad():
            # softmax networks: head 0 is the background. With regions, or one logit, all heads are foreground; a
            # lower start does not hurt head 0 then either, because its bias is learned first.
            bias[0 if len(bias) == 1 else 1 :] = FOREGROUND_BIAS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, *S) -> (B, outputs, *S) logits."""
        size = x.shape[2:]
        # at least two voxels at the coarsest level: instance normalisation has no variance over one
        missing = [max(2 * self.multiple - n, -n % self.multiple) for n in size]
        padding = [amount for m in reversed(missing) for amount in (m // 2, m - m // 2)]
        logits = self.decoder(self.encoder(functional.pad(x, padding)))
        window = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
        logits = logits[(..., *window)]
        return torch.cat((torch.zeros_like(logits), logits), 1) if self.one_logit else logits


@dataclass(kw_only=True)
class UNetOptions(TrainingOptions):
    """Attributes:
    lr: Adam's learning rate (the Probabilistic U-Net's; paper 1 gives none).
    weight_decay: Adam's.
    norm: Normalisation layer; "none" is the paper's.
    """

    lr: Positive = 1e-4
    weight_decay: float = 0.0
    norm: Norm = "batch"


class nnUNetTrainerUNet(nnUNetTrainerKD):
    """Paper 1's UNet with Adam; one output, so no deep supervision.

    Departs: batch normalisation by default; `--set norm=none` is the paper's.
    """

    options_class = UNetOptions
    supervises_deeply = False

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
        known = {key: value for key, value in recipe.options.items() if key == "norm"}
        options = parse_options(UNetOptions, known, "nnUNetTrainerUNet")
        return UNet(
            num_input_channels,
            num_output_channels,
            dim=len(configuration_manager.patch_size),
            norm=options["norm"],
            one_logit=num_output_channels == 2 and not recipe.has_regions,
        )

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Adam with nnU-Net's polynomial decay."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
