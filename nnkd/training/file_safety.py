"""nnU-Net's trainer, careful with files: checkpoints are written whole or not at all and loaded without running what a
pickle may hold, and neither host names nor absolute paths get into what is handed on with a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnkd import paths
from nnkd.errors import WeightsError, in_one_line
from nnkd.files import atomic, read_json, write_json
from nnkd.training import divergence
from nnkd.weights.checkpoints import load_checkpoint


class FileSafeTrainer(nnUNetTrainer):
    """nnU-Net's training, other files. The constructor is nnU-Net's, untouched."""

    def on_train_start(self) -> None:
        """nnU-Net's; what a killed training left half-written goes."""
        super().on_train_start()
        if self.local_rank == 0:
            for leftover in Path(self.output_folder).glob("*.pth.writing"):
                leftover.unlink()

    def run_training(self) -> None:
        """nnU-Net's; what stops it is the last that is said, and not complaints of processes that loaded for it."""
        divergence.watch(self)
        try:
            super().run_training()
        except BaseException:
            self.end_loaders()
            raise

    def end_loaders(self) -> None:
        """End the processes that make batches."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's, atomically: a process killed while writing leaves the old checkpoint whole."""
        temporary = Path(f"{filename}.writing")
        try:
            super().save_checkpoint(str(temporary))
            if self.local_rank == 0 and temporary.is_file():
                os.replace(temporary, filename)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "writ" not in str(error) and "inline_container" not in str(error):
                raise  # not torch's way of saying that the disk is full
            why = getattr(error, "strerror", None) or in_one_line(error)
            raise WeightsError(
                f"'{Path(filename).name}' could not be written ({why}). Nothing half-written remains; make room and "
                f"continue with --c."
            ) from error
        finally:
            if self.local_rank == 0:
                temporary.unlink(missing_ok=True)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """nnU-Net's, which would run whatever a pickle may hold, after a look at what this one holds."""
        self.check_checkpoint(load_checkpoint(Path(filename_or_checkpoint)))
        super().load_checkpoint(filename_or_checkpoint)

    def check_checkpoint(self, content: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another training before anything of it is taken; subclasses override this.

        Args:
            content: All of it.
        """

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """nnU-Net's, with the machine's folders called by their variables: logs are handed on with models."""
        args = tuple(paths.without_folders(a) if isinstance(a, str) else a for a in args)
        super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation; its summary.json names files from the folders' variables on."""
        super().perform_actual_validation(save_probabilities)
        file = Path(self.output_folder) / "validation" / "summary.json"
        if self.local_rank == 0 and file.is_file():
            with atomic(file) as temporary:
                temporary.write_text(paths.without_folders(file.read_text(encoding="utf-8")), encoding="utf-8")

    def _save_debug_information(self) -> None:
        super()._save_debug_information()
        if self.local_rank == 0:
            file = Path(self.output_folder) / "debug.json"
            content = read_json(file)
            content.pop("hostname", None)
            write_json(file, {key: paths.without_folders(str(value)) for key, value in content.items()})
