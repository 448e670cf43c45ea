"""The plain sampler: every case as likely as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nnkd.errors import ParticipantsError
from nnkd.plugin.samplers import Sampler
from nnkd.types import Participant


class Uniform(Sampler):
    """One pass over all cases in random order; the last batch is filled from the next shuffle.

    Departs: nnU-Net draws each batch anew with replacement; a pass sees every case equally often.
    """

    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """Yield one epoch of batches.

        Args:
            participants: By case identifier, the training cases only.
            batch_size: Cases in a batch.
            rng: The only source of randomness.

        Yields:
            `batch_size` case identifiers; cases repeat in a batch only where there are fewer than that.

        Raises:
            ParticipantsError: If there is no case.
        """
        cases = sorted(participants)  # the seed alone decides, not the order of the mapping
        if not cases:
            raise ParticipantsError("There is no training case to draw from. Check the fold and imagesTr.")
        order = _shuffled(cases, rng)
        number = -(-len(cases) // batch_size)
        for start in range(0, number * batch_size, batch_size):
            while len(order) < start + batch_size:
                order += _next_pass(cases, order[start:], batch_size, rng)
            yield order[start : start + batch_size]

    def epoch_length(self, participants: Mapping[str, Participant], batch_size: int) -> int:
        """Number of batches in every epoch."""
        return -(-len(participants) // batch_size)


def _shuffled(cases: list[str], rng: np.random.Generator) -> list[str]:
    return [cases[i] for i in rng.permutation(len(cases))]


def _next_pass(cases: list[str], begun: list[str], batch_size: int, rng: np.random.Generator) -> list[str]:
    """Another shuffle, with the cases that the begun batch already holds put last."""
    order = _shuffled(cases, rng)
    if batch_size > len(cases):  # repetition cannot be avoided
        return order
    held = set(begun)
    return sorted(order, key=lambda case: case in held)
