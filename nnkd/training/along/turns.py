"""The turns of a training with auxiliary tasks: who trains along, what was heard of it, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import Any

from torch import Tensor

from nnkd.auxiliary import record
from nnkd.errors import RecipeError, in_one_line
from nnkd.plugin.schedulers import AuxiliaryScheduler
from nnkd.training.along.gradients import SecondPass
from nnkd.training.along.loader import AuxiliaryBatches

Step = tuple[float, float]  # auxiliary loss and cosine


class Turns:
    """The turns of a training with auxiliary tasks.

    Departs: where a turn is an epoch, its loss is the mean over its iterations and its cosine the mean of theirs; the
        authors' code takes the cosine of gradients that are means over an epoch, which needs a copy of each.

    Args:
        scheduler: Chooses; or trains on all.
        second: The pass over auxiliary batches.
        per_epoch: Whether a turn is an epoch.
    """

    def __init__(self, scheduler: AuxiliaryScheduler, second: SecondPass, per_epoch: bool):
        self.scheduler, self.second, self.per_epoch = scheduler, second, per_epoch
        self.turns = 0
        self.steps = 0  # since this process began
        self.record: Path | None = None  # in the training's main process
        self.loss_of: Callable[[Mapping[str, Any]], Tensor] | None = None
        self.batches: AuxiliaryBatches | None = None
        self._arm: str | None = None
        self._heard: list[Step] = []
        self._target: list[float] = []

    def begin(self, batches: AuxiliaryBatches, loss_of: Callable[[Mapping[str, Any]], Tensor]) -> None:
        """Take what a training needs, and cut the record where the checkpoint ends.

        Args:
            batches: Of the tasks, in the scheduler's order.
            loss_of: A batch's loss, through the second pass.
        """
        self.batches, self.loss_of = batches, loss_of
        if self.record is not None:
            record.cut(self.record, self.turns)

    def backward(self, scale: float) -> None:
        """Add the gradient of the turn's task to the target's, which stands there.

        Args:
            scale: Of the target's loss.
        """
        self.steps += 1
        if self.scheduler.trains_on == "all":
            wanted = tuple(range(len(self.scheduler.datasets)))
        else:
            if self._arm is None and not self._choose(scale):
                return
            wanted = self._number(self._arm)
        loss, found = self.second.train(partial(self._loss, wanted), scale)
        self._heard.append((loss, found.cosine))

    def _choose(self, scale: float) -> bool:
        """Begin a turn; False if the target's gradient overflowed, so that there is nothing to compare with: the step
        will be passed over, and the loss scaled less."""
        due = self.scheduler.unscored()
        if due and not self.second.target_is_finite():
            return False
        if due:
            self._begun()[0].expect([self._number(name) for name in due])
        for name in due:
            wanted = self._number(name)
            loss, found, last = self.second.score(partial(self._loss, wanted), scale)
            norm, target_norm = found.norms(last, scale)
            self.scheduler.score(name, loss, found.cosine, norm, target_norm)
        self._arm = self.scheduler.select()
        return True

    def _number(self, name: str | None) -> tuple[int, ...]:
        return (self.scheduler.datasets.index(name),)

    def _loss(self, wanted: tuple[int, ...]) -> Tensor:
        batches, loss_of = self._begun()
        return loss_of(batches.take(wanted))

    def _begun(self) -> tuple[AuxiliaryBatches, Callable[[Mapping[str, Any]], Tensor]]:
        if self.batches is None or self.loss_of is None:
            raise RuntimeError("a turn was taken before `begin`")
        return self.batches, self.loss_of

    def end_iteration(self, target_loss: float, epoch: int) -> None:
        """After the step; ends the turn if it is an iteration."""
        self._target.append(target_loss)
        if not self.per_epoch:
            self._end_turn(epoch)

    def end_epoch(self, epoch: int) -> None:
        """After the last step of an epoch; ends the turn if it is an epoch."""
        if self.per_epoch:
            self._end_turn(epoch)

    def _end_turn(self, epoch: int) -> None:
        heard, target = self._heard, self._target
        self._heard, self._target = [], []
        if not heard:
            return
        losses, cosines = ([step[part] for step in heard] for part in (0, 1))
        turn: dict[str, Any] = {"loss": _mean(losses), "cosine": _mean(cosines)}
        self.turns += 1
        if self._arm is not None:
            self.scheduler.update(self._arm, turn["loss"], turn["cosine"])
            turn |= {"dataset": self._arm, **self.scheduler.trace()}
            self._arm = None
        turn |= {"turn": self.turns, "epoch": epoch, "target_loss": _mean(target)}
        if self.record is not None:
            record.append(self.record, turn)

    def state_dict(self) -> dict[str, Any]:
        """Turns, the scheduler's state, the heads."""
        heads = {} if self.second.heads is None else self.second.heads.state_dict()
        return {
            "turns": self.turns,
            "scheduler": self.scheduler.state_dict(),
            "heads": {name: tensor.detach().cpu() for name, tensor in heads.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            RecipeError: If the state is of another scheduler, of other tasks, or broken.
        """
        try:
            self.scheduler.load_state_dict(state["scheduler"])
            self.turns = int(state["turns"])
            if self.second.heads is not None:
                self.second.heads.load_state_dict(state["heads"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise RecipeError(
                f"The checkpoint's record of the auxiliaries is broken ({in_one_line(error)[:200]}). Continue from "
                f"another checkpoint, or train under another recipe name (-n)."
            ) from error


def _mean(values: Sequence[float]) -> float:
    """Of those that are finite."""
    finite = [value for value in values if isfinite(value)]
    return sum(finite) / len(finite) if finite else nan
