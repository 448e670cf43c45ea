"""Paper 3's bandit: the auxiliary dataset with the highest upper confidence bound trains along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, sqrt
from typing import Any, Literal

from nnkd.errors import SettingError
from nnkd_ucb.arms import Choice, Numbers, ScoredScheduler, filled, first_highest

FIRST_ALPHA = 0.5  # of the scores before the first turn: Algorithm 1, line 3


@dataclass(frozen=True)
class Preset:
    """Values of the options that are None.

    Attributes:
        c: Exploration constant.
        rescore_every: Turns after which all arms are scored; 0: never.
        decoupled: Whether loss and cosine are averaged apart.
        beta: Weight of the new observation.
    """

    c: float
    rescore_every: int
    decoupled: bool
    beta: float


PRESETS = {
    "paper": Preset(1.0, 0, False, 0.9),
    "log": Preset(0.1, 1, False, 0.9),
    "decoupled": Preset(0.1, 0, True, 0.1),
}


class Ucb(ScoredScheduler):
    """In turn t = 1, 2, ... arm a has, after n_a turns and one score, K arms in all, the bound

        estimate_a + c sqrt(2 ln(t + K) / (n_a + 1)),    alpha_t = exp(-alpha_decay (t - 1))

    and the arm with the highest one is chosen; of equal ones, that which was given first. What it brings is

        reward = -alpha_t loss_scaling loss + (1 - alpha_t) cosine,
        estimate_a <- (1 - beta) estimate_a + beta reward.

    Estimates begin with the arms' scores before the first turn, alpha = 0.5. An arm whose scores were never finite has
    the lowest estimate of the others. One arm alone is chosen always.

    Source: Yang et al., ASAP, Eq. 1-5 and Algorithm 1; t + K, alpha_decay, beta and the preset `log` from the authors'
        code and log.
    Departs: `decoupled` keeps means of loss and of cosine apart and mixes them with the alpha of the turn to come.
        Rewards of other turns were made with another alpha; -loss is far below the cosine, so an arm that was last
        seen early on looks worse than it is and is not asked again.

    Args:
        datasets: The arms.
        preset: `paper`: c = 1, only the chosen arm is heard. `log`: what the authors' log obeys, c = 0.1, all arms are
            scored after every turn. `decoupled`: c = 0.1, beta = 0.1 (the others: 0.9), and the departure above.
        c: Exploration constant; None: the preset's.
        beta: Weight of the new observation, in (0, 1]; None: the preset's.
        alpha_decay: How fast the loss stops to count, per turn.
        loss_scaling: Factor of the loss.
        rescore_every: Number of turns after which all other arms are scored, as a part of the last of these turns;
            0: never; None: the preset's. Each costs K - 1 backward passes.
        decoupled: None: the preset's.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        *,
        preset: Literal["paper", "log", "decoupled"] = "decoupled",
        c: float | None = None,
        beta: float | None = None,
        alpha_decay: float = 0.1,
        loss_scaling: float = 1.0,
        rescore_every: int | None = None,
        decoupled: bool | None = None,
    ):
        super().__init__(datasets)
        if preset not in PRESETS:
            raise SettingError(f"The option preset got '{preset}', but expects one of {', '.join(PRESETS)}.")
        given = PRESETS[preset]
        self.c = _at_least_zero("c", given.c if c is None else c)
        self.alpha_decay = _at_least_zero("alpha_decay", alpha_decay)
        self.loss_scaling = _at_least_zero("loss_scaling", loss_scaling)
        self.rescore_every = int(
            _at_least_zero("rescore_every", given.rescore_every if rescore_every is None else rescore_every)
        )
        self.decoupled = given.decoupled if decoupled is None else decoupled
        self.beta = given.beta if beta is None else beta
        if not 0 < self.beta <= 1:
            raise SettingError(
                f"The option beta got {beta}, but expects a number above 0 and at most 1: the weight of the new "
                f"observation."
            )
        self._means: dict[str, Numbers] = {kind: dict.fromkeys(self.datasets) for kind in ("loss", "cosine", "reward")}
        self._latest: str | None = None

    def alpha(self, turn: int) -> float:
        """The weight of the loss in a turn, from 1."""
        return exp(-self.alpha_decay * (turn - 1))

    def estimates(self) -> dict[str, float]:
        """Of every arm, for the turn to come."""
        if not self.decoupled:
            return filled(self._means["reward"])
        alpha = self.alpha(self.turn + 1)
        pairs = {name: (self._means["loss"][name], self._means["cosine"][name]) for name in self.datasets}
        return filled(
            {
                name: None if loss is None or cosine is None else self._reward(loss, cosine, alpha)
                for name, (loss, cosine) in pairs.items()
            }
        )

    def bounds(self) -> dict[str, float]:
        """Upper confidence bound of every arm, for the turn to come."""
        many = 2 * log(self.turn + 1 + len(self.datasets))
        return {
            name: estimate + self.c * sqrt(many / (self.counts[name] + 1))
            for name, estimate in self.estimates().items()
        }

    def _choose(self) -> Choice:
        bounds = self.bounds()
        return {
            "dataset": first_highest(bounds),
            "alpha": self.alpha(self.turn + 1),
            "estimates": self.estimates(),
            "bounds": bounds,
        }

    def update(self, dataset: str, loss: float, gradient_cosine: float) -> None:
        """End a turn; arguments and errors as for `ArmScheduler.update`."""
        super().update(dataset, loss, gradient_cosine)
        self._latest = dataset

    def _learn(self, chosen: Choice, loss: float, cosine: float) -> dict[str, object]:
        return {"reward": self._observe(chosen["dataset"], loss, cosine, self.alpha(self.turn + 1))}

    def _due(self) -> tuple[str, ...]:
        if self.turn and self.rescore_every and self.turn % self.rescore_every == 0:
            return tuple(name for name in self.datasets if name != self._latest)  # that one has just been heard
        return super()._due()

    def _scored(self, dataset: str, found: Numbers, norm: float | None, target_norm: float | None) -> Numbers:
        loss, cosine = found["loss"], found["cosine"]
        if loss is None or cosine is None:
            return {"reward": None}
        return {"reward": self._observe(dataset, loss, cosine, self.alpha(self.turn) if self.turn else FIRST_ALPHA)}

    def _reward(self, loss: float, cosine: float, alpha: float) -> float:
        return alpha * (-loss * self.loss_scaling) + (1 - alpha) * cosine

    def _observe(self, dataset: str, loss: float, cosine: float, alpha: float) -> float:
        """Move the arm's means towards an observation; returns its reward."""
        reward = self._reward(loss, cosine, alpha)
        for kind, new in (("loss", loss), ("cosine", cosine), ("reward", reward)):
            old = self._means[kind][dataset]
            self._means[kind][dataset] = new if old is None else (1 - self.beta) * old + self.beta * new
        return reward

    def _memory(self) -> dict[str, object]:
        means = {kind: dict(numbers) for kind, numbers in self._means.items()}
        return {**super()._memory(), "means": means, "latest": self._latest}

    def _remember(self, state: Mapping[str, Any]) -> None:
        super()._remember(state)
        means = state["means"]
        self._means = {
            kind: {name: None if (n := means[kind][name]) is None else float(n) for name in self.datasets}
            for kind in self._means
        }
        self._latest = state["latest"]


def _at_least_zero(name: str, value: float) -> float:
    if not (value >= 0 and isfinite(value)):
        raise SettingError(f"The option {name} got {value}, but expects a number of at least 0.")
    return value
