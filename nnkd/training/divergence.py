"""A training whose loss is no number stops at once, and never writes its weights over good ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnkd.errors import TrainingError

# Steps without a finite gradient that torch's GradScaler leaves out, halving its scale of 2**16: it is 1 after 16
OVERFLOWS = 20
CHECKPOINTS = ("checkpoint_latest.pth", "checkpoint_best.pth")  # in the order in which nnU-Net continues from them
WATCHED: WeakSet[nnUNetTrainer] = WeakSet()


@contextmanager
def watched() -> Iterator[None]:
    """All trainers of nnU-Net are watched, also those that are not nnkd's."""
    run = nnUNetTrainer.run_training

    def watching(trainer: nnUNetTrainer) -> None:
        watch(trainer)
        run(trainer)

    nnUNetTrainer.run_training = watching
    try:
        yield
    finally:
        nnUNetTrainer.run_training = run


def watch(trainer: nnUNetTrainer) -> None:
    """Watch a trainer's steps and checkpoints from now on."""
    if trainer not in WATCHED:
        WATCHED.add(trainer)
        Watch(trainer)


class Watch:
    """Looks at the loss of each step, and at weights that are about to be written.

    With a GradScaler (half precision) a step whose gradients overflow is left out and harms nothing: it is not counted
    into the epoch's mean, and only weights that are no numbers, or many such steps in a row, stop the training.

    Args:
        trainer: Whose methods are wrapped.
    """

    def __init__(self, trainer: nnUNetTrainer):
        self.trainer = trainer
        self._step, self._save, self._end = trainer.train_step, trainer.save_checkpoint, trainer.on_train_epoch_end
        self._epoch, self._iteration, self._lost = -1, 0, 0
        self._since = ""
        trainer.train_step, trainer.save_checkpoint = self.train_step, self.save_checkpoint
        trainer.on_train_epoch_end = self.on_train_epoch_end

    def train_step(self, batch: dict) -> dict:
        """The trainer's.

        Raises:
            TrainingError: If its loss is no number.
        """
        trainer = self.trainer
        if self._epoch != trainer.current_epoch:
            self._epoch, self._iteration = trainer.current_epoch, 0
            mend(trainer.loss)
        said: dict = self._step(batch)
        if np.isfinite(said["loss"]).all():
            self._lost = 0
        else:
            if not self._lost:
                self._since = f"epoch {self._epoch}, iteration {self._iteration}"
            self._lost += 1
            if trainer.grad_scaler is None or self._lost >= OVERFLOWS or not is_finite(trainer.network.state_dict()):
                raise TrainingError(self._sentence(f"The loss is {float(np.mean(said['loss']))}, no number,"))
        self._iteration += 1
        return said

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """The trainer's, without steps that were left out."""
        kept = [said for said in train_outputs if np.isfinite(said["loss"]).all()]
        if kept and len(kept) < len(train_outputs):
            self.trainer.print_to_log_file(
                f"{len(train_outputs) - len(kept)} of {len(train_outputs)} steps overflowed in half precision and were "
                f"left out"
            )
        self._end(kept or train_outputs)

    def save_checkpoint(self, filename: str) -> None:
        """The trainer's.

        Raises:
            TrainingError: If the weights are no numbers; nothing is written then.
        """
        if not is_finite(self.trainer.network.state_dict()):
            self._since = f"epoch {self.trainer.current_epoch}"
            raise TrainingError(self._sentence("The network has weights that are no numbers (NaN or infinite)"))
        self._save(filename)

    def _sentence(self, what: str) -> str:
        folder = Path(self.trainer.output_folder)
        there = next((name for name in CHECKPOINTS if (folder / name).is_file()), None)
        kept = f"{there} holds the last good weights, and --c continues from it" if there else "No checkpoint was left"
        return (
            f"{what} since {self._since} (counted from 0): the training was stopped. {kept}; a lower learning rate "
            f"(for nnkd's students --set lr=...) may help."
        )


def is_finite(tensors: Mapping[str, Any]) -> bool:
    """Whether all numbers of a state dict are numbers."""
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in tensors.values()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    )


def mend(loss: Any) -> Any:
    """nnU-Net gives the coarsest output no weight and makes the sum of all 1: of a network with two stages, which has
    one output, that is 0/0. Its weight becomes 1.

    Args:
        loss: Any; changed in place.
    """
    if isinstance(loss, DeepSupervisionWrapper) and np.isnan(loss.weight_factors).all():
        loss.weight_factors = (1.0,) * len(loss.weight_factors)
    return loss
