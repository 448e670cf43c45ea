"""One student a label: a dataset as the student of one label sees it, and all of them together again.

Source: Li et al., MICCAI 2025, where every organ has a binary model of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import RecipeError
from nnkd.files import sha256_text

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
