"""nnUNetTrainerKD: nnU-Net's planned network, distilled from the recipe's teachers. Other students derive from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper

from nnkd.errors import RecipeError, VotesError
from nnkd.plugin.aggregators import Aggregator
from nnkd.plugin.options import parse_options
from nnkd.training.along.trainer import TrainsAlong
from nnkd.training.loader import Draw, DrawnDataLoader, VotesDataLoader
from nnkd.training.losses import DistillationLoss
from nnkd.training.targets import Targets, targets_of
from nnkd.votes.folder import VotesFolder


class nnUNetTrainerKD(TrainsAlong):
    """Learns from the votes of the recipe's teachers (plans["nnkd"]); without teachers it is nnU-Net's supervised
    training on labelsTr. Auxiliary tasks may train along. The constructor is nnU-Net's, untouched.

    Source: Li et al., MICCAI 2025, section 2.1, deterministic distillation.
    """

    @property
    def distils(self) -> bool:
        """Whether there are teachers."""
        return bool(self.recipe.teachers)

    # --- loss ---------------------------------------------------------------------------------------------------

    def distillation_loss(self) -> torch.nn.Module:
        """The loss of one output; subclasses with another loss override this."""
        return DistillationLoss(
            regions=self.label_manager.has_regions,
            iou=self.options.iou,
            weighted=self.options.voxel_weight == "agreement",
            over_batch=self.options.iou_over == "batch",
        )

    def _build_loss(self) -> torch.nn.Module:
        if not self.distils:
            return super()._build_loss()
        loss = self.distillation_loss()
        if not self.enable_deep_supervision:
            return loss
        weights = np.array([1 / 2**i for i in range(len(self._get_deep_supervision_scales()))])
        if len(weights) > 1:  # nnU-Net leaves out the coarsest; under DDP no parameter may go unused
            weights[-1] = 1e-6 if self.is_ddp and not self._do_i_compile() else 0
        return DeepSupervisionWrapper(loss, weights / weights.sum())

    # --- data ---------------------------------------------------------------------------------------------------

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Training and validation cases; with teachers, those that have a target."""
        training, validation = super().get_tr_and_val_datasets()
        if not self.distils:
            return training, validation
        for what, dataset in (("training", training), ("validation", validation)):
            usable = self._usable_cases(what)
            left = [c for c in dataset.identifiers if c in usable]
            if not left:
                raise RecipeError(
                    f"No {what} case of fold {self.fold} has a target from {', '.join(self.recipe.teachers)} with "
                    f"manual={self.options.manual}. Choose other teachers, another fold, or --set manual=unanimous."
                )
            if len(left) < len(dataset.identifiers):
                self.print_to_log_file(f"{len(dataset.identifiers) - len(left)} {what} case(s) without target left out")
            dataset.identifiers = left
        return training, validation

    def check_cases(self, votes: VotesFolder | None = None) -> None:
        """With teachers, their votes too."""
        super().check_cases(self._votes_folder() if self.distils else votes)

    def _votes_folder(self) -> VotesFolder:
        base = Path(self.preprocessed_dataset_folder_base)
        votes = VotesFolder.of(base, self.configuration_manager.data_identifier)
        votes.bits(self.recipe.teachers)
        self.check_recipe(self.recipe, votes)
        if self.recipe.inputs and votes.digests(self.recipe.teachers) != dict(self.recipe.inputs):
            raise VotesError(
                f"The teachers' label maps changed since the recipe '{self.plans_manager.plans_name}' was written. "
                f"Call nnKD_train with the recipe's flags again: it writes a new recipe."
            )
        return votes

    def _usable_cases(self, what: str) -> set[str]:
        index = self._votes_folder().index
        if self.options.manual == "only" and what == "training":
            return set(index.manual)
        wanted = {self.recipe.label} if self.recipe.label else set(index.labels)
        teachers = self.recipe.teachers
        voted = {c for c, r in index.cases.items() if any(wanted & set(r.answers.get(t, ())) for t in teachers)}
        return voted if self.options.manual == "ignore" else voted | set(index.manual)

    def targets(self, cases: Sequence[str], draw_teachers: bool) -> Targets:
        """Targets of these cases.

        Args:
            cases: Identifiers.
            draw_teachers: Whether an aggregator that draws may do so; otherwise its table (the mean) is used.
        """
        manager = self.label_manager
        labels = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        return targets_of(
            cases,
            self._votes_folder(),
            self.recipe.teachers,
            self._aggregator(),
            labels=tuple(tuple(v) if isinstance(v, list | tuple) else (v,) for v in labels),
            ignore_label=manager.ignore_label,
            use_manual=self.options.manual != "ignore",
            weigh=self.options.voxel_weight == "agreement",
            hard=self.options.target == "hard",
            draw_teachers=draw_teachers,
            label=self.recipe.label,
        )

    def _aggregator(self) -> Aggregator:
        choice = self.recipe.aggregator
        kind, _ = self.installed("aggregator", choice.name)
        return kind(**parse_options(kind, choice.options, choice.name))

    def _transform_arguments(self) -> dict[str, Any]:
        arguments = super()._transform_arguments()
        # targets are pooled by the loader: nnU-Net's transform looks at label maps alone
        return {**arguments, "scales": None, "regions": None} if self.distils else arguments

    def _loader(
        self,
        dataset: Any,
        initial_patch: Any,
        transforms: Any,
        draw: Draw | None,
        kind: type[DrawnDataLoader] = DrawnDataLoader,
        **more: Any,
    ) -> DrawnDataLoader:
        """With teachers, its targets are votes."""
        if self.distils:
            kind = VotesDataLoader
            more |= {
                "targets": self.targets(dataset.identifiers, draw_teachers=draw is not None),
                "scales": self._get_deep_supervision_scales(),
                "keep_seg": self.is_cascaded or any(self.configuration_manager.use_mask_for_norm),
            }
        return super()._loader(dataset, initial_patch, transforms, draw, kind, **more)

    # --- steps --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step; with teachers, the pseudo Dice is against the consensus cut at one half."""
        if not self.distils:
            return super().validation_step(batch)
        data, target = self.on_device(batch)
        with self.precision():
            output = self.network(data)
            loss = self.loss(output, target)
        output = output[0] if isinstance(output, list | tuple) else output
        target = target[0] if isinstance(target, list) else target
        return {"loss": loss.detach().cpu().numpy(), **self._hard_counts(output, target)}

    def _hard_counts(self, output: torch.Tensor, target: torch.Tensor) -> dict[str, np.ndarray]:
        if self.label_manager.has_regions:
            predicted = output > 0
        else:
            labels = torch.arange(1, output.shape[1], device=output.device)
            predicted = output.argmax(1, keepdim=True) == labels.view(1, -1, *[1] * (output.ndim - 2))
        target = target[:, : predicted.shape[1]]
        answered, truth = target >= 0, target > 0.5
        axes = (0, *range(2, output.ndim))
        found = {
            "tp_hard": predicted & truth & answered,
            "fp_hard": predicted & ~truth & answered,
            "fn_hard": ~predicted & truth & answered,
        }
        return {key: value.sum(axes).float().cpu().numpy() for key, value in found.items()}

    # --- log ----------------------------------------------------------------------------------------------------

    def log_recipe(self) -> None:
        """Options, and what is learned from."""
        super().log_recipe()
        if not self.distils:
            self.print_to_log_file("No recipe with teachers in these plans: supervised training on labelsTr.")
            return
        self.print_to_log_file(
            f"Recipe {self.plans_manager.plans_name}: teachers {', '.join(self.recipe.teachers)}; "
            f"aggregator {self.recipe.aggregator.name} {dict(self.recipe.aggregator.options)}; "
            f"sampler {self.recipe.sampler.name}"
        )
        self.log_licences(no_weights="none")
