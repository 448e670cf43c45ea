"""What can be amiss with a training before it starts: flags, folds, results of earlier stages, batches that obey a
sampler, votes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnkd import paths
from nnkd.data import listing
from nnkd.data.dataset import DatasetSpec
from nnkd.data.listing import Listing
from nnkd.data.participants import participants_of_cases
from nnkd.data.splits import SPLITS, read_folds, training_cases
from nnkd.errors import NnkdError, RecipeError, SettingError
from nnkd.plugin.samplers import Sampler
from nnkd.preprocessing import freshness
from nnkd.preprocessing.folders import listed_cases
from nnkd.training import trial
from nnkd.training.along import checks as auxiliary_checks
from nnkd.training.recipe_flags import Request, StudentPlan, TrainingPlan
from nnkd.types import some
from nnkd.weights import pickles, pretrained

log = logging.getLogger("nnkd")
OF_VOTES = ("target", "iou", "iou_over", "voxel_weight", "manual")  # options that do nothing without teachers


def check(plan: TrainingPlan) -> None:
    """All that can be seen before a training starts and before its recipe is written.

    Raises:
        NnkdError: If something is amiss.
    """
    request, values, folder = plan.request, plan.values, plan.folder
    if not (folder / values["data_identifier"]).is_dir():
        raise RecipeError(
            f"{folder.name} is not preprocessed for {request.configuration}. "
            f"Run nnKD_plan_and_preprocess -d {folder.name} -c {request.configuration}."
        )
    _check_flags(request)
    if request.pretrained_weights:
        weights = Path(request.pretrained_weights)
        pretrained.check(weights, request.trainer, plan.plans, request.configuration, plan.dataset_json)
    own = request.own_data
    if own is None:
        check_files(preprocessed_cases(plan))
    if own is None and not request.only_validate:
        trial.check_network(request.trainer, plan.plans, request.configuration, plan.dataset_json)
    cases = listed_cases(folder / values["data_identifier"]) if own is None else own.cases_of(folder)
    for case in cases if own is None else ():  # before hours are spent; loaders look again
        pickles.check_case(folder / values["data_identifier"], case)
    check_fold(folder, request.fold, request.configuration, cases)
    if own is None:
        student = plan if isinstance(plan, StudentPlan) else None
        spec = DatasetSpec.read(folder / "dataset.json") if student is None else student.spec
        votes = student.votes if student is not None and student.recipe.teachers else None
        freshness.check(folder, plan.plans, request.configuration, cases, spec, votes)
    needed = {"--val": "checkpoint_final.pth"} if request.only_validate else {}
    if request.only_validate and request.validate_best:
        needed["--val_best"] = "checkpoint_best.pth"
    model = paths.room("nnUNet_results") / folder.name / f"{request.trainer_name}__{plan.plans['plans_name']}"
    stage = None if request.only_validate else values.get("previous_stage")
    check_results(model, request.fold, request.configuration, stage, needed)
    if request.flags.sampler:
        sampler = request.flags.sampler.plugin
        check_draws(folder, request.fold, cases, values["batch_size"], sampler, request.dry_run)
    if isinstance(plan, StudentPlan):
        _check_recipe(plan)


def preprocessed_cases(plan: TrainingPlan) -> Listing:
    """Which files of a configuration's folder are whole cases of the dataset."""
    found = listing.preprocessed(plan.folder / plan.values["data_identifier"])
    labels = plan.folder / "gt_segmentations"
    if not labels.is_dir():
        return found
    spec = plan.spec if isinstance(plan, StudentPlan) else DatasetSpec.read(plan.folder / "dataset.json")
    of_dataset = listing.label_maps(labels, spec.file_ending).cases
    return found.only(of_dataset, why="gt_segmentations has no label map of its case")


def check_files(found: Listing) -> None:
    """nnU-Net takes any .b2nd there for a case, shadow files of macOS included, and stops at files of other endings.

    Raises:
        RecipeError: If the folder holds what is no whole case of the dataset.
    """
    strays = sorted(found.unknown) + sorted(name for names in found.aside.values() for name in names)
    strays = [name for name in strays if not (found.folder / name).is_dir()]
    if strays:
        raise RecipeError(
            f"{found.name} of {found.folder.parent.name} holds {some(strays)}, which nnU-Net would take for training "
            f"cases or stumble over. Remove {'it' if len(strays) == 1 else 'them'}, or run nnKD_plan_and_preprocess "
            f"again, which removes cases that are gone from the dataset."
        )


def _check_flags(request: Request) -> None:
    if request.fold != "all" and not request.fold.isdigit():
        raise NnkdError(f"The fold is '{request.fold}', but expects a number or 'all'; say 0 for the first one.")
    if request.continue_training and (request.only_validate or request.pretrained_weights):
        raise NnkdError("--c continues a training; it goes neither with --val nor with -pretrained_weights.")
    if request.validate_best and request.disable_checkpointing:
        raise NnkdError("--val_best needs checkpoints; leave --disable_checkpointing out.")
    if request.pretrained_weights and not Path(request.pretrained_weights).is_file():
        raise NnkdError(f"-pretrained_weights names '{request.pretrained_weights}', but there is no such file.")
    if request.device != "cuda" and request.num_gpus > 1:
        raise NnkdError(f"-num_gpus {request.num_gpus} needs -device cuda, not {request.device}.")
    if request.num_gpus > 1 and request.student is not None and request.student.one_gpu:
        raise NnkdError(f"-num_gpus is {request.num_gpus}, but {request.trainer_name} trains on one GPU. Leave it out.")


def _check_recipe(plan: StudentPlan) -> None:
    request, recipe, student = plan.request, plan.recipe, plan.student
    if not request.only_validate:
        auxiliary_checks.check(plan.target, plan.tasks, recipe, student, request.fold)
    if not (request.continue_training or request.only_validate):
        student.check_options(plan.options, plan.values["patch_size"])
        if request.own_data is not None:
            request.own_data.check_datasets(plan.options, recipe.datasets or (plan.folder.name,))
    if recipe.teachers:
        _check_votes(plan)
        return
    useless = [name for name in OF_VOTES if name in recipe.options]
    if useless:
        raise SettingError(
            f"'{useless[0]}' says how to learn from votes, but the recipe has no teachers. Leave it out, or name "
            f"teachers with -t."
        )


def _check_votes(plan: StudentPlan) -> None:
    recipe, votes = plan.recipe, plan.votes
    votes.bits(recipe.teachers)
    plan.student.check_recipe(recipe, votes)
    answers = (record.answers.get(t, ()) for record in votes.index.cases.values() for t in recipe.teachers)
    from_manual = votes.index.manual and plan.options.get("manual") != "ignore"
    if recipe.label and not from_manual and not any(recipe.label in answer for answer in answers):
        raise RecipeError(
            f"No teacher of the recipe answers for '{recipe.label}' in any case. Leave that label out of --per_label, "
            f"or ask a teacher for it."
        )
    raw = os.environ.get("nnUNet_raw")
    if raw and (Path(raw) / plan.folder.name).is_dir():  # a cluster often has no raw folder
        votes.check_fresh(Path(raw) / plan.folder.name / "teachersTr")


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
    file = folder / SPLITS
    if fold == "all" or not file.is_file():
        if fold != "all" and len(cases) < 2:
            raise RecipeError(
                f"{folder.name} has {len(cases)} preprocessed case(s): too few for folds. Train fold all."
            )
        return
    folds = read_folds(file)
    number = int(fold)
    if number >= len(folds):
        raise RecipeError(
            f"{file.name} of {folder.name} has {len(folds)} fold(s), 0 to {len(folds) - 1}, but the fold is {number}. "
            f"Choose one of these or 'all', or make others with nnKD_split."
        )
    for part, what in (("train", "training"), ("val", "validation")):
        if not folds[number][part]:
            raise RecipeError(
                f"Fold {number} of {file.name} of {folder.name} has no {what} case, but at least one is needed. Choose "
                f"another fold, or make others with nnKD_split."
            )
    both = set(folds[number]["train"]) & set(folds[number]["val"])
    if both:
        log.warning(
            "Fold %d of %s trains on %d of its validation cases (such as %s).", number, file.name, len(both), min(both)
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
    people = participants_of_cases(folder, training_cases(folder, fold, cases), required=sampler.needs_participants)
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
