"""What an aggregator's class must be: from votes to the targets that a student learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from nnkd.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Aggregator(ABC):
    """Turns votes into target probabilities. Every voxelwise rule is a function of which teachers said yes: bit k
    of a vote pattern is teacher k. So a rule is a table per case and label, fitted on how often each pattern occurs.

    Attributes:
        draws_teacher: Whether the loader draws one teacher per sample instead of applying a table.
        estimates_from: How many teachers have to answer for a label before `estimates` of it mean anything. Two that
            differ do not tell which of them is right, so what is estimated from them is left out of reports.
    """

    draws_teacher: ClassVar[bool] = False
    estimates_from: int = 3

    @abstractmethod
    def table(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.floating]:
        """Fit the rule to one case.

        Args:
            counts: (L, 2**K) int64, voxels with each pattern, by label, on the raw grid.
            answers: (K, L) bool, whether teacher k answers for label l; the bit of one that does not is always 0.

        Returns:
            (L, 2**K) float32 in [0, 1]. Rows of labels nobody answers for are ignored by the caller.
        """

    def for_teachers(self, teachers: Sequence[str], labels: Sequence[str]) -> Aggregator:
        """The rule for these teachers and labels; called once before the first case, so that wrong names in options
        are found early. Only rules with options by name need more than the default, which is the rule itself.

        Args:
            teachers: K names, in bit order.
            labels: L names.

        Returns:
            The rule to call `table` of; this one stays as it is.

        Raises:
            NnkdError: If an option names what is not among them.
        """
        return self

    def estimates(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> Mapping[str, NDArray[np.floating]]:
        """What the rule found out about the teachers in one case without ground truth, for reports; by default none.

        Args:
            counts, answers: As for `table`.

        Returns:
            By name, such as "sensitivity": (K, L) float, NaN where nothing is known.
        """
        return {}


class JointAggregator(Aggregator):
    """An aggregator that looks at all labels of a voxel at once, so that no table per label can hold its outcome.
    nnKD_aggregate -o applies it; recipes, which train on one table per label, refuse it, and so do datasets with
    regions, whose labels overlap."""

    def table(self, counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.floating]:
        """There is none.

        Raises:
            SettingError: Always.
        """
        raise SettingError(
            f"The aggregator {type(self).__name__} looks at all labels at once, so a recipe cannot hold it. Write its "
            f"label maps with nnKD_aggregate -i TEACHERS -o OUT, take them in as one more teacher "
            f"(nnKD_predict_teachers -t imported) and train on that one, or choose a rule for each label alone, such "
            f"as staple."
        )

    @abstractmethod
    def joint_table(
        self, said: NDArray[np.int64], counts: NDArray[np.int64], answers: NDArray[np.bool_]
    ) -> NDArray[np.floating]:
        """Fit the rule to one case.

        Args:
            said: (R, K) int64, what the teachers say in one voxel: 0 for none of the labels, 1 for the first label, and
                so on; all combinations that occur, some of them possibly twice. A teacher is never given a label that
                it does not answer for.
            counts: (R,) int64, voxels with each combination, on the raw grid.
            answers: (K, L) bool, whether teacher k answers for label l.

        Returns:
            (R, L) float in [0, 1], each row at most 1 in sum; the rest is background's.
        """

    def joint_estimates(
        self, said: NDArray[np.int64], counts: NDArray[np.int64], answers: NDArray[np.bool_]
    ) -> Mapping[str, NDArray[np.floating]]:
        """What `estimates` is for other rules; arguments as for `joint_table`."""
        return {}
