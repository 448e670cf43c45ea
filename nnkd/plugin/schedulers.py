"""What an auxiliary scheduler's class must be: which auxiliary dataset trains along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from nnkd.errors import RecipeError

if TYPE_CHECKING:
    pass


class AuxiliaryScheduler(ABC):
    """Decides which auxiliary dataset trains along. Plain numbers in, names out.

    A turn is an iteration or an epoch, as the training has it. With `trains_on` "one" each of them goes

        for dataset in scheduler.unscored():
            scheduler.score(dataset, loss, gradient_cosine, gradient_norm, target_norm)  # nothing is trained
        dataset = scheduler.select()
        ...  # train on a batch of the target and one of dataset
        scheduler.update(dataset, loss, gradient_cosine)
        scheduler.trace()  # a line of the training's record

    and its state may be kept and resumed between any two of these calls. With "all" or "none" there is nothing to
    choose: then none of these five is called. Under several processes each has a scheduler of its own, which must be
    told the same numbers.

    Attributes:
        datasets: The names to choose from, in the order they were given.
        trains_on: What a turn trains on beside the target: the one dataset that `select` names, all of them in mixed
            batches, or nothing at all.
    """

    trains_on: ClassVar[Literal["one", "all", "none"]] = "one"

    def __init__(self, datasets: Sequence[str]):
        """Args:
            datasets: Names, each once.

        Raises:
            RecipeError: If a name is there twice, or there is none although the scheduler trains on one or all.
        """
        self.datasets = tuple(datasets)
        doubled = sorted({name for name in self.datasets if self.datasets.count(name) > 1})
        if doubled:
            raise RecipeError(
                f"The auxiliary dataset '{doubled[0]}' is given {self.datasets.count(doubled[0])} times, but each is "
                f"expected once. Leave it out where it repeats."
            )
        if not self.datasets and self.trains_on != "none":
            raise RecipeError(
                f"The auxiliary scheduler {type(self).__name__} got no auxiliary dataset, but expects at least one. "
                f"Name some with --auxiliaries, or train on the target alone with -as none."
            )

    def unscored(self) -> Sequence[str]:
        """Datasets to be scored before the next `select`, in this order; by default none, ever. Those that were scored
        since are left out, so that a training that stopped in between goes on with the rest."""
        return ()

    def score(  # noqa: B027 - optional
        self, dataset: str, loss: float, gradient_cosine: float, gradient_norm: float, target_norm: float
    ) -> None:
        """Take note of what a backward pass over `dataset` gave that trains nothing; by default, nothing.

        Args:
            dataset: One of `unscored()`.
            loss: Its mean loss.
            gradient_cosine: Cosine between its gradient and the target's, in [-1, 1].
            gradient_norm, target_norm: Euclidean norms of both gradients, over the parameters that the cosine is over.
        """

    @abstractmethod
    def select(self) -> str:
        """The dataset to train along in the next turn. Asked again before `update`, it names the same one."""

    @abstractmethod
    def update(self, dataset: str, loss: float, gradient_cosine: float) -> None:
        """Take note of what a turn with `dataset` brought. Numbers that are not finite, as after an overflow in half
        precision, must do no harm.

        Args:
            dataset: What `select` returned.
            loss: Its mean loss.
            gradient_cosine: Cosine between its gradient and the target's, in [-1, 1].
        """

    def trace(self) -> Mapping[str, object]:
        """The last finished turn for the training's record, as JSON; by default, or before the first one, nothing.

        Keys that reports know (`nnkd.auxiliary.turns`): turn (from 1), dataset, loss, cosine (null where they were not
        finite), reward, alpha; by dataset: estimates and bounds that the choice was made by, probabilities, counts of
        turns so far, and scores, each with loss and cosine, since the turn before."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, object]:
        """Numbers, names, lists and dictionaries of them, from which `load_state_dict` resumes to the bit, also after
        they were written as JSON."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume.

        Raises:
            RecipeError: If the state is of other datasets.
        """
