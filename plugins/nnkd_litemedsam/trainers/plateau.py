"""The learning rate's schedule of trainings on slices: it falls where the validation loss does not."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

NAME = "plateau"  # in the checkpoint's log
STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
FACTOR, PATIENCE = 0.9, 5  # Source: Yang et al. 2024, Tables 3 and 4


class Plateau(ReduceLROnPlateau):
    """By a tenth when the loss did not fall for five epochs. nnU-Net's checkpoints have no place for a schedule, but
    they keep its log."""

    def __init__(self, optimizer: Optimizer):
        super().__init__(optimizer, factor=FACTOR, patience=PATIENCE)

    def hear(self, loss: float, log: dict[str, list[Any]]) -> None:
        """An epoch's validation loss; takes note in the log, where only the last state is of use."""
        self.step(loss)
        log[NAME] = [{name: self.state_dict()[name] for name in STATE}]

    def resume(self, log: dict[str, list[Any]]) -> None:
        """Go on where the log says that it was."""
        if kept := log.get(NAME):
            self.load_state_dict({**self.state_dict(), **kept[-1]})
