"""nnUNetTrainerKD: nnU-Net's planned network, distilled from the recipe's teachers. All students derive from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import distributed

from nnkd.data import splits
from nnkd.data.participants import participants_of_cases
from nnkd.data.recipes import Recipe
from nnkd.errors import RecipeError, VotesError
from nnkd.files import write_json
from nnkd.plugin.aggregators import Aggregator
from nnkd.plugin.options import parse_options
from nnkd.plugin.samplers import Sampler, WeighingSampler
from nnkd.training import one_label
from nnkd.training.along.trainer import AuxiliaryTraining
from nnkd.training.bfloat16 import bfloat16_on_cpu
from nnkd.training.case_losses import weighing
from nnkd.training.loader import Draw, DrawnDataLoader, VotesDataLoader, in_background
from nnkd.training.losses import DistillationLoss
from nnkd.training.options import TrainingOptions, training_options
from nnkd.training.targets import Targets, targets_of
from nnkd.types import Entry, Kind, Participant
from nnkd.votes.folder import VotesFolder
from nnkd.weights.licences import announcement

SAMPLER_STATE = "sampler_state"


class nnUNetTrainerKD(AuxiliaryTraining):
    """Learns from the votes of the recipe's teachers (plans["nnkd"]); without teachers it is nnU-Net's supervised
    training on labelsTr. Auxiliary tasks may train along. The constructor is nnU-Net's, untouched.

    Source: Li et al., MICCAI 2025, section 2.1, deterministic distillation.
    """

    options_class: ClassVar[type] = TrainingOptions
    supervises_deeply: ClassVar[bool] = True  # False for networks of one output
    usual_aggregator: ClassVar[str | None] = None  # where -a is not given; None: by the number of teachers

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        recipe = Recipe.of_plans(plans)
        if recipe.label is not None:
            dataset_json = one_label.only(dataset_json, recipe.label)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.recipe = recipe
        self.options = training_options(type(self), self.recipe)
        self.enable_deep_supervision = self.supervises_deeply
        self.num_epochs = self.options.epochs
        self.num_iterations_per_epoch = self.options.iterations
        self.num_val_iterations_per_epoch = self.options.val_iterations
        self.initial_lr = self.options.lr
        self.weight_decay = self.options.weight_decay
        self.oversample_foreground_percent = self.options.oversample
        self.save_every = self.options.save_every
        self.draw: Draw | None = None

    @property
    def distils(self) -> bool:
        """Whether there are teachers."""
        return bool(self.recipe.teachers)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        """Refuse what this student cannot start a training with, before anything is written; subclasses override this.

        Args:
            options: The recipe's, checked one by one.
            patch_size: Of the configuration.
        """

    @classmethod
    def check_recipe(cls, recipe: Recipe, votes: VotesFolder) -> None:
        """Refuse a recipe that this student cannot learn from, before anything starts; subclasses override this.

        Args:
            recipe: With teachers.
            votes: The preprocessed votes, which have these teachers.
        """

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

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, Any]:
        """nnU-Net's augmentation, with the options "mirroring" and "rotation"."""
        angles, dummy_2d, initial_patch, mirror = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        final = self.configuration_manager.patch_size
        mirroring, rotation = self.options.movement(self.plans_manager.plans, len(final))
        if rotation is not None:
            angles = (-float(np.deg2rad(rotation)), float(np.deg2rad(rotation)))
            initial_patch = get_patch_size(final, angles, angles, angles, (0.85, 1.25))
            if dummy_2d:
                initial_patch[0] = final[0]
        if not mirroring:
            mirror = self.inference_allowed_mirroring_axes = None
        return angles, dummy_2d, initial_patch, mirror

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; where none was made yet, one by participant, because nnU-Net's is by case and leaks."""
        file = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
        if self.fold != "all" and not file.is_file() and self.local_rank == 0:
            folder = Path(self.preprocessed_dataset_folder)
            cases = sorted(p.stem for p in folder.glob("*.pkl"))
            people = participants_of_cases(file.parent, cases)
            write_json(file, splits.default_folds(people))
            self.print_to_log_file("Made splits_final.json: 5 folds by participant.")
        if self.is_ddp:
            distributed.barrier()
        return super().do_split()

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

    @staticmethod
    def installed(kind: Kind, name: str) -> tuple[Any, Entry]:
        """A plugin's class and what it says of itself; errors as `Registry.load`."""
        from nnkd.plugin import registry

        plugins = registry.installed()
        return plugins.load(kind, name), plugins.find(kind, name).entry

    def _aggregator(self) -> Aggregator:
        choice = self.recipe.aggregator
        kind, _ = self.installed("aggregator", choice.name)
        return kind(**parse_options(kind, choice.options, choice.name))

    def people(self, cases: Sequence[str], required: bool) -> dict[str, Participant]:
        """The person behind each case."""
        return participants_of_cases(Path(self.preprocessed_dataset_folder_base), cases, required=required)

    def _draw(self, cases: Sequence[str], workers: int) -> Draw:
        choice = self.recipe.sampler
        kind, _ = self.installed("sampler", choice.name)
        sampler: Sampler = kind(**parse_options(kind, choice.options, choice.name))
        self.draw = Draw(
            sampler=sampler,
            participants=self.people(cases, required=sampler.needs_participants),
            batch_size=self.configuration_manager.batch_size,
            rank_slice=self._rank_slice(),
            seed=99 if self.fold == "all" else int(self.fold),
            workers=max(1, workers),
            start=self.current_epoch * self.num_iterations_per_epoch,
        )
        for line in sampler.report(self.draw.participants, self.draw.batch_size, self.draw.seed):
            self.print_to_log_file(f"Sampler {choice.name}: {line}")
        if isinstance(sampler, WeighingSampler):
            states = self.logger.local_logger.my_fantastic_logging.setdefault(SAMPLER_STATE, [])
            if states:  # from the checkpoint
                sampler.load_state_dict(states[-1])
        return self.draw

    def _rank_slice(self) -> slice:
        if not self.is_ddp:
            return slice(None)
        sizes: list[int] = [0] * distributed.get_world_size()
        distributed.all_gather_object(sizes, self.batch_size)
        start = sum(sizes[: self.local_rank])
        return slice(start, start + self.batch_size)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders; with teachers, their targets are votes."""
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        patch = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch, mirror = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        training, validation = self.get_tr_and_val_datasets()
        workers = get_allowed_n_proc_DA()
        common = self._transform_arguments()
        augment = self.get_training_transforms(
            patch,
            rotation,
            common.pop("scales"),
            mirror,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            **common,
        )
        plain = self._transform_arguments()
        keep = self.get_validation_transforms(plain.pop("scales"), **plain)
        loaders = (
            self._loader(training, initial_patch, augment, self._draw(training.identifiers, workers)),
            self._loader(validation, patch, keep, None),
        )
        return tuple(
            self._augmenter(loader, max(n, 0)) for loader, n in zip(loaders, (workers, workers // 2), strict=True)
        )

    def _transform_arguments(self) -> dict[str, Any]:
        manager = self.label_manager
        regions = manager.foreground_regions if manager.has_regions and not self.distils else None
        return {
            # targets are pooled by the loader: nnU-Net's transform looks at label maps alone
            "scales": None if self.distils else self._get_deep_supervision_scales(),
            "is_cascaded": self.is_cascaded,
            "foreground_labels": manager.foreground_labels,
            "regions": regions,
            "ignore_label": manager.ignore_label,
        }

    def _loader(self, dataset: Any, initial_patch: Any, transforms: Any, draw: Draw | None) -> DrawnDataLoader:
        arguments = (dataset, self.batch_size, initial_patch, self.configuration_manager.patch_size, self.label_manager)
        keywords = {
            "oversample_foreground_percent": self.oversample_foreground_percent,
            "probabilistic_oversampling": self.probabilistic_oversampling,
            "transforms": transforms,
            "draw": draw,
            "focus": self.label_manager.all_labels[1:] if self.recipe.label else None,
        }
        if not self.distils:
            return DrawnDataLoader(*arguments, **keywords)
        return VotesDataLoader(
            *arguments,
            **keywords,
            targets=self.targets(dataset.identifiers, draw_teachers=draw is not None),
            scales=self._get_deep_supervision_scales(),
            keep_seg=self.is_cascaded or any(self.configuration_manager.use_mask_for_norm),
        )

    def _augmenter(self, loader: Any, workers: int) -> Any:
        return in_background(loader, workers, pin_memory=self.device.type == "cuda")

    # --- steps --------------------------------------------------------------------------------------------------

    def _autocast(self) -> AbstractContextManager:
        """The option "precision" where nnU-Net itself does not autocast."""
        if self.options.precision == "bfloat16" and self.device.type == "cpu":
            return bfloat16_on_cpu()
        return nullcontext()

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's training step; with auxiliary tasks see `AuxiliaryTraining`."""
        with self._autocast(), weighing(self, self.draw, batch["keys"], self.heard_scale):
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step; with teachers, the pseudo Dice is against the consensus cut at one half."""
        if not self.distils:
            with self._autocast():
                return super().validation_step(batch)
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        target = [t.to(self.device) for t in target] if isinstance(target, list) else target.to(self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else self._autocast():
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

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """nnU-Net's; checkpoints hold the log, so a sampler's state goes into it."""
        super().on_train_epoch_end(train_outputs)
        if self.draw and isinstance(self.draw.sampler, WeighingSampler):
            # not to Weights & Biases: it is about people
            self.logger.local_logger.log(SAMPLER_STATE, self.draw.sampler.state_dict(), self.current_epoch)

    def on_train_start(self) -> None:
        """nnU-Net's, after saying what is learned from."""
        self.print_to_log_file(f"Options: {asdict(self.options)}")
        if self.distils:
            self.print_to_log_file(
                f"Recipe {self.plans_manager.plans_name}: teachers {', '.join(self.recipe.teachers)}; "
                f"aggregator {self.recipe.aggregator.name} {dict(self.recipe.aggregator.options)}; "
                f"sampler {self.recipe.sampler.name}"
            )
            for model in self.recipe.lineage:
                self.print_to_log_file(
                    f"  licence of {model['name']}: {model.get('licence') or 'unknown'}, weights "
                    f"{model.get('weights_licence') or 'none'}"
                )
            if bound := announcement(self.recipe.lineage, "this student"):
                self.print_to_log_file(bound)
        else:
            self.print_to_log_file("No recipe with teachers in these plans: supervised training on labelsTr.")
        super().on_train_start()
