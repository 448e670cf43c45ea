"""`balanced`: as many jointly balanced batches as a cohort has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nnkd.data.groups import ATTRIBUTES
from nnkd.errors import ParticipantsError, SettingError
from nnkd.types import Participant
from nnkd_fairness.plan import Plan, Rule, largest_plan, nearest_sizes, possible
from nnkd_fairness.strata import (
    LARGEST,
    Bins,
    Grouping,
    Missing,
    Outside,
    Strata,
    StrataSampler,
    counted,
)

TOLERANCE = 1.1  # paper 1's
EQUAL = ("sex",)
PLANS = 8  # plans that take turns, if it takes so many to see everybody


@dataclass(frozen=True)
class Turns:
    """Plans that take turns, each of the largest number of batches.

    Attributes:
        plans: P plans; epoch e follows plan e modulo P.
        before: (P + 1, C) int, draws by stratum before each plan in a round; the last row is a whole round's.
    """

    plans: tuple[Plan, ...]
    before: NDArray[np.integer]

    def position(self, epoch: int) -> NDArray[np.integer]:
        """(C,) int, draws by stratum before an epoch."""
        rounds, turn = divmod(epoch, len(self.plans))
        return rounds * self.before[-1] + self.before[turn]


class Balanced(StrataSampler):
    """Every batch has equally many of each sex, and of age and BMI groups such that the most represented one is at most
    `tolerance` times the least represented one.

    An epoch is a plan: an integer programme over the joint strata finds the largest number of batches that obey the
    rule, and participants are drawn into them, none twice. In each stratum they stand in a circle, and each epoch
    begins where the last one ended: so those left out come first. Among the largest plans, the one is taken that
    spreads draws most evenly; later plans prefer strata whose participants had fewer draws.

    Source: Li et al., MICCAI 2025, section 2.2.
    Departs: an epoch is planned instead of drawing and replacing at random (`balanced_paper`), which finds fewer
        batches and for some sizes never ends.

    Args:
        attributes: Columns of participants.tsv.
        bins: Edges by column, see `Grouping`; None: the paper's for age and bmi.
        tolerance: Largest allowed ratio of the most to the least represented group, for all columns or by column.
        equal: Those of the columns whose groups must be equal, whatever `tolerance` says.
        missing, outside: What becomes of participants without a value, or with one outside the bins.
        window: Number of consecutive batches over which to balance, where memory forbids a larger batch.
    """

    def __init__(
        self,
        *,
        attributes: tuple[str, ...] = ATTRIBUTES,
        bins: Bins | None = None,
        tolerance: float | dict[str, float] = TOLERANCE,
        equal: tuple[str, ...] = EQUAL,
        missing: Missing = "exclude",
        outside: Outside = "stratum",
        window: int = 1,
    ):
        super().__init__(Grouping.of(attributes, bins, missing, outside))
        by_column = tolerance if isinstance(tolerance, dict) else dict.fromkeys(attributes, tolerance)
        unknown = sorted(set(by_column) - set(attributes))
        if unknown or any(not 1 <= value <= LARGEST for value in by_column.values()):
            raise SettingError(
                f"The option tolerance got {tolerance}, but expects a ratio of at least 1 and at most {LARGEST:g}, or "
                f"one for each of {', '.join(attributes)}."
            )
        strange = sorted(set(equal) - set(attributes))
        if strange and tuple(equal) != EQUAL:
            raise SettingError(
                f"The option equal got {', '.join(strange)}, but expects some of the columns that are balanced: "
                f"{', '.join(attributes)}."
            )
        if window < 1:
            raise SettingError(f"The option window got {window}, but expects at least 1 batch.")
        self._tolerances = tuple(1.0 if name in equal else float(by_column.get(name, TOLERANCE)) for name in attributes)
        self.window = window
        self._turns: tuple[Strata, int, Turns] | None = None

    def tolerances(self) -> tuple[float, ...]:
        """By attribute."""
        return self._tolerances

    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """The first epoch of a training with a seed drawn from `rng`; arguments and errors as for `epoch`."""
        return self.epoch(participants, batch_size, int(rng.integers(2**63)), 0)

    def epoch(
        self, participants: Mapping[str, Participant], batch_size: int, seed: int, number: int
    ) -> Iterator[list[str]]:
        """One epoch: a function of its arguments alone.

        Args:
            participants: By case identifier, the training cases only.
            batch_size: Cases in a batch.
            seed: The training's.
            number: Of the epoch.

        Yields:
            `batch_size` case identifiers in random order, of as many participants.

        Raises:
            SettingError: If no batch of that size can be balanced.
            ParticipantsError: If participants.tsv is not as needed, or there are too few for one batch.
        """
        strata = self.enough(participants, batch_size * self.window)
        turns = self.turns(strata, batch_size)
        plan, start = turns.plans[number % len(turns.plans)], turns.position(number)
        rng = np.random.default_rng((seed, number))
        stacks = [
            _drawn(people, int(first), int(count), np.random.default_rng((seed, c, 2**32)), rng)
            for c, (people, first, count) in enumerate(zip(strata.people, start, plan.draws, strict=True))
        ]
        kinds = [np.flatnonzero(counts).tolist() for _, counts in plan.batches]
        numbers = [counts[some].tolist() for (_, counts), some in zip(plan.batches, kinds, strict=True)]
        order = rng.permutation(np.repeat(np.arange(len(kinds)), [times for times, _ in plan.batches]))
        for kind in order.tolist():
            people = [p for c, n in zip(kinds[kind], numbers[kind], strict=True) for p in islice(stacks[c], n)]
            # nnU-Net forces foreground on the last third of a batch: no group may stand there more often
            cases = [strata.case(people[i], rng) for i in rng.permutation(len(people)).tolist()]
            for first in range(0, len(cases), batch_size):
                yield cases[first : first + batch_size]

    def epoch_length(self, participants: Mapping[str, Participant], batch_size: int) -> int:
        """Batches in every epoch."""
        strata = self.enough(participants, batch_size * self.window)
        return self.window * self.turns(strata, batch_size).plans[0].number

    def units(self, batches: Iterator[list[str]]) -> Iterator[list[str]]:
        """Windows."""
        while window := list(islice(batches, self.window)):
            yield [case for batch in window for case in batch]

    def report(self, participants: Mapping[str, Participant], batch_size: int, seed: int) -> list[str]:
        """What the first epoch looks like, and what is special about the plan."""
        lines = super().report(participants, batch_size, seed)
        strata = self.strata(participants)
        turns = self.turns(strata, batch_size)
        plan = turns.plans[0]
        if self.window > 1:
            lines.append(
                f"window={self.window}: balanced over {self.window} consecutive batches of {batch_size}, not in each."
            )
        if not plan.proven:
            lines.append(f"{plan.number} balanced batches were found; at most {plan.bound} exist.")
        seen = next((e for e in range(1, 10_000) if (turns.position(e) >= strata.sizes).all()), None)
        never = int(strata.sizes[turns.before[-1] == 0].sum())
        lines.append(
            f"Warning: {counted(never)} participants are in strata that {len(turns.plans)} epochs need nobody from."
            if seen is None
            else f"every participant is drawn once or more in {seen} epochs."
        )
        return lines

    def turns(self, strata: Strata, batch_size: int) -> Turns:
        """The plans; made once for a cohort and a batch size.

        Raises:
            SettingError: If no batch of that size can be balanced.
            ParticipantsError: If this cohort has not one.
        """
        if self._turns is None or self._turns[0] is not strata or self._turns[1] != batch_size:
            self._turns = strata, batch_size, self._plan(strata, batch_size)
        return self._turns[2]

    def _plan(self, strata: Strata, batch_size: int) -> Turns:
        rule = Rule(batch_size * self.window, strata.index, self._tolerances)
        if not possible(rule.size, rule.groups, self._tolerances):
            raise SettingError(self._impossible(strata, rule, batch_size))
        plans: list[Plan] = []
        before = [np.zeros(len(strata.people), int)]
        while not plans or (len(plans) < PLANS and (before[-1] < strata.sizes).any()):
            plan = largest_plan(rule, strata.sizes, before[-1])
            if not plan.number:
                raise ParticipantsError(_too_few(strata, rule))
            if plans and plan.number != plans[0].number:  # not proven; epochs must be equally long
                break
            plans.append(plan)
            before.append(before[-1] + plans[-1].draws)
        return Turns(tuple(plans), np.array(before))

    def _impossible(self, strata: Strata, rule: Rule, batch_size: int) -> str:
        sizes = " or ".join(map(str, nearest_sizes(rule.size, rule.groups, self._tolerances)))
        wanted = ", ".join(
            f"{attribute} ({number}, ratio at most {tolerance:g})"
            for attribute, number, tolerance in zip(strata.attributes, rule.groups, self._tolerances, strict=True)
        )
        if self.window > 1:
            return (
                f"No {self.window} batches of {batch_size} can be balanced together over the groups of {wanted}: "
                f"{sizes} participants can. Choose window and batch_size accordingly.{strata.hint}"
            )
        windows = [w for w in range(2, 101) if possible(batch_size * w, rule.groups, self._tolerances)]
        or_window = f", or balance over {windows[0]} batches with the option window={windows[0]}" if windows else ""
        return (
            f"No batch of {batch_size} can be balanced over the groups of {wanted}. "
            f"Set batch_size to {sizes}{or_window}.{strata.hint}"
        )


def _drawn(
    people: Sequence[str], first: int, count: int, once: np.random.Generator, rng: np.random.Generator
) -> Iterator[str]:
    """`count` participants of a stratum: they stand in a circle, in the same random order in all epochs (`once`), and
    the epoch begins where the last one ended; within the epoch they come in random order (`rng`)."""
    if not count:
        return iter(())
    circle = once.permutation(len(people))
    chosen = rng.permutation(circle[(first + np.arange(count)) % len(people)])
    return map(people.__getitem__, chosen.tolist())


def _too_few(strata: Strata, rule: Rule) -> str:
    smallest = []
    for attribute, (names, marginal) in enumerate(zip(strata.shown, rule.marginals, strict=True)):
        sums = marginal @ strata.sizes
        least = int(sums.argmin())
        smallest.append(f"{strata.attributes[attribute]} {names[least]} with {counted(int(sums[least]))}")
    return (
        f"Not one balanced batch of {rule.size} can be drawn from {strata.number} participants; the smallest groups "
        f"are {', '.join(smallest)}. Set a smaller batch_size, fewer attributes, wider bins or a larger tolerance."
        f"{strata.hint}"
    )
