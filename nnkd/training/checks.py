"""What can be amiss with a training before it starts: folds, results of earlier stages, batches that obey a sampler."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnkd import paths
from nnkd.data.participants import participants_of_cases
from nnkd.errors import RecipeError
from nnkd.files import read_json
from nnkd.plugin.samplers import Sampler

log = logging.getLogger("nnkd")


def check_fold(folder: Path, fold: str, configuration: str, cases: Sequence[str]) -> None:
    """nnU-Net finds out after minutes, and invents a split by case for a fold that is not in the file.

    Args:
        folder: nnUNet_preprocessed/DATASET.
        fold: A number or "all".
        configuration: For messages.
        cases: Those that are there.

    Raises:
        RecipeError: If there is no such fold, nobody trains in it, or it names cases that are not there.
    """
    file = folder / "splits_final.json"
    if fold == "all" or not file.is_file():
        if fold != "all" and len(cases) < 2:
            raise RecipeError(
                f"{folder.name} has {len(cases)} preprocessed case(s): too few for folds. Train fold all."
            )
        return
    folds = read_json(file)
    number = int(fold)
    if number >= len(folds):
        raise RecipeError(
            f"{file.name} of {folder.name} has {len(folds)} fold(s), 0 to {len(folds) - 1}, but the fold is {number}. "
            f"Choose one of these or 'all', or make others with nnKD_split."
        )
    if not folds[number]["train"]:
        raise RecipeError(
            f"Fold {number} of {file.name} of {folder.name} has no training case, but at least one is needed. Choose "
            f"another fold, or make others with nnKD_split."
        )
    there = set(cases)
    missing = sorted(case for part in ("train", "val") for case in folds[number][part] if case not in there)
    if missing:
        raise RecipeError(
            f"Fold {number} of {file.name} names {len(missing)} case(s) that are not preprocessed for "
            f"{configuration} (such as {missing[0]}). Run nnKD_plan_and_preprocess or, for a new split, nnKD_split."
        )


def check_draws(
    folder: Path, fold: str, cases: Sequence[str], batch_size: int, sampler: Sampler, say: bool = False
) -> None:
    """Whether there are batches that obey the sampler's rule; raises its sentence otherwise.

    Args:
        folder, fold, cases: See `check_fold`.
        batch_size: Cases in a batch.
        sampler: The rule.
        say: Whether to log the sampler's report; a training writes its own.
    """
    file = folder / "splits_final.json"
    if fold != "all" and file.is_file():
        cases = read_json(file)[int(fold)]["train"]
    people = participants_of_cases(folder, cases, required=sampler.needs_participants)
    for line in sampler.report(people, batch_size, 0):
        if say:
            log.info("%s", line)


def check_results(
    model: Path, fold: str, configuration: str, previous_stage: str | None, needed: Mapping[str, str]
) -> None:
    """What a validation or a cascade's second stage starts from.

    Args:
        model: TRAINER__PLANS in nnUNet_results/DATASET, without the configuration.
        fold: A number or "all".
        configuration: Such as "2d".
        previous_stage: The cascade's first configuration, whose predictions must be there; None: not needed.
        needed: Checkpoints that must be there, by the flag that needs them.

    Raises:
        RecipeError: If something is missing.
    """
    trained = model.with_name(f"{model.name}__{configuration}") / f"fold_{fold}"
    for flag, name in needed.items():
        if not (trained / name).is_file():
            raise RecipeError(
                f"{flag} needs {name}, but {trained.parent.name}/{trained.name} has none. Train it first (--c)."
            )
    if previous_stage is None:
        return
    before = model.with_name(f"{model.name}__{previous_stage}") / "predicted_next_stage" / configuration
    if not before.is_dir() or not any(before.iterdir()):
        raise RecipeError(
            f"{configuration} starts from the predictions of {previous_stage}, but {before.parent.parent.name} has "
            f"none. Train {previous_stage} with the same -tr and -p first (all folds, so that each case has one)."
        )


def dataset_names(first: str, more: Sequence[str]) -> tuple[str, ...]:
    """Full names of the datasets of a training, each once, the first one first; errors as `paths.dataset_name`."""
    return tuple(dict.fromkeys(paths.dataset_name(dataset) for dataset in (first, *more)))
