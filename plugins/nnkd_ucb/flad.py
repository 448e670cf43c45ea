"""FLAD's two bandits, paper 3's "DAL": the reward is the cosine of the gradients alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import exp, log, sqrt
from typing import Any, Literal

from nnkd.errors import SettingError
from nnkd_ucb.arms import Choice, Numbers, ScoredScheduler, filled, first_highest


class Dal(ScoredScheduler):
    """EXP3 draws arms by the sum of their rewards, each divided by the chance it was drawn with; UCB1 chooses the arm
    with the highest mean + sqrt(2 ln t / n), whose means and counts begin with a score of every arm.

    With K arms, in turn t = 1, 2, ..., and e_t = min(1 / K, sqrt(ln K / (K t))), e_0 = 1 / K, EXP3's chance of arm a is

        (1 - K e_t) exp(e_{t-1} S_a) / (sum over all arms) + e_t,    S_a <- S_a + cosine / chance of a.

    Source: Albalak et al., Improving Few-Shot Generalization by Exploring and Exploiting Auxiliary Data, NeurIPS 2023.
        Which of the two paper 3 compares with is not said.

    Args:
        datasets: The arms.
        algorithm: `exp3` or `ucb1`.
        beta: Weight of the new observation in UCB1's means, in (0, 1].
        seed: Of EXP3's draws.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        *,
        algorithm: Literal["exp3", "ucb1"] = "exp3",
        beta: float = 1.0,
        seed: int = 0,
    ):
        super().__init__(datasets)
        if algorithm not in ("exp3", "ucb1"):
            raise SettingError(f"The option algorithm got '{algorithm}', but expects exp3 or ucb1.")
        if not 0 < beta <= 1:
            raise SettingError(f"The option beta got {beta}, but expects a number above 0 and at most 1.")
        self.algorithm, self.beta, self.seed = algorithm, beta, seed
        self._sums = dict.fromkeys(self.datasets, 0.0)  # EXP3's
        self._means: Numbers = dict.fromkeys(self.datasets)  # UCB1's

    def probabilities(self) -> dict[str, float]:
        """EXP3's chance of every arm in the turn to come."""
        rate, sharpness = self._rate(self.turn + 1), self._rate(self.turn)
        top = max(self._sums.values())  # a common factor; keeps exp in range
        weights = {name: exp(sharpness * (total - top)) for name, total in self._sums.items()}
        whole = sum(weights.values())
        spread = 1 - len(self.datasets) * rate
        return {name: spread * weight / whole + rate for name, weight in weights.items()}

    def _rate(self, turn: int) -> float:
        number = len(self.datasets)
        return min(1 / number, sqrt(log(number) / (number * turn))) if turn else 1 / number

    def _choose(self) -> Choice:
        if self.algorithm == "exp3":
            chances = self.probabilities()
            point = self.drawn(self.seed) * sum(chances.values())
            ends = accumulate(chances.values())
            names = [name for name, end in zip(self.datasets, ends, strict=True) if point < end]
            return {"dataset": names[0] if names else self.datasets[-1], "probabilities": chances}
        estimates, many = filled(self._means), 2 * log(self.turn + 1)
        bounds = {name: mean + sqrt(many / (self.counts[name] + 1)) for name, mean in estimates.items()}
        return {"dataset": first_highest(bounds), "estimates": estimates, "bounds": bounds}

    def _learn(self, chosen: Choice, loss: float, cosine: float) -> dict[str, object]:
        dataset = chosen["dataset"]
        if self.algorithm == "exp3":
            self._sums[dataset] += cosine / chosen["probabilities"][dataset]
        else:
            self._hear(dataset, cosine)
        return {"reward": cosine}

    def _hear(self, dataset: str, cosine: float) -> None:
        old = self._means[dataset]
        self._means[dataset] = cosine if old is None else (1 - self.beta) * old + self.beta * cosine

    def _due(self) -> tuple[str, ...]:
        return super()._due() if self.algorithm == "ucb1" else ()

    def _scored(self, dataset: str, found: Numbers, norm: float | None, target_norm: float | None) -> Numbers:
        if found["cosine"] is not None:
            self._hear(dataset, found["cosine"])
        return {}

    def _memory(self) -> dict[str, object]:
        return {**super()._memory(), "sums": dict(self._sums), "means": dict(self._means)}

    def _remember(self, state: Mapping[str, Any]) -> None:
        super()._remember(state)
        sums, means = state["sums"], state["means"]
        self._sums = {name: float(sums[name]) for name in self.datasets}
        self._means = {name: None if means[name] is None else float(means[name]) for name in self.datasets}
