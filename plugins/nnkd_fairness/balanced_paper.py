"""`balanced_paper`: paper 1's batches by draws and replacements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from nnkd.data.groups import ATTRIBUTES
from nnkd.errors import ParticipantsError, SettingError
from nnkd.types import Participant
from nnkd_fairness.plan import possible
from nnkd_fairness.strata import LARGEST, Bins, Grouping, Missing, Outside, Strata, StrataSampler

ATTEMPTS = 100  # epochs begun anew where the first batch already runs dry


class BalancedPaper(StrataSampler):
    """A batch begins with equally many participants of each sex. While the most represented age group has more than
    `tolerance` times as many as the least represented one, one of its participants is put back and one of the same sex
    is drawn from the least represented one; then the same for BMI, sex and age being kept. The epoch ends with the
    first batch that runs out of participants.

    Source: Li et al., MICCAI 2025, section 2.2.
    Departs: replacements end after `refinements` a batch, which is used as it is then; the paper's go on for ever where
        no batch of the size can be balanced (8, 16). The nine queues are kept as the joint strata that they are unions
        of. Of groups that are equally often in the batch one is drawn; the paper names no rule for ties.

    Args:
        attributes: Columns of participants.tsv; the first is balanced by the initial draw, each further one by
            replacements that keep those before it.
        bins, missing, outside: As for `balanced`.
        tolerance: Largest allowed ratio of the most to the least represented group of the further columns.
        refinements: Largest number of replacements in a batch.
    """

    def __init__(
        self,
        *,
        attributes: tuple[str, ...] = ATTRIBUTES,
        bins: Bins | None = None,
        tolerance: float = 1.1,
        missing: Missing = "exclude",
        outside: Outside = "stratum",
        refinements: int = 200,
    ):
        super().__init__(Grouping.of(attributes, bins, missing, outside))
        if not 1 <= tolerance <= LARGEST or refinements < 0:
            raise SettingError(
                f"The options got tolerance={tolerance} and refinements={refinements}, but expect 1 to {LARGEST:g} "
                f"and at least 0."
            )
        self.tolerance, self.refinements = tolerance, refinements

    def tolerances(self) -> tuple[float, ...]:
        """By attribute; the first is drawn equally."""
        return (1.0, *[self.tolerance] * (len(self.grouping.attributes) - 1))

    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """Yield one epoch of batches.

        Args:
            participants: By case identifier, the training cases only.
            batch_size: Cases in a batch; a multiple of the first attribute's groups.
            rng: The only source of randomness.

        Yields:
            `batch_size` case identifiers in random order, of as many participants.

        Raises:
            SettingError: If the first attribute's groups cannot have equal parts of a batch.
            ParticipantsError: If participants.tsv is not as needed, or there are too few for one batch.
        """
        strata = self.enough(participants, batch_size)
        if batch_size % len(strata.groups[0]):
            raise SettingError(
                f"A batch of {batch_size} cannot have equal parts of {len(strata.groups[0])} groups of "
                f"'{strata.attributes[0]}'. Set batch_size to a multiple of {len(strata.groups[0])}."
            )
        for _ in range(ATTEMPTS):
            queues = _Queues(strata, rng)
            batch = self._batch(queues, batch_size)
            while batch is not None:
                people = [strata.people[c][i] for c in range(len(batch)) for i in batch[c]]
                yield [strata.case(people[i], rng) for i in rng.permutation(len(people)).tolist()]
                batch = self._batch(queues, batch_size)
                if batch is None:
                    return
        raise ParticipantsError(
            f"Not one batch of {batch_size} could be balanced by replacements out of {strata.number} participants. Set "
            f"a smaller batch_size, or use the sampler balanced, which finds batches where there are any."
        )

    def report(self, participants: Mapping[str, Participant], batch_size: int, seed: int) -> list[str]:
        """What the first epoch looks like, and whether any batch can obey the rule."""
        lines = super().report(participants, batch_size, seed)
        groups = [len(names) for names in self.strata(participants).groups]
        if not possible(batch_size, groups, self.tolerances()):
            lines.append(
                f"Warning: no batch of {batch_size} can be balanced, so each ends after {self.refinements} "
                f"replacements."
            )
        return lines

    def _batch(self, queues: _Queues, batch_size: int) -> list[list[int]] | None:
        """The next batch, by stratum; None where participants run out."""
        strata = queues.strata
        batch: list[list[int]] = [[] for _ in strata.people]
        share = batch_size // len(strata.groups[0])
        for group in range(len(strata.groups[0])):
            for _ in range(share):
                stratum = queues.one_of(np.flatnonzero(strata.index[:, 0] == group))
                if stratum is None:
                    return None
                batch[stratum].append(queues.draw(stratum))
        left = self.refinements
        for attribute in range(1, len(strata.attributes)):
            while left and self._ratio(strata, batch, attribute) > self.tolerance:
                left -= 1
                if not queues.replace(batch, attribute):
                    return None
        return batch

    @staticmethod
    def _ratio(strata: Strata, batch: Sequence[Sequence[int]], attribute: int) -> float:
        sums = group_sums(strata, batch, attribute)
        return sums.max() / sums.min() if sums.min() else inf


class _Queues:
    """The participants not yet used in this epoch, by stratum, each in random order."""

    def __init__(self, strata: Strata, rng: np.random.Generator):
        self.strata, self.rng = strata, rng
        self.left = [rng.permutation(len(people)).tolist() for people in strata.people]

    def one_of(self, strata: np.ndarray) -> int | None:
        """The stratum of a participant drawn from the union of some; None where they are empty."""
        sizes = np.array([len(self.left[c]) for c in strata])
        total = int(sizes.sum())
        return int(strata[np.searchsorted(sizes.cumsum(), self.rng.integers(total), side="right")]) if total else None

    def draw(self, stratum: int) -> int:
        """Take a participant out."""
        return self.left[stratum].pop()

    def put_back(self, stratum: int, person: int) -> None:
        """Put a participant at a random place."""
        queue = self.left[stratum]
        queue.append(person)
        place = int(self.rng.integers(len(queue)))
        queue[place], queue[-1] = queue[-1], queue[place]

    def replace(self, batch: list[list[int]], attribute: int) -> bool:
        """Put one of the most represented group back and draw one of the least represented one, alike in all attributes
        before this one; False where there is nobody to draw."""
        index = self.strata.index
        sums = group_sums(self.strata, batch, attribute)
        over, under = (int(self.rng.choice(np.flatnonzero(sums == end))) for end in (sums.max(), sums.min()))
        out = [c for c in np.flatnonzero(index[:, attribute] == over).tolist() for _ in batch[c]]
        stratum = out[int(self.rng.integers(len(out)))]
        alike = (index[:, :attribute] == index[stratum, :attribute]).all(axis=1) & (index[:, attribute] == under)
        target = self.one_of(np.flatnonzero(alike))
        if target is None:
            return False
        removed = batch[stratum].pop(int(self.rng.integers(len(batch[stratum]))))
        batch[target].append(self.draw(target))
        self.put_back(stratum, removed)
        return True


def group_sums(strata: Strata, batch: Sequence[Sequence[int]], attribute: int) -> NDArray[np.number]:
    """(G,) participants in a batch by group of an attribute."""
    sizes = [len(some) for some in batch]
    return np.bincount(strata.index[:, attribute], sizes, len(strata.groups[attribute]))
