"""What nnkd asks of a student: a trainer of nnU-Net's that inherits one of these two classes beside it.

Everything has a default that says "nothing special". A trainer that inherits neither trains as in nnU-Net and reads no
recipe. Students that learn from teachers derive from `nnkd.training.trainer.nnUNetTrainerKD`, which is a `Student`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from nnkd.errors import WeightsError
from nnkd.plugin.networks import PaperGraph

if TYPE_CHECKING:
    from torch import Tensor


class RecipeView(Protocol):
    """What `Student.check_recipe` may look at in a recipe (`nnkd.data.recipes.Recipe`)."""

    @property
    def teachers(self) -> Sequence[str]:
        """Whose votes are learned."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The trainer's options that were given."""

    @property
    def label(self) -> str | None:
        """The one label to learn; None: all of them."""


class VotesView(Protocol):
    """What `Student.check_recipe` may look at in votes (`nnkd.votes.folder.VotesFolder`)."""

    @property
    def index(self) -> Any:
        """votes.json, see `nnkd.votes.folder.VotesIndex`: `labels`, `manual`, and `cases` with their `answers`."""


class Student:
    """A student of nnkd.

    Attributes:
        options_class: Its keyword-only arguments are what --set can change; `object` has none.
        usual_aggregator: Where -a is not given; None: by the number of teachers.
        one_gpu: Whether -num_gpus is refused.
        no_network: Why nnKD_profile has nothing to count, as a sentence; empty if it has.
        paper_graphs: Networks that a paper counted.
        takes_auxiliaries: Whether --auxiliaries can train along.
        takes_foreign_weights: Whether -pretrained_weights may be a file that nnU-Net did not write.
        box_teacher: The teacher whose weights its checkpoints are, for nnKD_export; empty for ordinary students.
    """

    options_class: ClassVar[type] = object
    usual_aggregator: ClassVar[str | None] = None
    one_gpu: ClassVar[bool] = False
    no_network: ClassVar[str] = ""
    paper_graphs: ClassVar[Sequence[PaperGraph]] = ()
    takes_auxiliaries: ClassVar[bool] = False
    takes_foreign_weights: ClassVar[bool] = False
    box_teacher: ClassVar[str] = ""

    @classmethod
    def plan_values(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """What options change in the configuration's plans, such as {"batch_size": 4}.

        Args:
            options: All of them, checked one by one.
        """
        return {}

    @classmethod
    def check_options(cls, options: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        """Refuse what a training cannot start with, before anything is written; raises an NnkdError.

        Args:
            options: All of them, checked one by one.
            patch_size: Of the configuration.
        """

    @classmethod
    def check_recipe(cls, recipe: RecipeView, votes: VotesView) -> None:
        """Refuse a recipe that this student cannot learn from, before anything starts; raises an NnkdError.

        Args:
            recipe: With teachers.
            votes: The preprocessed votes, which have these teachers.
        """

    @staticmethod
    def foreign_weights(file: Path, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What -pretrained_weights takes of a file that nnU-Net did not write, if the student takes such files.

        Args:
            file: As given.
            network: A new network's tensors by name.

        Returns:
            Tensors by the network's names; the others stay those of a new network.

        Raises:
            WeightsError: If the file does not fit.
        """
        raise WeightsError(f"'{file.name}' was not written by nnU-Net, and this student reads no other weights.")


class OwnData(Student, ABC):
    """A student that makes its training data itself, out of nnUNet_raw: nobody plans or preprocesses for it."""

    takes_auxiliaries: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def write_plans(cls, names: Sequence[str]) -> str:
        """Write plans, and what nnU-Net's training reads beside them, into nnUNet_preprocessed.

        Args:
            names: DatasetXXX_Name; results go under the first one.

        Returns:
            The plans' name.
        """

    @classmethod
    @abstractmethod
    def cases_of(cls, folder: Path) -> Sequence[str]:
        """Cases that can be trained on.

        Args:
            folder: nnUNet_preprocessed/DATASET.
        """

    @classmethod
    @abstractmethod
    def lineage(cls, options: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, str]]:
        """Models that the training starts from or learns from: "name", "licence" and "weights_licence" of each.

        Args:
            options: All of them, checked one by one.
            names: DatasetXXX_Name.
        """

    @classmethod
    def told_of_truth(cls, names: Sequence[str]) -> bool:
        """Whether a teacher whose label maps are learned was told of reference labels.

        Args:
            names: DatasetXXX_Name.
        """
        return False

    @classmethod
    def check_datasets(cls, options: Mapping[str, Any], names: Sequence[str]) -> None:
        """Refuse datasets that this student cannot learn from, before anything is written; raises an NnkdError.

        Args:
            options: All of them, checked one by one.
            names: DatasetXXX_Name.
        """
