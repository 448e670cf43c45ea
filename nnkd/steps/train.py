"""Recipe flags -> recipe -> nnU-Net's training of a student."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnkd import one_label, paths
from nnkd.checkpoints import load_checkpoint
from nnkd.dataset import DatasetSpec
from nnkd.devices import check_device, cores
from nnkd.errors import NnkdError, RecipeError, SettingError, UnknownNameError, WeightsError
from nnkd.files import read_json
from nnkd.interfaces import Aggregator, JointAggregator, Sampler
from nnkd.participants import participants_of_cases
from nnkd.preprocessing import listed_cases
from nnkd.recipes import KEY, Choice, Recipe, plans_of, read_plans, usual_aggregator, write_recipe
from nnkd.settings import parse_options
from nnkd.types import StepReport
from nnkd.votes_folder import VotesFolder

log = logging.getLogger("nnkd")
OF_VOTES = ("target", "iou", "iou_over", "voxel_weight", "manual")  # options that do nothing without teachers


@dataclass(frozen=True)
class RecipeFlags:
    """What the recipe flags of the command line say; None where a flag was not given.

    Attributes:
        teachers: -t; an empty list means none (supervised).
        aggregator, sampler: Name and options, checked by the caller.
        options: Trainer options and plan values (batch_size, patch_size) as given.
        name: -n.
        rule: The aggregator itself, to be checked against the teachers; None: the default.
        draws: The sampler itself, to be checked against the participants; None: the default.
    """

    teachers: Sequence[str] | None = None
    aggregator: Choice | None = None
    sampler: Choice | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    rule: Aggregator | None = None
    draws: Sampler | None = None

    def any(self) -> bool:
        """Whether a recipe is asked for."""
        given = (self.teachers is not None, self.aggregator, self.sampler, self.options, self.name)
        return any(given)


@dataclass(frozen=True)
class Request:
    """nnUNetv2_train's arguments, and the recipe flags.

    Attributes:
        per_label: One student for each of these labels; an empty list: for every label; None: one for all.
    """

    dataset: str
    configuration: str
    fold: str
    trainer_name: str
    trainer: type
    is_student: bool
    plans: str
    flags: RecipeFlags
    pretrained_weights: str | None = None
    num_gpus: int = 1
    save_probabilities: bool = False
    continue_training: bool = False
    only_validate: bool = False
    validate_best: bool = False
    disable_checkpointing: bool = False
    device: str = "cuda"
    dry_run: bool = False
    per_label: Sequence[str] | None = None


def train(request: Request) -> StepReport:
    """Write the recipe if flags ask for one, then train; with `per_label`, one student after another.

    Raises:
        NnkdError: If anything is amiss that can be seen before the training starts.
    """
    folder = paths.preprocessed_folder(request.dataset)
    if request.per_label is not None:
        return _train_per_label(request, folder)
    plans, recipe = _plans(request, folder)
    _check(request, folder, plans)
    plans_name = write_recipe(folder, recipe, request.flags.name) if recipe else request.plans
    log.info("Plans: -p %s", plans_name)
    if not request.dry_run:
        _train(request, folder.name, plans_name)
    return StepReport(data={"plans": plans_name})


def _train_per_label(request: Request, folder: Path) -> StepReport:
    """Paper 1's way: a binary student a label. All recipes are checked before the first one trains."""
    plans = read_plans(folder, request.plans)
    if not request.is_student or KEY in plans:
        raise RecipeError(
            f"--per_label got {request.plans} and {request.trainer_name}, but needs base plans and a student of nnkd. "
            f"The recipe of one label is trained with its own -p, without --per_label."
        )
    spec = DatasetSpec.read(folder / "dataset.json")
    one_label.check(spec)
    labels = [spec.check_label(label) for label in request.per_label] or list(spec.labels)
    whole = _recipe(request, folder, plans)
    family = request.flags.name or whole.slug()
    recipes = [replace(whole, label=label, has_regions=True) for label in labels]
    names = [f"{family}_{one_label.suffix(label)}" for label in labels]
    for recipe, name in zip(recipes, names, strict=True):
        _check(request, folder, plans_of(folder, recipe, name))
    for recipe, name in zip(recipes, names, strict=True):
        plans_name = write_recipe(folder, recipe, name)
        log.info("Plans for %s: -p %s", recipe.label, plans_name)
        if request.dry_run or (request.continue_training and _is_finished(request, folder.name, plans_name)):
            continue
        _train(request, folder.name, plans_name)
    report = StepReport(data={"plans": f"{request.plans}_{family}"})
    report.lines.append(f"Predict all labels with nnKD_predict -p {request.plans}_{family} --per_label")
    return report


# --- the recipe -------------------------------------------------------------------------------------------------


def _plans(request: Request, folder: Path) -> tuple[dict[str, Any], Recipe | None]:
    """The plans to train with, and the recipe that is still to be written; None if none is asked for."""
    plans = read_plans(folder, request.plans)
    if not request.is_student and request.flags.any():
        raise RecipeError(
            f"{request.trainer_name} is not one of nnkd's students and reads no recipe. "
            f"Leave the recipe flags out, or choose a student (nnKD_plugins lists them)."
        )
    if not request.is_student or (KEY in plans and not request.flags.any()):
        return plans, None
    recipe = _recipe(request, folder, plans)
    return plans_of(folder, recipe, request.flags.name), recipe


def _recipe(request: Request, folder: Path, plans: Mapping[str, Any]) -> Recipe:
    flags, spec = request.flags, DatasetSpec.read(folder / "dataset.json")
    identifier = _configuration(plans, request.configuration, folder)["data_identifier"]
    votes = VotesFolder.of(folder, identifier)
    teachers = _teachers(flags.teachers, votes)
    if teachers and flags.aggregator and flags.rule:
        _check_rule(flags.rule, flags.aggregator.name, teachers, votes.index.labels)
    values, options = _split_options(request)
    lineage: list[dict[str, str]] = []
    if teachers:
        chosen = {m.name: m for m in votes.index.lineage}
        lineage = [chosen[t].model_dump() for t in teachers if t in chosen]
    return Recipe(
        base=request.plans,
        teachers=tuple(teachers),
        aggregator=flags.aggregator or usual_aggregator(teachers, getattr(request.trainer, "usual_aggregator", None)),
        sampler=flags.sampler or Choice("uniform"),
        options=options,
        plan_values={request.configuration: values} if values else {},
        lineage=tuple(lineage),
        ground_truth=bool(teachers) and votes.index.ground_truth,
        has_regions=spec.has_regions,
        inputs=votes.digests(teachers) if teachers else {},
    )


def _check_rule(rule: Aggregator, name: str, teachers: Sequence[str], labels: Sequence[str]) -> None:
    if isinstance(rule, JointAggregator):
        raise RecipeError(
            f"The aggregator '{name}' looks at all labels at once, but a recipe holds one table for each label. Choose "
            f"one such as staple; or write its label maps with nnKD_aggregate -i TEACHERS -o OUT -a {name}, take them "
            f"in as one more teacher (nnKD_predict_teachers -t imported) and train on that one with -t."
        )
    rule.for_teachers(teachers, labels)  # raises where its options name others


def _configuration(plans: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """A configuration's values, what it inherits included."""
    known = plans["configurations"]
    if name not in known:
        raise UnknownNameError(
            f"The plans '{plans['plans_name']}' of {folder.name} have no configuration '{name}'; they have "
            f"{', '.join(known)}."
        )
    values = dict(known[name])
    parent = values.get("inherits_from")
    return {**_configuration(plans, parent, folder), **values} if parent else values


def _teachers(given: Sequence[str] | None, votes: VotesFolder) -> list[str]:
    if given is None:
        return list(votes.index.teachers)  # raises where there are no votes: distillation is what students are for
    if list(given) in ([], ["none"]):
        return []
    if len(set(given)) < len(given):
        raise RecipeError(f"-t names a teacher twice: {' '.join(given)}. Name each once.")
    votes.bits(given)
    return [t for t in votes.index.teachers if t in given]


def _split_options(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    from pydantic import TypeAdapter, ValidationError

    given = dict(request.flags.options)
    values: dict[str, Any] = {}
    for name, kind in (("batch_size", int), ("patch_size", list[int])):
        if name in given:
            text = given.pop(name)
            try:
                value: Any = text.split(",") if name == "patch_size" else text
                values[name] = TypeAdapter(kind).validate_python(value)
            except ValidationError:
                raise SettingError(f"'{name}' got '{text}', but expects {kind} (such as 24, or 96,96).") from None
    if values.get("batch_size", 1) < 1:
        raise SettingError(f"'batch_size' got {values['batch_size']}, but expects at least 1.")
    checked = parse_options(request.trainer.options_class, given, request.trainer_name)
    return values, {name: checked[name] for name in given}


# --- the training -----------------------------------------------------------------------------------------------


def _check(request: Request, folder: Path, plans: Mapping[str, Any]) -> None:
    values = _configuration(plans, request.configuration, folder)
    if not (folder / values["data_identifier"]).is_dir():
        raise RecipeError(
            f"{folder.name} is not preprocessed for {request.configuration}. "
            f"Run nnKD_plan_and_preprocess -d {folder.name} -c {request.configuration}."
        )
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
    if request.pretrained_weights:
        load_checkpoint(Path(request.pretrained_weights))  # nnU-Net would run whatever its pickle holds
    _check_fold(request, folder, values)
    _check_results(request, folder, plans)
    if request.flags.draws:
        _check_draws(request, folder, values, request.flags.draws)
    if request.is_student:
        _check_recipe(request, folder, plans, values)


def _check_fold(request: Request, folder: Path, values: Mapping[str, Any]) -> None:
    """nnU-Net finds out after minutes, and invents a split by case for a fold that is not in the file."""
    cases = set(listed_cases(folder / values["data_identifier"]))
    file = folder / "splits_final.json"
    if request.fold == "all" or not file.is_file():
        if request.fold != "all" and len(cases) < 2:
            raise RecipeError(
                f"{folder.name} has {len(cases)} preprocessed case(s): too few for folds. Train fold all."
            )
        return
    folds = read_json(file)
    number = int(request.fold)
    if number >= len(folds):
        raise RecipeError(
            f"{file.name} of {folder.name} has {len(folds)} fold(s), 0 to {len(folds) - 1}, but the fold is {number}. "
            f"Choose one of these or 'all', or make others with nnKD_split."
        )
    missing = sorted(case for part in ("train", "val") for case in folds[number][part] if case not in cases)
    if missing:
        raise RecipeError(
            f"Fold {number} of {file.name} names {len(missing)} case(s) that are not preprocessed for "
            f"{request.configuration} (such as {missing[0]}). Run nnKD_plan_and_preprocess or, for a new split, "
            f"nnKD_split."
        )


def _check_draws(request: Request, folder: Path, values: Mapping[str, Any], sampler: Sampler) -> None:
    """Whether there are batches that obey the sampler's rule; raises its sentence otherwise."""
    cases, file = listed_cases(folder / values["data_identifier"]), folder / "splits_final.json"
    if request.fold != "all" and file.is_file():
        cases = read_json(file)[int(request.fold)]["train"]
    people = participants_of_cases(folder, cases, required=sampler.needs_participants)
    for line in sampler.report(people, values["batch_size"], 0):
        if request.dry_run:  # a training writes its own into its log
            log.info("%s", line)


def _check_results(request: Request, folder: Path, plans: Mapping[str, Any]) -> None:
    """What a validation or a cascade's second stage starts from."""
    results, dataset = paths.room("nnUNet_results"), folder.name
    model = f"{request.trainer_name}__{plans['plans_name']}__"
    fold = results / dataset / f"{model}{request.configuration}" / f"fold_{request.fold}"
    needed = [("--val", "checkpoint_final.pth")] if request.only_validate else []
    if request.only_validate and request.validate_best:
        needed.append(("--val_best", "checkpoint_best.pth"))
    for flag, name in needed:
        if not (fold / name).is_file():
            raise RecipeError(
                f"{flag} needs {name}, but {fold.parent.name}/{fold.name} has none. Train it first (--c)."
            )
    stage = _configuration(plans, request.configuration, folder).get("previous_stage")
    if stage and not request.only_validate:
        before = results / dataset / f"{model}{stage}" / "predicted_next_stage" / request.configuration
        if not before.is_dir() or not any(before.iterdir()):
            raise RecipeError(
                f"{request.configuration} starts from the predictions of {stage}, but {before.parent.parent.name} has "
                f"none. Train {stage} with the same -tr and -p first (all folds, so that each case has one)."
            )


def _check_recipe(request: Request, folder: Path, plans: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    recipe = Recipe.of_plans(plans)
    options = parse_options(request.trainer.options_class, recipe.options, request.trainer_name)
    if hasattr(request.trainer, "check_options") and not (request.continue_training or request.only_validate):
        request.trainer.check_options(options, values["patch_size"])
    if not recipe.teachers:
        useless = [name for name in OF_VOTES if name in recipe.options]
        if useless:
            raise SettingError(
                f"'{useless[0]}' says how to learn from votes, but the recipe has no teachers. Leave it out, or name "
                f"teachers with -t."
            )
        return
    votes = VotesFolder.of(folder, values["data_identifier"])
    votes.bits(recipe.teachers)
    if hasattr(request.trainer, "check_recipe"):
        request.trainer.check_recipe(recipe, votes)
    answers = (record.answers.get(t, ()) for record in votes.index.cases.values() for t in recipe.teachers)
    from_manual = votes.index.manual and options.get("manual") != "ignore"
    if recipe.label and not from_manual and not any(recipe.label in answer for answer in answers):
        raise RecipeError(
            f"No teacher of the recipe answers for '{recipe.label}' in any case. Leave that label out of --per_label, "
            f"or ask a teacher for it."
        )
    raw = os.environ.get("nnUNet_raw")
    if raw and (Path(raw) / folder.name).is_dir():  # a cluster often has no raw folder
        votes.check_fresh(Path(raw) / folder.name / "teachersTr")


def _is_finished(request: Request, dataset: str, plans_name: str) -> bool:
    """Whether there is nothing left to continue."""
    model = f"{request.trainer_name}__{plans_name}__{request.configuration}"
    fold = paths.room("nnUNet_results") / dataset / model / f"fold_{request.fold}"
    files = ("checkpoint_final.pth", "validation/summary.json") if request.fold != "all" else ("checkpoint_final.pth",)
    return all((fold / name).is_file() for name in files)


def _train(request: Request, dataset: str, plans_name: str) -> None:
    os.environ["nnUNet_extTrainer"] = paths.trainer_path()
    import torch
    from nnunetv2.run.run_training import run_training

    check_device(request.device)
    if request.device == "cpu":
        torch.set_num_threads(cores())
    elif request.device == "cuda":
        torch.set_num_threads(1)
        if torch.get_num_interop_threads() != 1:  # once in a process
            torch.set_num_interop_threads(1)
    if request.device == "cuda" and request.num_gpus > torch.cuda.device_count():
        raise NnkdError(f"-num_gpus is {request.num_gpus}, but torch sees {torch.cuda.device_count()} GPU(s) here.")
    try:
        run_training(
            dataset,
            request.configuration,
            request.fold,
            request.trainer_name,
            plans_name,
            request.pretrained_weights,
            request.num_gpus,
            request.save_probabilities,
            request.continue_training,
            request.only_validate,
            request.disable_checkpointing,
            request.validate_best,
            device=torch.device(request.device),
        )
    except AssertionError as error:
        if not any(frame.name == "load_pretrained_weights" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        why = str(error).split(". ")[0]
        raise WeightsError(
            f"-pretrained_weights '{Path(request.pretrained_weights or '').name}' is of another network ({why}). "
            f"Train from a checkpoint of the same student and plans, or leave it out."
        ) from error
    except torch.multiprocessing.ProcessRaisedException as error:  # -num_gpus: it holds the traceback as text
        kind, _, sentence = str(error).strip().splitlines()[-1].partition(": ")
        if not kind.startswith("nnkd.errors."):
            raise
        raise NnkdError(sentence) from error
