"""nnUNetTrainerHSNet: paper 1's second student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from nnkd.errors import RecipeError
from nnkd.plugin.networks import Paper, PaperGraph
from nnkd.training.options import Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd_hsnet import weights
from nnkd_hsnet.network import HSNet

OUTPUTS = 4


@dataclass(kw_only=True)
class HSNetOptions(TrainingOptions):
    """Attributes:
    lr: AdamW's learning rate (HSNet's).
    weight_decay: AdamW's (HSNet's).
    pretrained: File with ImageNet weights of PVTv2-b2, the authors' or timm's; from the current folder or from
        nnUNet_preprocessed on, because recipes hold no absolute paths. Only the start of a training needs it.
    pretrained_sha256: What that file's sha256 must be.
    paper_exact: Keep the attention block that the published model has but never calls: 29,849,657 parameters.
    enlarge: How many times larger slices are made inside: the finest output has a fourth of the size inside.
    drop_path: Chance that a residual branch of the transformer's last block is left out in training.
    """

    lr: Positive = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    pretrained: Annotated[str | None, AfterValidator(weights.portable)] = None
    pretrained_sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    paper_exact: bool = False
    enlarge: Literal[1, 2, 4] = 1
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SumOverOutputs(nn.Module):
    """A loss summed over a network's outputs, all compared with the same target.

    Source: Li et al., MICCAI 2025, Eq. 1.

    Args:
        loss: Of one output.
    """

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Sum over the outputs. Their mean, which is one tensor, counts as often as there are outputs: so losses in
        training and in validation can be compared."""
        if isinstance(outputs, Tensor):
            return OUTPUTS * self.loss(outputs, target)
        return torch.stack([self.loss(output, target) for output in outputs]).sum()


def _refuse_volumes(patch_size: Sequence[int]) -> None:
    if len(patch_size) != 2:
        raise RecipeError(
            "nnUNetTrainerHSNet is a network for slices, but this configuration has patches of three axes. Train it "
            "with the configuration 2d, or choose another student for 3D, such as nnUNetTrainerUNet."
        )


class nnUNetTrainerHSNet(nnUNetTrainerKD):
    """HSNet with AdamW: four outputs, whose losses are summed, and whose mean predicts.

    Source: Li et al., MICCAI 2025, section 2.1; Zhang et al., Computers in Biology and Medicine 2022.
    Departs: no never-called block by default (`paper_exact` is the published model); no ImageNet weights unless given;
        learning rate and weight decay are HSNet's, their polynomial decay nnU-Net's, because paper 1 names none; size,
        intensities and augmentation are nnU-Net's, where HSNet had 352 pixels, ImageNet's mean and three sizes a step.
    """

    options_class = HSNetOptions
    of_the_network = ("paper_exact", "enlarge", "drop_path")
    paper_graphs = (
        PaperGraph(
            "paper",
            {"paper_exact": True},
            Paper(
                "paper 1, Table 4,",
                "29.85 M",
                "23.15 G",
                at="512x512, one channel, one label",
                counted_parameters="all",
                remark="29.26 M of them are ever used",
            ),
        ),
    )
    supervises_deeply = False  # nnU-Net's word for smaller targets; here all outputs have the target's size

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        _refuse_volumes(PlansManager(plans).get_configuration(configuration).patch_size)  # before any folder is made
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.continues = False

    @classmethod
    def check_options(cls, options: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        """See Student.

        Raises:
            RecipeError: If the configuration is 3D.
            WeightsError: If the file of ImageNet weights is missing, or not the expected one.
        """
        _refuse_volumes(patch_size)
        if options.get("pretrained") is not None:
            weights.checked(weights.find(options["pretrained"]), options.get("pretrained_sha256"))

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """HSNet for a 2D configuration; `enable_deep_supervision` has no effect: it gives four outputs in training mode
        and their mean in evaluation mode.

        Raises:
            RecipeError: If the configuration is 3D.
            BrokenPluginError: If timm is not installed.
        """
        _refuse_volumes(configuration_manager.patch_size)
        return HSNet(
            num_input_channels,
            num_output_channels,
            one_logit=cls.one_logit(plans_manager.plans, num_output_channels),
            **cls.network_options(plans_manager.plans),
        )

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """nnkd's; a checkpoint has all weights, so the file of ImageNet's is not needed any more."""
        self.continues = True
        super().load_checkpoint(filename_or_checkpoint)

    def initialize(self) -> None:
        """nnU-Net's; then ImageNet weights, if a new training is to start from them."""
        super().initialize()
        if self.options.pretrained is not None and not self.continues:
            self._start_from_imagenet(self.options.pretrained)

    def _start_from_imagenet(self, name: str) -> None:
        file = weights.find(name)
        digest = weights.checked(file, self.options.pretrained_sha256)
        network = self.network.module if self.is_ddp else self.network
        weights.load(getattr(network, "_orig_mod", network).encoder.backbone, file)
        what = weights.KNOWN.get(digest, "not a file that nnkd knows")
        self.print_to_log_file(f"The transformer starts from {file.name}, sha256 {digest} ({what}).")

    def _build_loss(self) -> nn.Module:
        return SumOverOutputs(super()._build_loss())

    def auxiliary_loss(self, label_manager: LabelManager) -> nn.Module:
        """nnU-Net's, summed over the outputs."""
        return SumOverOutputs(super().auxiliary_loss(label_manager))

    def configure_optimizers(self) -> tuple[Any, Any]:
        """AdamW with nnU-Net's polynomial decay."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
