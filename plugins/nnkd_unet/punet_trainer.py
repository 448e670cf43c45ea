"""nnUNetTrainerPUNet: the Probabilistic U-Net as a student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.collate_outputs import collate_outputs
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import distributed, nn

from nnkd.data.plans import KEY
from nnkd.data.recipes import Recipe
from nnkd.errors import RecipeError, SettingError
from nnkd.plugin.students import RecipeView, VotesView
from nnkd.training.options import AtLeastOne, Positive, TrainingOptions
from nnkd.training.trainer import nnUNetTrainerKD
from nnkd.votes.bits import NO_VOTE
from nnkd_unet.paper_graphs import PAPER_GRAPHS
from nnkd_unet.punet_loss import EvidenceLoss, Terms
from nnkd_unet.punet_network import PUNet
from nnkd_unet.unet import Norm

NotNegative = Annotated[float, Field(ge=0)]
CURVES = ("reconstruction", "kl", "kl_per_dimension")
DEAD_BELOW, DEAD_FOR = 0.01, 10  # nats in every dimension, epochs
OF_A_STEP = ("loss", "reconstruction", "kl_per_dimension")
ADAMS_EPS = 1e-8  # torch's, for the loss of a whole image


@dataclass(kw_only=True)
class PUNetOptions(TrainingOptions):
    """Attributes:
    lr: Adam's learning rate (the Probabilistic U-Net's first; paper 1 gives none).
    weight_decay: Adam's, beside a loss per voxel.
    norm: Normalisation layer; "none" is the paper's. Prior and posterior replace "instance" by "batch".
    beta: Weight of the KL divergence (paper 1 gives none; 1 is the Probabilistic U-Net's).
    l2: Weight of the norms of all parameters but the U-Net's.
    latent: Dimensions of the latent; not the number of teachers.
    samples: How many samples an answer is the mean of.
    """

    lr: Positive = 1e-4
    weight_decay: NotNegative = 0.0
    norm: Norm = "batch"
    beta: NotNegative = 1.0
    l2: NotNegative = 1e-5
    latent: AtLeastOne = 6
    samples: AtLeastOne = 10


class nnUNetTrainerPUNet(nnUNetTrainerKD):
    """Paper 1's Probabilistic U-Net with Adam, learning from one random teacher a sample.

    Gradients are those of the loss per voxel, and Adam's epsilon is smaller by the same factor: Adam then goes where it
    would go on the sum over voxels, while nnU-Net's clipping at norm 12 and float16's range fit as in other students.

    Source: Li et al., MICCAI 2025, section 2.1, probabilistic distillation, Eq. 2.
    Departs: batch normalisation by default; `--set norm=none` is the paper's.
    """

    options_class = PUNetOptions
    of_the_network = ("norm", "latent", "samples")
    supervises_deeply = False
    paper_graphs = PAPER_GRAPHS
    usual_aggregator = "random_teacher"
    grad_scaler: torch.amp.GradScaler | None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if KEY not in plans:  # plans without recipe do not say what the network has to know: whether there are regions
            self.recipe = replace(self.recipe, has_regions=self.label_manager.has_regions)
            self.plans_manager.plans[KEY] = self.recipe.content()
        self.heard_scale = 1 / self._voxels()
        if self.grad_scaler is not None:
            # KL is a small part of the loss per voxel and its gradients would vanish in float16; a scale that is too
            # large is halved until it fits
            self.grad_scaler = torch.amp.GradScaler("cuda", init_scale=2.0**16 * self._voxels())
        for name in CURVES:
            self.logger.local_logger.my_fantastic_logging[name] = []

    @classmethod
    def check_recipe(cls, recipe: RecipeView, votes: VotesView) -> None:
        """Refuse recipes without any disagreement to learn, and options that Eq. 2 has no use for.

        Raises:
            RecipeError: If fewer than two teachers answer.
            SettingError: If an option of the IoU loss is set.
        """
        useless = [name for name in ("iou", "iou_over") if name in recipe.options]
        if useless:
            raise SettingError(f"'{useless[0]}' is set, but {cls.__name__}'s loss has no IoU in it; leave it out.")
        wanted = {recipe.label} if recipe.label else set(votes.index.labels)
        records = votes.index.cases.values()
        answering = [t for t in recipe.teachers if any(wanted & set(record.answers.get(t, ())) for record in records)]
        if len(answering) < 2 and recipe.options.get("manual") != "only":
            found = " and ".join(answering) or "none"
            found += f" for {recipe.label}" if recipe.label else ""
            raise RecipeError(
                f"{cls.__name__} learns how teachers differ and needs two or more that answer, but the recipe has "
                f"{found}. Name more with -t, or train nnUNetTrainerUNet."
            )

    # --- network ------------------------------------------------------------------------------------------------

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network for a configuration; `enable_deep_supervision` has no effect on a network of one output."""
        options = cls.network_options(plans_manager.plans)
        return PUNet(
            num_input_channels,
            num_output_channels,
            regions=Recipe.of_plans(plans_manager.plans).has_regions,
            dim=len(configuration_manager.patch_size),
            norm=options["norm"],
            latent=options["latent"],
            number=options["samples"],
        )

    def _voxels(self) -> int:
        return math.prod(self.configuration_manager.patch_size)

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Adam with nnU-Net's polynomial decay."""
        optimizer = torch.optim.Adam(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            eps=ADAMS_EPS / self._voxels(),
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> nn.Module:
        weighted = self.distils and self.options.voxel_weight == "agreement"
        return EvidenceLoss(self.label_manager.has_regions, self.options.beta, self.options.l2, weighted)

    # --- steps --------------------------------------------------------------------------------------------------

    def _on_device(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, targets (B, L [+ weight], *S), and the masks (B, L, *S) that the posterior sees."""
        data, target = self.on_device(batch)
        target = target if self.distils else self._of_label_maps(target)
        return data, target, target[:, : len(self._labels())].clamp(0, 1)

    def _labels(self) -> list:
        manager = self.label_manager
        return manager.foreground_regions if manager.has_regions else manager.foreground_labels

    def _of_label_maps(self, target: torch.Tensor) -> torch.Tensor:
        """nnU-Net's targets, label maps (B, 1, *S) or one channel a region, as votes: (B, L, *S) float32."""
        manager, number = self.label_manager, len(self._labels())
        if manager.has_regions:
            soft, ignored = target[:, :number].float(), target[:, number:] > 0
        else:
            soft = torch.cat([target == label for label in manager.foreground_labels], 1).float()
            ignored = target == manager.ignore_label if manager.has_ignore_label else target[:, :0] > 0
        return soft.masked_fill(ignored.any(1, keepdim=True), NO_VOTE)

    def target_loss(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss per voxel, with the masks going into the network too."""
        data, target, masks = self._on_device(batch)
        with self.precision():
            terms = self.loss(self.network(data, masks), target)
        return terms.loss / self._voxels(), dict(zip(OF_A_STEP, terms, strict=True))

    def validation_step(self, batch: dict) -> dict:
        """The loss with latents from the posterior; the pseudo Dice of the answer, which has latents from the prior."""
        data, target, masks = self._on_device(batch)
        with self.precision():
            terms, output = self.loss(self.network(data, masks), target), self.network(data)
        return {"loss": _numbers(terms)["loss"], **self._hard_counts(output, target)}

    # --- log ----------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """nnU-Net's, after a look at what there is to learn."""
        super().on_train_start()
        if self.distils and not self._aggregator().draws_teacher:
            self.print_to_log_file(
                f"The aggregator {self.recipe.aggregator.name} gives one target per case: there is no disagreement for "
                f"the latent to learn. -a random_teacher draws a teacher for each sample."
            )

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """nnU-Net's, and the curves of the loss's parts."""
        super().on_train_epoch_end(train_outputs)
        found = collate_outputs(train_outputs)
        parts: list[Any] = [(found["reconstruction"].mean(), found["kl_per_dimension"].mean(0))]
        if self.is_ddp:
            mine, parts = parts[0], [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, mine)
        reconstruction = float(np.mean([part[0] for part in parts]))
        kl = [float(value) for value in np.mean([part[1] for part in parts], 0)]
        for name, value in zip(CURVES, (reconstruction, sum(kl), kl), strict=True):
            self.logger.log(name, value, self.current_epoch)
        self.print_to_log_file(
            f"reconstruction {reconstruction:.1f}, KL {sum(kl):.3f} nats (by dimension: "
            f"{', '.join(f'{value:.3f}' for value in kl)})"
        )
        self._warn_of_dead_latent()

    def _warn_of_dead_latent(self) -> None:
        dead = 0
        for kl in reversed(self.logger.get_value("kl_per_dimension", None)):
            if max(kl) >= DEAD_BELOW:
                break
            dead += 1
        if dead and dead % DEAD_FOR == 0:
            self.print_to_log_file(
                f"Warning: the latent is dead. No dimension's KL reached {DEAD_BELOW} nat in {dead} epochs, so all "
                f"samples are alike. Try a lower beta, or teachers that differ more."
            )


def _numbers(terms: Terms) -> dict[str, np.ndarray]:
    """What a step returns, for the log."""
    return {name: value.detach().float().cpu().numpy() for name, value in zip(OF_A_STEP, terms, strict=True)}
