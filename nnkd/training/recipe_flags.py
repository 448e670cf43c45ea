"""nnKD_train's arguments -> the plan of a training, with its recipe. What lies on disk is read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnkd import paths
from nnkd.auxiliary import tasks as auxiliaries
from nnkd.data.dataset import DatasetSpec
from nnkd.data.plans import KEY, configuration_of, read_plans
from nnkd.data.recipes import Choice, Recipe, plans_of, usual_aggregator
from nnkd.errors import RecipeError, SettingError
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.plugin.options import parse_options
from nnkd.plugin.students import OwnData, Student
from nnkd.training import one_label
from nnkd.training.along.checks import check_student
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder
from nnkd.weights import architectures

USUAL_PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class Chosen:
    """A plugin's entry that a flag names.

    Attributes:
        choice: As it will stand in the recipe.
        plugin: The aggregator or sampler itself, made with these options; of an auxiliary scheduler the class.
    """

    choice: Choice
    plugin: Any


@dataclass(frozen=True)
class RecipeFlags:
    """What the recipe flags of the command line say; None where a flag was not given.

    Attributes:
        teachers: -t; an empty list means none (supervised).
        aggregator, sampler, auxiliary_scheduler: -a, -s and -as with their options.
        options: Trainer options and plan values (batch_size, patch_size) as given.
        name: -n.
        datasets: --datasets; results go under the first one.
        auxiliaries: --auxiliaries.
    """

    teachers: Sequence[str] | None = None
    aggregator: Chosen | None = None
    sampler: Chosen | None = None
    auxiliary_scheduler: Chosen | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    datasets: Sequence[str] = ()
    auxiliaries: Sequence[str] = ()

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

    @property
    def student(self) -> type[Student] | None:
        """The trainer if it reads recipes."""
        return self.trainer if issubclass(self.trainer, Student) else None

    @property
    def own_data(self) -> type[OwnData] | None:
        """The trainer if it makes its training data and plans itself, out of nnUNet_raw."""
        return self.trainer if issubclass(self.trainer, OwnData) else None


@dataclass(frozen=True)
class TrainingPlan:
    """All that a training needs to know before it starts.

    Attributes:
        request: What was asked for; -p names the plans that a student with data of its own wrote.
        folder: nnUNet_preprocessed/DATASET.
        base: The plans that -p names.
        recipe: What they hold, or the one that is to be written; None for trainers that are not nnkd's.
        is_new: Whether the recipe is still to be written.
    """

    request: Request
    folder: Path
    base: Mapping[str, Any]
    recipe: Recipe | None = None
    is_new: bool = False

    @staticmethod
    def of(request: Request) -> TrainingPlan:
        """The training that is asked for; with --per_label, that of all labels together.

        Raises:
            NnkdError: If the flags make no recipe for this student and dataset.
        """
        student = request.student
        if student is not None and (request.flags.auxiliary_scheduler or request.flags.auxiliaries):
            check_student(student)
        request = _with_own_plans(request)
        flags, folder = request.flags, paths.preprocessed_folder(request.dataset)
        base = read_plans(folder, request.plans)
        architectures.check(base, request.plans)
        if base.get("dataset_name") != folder.name:
            raise RecipeError(
                f"{request.plans}.json says that its dataset_name is '{base.get('dataset_name')}', whose cases nnU-Net "
                f"would train on, and write its results there. Change it to '{folder.name}'."
            )
        if request.per_label is not None and (student is None or KEY in base):
            raise RecipeError(
                f"--per_label got {request.plans} and {request.trainer_name}, but needs base plans and a student of "
                f"nnkd. The recipe of one label is trained with its own -p, without --per_label."
            )
        if student is None:
            if flags.any():
                raise RecipeError(
                    f"{request.trainer_name} is not one of nnkd's students and reads no recipe. "
                    f"Leave the recipe flags out, or choose a student (nnKD_plugins lists them)."
                )
            return TrainingPlan(request, folder, base)
        return StudentPlan.with_recipe(request, student, folder, base)

    @cached_property
    def plans(self) -> Mapping[str, Any]:
        """Those to train with.

        Raises:
            RecipeError: If another recipe has their name.
        """
        return self.base

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The configuration's.

        Raises:
            UnknownNameError: If there is none of that name.
        """
        return configuration_of(self.plans, self.request.configuration, self.folder)

    @property
    def dataset_json(self) -> Mapping[str, Any]:
        """Empty for trainers that are not nnkd's."""
        return {}


@dataclass(frozen=True, kw_only=True)
class StudentPlan(TrainingPlan):
    """The same of one of nnkd's students.

    Attributes:
        student: The trainer.
        recipe: What the plans hold, or the one that is to be written.
        name: The recipe's own part of its plans' name; None: a readable one.
        options: All of the student's, those of the recipe filled in.
        spec: dataset.json.
        votes, target: Of the configuration, and what auxiliaries adapt to.
        tasks: The recipe's auxiliaries.
    """

    student: type[Student]
    recipe: Recipe
    name: str | None
    options: Mapping[str, Any]
    spec: DatasetSpec
    votes: VotesFolder
    target: auxiliaries.Target
    tasks: Sequence[auxiliaries.Prepared]

    @classmethod
    def with_recipe(
        cls, request: Request, student: type[Student], folder: Path, base: Mapping[str, Any]
    ) -> StudentPlan:
        """With the recipe in the base plans, or with the one that the flags make of them.

        Raises:
            NnkdError: If the flags make no recipe for this student and dataset.
        """
        flags = request.flags
        spec = DatasetSpec.read(folder / "dataset.json")
        if request.per_label is not None:
            one_label.check(spec)
            for label in request.per_label:
                spec.check_label(label)
        values = configuration_of(base, request.configuration, folder)
        target = auxiliaries.Target(folder, base, request.configuration, values, spec.channel_names)
        votes = VotesFolder.of(folder, values["data_identifier"])
        if is_new := KEY not in base or flags.any():
            recipe, options, tasks = _new_recipe(request, student, spec, target, votes)
        else:
            recipe = Recipe.of_plans(base)
            options = parse_options(student.options_class, recipe.options, request.trainer_name)
            names = () if request.only_validate else recipe.auxiliaries
            if names:
                check_student(student)
            tasks = _tasks(target, names, options)
        return cls(
            request=request,
            folder=folder,
            base=base,
            student=student,
            recipe=recipe,
            is_new=is_new,
            name=flags.name,
            options=options,
            spec=spec,
            votes=votes,
            target=target,
            tasks=tasks,
        )

    @cached_property
    def plans(self) -> Mapping[str, Any]:
        """Those to train with.

        Raises:
            RecipeError: If another recipe has their name.
        """
        return plans_of(self.folder, self.base, self.recipe, self.name) if self.is_new else self.base

    @property
    def dataset_json(self) -> Mapping[str, Any]:
        """As it was read."""
        return self.spec.json

    @property
    def family(self) -> str:
        """What the names of the recipes of single labels begin with."""
        return self.name or self.recipe.slug()

    def label_by_label(self) -> list[StudentPlan]:
        """Paper 1's way: a binary student for each label of --per_label."""
        return [
            replace(
                self,
                recipe=replace(self.recipe, label=label, has_regions=True),
                name=f"{self.family}_{one_label.suffix(label)}",
            )
            for label in self.request.per_label or self.spec.labels
        ]


def dataset_names(first: str, more: Sequence[str]) -> tuple[str, ...]:
    """Full names of the datasets of a training, each once, the first one first; errors as `paths.dataset_name`."""
    return tuple(dict.fromkeys(paths.dataset_name(dataset) for dataset in (first, *more)))


def _with_own_plans(request: Request) -> Request:
    """The same with the plans that a student with data of its own writes now."""
    names, flags = dataset_names(request.dataset, request.flags.datasets), request.flags
    own = request.own_data
    if own is None:
        if len(names) > 1:
            raise RecipeError(
                f"--datasets names {len(names)} datasets, but {request.trainer_name} trains on one. Leave it out, or "
                f"choose a student that trains on several, such as nnUNetTrainerRepViTDistill."
            )
        return replace(request, flags=replace(flags, datasets=()))
    if flags.teachers is not None or flags.aggregator or request.per_label is not None:
        raise RecipeError(
            f"-t, -a and --per_label say how to learn from votes, but {request.trainer_name} learns from slices of the "
            f"images. Leave them out."
        )
    plans = own.write_plans(names)
    plans = plans if request.plans == USUAL_PLANS else request.plans
    return replace(request, plans=plans, flags=replace(flags, datasets=names[1:] and names))


def _new_recipe(
    request: Request, student: type[Student], spec: DatasetSpec, target: auxiliaries.Target, votes: VotesFolder
) -> tuple[Recipe, Mapping[str, Any], Sequence[auxiliaries.Prepared]]:
    """The recipe that the flags ask for, all options of the trainer, and the auxiliaries."""
    flags, chooser = request.flags, request.flags.auxiliary_scheduler
    auxiliaries.check_flags(
        chooser.plugin if chooser else None, chooser.choice.name if chooser else None, flags.auxiliaries
    )
    teachers = _teachers(request, votes)
    values, given, options = _split_options(request, student)
    tasks = _tasks(target, flags.auxiliaries, options)
    lineage, told = _lineage(request, spec.name, options, teachers, votes, tasks)
    usual = usual_aggregator(teachers, student.usual_aggregator)
    recipe = Recipe(
        base=request.plans,
        teachers=tuple(teachers),
        aggregator=flags.aggregator.choice if flags.aggregator else usual,
        sampler=flags.sampler.choice if flags.sampler else Choice("uniform"),
        options={name: options[name] for name in given},
        plan_values={request.configuration: values} if values else {},
        lineage=tuple(lineage),
        ground_truth=told,
        has_regions=spec.has_regions,
        inputs=votes.digests(teachers) if teachers else {},
        datasets=tuple(flags.datasets),
        auxiliaries=tuple(found.task.name for found in tasks),
        auxiliary_scheduler=chooser.choice if chooser else None,
    )
    return recipe, options, tasks


def _tasks(target: auxiliaries.Target, names: Sequence[str], options: Mapping[str, Any]) -> list[auxiliaries.Prepared]:
    return target.prepare(names, options["max_aux_cases"]) if names else []


def _teachers(request: Request, votes: VotesFolder) -> list[str]:
    """Those to learn from, in the order of the votes; the aggregator is checked against them."""
    flags = request.flags
    if request.own_data is not None or (flags.auxiliary_scheduler and flags.teachers is None and not votes.exists()):
        return []
    if flags.teachers is None:
        teachers = list(votes.index.teachers)  # raises without votes: distillation is what students are for
    elif list(flags.teachers) in ([], ["none"]):
        return []
    elif len(set(flags.teachers)) < len(flags.teachers):
        raise RecipeError(f"-t names a teacher twice: {' '.join(flags.teachers)}. Name each once.")
    else:
        votes.bits(flags.teachers)
        teachers = [teacher for teacher in votes.index.teachers if teacher in flags.teachers]
    if teachers and flags.aggregator:
        _check_rule(flags.aggregator.plugin, flags.aggregator.choice.name, teachers, votes.index.labels)
    return teachers


def _check_rule(rule: Aggregator, name: str, teachers: Sequence[str], labels: Sequence[str]) -> None:
    if isinstance(rule, JointAggregator):
        raise RecipeError(
            f"The aggregator '{name}' looks at all labels at once, but a recipe holds one table for each label. Choose "
            f"one such as staple; or write its label maps with nnKD_aggregate -i TEACHERS -o OUT -a {name}, take them "
            f"in as one more teacher (nnKD_predict_teachers -t imported) and train on that one with -t."
        )
    rule.for_teachers(teachers, labels)  # raises where its options name others


def _split_options(request: Request, student: type[Student]) -> tuple[dict[str, Any], Sequence[str], dict[str, Any]]:
    """Changed values of the plans, the trainer's options that were given, and all of its options."""
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
    options = parse_options(student.options_class, given, request.trainer_name)
    return {**student.plan_values(options), **values}, list(given), options


def _lineage(
    request: Request,
    dataset: str,
    options: Mapping[str, Any],
    teachers: Sequence[str],
    votes: VotesFolder,
    tasks: Sequence[auxiliaries.Prepared],
) -> tuple[Sequence[Mapping[str, str]], bool]:
    """Models that are learned from, and whether one of them was told of reference labels."""
    own = request.own_data
    if own is not None:
        trained_on = request.flags.datasets or [dataset]
        return own.lineage(options, trained_on), own.told_of_truth(trained_on)
    names = [*([] if teachers else [dataset]), *(found.task.dataset for found in tasks)]
    models, told = consensus.inherited_of(names)
    voters = {model.name: model for model in votes.index.lineage} if teachers else {}
    lineage = [*(voters[teacher] for teacher in teachers if teacher in voters), *models]
    return [model.model_dump() for model in lineage], told or (bool(teachers) and votes.index.ground_truth)
