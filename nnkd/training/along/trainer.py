"""What nnUNetTrainerKD needs to train with auxiliary tasks: heads, turns, checkpoints, the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor, nn

from nnkd.auxiliary import record
from nnkd.auxiliary.tasks import SCHEDULER, Prepared, Target
from nnkd.data.plans import configuration_of
from nnkd.errors import RecipeError
from nnkd.plugin.options import parse_options
from nnkd.training.along.gradients import SecondPass, binary_heads
from nnkd.training.along.loader import FOREGROUND, IGNORED, AuxiliaryBatches, AuxiliaryCases, AuxiliaryLoader
from nnkd.training.along.turns import Turns
from nnkd.training.divergence import mend
from nnkd.training.recipe_trainer import RecipeTrainer

STATE = "nnkd_auxiliaries"  # in a checkpoint's log: the one part of nnU-Net's checkpoint that takes more


class TrainsAlong(RecipeTrainer):
    """A RecipeTrainer that trains with auxiliary tasks, if its recipe has any; nothing changes otherwise.

    Departs: paper 3 does not say whose statistics batch normalisation keeps for prediction; here the target's alone.
    """

    takes_auxiliaries: ClassVar[bool] = True
    auxiliaries: Turns | None = None

    def auxiliary_loss(self, label_manager: LabelManager) -> nn.Module:
        """The loss of an auxiliary task: nnU-Net's own, as the student's network takes it. Students with another kind
        of outputs override this.

        Args:
            label_manager: nnU-Net's, of one foreground label, learned with supervision; and of an ignore label, if a
                task has one.
        """
        of_the_task = copy(self)  # nnU-Net builds its loss for the labels that it finds in a trainer
        of_the_task.label_manager = label_manager
        with np.errstate(invalid="ignore"):
            return mend(nnUNetTrainer._build_loss(of_the_task))

    # --- nnU-Net's training ---------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """nnU-Net's; then the scheduler and the heads of auxiliary tasks, trained by the same optimiser."""
        super().initialize()
        choice = self.recipe.auxiliary_scheduler
        if choice is None:
            return
        kind, _ = self.installed(SCHEDULER, choice.name)
        scheduler = kind(self.recipe.auxiliaries, **parse_options(kind, choice.options, choice.name))
        if scheduler.trains_on == "none":
            return
        network = self.network.module if self.is_ddp else self.network
        heads = None
        if not self._target_is_binary:
            heads = binary_heads(getattr(network, "_orig_mod", network), 1 if self.label_manager.has_regions else 2)
            self.optimizer.add_param_group({"params": list(heads.parameters())})
        second = SecondPass(network, heads, self.is_ddp)
        self.auxiliaries = Turns(scheduler, second, self.options.turn == "epoch")
        if self.local_rank == 0:
            self.auxiliaries.record = Path(self.output_folder) / record.RECORD

    @property
    def _target_is_binary(self) -> bool:
        manager = self.label_manager
        return len(manager.foreground_regions if manager.has_regions else manager.foreground_labels) == 1

    def train_step(self, batch: dict) -> dict:
        """RecipeTrainer's; ends the turn if it is an iteration."""
        said = super().train_step(batch)
        if self.auxiliaries is not None:
            self.auxiliaries.end_iteration(float(said["loss"]), self.current_epoch)
        return said

    def backward(self, loss: Tensor) -> None:
        """RecipeTrainer's; with auxiliaries, then a second pass over one of them."""
        super().backward(loss)
        if self.auxiliaries is not None:
            self.auxiliaries.backward(1.0 if self.grad_scaler is None else self.grad_scaler.get_scale())

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the heads of auxiliary tasks too."""
        yield from super().trained_parameters()
        if self.auxiliaries is not None and self.auxiliaries.second.heads is not None:
            yield from self.auxiliaries.second.heads.parameters()

    # --- from start to end ----------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """nnU-Net's; then the auxiliaries' loaders."""
        super().on_train_start()
        turns = self.auxiliaries
        if turns is None:
            return
        tasks = self._prepared_tasks()
        labels = self._one_foreground(any(task.index.ignore_label is not None for task in tasks))
        loss = self.auxiliary_loss(labels).to(self.device)

        def loss_of(batch: Mapping[str, Any]) -> Tensor:
            data, target = self.on_device(batch)
            with self.precision():
                return loss(turns.second(data), target)

        turns.begin(self._auxiliary_batches(tasks, labels), loss_of)

    def _one_foreground(self, ignores: bool) -> LabelManager:
        """Labels of a dataset with one label, and with an ignore label if a task has one."""
        regions = self.label_manager.has_regions
        labels: dict[str, Any] = {"background": 0, "foreground": [FOREGROUND] * 2 if regions else FOREGROUND}
        labels |= {"ignore": IGNORED} if ignores else {}
        made = {"labels": labels, **({"regions_class_order": [FOREGROUND]} if regions else {})}
        return self.plans_manager.get_label_manager(made)

    def _prepared_tasks(self) -> list[Prepared]:
        folder, plans = Path(self.preprocessed_dataset_folder_base), self.plans_manager.plans
        channels = self.dataset_json["channel_names"]
        target = Target(
            folder,
            plans,
            self.configuration_name,
            configuration_of(plans, self.configuration_name, folder),
            [str(channels[key]) for key in sorted(channels, key=int)],
        )
        return target.prepare(self.recipe.auxiliaries, self.options.max_aux_cases)

    def _auxiliary_batches(self, tasks: Sequence[Prepared], labels: LabelManager) -> AuxiliaryBatches:
        """Loaders with the target's patches, batch size and augmentation."""
        for task in tasks:
            self.print_to_log_file(f"Auxiliary {task.task.name}: {len(task.cases)} case(s), {task.index.channels}")
        masked = [any(flags) for flags in zip(*(task.index.use_mask for task in tasks), strict=True)]
        rotation, dummy_2d, initial_patch, mirror = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch = self.configuration_manager.patch_size
        transforms = self.get_training_transforms(
            patch,
            rotation,
            self._get_deep_supervision_scales(),
            mirror,
            dummy_2d,
            use_mask_for_norm=masked,
            is_cascaded=False,
            foreground_labels=labels.foreground_labels,
            regions=labels.foreground_regions if labels.has_regions else None,
            ignore_label=labels.ignore_label,
        )
        without_ignore = self.plans_manager.get_label_manager({"labels": {"background": 0, "foreground": FOREGROUND}})
        loader = AuxiliaryLoader(
            AuxiliaryCases(tasks),
            self.batch_size,
            initial_patch,
            patch,
            without_ignore,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )
        return AuxiliaryBatches(loader, get_allowed_n_proc_DA() // 2)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """nnU-Net's; ends the turn if it is an epoch.

        Raises:
            RecipeError: If the student's own `train_step` left the auxiliaries out.
        """
        super().on_train_epoch_end(train_outputs)
        if self.auxiliaries is None:
            return
        if not self.auxiliaries.steps:
            raise RecipeError(
                f"{type(self).__name__} has a train_step of its own, which leaves auxiliaries out. Choose another "
                f"student, or have its author override target_loss instead."
            )
        self.auxiliaries.end_epoch(self.current_epoch)

    def on_epoch_end(self) -> None:
        """nnU-Net's, and the plots of the record as often as a checkpoint is written."""
        super().on_epoch_end()
        if self.current_epoch % self.save_every == 0:
            self._draw_record()

    def on_train_end(self) -> None:
        """nnU-Net's, and the plots."""
        super().on_train_end()
        self._draw_record()
        self._end_batches()

    def end_loaders(self) -> None:
        """nnU-Net's, and the auxiliaries'."""
        super().end_loaders()
        self._end_batches()

    def _end_batches(self) -> None:
        if self.auxiliaries is not None and self.auxiliaries.batches is not None:
            self.auxiliaries.batches.close()

    def _draw_record(self) -> None:
        if self.auxiliaries is not None and self.auxiliaries.record is not None:
            record.draw(self.auxiliaries.record)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's, with the auxiliaries' state in its log: the network's weights stay as nnU-Net predicts with."""
        log = self.logger.local_logger.my_fantastic_logging
        if self.auxiliaries is not None:
            log[STATE] = self.auxiliaries.state_dict()
        try:
            super().save_checkpoint(filename)
        finally:
            log.pop(STATE, None)

    def check_checkpoint(self, content: Mapping[str, Any]) -> None:
        """Resume the auxiliaries' state.

        Raises:
            RecipeError: If there is none, one of other tasks or of another scheduler, or one but no auxiliaries.
        """
        super().check_checkpoint(content)
        if not self.was_initialized:
            self.initialize()
        if self.auxiliaries is None and STATE in content["logging"]:
            raise RecipeError(
                "The checkpoint is of a training with auxiliaries, but the recipe has none that train along. Continue "
                "with the plans it was trained with, or train under another recipe name (-n)."
            )
        if self.auxiliaries is None:
            return
        if STATE not in content["logging"]:
            raise RecipeError(
                "The checkpoint is of a training without auxiliaries, but the recipe has some. Continue with the plans "
                "it was trained with, or train under another recipe name (-n)."
            )
        self.auxiliaries.load_state_dict(content["logging"][STATE])

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """nnU-Net's, without the auxiliaries' state in the log."""
        super().load_checkpoint(filename_or_checkpoint)
        self.logger.local_logger.my_fantastic_logging.pop(STATE, None)
