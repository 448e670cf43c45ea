"""nnU-Net's plans files, of which recipes are a kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnkd.errors import RecipeError, UnknownNameError
from nnkd.files import load_json, read_json

KEY = "nnkd"


def read_plans(preprocessed: Path, name: str) -> dict[str, Any]:
    """A plans file of a preprocessed dataset.

    Raises:
        RecipeError: If there is none of that name.
    """
    file = preprocessed / f"{name}.json"
    if not file.is_file():
        names = [p.stem for p in sorted(preprocessed.glob("*.json")) if _is_plans(p)]
        there = f"There are: {', '.join(names)}." if names else "There are none: run nnKD_plan_and_preprocess."
        raise RecipeError(f"{preprocessed.name} has no plans '{name}'. {there}")
    plans: dict[str, Any] = read_json(file)
    return plans


def _is_plans(file: Path) -> bool:
    try:
        content = load_json(file, nan=True)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "plans_name" in content


def configuration_of(plans: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """A configuration's values, what it inherits included.

    Args:
        plans: nnU-Net's.
        name: Such as "2d".
        folder: nnUNet_preprocessed/DATASET, for messages.

    Raises:
        UnknownNameError: If the plans have none of that name.
    """
    known = plans["configurations"]
    if name not in known:
        raise UnknownNameError(
            f"The plans '{plans['plans_name']}' of {folder.name} have no configuration '{name}'; they have "
            f"{', '.join(known)}."
        )
    values = dict(known[name])
    parent = values.get("inherits_from")
    return {**configuration_of(plans, parent, folder), **values} if parent else values
