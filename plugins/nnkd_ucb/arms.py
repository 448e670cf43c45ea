"""What schedulers that choose among arms share: turns, pulls, the trace, the state. An arm is an auxiliary dataset."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, TypedDict

from nnkd.errors import RecipeError
from nnkd.plugin.schedulers import AuxiliaryScheduler

Numbers = dict[str, float | None]  # by dataset; None: unknown


class _Chosen(TypedDict):
    dataset: str


class Choice(_Chosen, total=False):
    """A turn's arm, and what else of the choice the trace keeps."""

    alpha: float
    estimates: dict[str, float]
    bounds: dict[str, float]
    probabilities: dict[str, float]


class Remembering(AuxiliaryScheduler):
    """A scheduler whose state says whose it is: the class and the datasets, in their order."""

    def state_dict(self) -> dict[str, object]:
        """As JSON: "rule", "datasets", and what `_memory` holds."""
        return {"rule": type(self).__name__, "datasets": list(self.datasets), **self._memory()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume.

        Raises:
            RecipeError: If the state is of other datasets, of these in another order, of another rule, or incomplete;
                this scheduler stays as it was then.
        """
        problem = self._difference(state)
        before = self._memory()
        if not problem:
            try:
                self._remember(state)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._remember(before)
                problem = f"is incomplete or broken ({type(error).__name__}: {error})"
        if problem:
            raise RecipeError(
                f"The auxiliary scheduler's state {problem}. Continue the training with the auxiliary datasets and "
                f"the scheduler it began with, or train under another recipe name (-n)."
            )

    def _difference(self, state: Mapping[str, object]) -> str:
        """What is wrong with whose state it is, as the rest of a sentence; empty if nothing."""
        rule, theirs, mine = state.get("rule"), state.get("datasets"), list(self.datasets)
        if rule != type(self).__name__:
            return f"is of {rule or 'no known rule'}, but {type(self).__name__} is expected"
        if theirs == mine:
            return ""
        if not isinstance(theirs, list):
            return "names no datasets"
        strange = [str(name) for name in theirs if name not in mine]
        missing = [name for name in mine if name not in theirs]
        if not strange and not missing:
            return f"is of the same datasets in another order ({', '.join(map(str, theirs))})"
        parts = [f"has {', '.join(strange)}, which are not here"] if strange else []
        parts += [f"lacks {', '.join(missing)}"] if missing else []
        return " and ".join(parts)

    def _memory(self) -> dict[str, object]:
        """What the state holds beside its owner, as JSON; nothing of it may change later."""
        return {}

    def _remember(self, state: Mapping[str, Any]) -> None:
        """Take `_memory` back, as JSON that nobody has checked."""


class ArmScheduler(Remembering):
    """Chooses one arm a turn. Derived classes say how (`_choose`) and what is learned (`_learn`)."""

    def __init__(self, datasets: Sequence[str]):
        super().__init__(datasets)
        self.turn = 0  # finished ones
        self.counts = dict.fromkeys(self.datasets, 0)  # finished turns by arm
        self._chosen: Choice | None = None  # of the turn that has begun
        self._scores: dict[str, Numbers] = {}  # since the last finished turn
        self._last: dict[str, object] = {}

    def select(self) -> str:
        """The arm of the next turn; the same one until `update` is told of it."""
        if self._chosen is None:
            self._chosen = self._choose()
        return str(self._chosen["dataset"])

    def update(self, dataset: str, loss: float, gradient_cosine: float) -> None:
        """End a turn. Where the loss or the cosine is not finite the turn counts, but nothing is learned from it.

        Args:
            dataset: What `select` returned.
            loss: Its mean loss.
            gradient_cosine: In [-1, 1]; what rounding puts outside is cut.

        Raises:
            RecipeError: If another arm was selected, or none.
        """
        if self._chosen is None or dataset != self._chosen["dataset"]:
            said = "none was selected" if self._chosen is None else f"'{self._chosen['dataset']}' was selected"
            raise RecipeError(f"The turn's result is of '{dataset}', but {said}. Call select before each update.")
        cosine = observed(gradient_cosine, -1.0, 1.0)
        loss_or_none = observed(loss)
        learned = {} if loss_or_none is None or cosine is None else self._learn(self._chosen, loss_or_none, cosine)
        self.turn += 1
        self.counts[dataset] += 1
        self._last = {
            "turn": self.turn,
            **self._chosen,
            "loss": loss_or_none,
            "cosine": cosine,
            **learned,
            "counts": dict(self.counts),
            "scores": self._scores,
        }
        self._chosen, self._scores = None, {}

    def trace(self) -> dict[str, object]:
        """The last finished turn since construction or resuming."""
        return dict(self._last)

    def drawn(self, seed: int) -> float:
        """A number in [0, 1) that the seed and the turn decide alone: so nothing else need be kept to resume."""
        return random.Random(f"{seed}/{self.turn}").random()

    @abstractmethod
    def _choose(self) -> Choice:
        """The next turn's arm."""

    def _learn(self, chosen: Choice, loss: float, cosine: float) -> dict[str, object]:
        """Take note of finite numbers; returns what of it the trace is to keep."""
        return {}

    def _memory(self) -> dict[str, object]:
        return {
            "turn": self.turn,
            "counts": dict(self.counts),
            "chosen": self._chosen,
            "scores": {name: dict(found) for name, found in self._scores.items()},
        }

    def _remember(self, state: Mapping[str, Any]) -> None:
        counts, chosen = state["counts"], state["chosen"]
        self.turn = int(state["turn"])
        self.counts = {name: int(counts[name]) for name in self.datasets}
        if self.turn < 0 or min(self.counts.values()) < 0:
            raise ValueError("turns below 0")
        if chosen is not None and chosen["dataset"] not in self.datasets:
            raise ValueError("another arm was chosen")
        self._chosen = None if chosen is None else {**chosen, "dataset": chosen["dataset"]}
        self._scores = {name: dict(found) for name, found in state["scores"].items()}
        self._last = {}


class ScoredScheduler(ArmScheduler):
    """Scores every arm once before the first turn."""

    def unscored(self) -> tuple[str, ...]:
        """The arms that are still to be scored."""
        if self._chosen is not None:
            return ()
        return tuple(name for name in self._due() if name not in self._scores)

    def score(
        self, dataset: str, loss: float, gradient_cosine: float, gradient_norm: float, target_norm: float
    ) -> None:
        """Take note of a score. Numbers that are not finite are passed over: the arm counts as scored.

        Args:
            dataset: One of `unscored()`.
            loss: Its mean loss.
            gradient_cosine: In [-1, 1]; what rounding puts outside is cut.
            gradient_norm, target_norm: Euclidean norms of both gradients.

        Raises:
            RecipeError: If the arm is not to be scored now.
        """
        if dataset not in self.unscored():
            wanted = ", ".join(self.unscored()) or "none"
            raise RecipeError(f"A score came for '{dataset}', but of these one was expected: {wanted}.")
        found = {"loss": observed(loss), "cosine": observed(gradient_cosine, -1.0, 1.0)}
        found = {**found, **self._scored(dataset, found, observed(gradient_norm), observed(target_norm))}
        self._scores[dataset] = found

    def _due(self) -> tuple[str, ...]:
        """Arms to be scored before the turn to come."""
        return self.datasets if self.turn == 0 else ()

    @abstractmethod
    def _scored(self, dataset: str, found: Numbers, norm: float | None, target_norm: float | None) -> Numbers:
        """Take note of a score, None standing for what was not finite; returns what else the trace is to keep."""


def observed(value: float, lowest: float | None = None, highest: float | None = None) -> float | None:
    """A plain number within bounds, or None where it is not finite."""
    number = float(value)
    if not isfinite(number):
        return None
    if lowest is not None:
        number = max(lowest, number)
    return number if highest is None else min(highest, number)


def filled(numbers: Mapping[str, float | None], otherwise: float = 0.0) -> dict[str, float]:
    """Unknown ones become the lowest known, so that an arm nobody knows anything of is not preferred."""
    known = [number for number in numbers.values() if number is not None]
    lowest = min(known, default=otherwise)
    return {name: lowest if number is None else number for name, number in numbers.items()}


def first_highest(numbers: Mapping[str, float]) -> str:
    """The name of the highest number; of equal ones, that which was given first."""
    return max(numbers, key=numbers.__getitem__)
