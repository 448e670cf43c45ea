"""What both trainers of box models share: slices instead of nnU-Net's volumes, and paper 2's optimiser and schedule."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import time
from typing import Any, ClassVar

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.helpers import empty_cache
from torch import Tensor, nn

from nnkd.data import splits
from nnkd.data.dataset import RawDataset
from nnkd.data.intensities import windows_of
from nnkd.data.participants import participants_of_cases
from nnkd.errors import RecipeError, UnknownNameError
from nnkd.files import write_json
from nnkd.paths import room
from nnkd.plugin.students import OwnData
from nnkd.training.recipe_trainer import RecipeTrainer
from nnkd.types import Participant
from nnkd_litemedsam.networks.encoders import build_encoder
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.slices import making
from nnkd_litemedsam.slices import plans as slice_plans
from nnkd_litemedsam.slices.loader import DrawnSlices, FixedSlices, Reader
from nnkd_litemedsam.slices.options import PRESETS, SliceOptions
from nnkd_litemedsam.slices.store import FOLDER, Slices, read_index
from nnkd_litemedsam.trainers.plateau import Plateau
from nnkd_litemedsam.trainers.progress import plot

SHARE_OF_ALL = 0.05  # of slices validates where all cases train; Source: Yang et al. 2024, section 3.3
NOT_HERE = ("mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region")  # nnU-Net's curves, which have no meaning here


class SliceTrainer(OwnData, RecipeTrainer):
    """AdamW, a learning rate that falls when the validation loss stays, and the best checkpoint by that loss.

    Source: Yang et al. 2024, section 3. Departs: a batch's cases are drawn by a sampler, and then one slice of each, so
    that a long scan weighs no more than a short one; validation slices are those of other people, are the same in each
    epoch and are never flipped; gradients are clipped as nnU-Net clips them.
    """

    options_class = SliceOptions
    options: Any  # None is replaced by the preset's in `options_class`
    supervises_deeply = False
    one_gpu = True
    box_teacher = "litemedsam"
    no_network = "Its networks are those of a teacher: nnKD_profile --teacher litemedsam counts them."
    labelled: ClassVar[bool] = True  # whether slices without a target are of no use
    curves: ClassVar[Mapping[str, str]] = {}  # names in the log, and what the plot calls them

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        slice_plans.check_plans(plans, configuration, type(self).__name__)
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.is_ddp:
            raise RecipeError(f"{type(self).__name__} trains on one GPU. Leave -num_gpus out.")
        log = self.logger.local_logger.my_fantastic_logging
        for name in NOT_HERE:
            log.pop(name, None)
        log.update({name: [] for name in self.curves})

    # --- before a training --------------------------------------------------------------------------------------

    @classmethod
    def write_plans(cls, names: Sequence[str]) -> str:
        """See `slice_plans.write_plans`."""
        return slice_plans.write_plans(names)

    @classmethod
    def cases_of(cls, folder: Path) -> Sequence[str]:
        """See `slice_plans.cases_of`."""
        return slice_plans.cases_of(folder)

    @classmethod
    def plan_values(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the preset changes in the plans."""
        size = PRESETS[options["preset"]].batch_size
        return {} if size == slice_plans.BATCH else {"batch_size": size}

    @classmethod
    def check_datasets(cls, options: Mapping[str, Any], names: Sequence[str]) -> None:
        """Refuse datasets that this student cannot learn from, before anything is written.

        Args:
            options: The recipe's, checked one by one.
            names: DatasetXXX_Name.

        Raises:
            NnkdError: If a channel or window is not theirs.
        """
        raws = [RawDataset(folder) for name in names if (folder := slice_plans.raw_folder(name)) is not None]
        if not raws:
            return
        channels = dict.fromkeys(channel for raw in raws for channel in raw.spec.channel_names)
        if options["channel"] is not None and options["channel"] not in channels:
            raise UnknownNameError(f"channel got '{options['channel']}', but there are {', '.join(channels)}.")
        windows_of(list(dict.fromkeys(label for raw in raws for label in raw.spec.labels)), options["windows"])

    @staticmethod
    def build_network_architecture(*_: Any, **__: Any) -> nn.Module:
        """nnU-Net asks for a network when it predicts.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            "This model segments what lies in boxes, so it has no answer without them. Use nnKD_segment_boxes --model "
            "and name its checkpoint, instead of predict."
        )

    # --- network ------------------------------------------------------------------------------------------------

    network: Any
    was_initialized: bool

    def make_network(self) -> LiteMedSAM:
        """The network at the start of a training."""
        return LiteMedSAM(build_encoder(self.options.encoder))

    def initialize(self) -> None:
        """Network, optimiser, loss; nnU-Net's looks into its preprocessed volumes."""
        if self.was_initialized:
            raise RuntimeError("initialize was called twice")
        self._set_batch_size_and_oversample()
        self.network = self.make_network().to(self.device)
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.loss = self._build_loss()
        self.was_initialized = True

    def _do_i_compile(self) -> bool:
        return False  # a step waits for embeddings and slices more than for the network

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """What the optimiser changes."""
        return (p for p in self.network.parameters() if p.requires_grad)

    def configure_optimizers(self) -> tuple[Any, Any]:
        """AdamW; the learning rate falls by a tenth when the validation loss did not for five epochs."""
        optimizer = torch.optim.AdamW(self.trained_parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, Plateau(optimizer)

    # --- data ---------------------------------------------------------------------------------------------------

    @cached_property
    def slices(self) -> dict[str, Slices]:
        """Training slices by dataset; those that are missing or old are made now.

        Raises:
            NnkdError: If they can be neither made nor found.
        """
        names = self.recipe.datasets or (self.plans_manager.dataset_name,)
        slice_plans.write_plans(names)
        return {name: self._slices_of(name) for name in names}

    def _slices_of(self, name: str) -> Slices:
        folder = room("nnUNet_preprocessed") / name / FOLDER
        raw = slice_plans.raw_folder(name)
        if raw is None:
            index = read_index(folder, name)
            if index is None:
                raise RecipeError(f"{name} has no slices ({FOLDER}) and is not in nnUNet_raw. Set nnUNet_raw.")
            self.print_to_log_file(
                f"{name} is not in nnUNet_raw: its {len(index.cases)} case(s) are taken as they are."
            )
            return Slices(name, folder, index)
        dataset = RawDataset(raw)
        channel = self.options.channel if self.options.channel in dataset.spec.channel_names else None
        slices = making.update(dataset, folder, making.new_index(dataset, channel, self.options.windows))
        content = sum(len(record.content()) for record in slices.index.cases.values())
        self.print_to_log_file(f"{name}: {len(slices.index.cases)} case(s), {content} slices with content.")
        return slices

    @property
    def several(self) -> bool:
        """Whether there is more than one dataset, whose names stand before cases then."""
        return len(self.slices) > 1

    def _key(self, name: str, case: str) -> str:
        return f"{name}/{case}" if self.several else case

    def people(self, cases: Sequence[str], required: bool) -> dict[str, Participant]:
        """The person behind each case; persons of different datasets are different ones."""
        found: dict[str, Participant] = {}
        reader = Reader(self.slices, self.several)
        for name in self.slices:
            mine = {key: reader.where(key)[1] for key in cases if reader.where(key)[0].name == name}
            folder = room("nnUNet_preprocessed") / name
            people = participants_of_cases(folder, list(mine.values()), required=required)
            for key, case in mine.items():
                person = people[case]
                found[key] = Participant(
                    self._key(name, person.identifier), person.sex, person.age, person.bmi, person.attributes
                )
        return {key: found[key] for key in cases}

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of all datasets: of each dataset its own fold, or all cases on both sides."""
        training: list[str] = []
        validation: list[str] = []
        for name, slices in self.slices.items():
            fold = self._fold_of(name, list(slices.index.cases))
            training += [self._key(name, case) for case in fold["train"]]
            validation += [self._key(name, case) for case in fold["val"]]
        return training, validation

    def _fold_of(self, name: str, cases: list[str]) -> dict[str, list[str]]:
        if self.fold == "all":
            return {"train": cases, "val": cases}
        folder = room("nnUNet_preprocessed") / name
        file = folder / splits.SPLITS
        if not file.is_file():
            splits.write(file, splits.default_folds(participants_of_cases(folder, cases)))
            self.print_to_log_file(f"Made {file.name} of {name}: 5 folds by participant.")
        folds = splits.read_folds(file)
        if int(self.fold) >= len(folds):
            raise RecipeError(
                f"{file.name} of {name} has {len(folds)} fold(s), but the fold is {self.fold}. Make others with "
                f"nnKD_split, or train fold all."
            )
        there = set(cases)
        return {part: [case for case in folds[int(self.fold)][part] if case in there] for part in ("train", "val")}

    @abstractmethod
    def reader(self) -> Reader:
        """How slices become samples; subclasses say whether with targets."""

    def get_tr_and_val_datasets(self) -> tuple[list[str], list[str]]:
        """Training and validation cases that have slices to learn from.

        Raises:
            RecipeError: If there is none.
        """
        reader = self.reader()
        found = []
        for what, keys in zip(("training", "validation"), self.do_split(), strict=True):
            left = [key for key in keys if reader.choices(key)]
            if not left:
                missing = (
                    "a labelled target of 20 pixels or more" if self.labelled else "a slice of more than one value"
                )
                raise RecipeError(
                    f"No {what} case of fold {self.fold} of {', '.join(self.slices)} has {missing}. "
                    + ("Put label maps into labelsTr, or choose another fold." if self.labelled else "Choose another.")
                )
            if len(left) < len(keys):
                self.print_to_log_file(f"{len(keys) - len(left)} {what} case(s) without a usable slice left out")
            found.append(left)
        return found[0], found[1]

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Slices of drawn cases, and the same validation slices in each epoch."""
        training, validation = self.get_tr_and_val_datasets()
        reader, batch = self.reader(), self.batch_size
        every = sum(len(reader.choices(key)) for key in training)
        self.num_iterations_per_epoch = self.options.iterations or math.ceil(every / batch)
        most = None if self.fold != "all" else math.ceil(every * SHARE_OF_ALL)
        if self.options.val_iterations is not None:
            most = self.options.val_iterations * batch
        fixed = FixedSlices(reader, reader.fixed(validation, most), batch)
        self.num_val_iterations_per_epoch = len(fixed)
        self.print_to_log_file(
            f"{len(training)} training cases with {every} slices, {self.num_iterations_per_epoch} iterations an epoch; "
            f"{len(validation)} validation cases, {len(fixed.pairs)} slices"
        )
        workers = get_allowed_n_proc_DA()
        drawn = DrawnSlices(reader, self._draw(training, workers), self.options.flips)
        return self._augmenter(drawn, workers), self._augmenter(fixed, 1)

    # --- a training ---------------------------------------------------------------------------------------------

    def log_recipe(self) -> None:
        """Options, and the licences of what is learned from."""
        super().log_recipe()
        self.log_licences(no_weights="unknown")

    def on_train_start(self) -> None:
        """nnU-Net's, without what its preprocessing leaves behind."""
        self.log_recipe()
        if not self.was_initialized:
            self.initialize()
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        for leftover in Path(self.output_folder).glob("*.pth.writing"):
            leftover.unlink()
        empty_cache(self.device)
        save_json(self.plans_manager.plans, str(Path(self.output_folder_base) / "plans.json"), sort_keys=False)
        save_json(self.dataset_json, str(Path(self.output_folder_base) / "dataset.json"), sort_keys=False)
        self._save_debug_information()

    def on_train_epoch_start(self) -> None:
        """nnU-Net's, whose learning rate follows the epoch's number."""
        self.network.train()
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.print_to_log_file("")
        self.print_to_log_file(f"Epoch {self.current_epoch}")
        self.print_to_log_file(f"Current learning rate: {rate:.3g}")
        self.logger.log("lrs", rate, self.current_epoch)

    @abstractmethod
    def outputs(self, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """What the network says of a batch, and the target, as `loss` wants both."""

    @abstractmethod
    def measures(self, output: Any, target: Any) -> dict[str, Tensor]:
        """For each curve, a value for each image of a validation batch."""

    def target_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Computed in float32."""
        output, target = self.outputs(batch)
        loss = self.loss(output, target)
        return loss, {"loss": loss}

    def validation_step(self, batch: dict) -> dict:
        """The loss and the curves' measures; the last batch of a round may be smaller and counts for less."""
        output, target = self.outputs(batch)
        found = {name: value.float().sum().item() for name, value in self.measures(output, target).items()}
        number = len(batch["keys"])
        return {"loss": self.loss(output, target).item() * number, "number": number, **found}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Means over the images; the learning rate's schedule hears the loss."""
        number = sum(found["number"] for found in val_outputs)
        names = ("loss", *self.curves)
        means = {name: float(np.sum([found[name] for found in val_outputs]) / number) for name in names}
        self.logger.log("val_losses", means["loss"], self.current_epoch)
        for name in self.curves:
            self.logger.log(name, means[name], self.current_epoch)
        self.lr_scheduler.hear(means["loss"], self.logger.local_logger.my_fantastic_logging)

    def on_epoch_end(self) -> None:
        """nnU-Net's, with the best checkpoint by validation loss."""
        epoch, value = self.current_epoch, self.logger.get_value
        self.logger.log("epoch_end_timestamps", time(), epoch)
        losses = value("val_losses", None)
        said = [f"train_loss {value('train_losses', -1):.5f}", f"val_loss {losses[-1]:.5f}"]
        said += [f"{name} {value(name, -1):.4f}" for name in self.curves]
        said.append(f"{value('epoch_end_timestamps', -1) - value('epoch_start_timestamps', -1):.2f} s")
        self.print_to_log_file(", ".join(said))
        folder = Path(self.output_folder)
        if (epoch + 1) % self.save_every == 0 and epoch != self.num_epochs - 1:
            self.save_checkpoint(str(folder / "checkpoint_latest.pth"))
        if losses[-1] < min(losses[:-1], default=math.inf):
            self.print_to_log_file(f"New best validation loss: {losses[-1]:.5f}")
            self.save_checkpoint(str(folder / "checkpoint_best.pth"))
        plot(self.logger.local_logger.my_fantastic_logging, self.curves, folder / "progress.png")
        self.current_epoch += 1

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """nnkd's; the learning rate's schedule goes on where it was."""
        super().load_checkpoint(filename_or_checkpoint)
        self.lr_scheduler.resume(self.logger.local_logger.my_fantastic_logging)

    # --- after a training ---------------------------------------------------------------------------------------

    @abstractmethod
    def final_summary(self) -> dict[str, Any]:
        """What validation/summary.json says."""

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Measure the network on validation slices; `save_probabilities` has no effect, there are no predictions."""
        if not self.was_initialized:
            self.initialize()
        self.network.eval()
        summary = self.final_summary()
        write_json(Path(self.output_folder) / "validation" / "summary.json", summary)
        self.print_to_log_file("Validation complete")
        self.print_to_log_file(f"Mean over {summary['slices']} slices: {summary['mean']}")
