"""nnU-Net's plans files, of which recipes are a kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnkd.errors import DatasetError, RecipeError, UnknownNameError
from nnkd.files import load_json, read_json
from nnkd.paths import check_name

KEY = "nnkd"
NAMES = {"dataset_name", "plans_name", "data_identifier", "previous_stage"}  # of which nnU-Net makes paths


def read_plans(preprocessed: Path, name: str) -> dict[str, Any]:
    """A plans file of a preprocessed dataset.

    Raises:
        RecipeError: If there is none of that name, or a folder that it names lies elsewhere.
    """
    file = preprocessed / f"{name}.json"
    if not file.is_file():
        names = [p.stem for p in sorted(preprocessed.glob("*.json")) if _is_plans(p)]
        there = f"There are: {', '.join(names)}." if names else "There are none: run nnKD_plan_and_preprocess."
        raise RecipeError(f"{preprocessed.name} has no plans '{name}'. {there}")
    plans: dict[str, Any] = read_json(file)
    _check_folders(plans, name)
    return plans


def _check_folders(plans: Any, name: str) -> None:
    """Refuse plans whose names would lead out of nnU-Net's folders."""
    content = plans if isinstance(plans, dict) else {}
    configurations = content.get("configurations")
    parts = [content, *(configurations.values() if isinstance(configurations, dict) else ())]
    try:
        for part in (part for part in parts if isinstance(part, dict)):
            for key in NAMES.intersection(part):
                check_name(part[key], f"a folder, as {key} of {name}.json")
        for configuration in configurations if isinstance(configurations, dict) else ():
            check_name(configuration, f"a configuration in {name}.json")
    except DatasetError as error:
        raise RecipeError(str(error)) from error


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
