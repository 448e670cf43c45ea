"""What the bandits are compared with: the target alone, all datasets, the one that looked best, and a random one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from nnkd.errors import RecipeError
from nnkd_ucb.arms import ArmScheduler, Choice, Numbers, Remembering, ScoredScheduler, first_highest


class Unasked(Remembering):
    """A scheduler with nothing to choose."""

    def select(self) -> str:
        """There is nothing to select.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            f"The auxiliary scheduler {type(self).__name__} trains on {self.trains_on} of the auxiliary datasets, so "
            f"it selects none. Look at trains_on before asking it."
        )

    def update(self, dataset: str, loss: float, gradient_cosine: float) -> None:
        """Nothing is learned."""


class TargetOnly(Unasked):
    """Direct fine-tuning: the target alone. Auxiliary datasets may be named, and are left alone."""

    trains_on: ClassVar[Literal["one", "all", "none"]] = "none"


class Mtl(Unasked):
    """Multi-task learning: batches are mixed of the target and all auxiliary datasets.

    Source: Graham et al., One model is all you need, Medical Image Analysis 2023, as paper 3 runs it.
    """

    trains_on: ClassVar[Literal["one", "all", "none"]] = "all"


class Gms(ScoredScheduler):
    """The dataset whose gradient is most alike the target's in length, 2 |a| |t| / (|a|^2 + |t|^2), before the first
    turn; it stays the one. Of equal ones, that which was given first; norms that are not finite count as 0.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, Definition 2, as paper 3 uses it.
    """

    def __init__(self, datasets: Sequence[str]):
        super().__init__(datasets)
        self._similarities = dict.fromkeys(self.datasets, 0.0)

    def _choose(self) -> Choice:
        return {"dataset": first_highest(self._similarities), "estimates": dict(self._similarities)}

    def _scored(self, dataset: str, found: Numbers, norm: float | None, target_norm: float | None) -> Numbers:
        self._similarities[dataset] = magnitude_similarity(norm or 0.0, target_norm or 0.0)
        return {"similarity": self._similarities[dataset]}

    def _memory(self) -> dict[str, object]:
        return {**super()._memory(), "similarities": dict(self._similarities)}

    def _remember(self, state: Mapping[str, Any]) -> None:
        super()._remember(state)
        self._similarities = {name: float(state["similarities"][name]) for name in self.datasets}


class Random(ArmScheduler):
    """Every dataset equally likely in every turn.

    Args:
        datasets: To draw from.
        seed: Of the draws.
    """

    def __init__(self, datasets: Sequence[str], *, seed: int = 0):
        super().__init__(datasets)
        self.seed = seed

    def _choose(self) -> Choice:
        return {"dataset": self.datasets[int(self.drawn(self.seed) * len(self.datasets))]}


def magnitude_similarity(first: float, second: float) -> float:
    """2 a b / (a^2 + b^2) of two lengths of at least 0, in [0, 1]; 0 where one is 0.

    Source: Yu et al., NeurIPS 2020, Definition 2.
    """
    longer = max(first, second)
    if longer == 0:
        return 0.0
    ratio = min(first, second) / longer  # squares of small lengths would be 0
    return 2 * ratio / (1 + ratio * ratio)
