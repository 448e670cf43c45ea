"""What can be amiss with a training with auxiliary tasks before it starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nnkd.auxiliary.tasks import OPTIONS, Prepared, Target
from nnkd.data.origins import difference
from nnkd.data.recipes import Recipe
from nnkd.data.splits import training_cases
from nnkd.errors import RecipeError, SettingError
from nnkd.plugin.students import OwnData, Student
from nnkd.preprocessing import freshness
from nnkd.preprocessing.folders import listed_cases
from nnkd.weights import pickles

log = logging.getLogger("nnkd")


def check(
    target: Target,
    tasks: Sequence[Prepared],
    recipe: Recipe,
    trainer: type[Student],
    fold: str,
) -> None:
    """Whether a recipe's auxiliary tasks can train along.

    Args:
        target: What is adapted to.
        tasks: The recipe's auxiliaries.
        recipe: Of the training.
        trainer: The student.
        fold: A number or "all".

    Raises:
        SettingError: If an option is of auxiliaries, but there are none.
        RecipeError: If the student or the configuration takes none, or the target has no label to learn.
    """
    if recipe.auxiliary_scheduler is None:
        useless = [name for name in OPTIONS if name in recipe.options]
        if useless:
            raise SettingError(
                f"'{useless[0]}' is about auxiliary datasets, but the recipe has none. Leave it out, or name some with "
                f"-as and --auxiliaries."
            )
        return
    check_student(trainer)
    for task in tasks:
        _check_raw(task, target)
    if target.values.get("previous_stage"):
        raise RecipeError(
            f"{target.configuration} is a cascade's second stage, which looks at predictions of the first; auxiliary "
            f"cases have none. Choose another configuration, or leave -as and --auxiliaries out."
        )
    if len(tasks) == 1:
        log.info("There is one auxiliary, %s: nothing to choose, it trains along in every turn.", tasks[0].task.name)
    if not recipe.teachers:
        _check_labels(target, fold)


def check_student(trainer: type[Student]) -> None:
    """Whether a student takes auxiliaries.

    Raises:
        RecipeError: If it does not.
    """
    if trainer.takes_auxiliaries:
        return
    why = "makes its training data itself and " if issubclass(trainer, OwnData) else ""
    raise RecipeError(
        f"{trainer.__name__} {why}takes no auxiliaries. Leave -as and --auxiliaries out, or choose another student."
    )


def _check_raw(prepared: Prepared, target: Target) -> None:
    """An auxiliary task whose labels or files changed since it was preprocessed is refused, where these are at hand."""
    raw = freshness.raw_dataset(prepared.task.dataset)
    if raw is None:
        return
    more = ("--auxiliaries", prepared.task.name)
    todo = f"Run {freshness.command(target.preprocessed, target.plans, target.configuration, *more)}."
    labels = {label: list(values) for label, values in raw.spec.labels.items()}
    if (labels, raw.spec.ignore_label) != (prepared.index.labels, prepared.index.ignore_label):
        raise RecipeError(f"The labels of {raw.name} changed since it was preprocessed as an auxiliary. {todo}")
    now = freshness.files_of(raw, prepared.cases)
    for case, files in now.items():
        made = prepared.index.inputs[case]
        why = "" if isinstance(made, str) else difference(freshness.only_files(made), files)
        if why:
            raise RecipeError(f"Case '{case}' of the auxiliary {raw.name} does not hold any more ({why}). {todo}")


def _check_labels(target: Target, fold: str) -> None:
    """A target without teachers learns from label maps alone; a training on empty ones looks like any other."""
    folder = target.preprocessed / target.values["data_identifier"]
    cases = training_cases(target.preprocessed, fold, listed_cases(folder))
    for case in cases:
        places = pickles.load(folder / f"{case}.pkl")["class_locations"]
        if any(len(found) for key, found in places.items() if not (isinstance(key, tuple) and min(key) < 0)):
            return
    raise RecipeError(
        f"None of the {len(cases)} training case(s) of fold {fold} of {target.preprocessed.name} has a labelled voxel, "
        f"and the recipe has no teachers, so there is nothing to adapt to. Put label maps into labelsTr and preprocess "
        f"again, or name teachers with -t."
    )
