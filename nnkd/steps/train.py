"""Recipe flags -> recipe -> nnU-Net's training of a student."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnkd import paths
from nnkd.auxiliary import tasks as auxiliaries
from nnkd.data.dataset import DatasetSpec
from nnkd.data.plans import KEY, configuration_of, read_plans
from nnkd.data.recipes import Choice, Recipe, plans_of, usual_aggregator, write_recipe
from nnkd.devices import check_device, cores
from nnkd.errors import NnkdError, RecipeError, SettingError, WeightsError
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.plugin.options import parse_options
from nnkd.plugin.samplers import Sampler
from nnkd.plugin.schedulers import AuxiliaryScheduler
from nnkd.preprocessing.folders import listed_cases
from nnkd.training import one_label
from nnkd.training.along import checks
from nnkd.training.checks import check_draws, check_fold, check_results, dataset_names
from nnkd.types import StepReport
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder
from nnkd.weights import pretrained

log = logging.getLogger("nnkd")
USUAL_PLANS = "nnUNetPlans"
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
        datasets: --datasets; results go under the first one.
        auxiliaries: --auxiliaries.
        auxiliary_scheduler: -as with its options, checked by the caller.
        chooses: The scheduler's class; None: -as was not given.
    """

    teachers: Sequence[str] | None = None
    aggregator: Choice | None = None
    sampler: Choice | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    rule: Aggregator | None = None
    draws: Sampler | None = None
    datasets: Sequence[str] = ()
    auxiliaries: Sequence[str] = ()
    auxiliary_scheduler: Choice | None = None
    chooses: type[AuxiliaryScheduler] | None = None

    def any(self) -> bool:
        """Whether a recipe is asked for."""
        given = (self.teachers is not None, self.aggregator, self.sampler, self.options, self.name, self.datasets)
        return any(given) or bool(self.auxiliaries or self.auxiliary_scheduler)


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
    request = _planned(request)
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


def _planned(request: Request) -> Request:
    """The same with plans: some trainers make their training data and plans themselves, out of nnUNet_raw."""
    names = dataset_names(request.dataset, request.flags.datasets)
    if not _plans_itself(request):
        if len(names) > 1:
            raise RecipeError(
                f"--datasets names {len(names)} datasets, but {request.trainer_name} trains on one. Leave it out, or "
                f"choose a student that trains on several, such as nnUNetTrainerRepViTDistill."
            )
        return replace(request, flags=replace(request.flags, datasets=()))
    if request.flags.teachers is not None or request.flags.aggregator or request.per_label is not None:
        raise RecipeError(
            f"-t, -a and --per_label say how to learn from votes, but {request.trainer_name} learns from slices of the "
            f"images. Leave them out."
        )
    checks.check_student(request.trainer, request.flags.auxiliary_scheduler or request.flags.auxiliaries)
    plans = request.trainer.write_plans(names)
    plans = plans if request.plans == USUAL_PLANS else request.plans
    return replace(request, plans=plans, flags=replace(request.flags, datasets=names[1:] and names))


def _plans_itself(request: Request) -> bool:
    return hasattr(request.trainer, "write_plans")


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
    chooser = flags.auxiliary_scheduler
    auxiliaries.check_flags(flags.chooses, chooser.name if chooser else None, flags.auxiliaries)
    configuration = configuration_of(plans, request.configuration, folder)
    votes = VotesFolder.of(folder, configuration["data_identifier"])
    supervised = _plans_itself(request) or (chooser and flags.teachers is None and not votes.exists())
    teachers = [] if supervised else _teachers(flags.teachers, votes)
    if teachers and flags.aggregator and flags.rule:
        _check_rule(flags.rule, flags.aggregator.name, teachers, votes.index.labels)
    values, options = _split_options(request)
    target = auxiliaries.Target(folder, plans, request.configuration, configuration, spec.channel_names)
    prepared = target.prepare(flags.auxiliaries, options.get("max_aux_cases", auxiliaries.MOST_CASES))
    if _plans_itself(request):
        learned_from = flags.datasets or [folder.name]
        lineage = request.trainer.lineage(options, learned_from)
        told = hasattr(request.trainer, "told_of_truth") and request.trainer.told_of_truth(learned_from)
    else:
        chosen = {m.name: m for m in votes.index.lineage} if teachers else {}
        learned_from = [*([] if teachers else [folder.name]), *(found.task.dataset for found in prepared)]
        inherited, told_too = consensus.inherited_of(learned_from)
        lineage = [chosen[t].model_dump() for t in teachers if t in chosen] + [m.model_dump() for m in inherited]
        told = told_too or (bool(teachers) and votes.index.ground_truth)
    return Recipe(
        base=request.plans,
        teachers=tuple(teachers),
        aggregator=flags.aggregator or usual_aggregator(teachers, getattr(request.trainer, "usual_aggregator", None)),
        sampler=flags.sampler or Choice("uniform"),
        options=options,
        plan_values={request.configuration: values} if values else {},
        lineage=tuple(lineage),
        ground_truth=told,
        has_regions=spec.has_regions,
        inputs=votes.digests(teachers) if teachers else {},
        datasets=tuple(flags.datasets),
        auxiliaries=tuple(found.task.name for found in prepared),
        auxiliary_scheduler=chooser,
    )


def _check_rule(rule: Aggregator, name: str, teachers: Sequence[str], labels: Sequence[str]) -> None:
    if isinstance(rule, JointAggregator):
        raise RecipeError(
            f"The aggregator '{name}' looks at all labels at once, but a recipe holds one table for each label. Choose "
            f"one such as staple; or write its label maps with nnKD_aggregate -i TEACHERS -o OUT -a {name}, take them "
            f"in as one more teacher (nnKD_predict_teachers -t imported) and train on that one with -t."
        )
    rule.for_teachers(teachers, labels)  # raises where its options name others


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
    if hasattr(request.trainer, "plan_values"):
        values = {**request.trainer.plan_values(checked), **values}
    return values, {name: checked[name] for name in given}


# --- the training -----------------------------------------------------------------------------------------------


def _check(request: Request, folder: Path, plans: Mapping[str, Any]) -> None:
    values = configuration_of(plans, request.configuration, folder)
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
    if request.num_gpus > 1 and getattr(request.trainer, "one_gpu", False):
        raise NnkdError(f"-num_gpus is {request.num_gpus}, but {request.trainer_name} trains on one GPU. Leave it out.")
    if request.pretrained_weights:
        weights = Path(request.pretrained_weights)
        pretrained.check(weights, request.trainer, folder, plans, request.configuration)
    own_cases = getattr(request.trainer, "cases_of", None)
    cases = own_cases(folder) if own_cases else listed_cases(folder / values["data_identifier"])
    check_fold(folder, request.fold, request.configuration, cases)
    needed = {"--val": "checkpoint_final.pth"} if request.only_validate else {}
    if request.only_validate and request.validate_best:
        needed["--val_best"] = "checkpoint_best.pth"
    model = paths.room("nnUNet_results") / folder.name / f"{request.trainer_name}__{plans['plans_name']}"
    stage = None if request.only_validate else values.get("previous_stage")
    check_results(model, request.fold, request.configuration, stage, needed)
    if request.flags.draws:
        check_draws(folder, request.fold, cases, values["batch_size"], request.flags.draws, request.dry_run)
    if request.is_student:
        _check_recipe(request, folder, plans, values)


def _check_recipe(request: Request, folder: Path, plans: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    recipe = Recipe.of_plans(plans)
    options = parse_options(request.trainer.options_class, recipe.options, request.trainer_name)
    target = auxiliaries.Target(
        folder, plans, request.configuration, values, DatasetSpec.read(folder / "dataset.json").channel_names
    )
    if not request.only_validate:
        checks.check(target, recipe, options, request.trainer, request.fold)
    if hasattr(request.trainer, "check_options") and not (request.continue_training or request.only_validate):
        request.trainer.check_options(options, values["patch_size"])
        if _plans_itself(request):
            request.trainer.check_datasets(options, recipe.datasets or (folder.name,))
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
    folder, given = paths.preprocessed_folder(dataset), request.pretrained_weights
    try:
        with pretrained.as_nnunets(given, request.trainer, folder, plans_name, request.configuration) as weights:
            run_training(
                dataset,
                request.configuration,
                request.fold,
                request.trainer_name,
                plans_name,
                weights,
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
