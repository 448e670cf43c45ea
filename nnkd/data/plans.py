"""nnU-Net's plans files, of which recipes are a kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PositiveInt, ValidationError, field_validator, model_validator

from nnkd.errors import DatasetError, RecipeError, UnknownNameError
from nnkd.files import load_json, read_json
from nnkd.paths import check_name

KEY = "nnkd"
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # mm
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


class _Configuration(BaseModel):
    """What nnkd and nnU-Net compute with; the rest is not looked at. What is inherited is absent."""

    patch_size: list[PositiveInt] = Field(default=[1, 1], min_length=2, max_length=3)
    spacing: list[Size] = Field(default=[1.0, 1.0], min_length=2, max_length=3)
    normalization_schemes: list[str] = Field(default=["x"], min_length=1)
    use_mask_for_norm: list[bool] = Field(default=[False], min_length=1)
    resampling_fn_data_kwargs: dict[str, Any] = Field(default_factory=dict)
    resampling_fn_seg_kwargs: dict[str, Any] = Field(default_factory=dict)
    resampling_fn_probabilities_kwargs: dict[str, Any] = Field(default_factory=dict)
    inherits_from: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> _Configuration:
        missing = sorted({"patch_size", "spacing", "normalization_schemes"} - self.model_fields_set)
        if missing and self.inherits_from is None:
            raise ValueError(f"no {missing[0]}")
        return self


class _Plans(BaseModel):
    transpose_forward: list[int]
    transpose_backward: list[int]
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]] = Field(default_factory=dict)
    configurations: dict[str, _Configuration]

    @field_validator("transpose_forward", "transpose_backward")
    @classmethod
    def _axes(cls, found: list[int]) -> list[int]:
        if sorted(found) not in ([0, 1], [0, 1, 2]):
            raise ValueError("no order of two or three axes")
        return found


def form_problem(plans: Any) -> str:
    """What in plans is not as nnU-Net writes it, as the rest of a sentence; empty if nothing."""
    try:
        _Plans.model_validate(plans)
    except ValidationError as error:
        problem = error.errors()[0]
        return f"is not as nnU-Net writes it ({'.'.join(map(str, problem['loc']))[:80]}: {problem['msg'][:120]})"
    return ""


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
