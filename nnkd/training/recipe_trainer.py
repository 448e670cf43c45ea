"""RecipeTrainer: nnU-Net's training with a recipe's options, sampler and folds by participant, on labelsTr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, distributed, nn

from nnkd.data import splits
from nnkd.data.dataset import DatasetSpec
from nnkd.data.participants import participants_of_cases
from nnkd.data.recipes import Recipe
from nnkd.plugin.options import parse_options
from nnkd.plugin.samplers import Sampler, WeighingSampler
from nnkd.plugin.students import Student
from nnkd.preprocessing import freshness
from nnkd.preprocessing.folders import listed_cases
from nnkd.training import one_label
from nnkd.training.bfloat16 import bfloat16_on_cpu
from nnkd.training.case_losses import weighing
from nnkd.training.divergence import mend
from nnkd.training.file_safety import FileSafeTrainer
from nnkd.training.loader import Draw, DrawnDataLoader, in_background
from nnkd.training.options import TrainingOptions
from nnkd.types import Entry, Kind, Participant
from nnkd.votes.folder import VotesFolder
from nnkd.weights.licences import announcement

SAMPLER_STATE = "sampler_state"
CLIP = 12  # nnU-Net's


class RecipeTrainer(FileSafeTrainer, Student):
    """nnU-Net's training of the recipe in plans["nnkd"], as far as it is not about teachers or auxiliaries: options,
    sampler, folds by participant, precision. The constructor is nnU-Net's, untouched.

    Attributes:
        supervises_deeply: False for networks of one output.
        of_the_network: Options that say how the network is built.
        heard_scale: Samplers hear losses times this: they expect means over voxels.
    """

    options_class: ClassVar[type] = TrainingOptions
    supervises_deeply: ClassVar[bool] = True
    of_the_network: ClassVar[Sequence[str]] = ()
    heard_scale: float = 1.0

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
        kind, name = self.options_class, type(self).__name__
        self.options: Any = kind(**parse_options(kind, recipe.options, name))
        self.enable_deep_supervision = self.supervises_deeply
        self.num_epochs = self.options.epochs
        self.num_iterations_per_epoch = self.options.iterations
        self.num_val_iterations_per_epoch = self.options.val_iterations
        self.initial_lr = self.options.lr
        self.weight_decay = self.options.weight_decay
        self.oversample_foreground_percent = self.options.oversample
        self.save_every = self.options.save_every
        self.draw: Draw | None = None

    # --- network ------------------------------------------------------------------------------------------------

    @classmethod
    def network_options(cls, plans: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `of_the_network`, those that the recipe in these plans gives filled in."""
        given = Recipe.of_plans(plans).options
        known = {name: given[name] for name in cls.of_the_network if name in given}
        options = parse_options(cls.options_class, known, cls.__name__)
        return {name: options[name] for name in cls.of_the_network}

    @staticmethod
    def one_logit(plans: Mapping[str, Any], outputs: int) -> bool:
        """Whether one logit says all that a softmax over so many outputs does: one label, and no region."""
        return outputs == 2 and not Recipe.of_plans(plans).has_regions

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """nnU-Net's; networks of one output have nothing to switch."""
        if self.supervises_deeply:
            super().set_deep_supervision_enabled(enabled)

    def _build_loss(self) -> nn.Module:
        """nnU-Net's, which works for networks of two stages too."""
        with np.errstate(invalid="ignore"):
            return mend(super()._build_loss())

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
        file = Path(self.preprocessed_dataset_folder_base) / splits.SPLITS
        if self.fold != "all" and not file.is_file() and self.local_rank == 0:
            folder = Path(self.preprocessed_dataset_folder)
            cases = sorted(p.stem for p in folder.glob("*.pkl"))
            people = participants_of_cases(file.parent, cases)
            splits.write(file, splits.default_folds(people))
            self.print_to_log_file(f"Made {splits.SPLITS}: 5 folds by participant.")
        if self.is_ddp:
            distributed.barrier()
        if self.fold != "all":
            splits.read_folds(file)  # nnU-Net takes whatever it holds
        return super().do_split()

    @staticmethod
    def installed(kind: Kind, name: str) -> tuple[Any, Entry]:
        """A plugin's class and what it says of itself; errors as `Registry.load`."""
        from nnkd.plugin import registry

        plugins = registry.installed()
        return plugins.load(kind, name), plugins.find(kind, name).entry

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
        """nnU-Net's loaders, whose training batches are drawn by the sampler."""
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

        if self.dataset_class is None:
            self.dataset_class: type | None = infer_dataset_class(self.preprocessed_dataset_folder)
        if self.local_rank == 0:  # also where nnU-Net's own command started the training
            self.check_cases()
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

    def check_cases(self, votes: VotesFolder | None = None) -> None:
        """Whether preprocessed cases and votes hold, see `nnkd.preprocessing.freshness`."""
        base, cases = Path(self.preprocessed_dataset_folder_base), listed_cases(Path(self.preprocessed_dataset_folder))
        spec = DatasetSpec.read(base / "dataset.json")
        freshness.check(base, self.plans_manager.plans, self.configuration_name, cases, spec, votes)

    def _transform_arguments(self) -> dict[str, Any]:
        manager = self.label_manager
        return {
            "scales": self._get_deep_supervision_scales(),
            "is_cascaded": self.is_cascaded,
            "foreground_labels": manager.foreground_labels,
            "regions": manager.foreground_regions if manager.has_regions else None,
            "ignore_label": manager.ignore_label,
        }

    def _loader(
        self,
        dataset: Any,
        initial_patch: Any,
        transforms: Any,
        draw: Draw | None,
        kind: type[DrawnDataLoader] = DrawnDataLoader,
        **more: Any,
    ) -> DrawnDataLoader:
        return kind(
            dataset,
            self.batch_size,
            initial_patch,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
            draw=draw,
            focus=self.label_manager.all_labels[1:] if self.recipe.label else None,
            **more,
        )

    def _augmenter(self, loader: Any, workers: int) -> Any:
        return in_background(loader, workers, pin_memory=self.device.type == "cuda")

    # --- steps --------------------------------------------------------------------------------------------------

    def precision(self) -> AbstractContextManager:
        """nnU-Net's autocast on CUDA; on the CPU what the option "precision" says."""
        if self.device.type == "cuda":
            return torch.autocast("cuda")
        if self.options.precision == "bfloat16" and self.device.type == "cpu":
            return bfloat16_on_cpu()
        return nullcontext()

    def on_device(self, batch: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """A batch's images and targets, where the network is."""
        data, target = batch["data"].to(self.device, non_blocking=True), batch["target"]
        if isinstance(target, list):
            return data, [t.to(self.device, non_blocking=True) for t in target]
        return data, target.to(self.device, non_blocking=True)

    def target_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what a step hands to the log, "loss" among it. Students whose network or loss takes
        more than images and targets override this instead of `train_step`."""
        data, target = self.on_device(batch)
        with self.precision():
            loss = self.loss(self.network(data), target)
        return loss, {"loss": loss}

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's training step, heard by the sampler."""
        with weighing(self, self.draw, batch["keys"], self.heard_scale):
            self.optimizer.zero_grad(set_to_none=True)
            loss, numbers = self.target_loss(batch)
            self.backward(loss)
            self._descend()
        return {name: value.detach().float().cpu().numpy() for name, value in numbers.items()}

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, times nnU-Net's scale."""
        (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Whose gradients are clipped together."""
        yield from self.network.parameters()

    def _descend(self) -> None:
        """nnU-Net's clipping and step."""
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trained_parameters(), CLIP)
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's."""
        with self.precision():
            return super().validation_step(batch)

    # --- log ----------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """nnU-Net's; checkpoints hold the log, so a sampler's state goes into it."""
        super().on_train_epoch_end(train_outputs)
        if self.draw and isinstance(self.draw.sampler, WeighingSampler):
            # not to Weights & Biases: it is about people
            self.logger.local_logger.log(SAMPLER_STATE, self.draw.sampler.state_dict(), self.current_epoch)

    def log_recipe(self) -> None:
        """Say in the log what is about to be trained."""
        self.print_to_log_file(f"Options: {asdict(self.options)}")

    def log_licences(self, no_weights: str) -> None:
        """Name the licences of the recipe's lineage, and what they bind the student to.

        Args:
            no_weights: What to call the licence of weights where none is named.
        """
        for model in self.recipe.lineage:
            self.print_to_log_file(
                f"  licence of {model['name']}: {model.get('licence') or 'unknown'}, weights "
                f"{model.get('weights_licence') or no_weights}"
            )
        if bound := announcement(self.recipe.lineage, "this student"):
            self.print_to_log_file(bound)

    def on_train_start(self) -> None:
        """nnU-Net's, after saying what is trained."""
        self.log_recipe()
        super().on_train_start()
