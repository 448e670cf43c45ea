"""What a sampler's class must be: which cases form a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from nnkd.types import Participant


class Sampler(ABC):
    """Decides which cases form a batch. Free of torch and of images.

    Attributes:
        needs_participants: Whether every training case needs a row in participants.tsv.
    """

    needs_participants: ClassVar[bool] = False

    @abstractmethod
    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """Yield one epoch of batches.

        Args:
            participants: By case identifier, the training cases only. Cases of one person share a participant.
            batch_size: Cases in a batch.
            rng: The only source of randomness.

        Yields:
            `batch_size` case identifiers.

        Raises:
            NnkdError: If no batch satisfies the rule.
        """

    def epoch(
        self, participants: Mapping[str, Participant], batch_size: int, seed: int, number: int
    ) -> Iterator[list[str]]:
        """One epoch of a training: by default `batches` with a generator of its own. Samplers whose epochs depend on
        each other override it, as a function of its arguments alone: every worker of the loader, every rank and a
        continued training call it for themselves and must find the same batches.

        Args:
            participants, batch_size: As for `batches`.
            seed: The training's.
            number: Of the epoch, from 0. A sampler's epoch is one pass over its plan, not nnU-Net's 250 iterations.
        """
        import numpy as np

        return self.batches(participants, batch_size, np.random.default_rng((seed, number)))

    def epoch_length(self, participants: Mapping[str, Participant], batch_size: int) -> int | None:
        """Number of batches where every epoch has the same, so that a continued training need not draw again what it
        has had; None where it is not known: it begins a new epoch then."""
        return None

    def report(self, participants: Mapping[str, Participant], batch_size: int, seed: int) -> Sequence[str]:
        """Sentences for the training's log, made once before the first batch; by default none.

        Raises:
            NnkdError: If no batch satisfies the rule; so this is found out before anything expensive.
        """
        return ()


class WeighingSampler(Sampler):
    """A sampler that also weighs the loss of each case of a batch, and hears it. Only the training's main process
    calls what follows; its loader's workers draw batches with copies."""

    @abstractmethod
    def weights(self, participants: Mapping[str, Participant], cases: Sequence[str]) -> Sequence[float]:
        """Factors of the losses of a batch's cases, about 1 in the mean; the loss is the mean of the products."""

    @abstractmethod
    def update(self, participants: Mapping[str, Participant], cases: Sequence[str], losses: Sequence[float]) -> None:
        """Take note of the losses of a batch (of all ranks together), before weighing."""

    @abstractmethod
    def state_dict(self) -> dict[str, float]:
        """Numbers by name from which `load_state_dict` resumes exactly. They go into checkpoints: names must hold no
        person's values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resume."""
