"""Students of one label each that answer together for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.numbering import check_label_numbers
from nnkd.data.plans import KEY
from nnkd.data.recipes import Recipe
from nnkd.errors import FolderError
from nnkd.files import read_json
from nnkd.training.one_label import suffix, whole
from nnkd.weights.checkpoints import TrainedModel


def together(logits: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """The students' answers as one network's: the label with the highest probability wins where that is above one half,
    because the largest of (0, x_1, ..., x_L) is the background's 0 where no x is positive.

    Args:
        logits: For each label, in the order of the dataset's labels, (1, *S) float.

    Returns:
        (L + 1, *S), background first. Their softmax is not the students' probabilities; their arg-max is the merger.
    """
    return np.concatenate([np.zeros_like(logits[0]), *logits])


@dataclass(frozen=True)
class LabelModels:
    """The students of all labels, with a trained model's face.

    Attributes:
        folder: What the model would be called if it were one: TRAINER__PLANS__CONFIG.
        models: In the order of the dataset's labels.
    """

    folder: Path
    models: Sequence[TrainedModel]

    @classmethod
    def open(cls, folder: Path, folds: Sequence[str], checkpoint: str) -> LabelModels:
        """Find them.

        Args:
            folder: TRAINER__PLANS__CONFIG, PLANS without any label's name.
            folds, checkpoint: See `TrainedModel.open`.

        Raises:
            FolderError: If one of the labels has no student, or one of the students is not as it should be.
        """
        trainer, plans, configuration = folder.name.split("__")
        found = {}
        for candidate in sorted(folder.parent.glob(f"{trainer}__{plans}_*__{configuration}")):
            label = _label_of(candidate)
            if label and candidate.name.split("__")[1] == f"{plans}_{suffix(label)}":
                found[label] = TrainedModel.open(candidate, folds, checkpoint)
        if not found:
            raise FolderError(
                f"There is no student of a single label called {folder.name} with the label's name after {plans}. "
                f"Train them with nnKD_train --per_label, or leave --per_label out."
            )
        spec = DatasetSpec(whole(next(iter(found.values())).dataset_json()), folder.parent.name)
        check_label_numbers(spec)
        missing = [label for label in spec.labels if label not in found]
        if missing:
            raise FolderError(
                f"{', '.join(missing)} of {spec.name} have no student called {folder.name} with the label's name after "
                f"{plans}. Train them too: nnKD_train --per_label {' '.join(map(repr, missing))}."
            )
        return cls(folder, [found[label] for label in spec.labels])

    @property
    def folds(self) -> Sequence[str]:
        """As in fold_X."""
        return self.models[0].folds

    @property
    def checkpoint(self) -> str:
        """File name in each fold."""
        return self.models[0].checkpoint

    def parts(self) -> Sequence[TrainedModel]:
        """The students."""
        return self.models

    def weights(self) -> list[dict[str, str]]:
        """Name and sha256 of each checkpoint, for the manifest."""
        named = ((model.folder.name.split("__")[1], w) for model in self.models for w in model.weights())
        return [{**w, "name": f"{plans}/{w['name']}"} for plans, w in named]

    def plans(self) -> dict[str, Any]:
        """The first one's plans.json as if it had learned all labels; they differ in nothing else."""
        plans = self.models[0].plans()
        recipe = {key: value for key, value in plans[KEY].items() if key != "label"}
        return {**plans, "plans_name": self.folder.name.split("__")[1], KEY: {**recipe, "has_regions": False}}

    def dataset_json(self) -> dict[str, Any]:
        """That of the whole dataset."""
        return whole(self.models[0].dataset_json())


def _label_of(folder: Path) -> str | None:
    file = folder / "plans.json"
    return Recipe.of_plans(read_json(file)).label if file.is_file() else None
