"""What `balanced` is compared with: one attribute in equal parts, inverse frequencies, and losses weighed by group."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import ceil, exp, isfinite

import numpy as np

from nnkd.data.groups import ATTRIBUTES
from nnkd.errors import SettingError
from nnkd.plugin.samplers import WeighingSampler
from nnkd.types import Participant
from nnkd_fairness.strata import Bins, Grouping, Missing, Outside, Strata, StrataSampler

LEAST = 1e-9
TRIES = 10  # random orders, before the circle's own


class EqualStrata(StrataSampler):
    """Strata take turns, so that each has as many places in a batch as any other, or one more. An epoch has as many
    places as there are participants: those of small strata are drawn several times, some of large ones not at all;
    these come first in the next epoch. Nobody is twice in a batch unless the stratum is smaller than its part."""

    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """The first epoch of a training with a seed drawn from `rng`; arguments and errors as for `epoch`."""
        return self.epoch(participants, batch_size, int(rng.integers(2**63)), 0)

    def epoch_length(self, participants: Mapping[str, Participant], batch_size: int) -> int:
        """Batches in every epoch."""
        return ceil(self.enough(participants, batch_size).number / batch_size)

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
            `batch_size` case identifiers in random order.

        Raises:
            ParticipantsError: If participants.tsv is not as needed, or there are too few for one batch.
        """
        strata = self.enough(participants, batch_size)
        length, count = self.epoch_length(participants, batch_size), len(strata.people)
        places = np.arange(number * length * batch_size, (number + 1) * length * batch_size)
        turns = np.random.default_rng((seed, 2**32)).permutation(
            count
        )  # in the strata's own order sexes would take turns
        strata_of_places = turns[places % count].reshape(length, batch_size)
        rng = np.random.default_rng((seed, number))
        dealt = []
        for c, people in enumerate(strata.people):
            turn = int(np.flatnonzero(turns == c)[0])
            before = ceil((int(places[0]) - turn) / count)
            circle = np.random.default_rng((seed, c, 2**32)).permutation(len(people))
            dealt.append(_dealt(np.roll(circle, -before), (strata_of_places == c).sum(axis=1).tolist(), rng))
        for batch in range(length):
            drawn = [strata.people[c][i] for c in range(count) for i in dealt[c][batch]]
            yield [strata.case(drawn[k], rng) for k in rng.permutation(batch_size).tolist()]


class Stratified(EqualStrata):
    """Equally many of each group of one attribute in every batch.

    Source: Puyol-Antón et al., MICCAI 2021 (paper 1's reference 13).

    Args:
        attribute: Column of participants.tsv.
        bins, missing, outside: As for `balanced`.
    """

    def __init__(
        self,
        *,
        attribute: str = "sex",
        bins: Bins | None = None,
        missing: Missing = "exclude",
        outside: Outside = "stratum",
    ):
        super().__init__(Grouping.of([attribute], bins, missing, outside))


class Weighted(StrataSampler):
    """Participants are drawn by the inverse frequency of their joint stratum, so that strata are equally often in a
    batch on average. Nobody is twice in a batch. An epoch has as many places as there are participants.

    Args:
        attributes: Columns of participants.tsv.
        bins, missing, outside: As for `balanced`.
    """

    def __init__(
        self,
        *,
        attributes: tuple[str, ...] = ATTRIBUTES,
        bins: Bins | None = None,
        missing: Missing = "exclude",
        outside: Outside = "stratum",
    ):
        super().__init__(Grouping.of(attributes, bins, missing, outside))

    def epoch_length(self, participants: Mapping[str, Participant], batch_size: int) -> int:
        """Batches in every epoch."""
        return ceil(self.enough(participants, batch_size).number / batch_size)

    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """Yield one epoch of batches; arguments and errors as for `Sampler.batches`."""
        strata = self.enough(participants, batch_size)
        for _ in range(self.epoch_length(participants, batch_size)):
            yield [strata.case(strata.people[c][i], rng) for c, i in _inverse(strata, batch_size, rng)]


class GroupDRO(EqualStrata, WeighingSampler):
    """Strata are drawn equally often, and the loss of stratum g counts G q_g, with G strata. After each step q_g is
    multiplied by exp(step * loss of g) for the strata in the batch, and q is scaled to a sum of 1: strata that keep a
    large loss come to count more.

    Source: Sagawa et al., ICLR 2020, Algorithm 1.
    Departs: several strata in a batch instead of one.

    Args:
        attributes: Columns of participants.tsv.
        bins, missing, outside: As for `balanced`.
        step: Step size of the weights.
    """

    def __init__(
        self,
        *,
        attributes: tuple[str, ...] = ATTRIBUTES,
        bins: Bins | None = None,
        missing: Missing = "exclude",
        outside: Outside = "stratum",
        step: float = 0.01,
    ):
        super().__init__(Grouping.of(attributes, bins, missing, outside))
        if not (step >= 0 and isfinite(step)):
            raise SettingError(f"The option step got {step}, but expects a number of at least 0.")
        self.step = step
        self._shares: dict[str, float] = {}

    def weights(self, participants: Mapping[str, Participant], cases: Sequence[str]) -> list[float]:
        """G q_g for the stratum of each case."""
        strata = self.strata(participants)
        shares = self._of(strata)
        return [len(shares) * shares[self._key(strata, participants[case])] for case in cases]

    def update(self, participants: Mapping[str, Participant], cases: Sequence[str], losses: Sequence[float]) -> None:
        """One step of the weights; losses that are not finite do not count."""
        strata = self.strata(participants)
        heard: dict[str, list[float]] = {}
        for case, loss in zip(cases, losses, strict=True):
            if isfinite(loss):
                heard.setdefault(self._key(strata, participants[case]), []).append(loss)
        shares = self._of(strata)
        mean = {name: sum(some) / len(some) for name, some in heard.items()}
        top = max((self.step * loss for loss in mean.values()), default=0.0)  # a common factor; keeps exp in range
        new = {name: share * exp(self.step * mean.get(name, 0.0) - top) for name, share in shares.items()}
        new = {name: max(share, LEAST) for name, share in new.items()}  # from zero a stratum could not come back
        total = sum(new.values())
        self._shares = {name: share / total for name, share in new.items()}

    def state_dict(self) -> dict[str, float]:
        """q by stratum: its number after a digest of what the strata are. Nobody's values are in it."""
        return dict(self._shares)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resume."""
        self._shares = {name: float(share) for name, share in state.items()}

    def _of(self, strata: Strata) -> dict[str, float]:
        keys = [f"{strata.digest}/{c}" for c in range(len(strata.people))]
        if set(self._shares) != set(keys):  # other strata than the checkpoint's
            self._shares = dict.fromkeys(keys, 1 / len(keys))
        return self._shares

    @staticmethod
    def _key(strata: Strata, person: Participant) -> str:
        return f"{strata.digest}/{strata.stratum_of[person.identifier]}"


def _dealt(circle: np.ndarray, parts: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """Participants of a stratum for each batch: `circle` is gone round, each round in random order, such that nobody is
    twice in a batch where that can be."""
    number, total = len(circle), sum(parts)
    rounds = [circle[: min(number, total - start)] for start in range(0, total, number)]
    for _ in range(TRIES):
        found = _parted([person for some in rounds for person in rng.permutation(some).tolist()], parts)
        if all(len(set(part)) == len(part) for part in found):
            return found
    return _parted([person for some in rounds for person in some.tolist()], parts)


def _parted(people: Sequence[int], parts: Sequence[int]) -> list[list[int]]:
    """Parts of a queue; who is in a part already is passed over while there is somebody else in the next few."""
    queue, found = deque(people), []
    for size in parts:
        part: list[int] = []
        for _ in range(size):
            place = next((k for k, person in enumerate(islice(queue, 2 * size)) if person not in part), 0)
            part.append(queue[place])
            del queue[place]
        found.append(part)
    return found


def _inverse(strata: Strata, batch_size: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Different participants, each draw first a stratum, then one of those left in it."""
    held: set[tuple[int, int]] = set()
    free = [len(people) for people in strata.people]
    while len(held) < batch_size:
        there = [c for c, count in enumerate(free) if count]
        c = there[int(rng.integers(len(there)))]
        person = int(rng.integers(len(strata.people[c])))
        if (c, person) not in held:
            held.add((c, person))
            free[c] -= 1
    return [(c, i) for c, i in (sorted(held)[k] for k in rng.permutation(batch_size))]
