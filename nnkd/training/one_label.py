"""One student a label: a dataset as the student of one label sees it, and all of them together again.

Source: Li et al., MICCAI 2025, where every organ has a binary model of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.data.recipes import KEY, Recipe
from nnkd.errors import FolderError, RecipeError
from nnkd.files import read_json, sha256_text
from nnkd.weights.checkpoints import TrainedModel

ALL_LABELS = "nnkd_all_labels"  # in a student's dataset.json: the labels of the whole dataset


def check(spec: DatasetSpec) -> None:
    """Whether a dataset can be learned label by label.

    Raises:
        RecipeError: If its labels overlap, or some voxels are to be ignored.
    """
    if spec.has_regions:
        raise RecipeError(
            f"{spec.name} has regions, whose outputs are independent of each other anyway. Train one student for all "
            f"of them: leave --per_label out."
        )
    if spec.ignore_label is not None:
        raise RecipeError(
            f"{spec.name} has an ignore label, which nnU-Net allows only above all others, so that no label can be "
            f"learned alone. Leave --per_label out."
        )
    names = [suffix(label) for label in spec.labels]
    alike = [label for label in spec.labels if names.count(suffix(label)) > 1]
    if alike:
        raise RecipeError(
            f"The labels {' and '.join(map(repr, alike))} of {spec.name} would have recipes of one name. Rename one of "
            f"them in dataset.json."
        )


def only(dataset_json: Mapping[str, Any], label: str) -> dict[str, Any]:
    """dataset.json for the student of one label. The label keeps its integer, as a region: a network of one sigmoid
    output, whose label maps nnU-Net compares with the reference as they are.

    Raises:
        RecipeError: If there is no such label.
    """
    labels = dataset_json["labels"]
    if label not in labels:
        raise RecipeError(f"The recipe learns '{label}', but dataset.json has {', '.join(labels)}. Choose another.")
    value = int(labels[label])
    return {
        **dataset_json,
        "labels": {"background": 0, label: [value, value]},  # nnU-Net takes a region to have two integers or more
        "regions_class_order": [value],
        ALL_LABELS: dict(labels),
    }


def whole(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset.json that `only` was made from."""
    kept = {key: value for key, value in dataset_json.items() if key not in (ALL_LABELS, "regions_class_order")}
    return {**kept, "labels": dict(dataset_json[ALL_LABELS])}


def suffix(label: str) -> str:
    """What a label's recipe is called, after the name that all of them share; labels of other letters than A to Z have
    some digits of their own."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")
    plain = re.fullmatch(r"[A-Za-z0-9 _-]+", label)
    return name if plain and name else f"{name or 'label'}-{sha256_text(label)[:4]}"


def together(logits: Sequence[np.ndarray]) -> np.ndarray:
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
