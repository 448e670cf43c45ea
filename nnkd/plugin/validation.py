"""Checks of a plugin for its author: options, licence, and smoke calls by kind on toy cases."""

from __future__ import annotations

import inspect
import itertools
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from nnkd.errors import BrokenPluginError, NnkdError, SettingError
from nnkd.plugin import _student_checks as students
from nnkd.plugin._toys import LABELS, toy_ballots, toy_counts, toy_participants, toy_prompts, toy_volume
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.plugin.options import options_of, parse_options
from nnkd.plugin.students import Student
from nnkd.plugin.teachers import BoxTeacher, Teacher
from nnkd.types import Entry, Kind, TeacherContext, Volume

if TYPE_CHECKING:
    from nnkd.plugin.schedulers import AuxiliaryScheduler

Made = TypeVar("Made")
Outcome = Literal["ok", "failed", "not tried"]
OK: Outcome = "ok"
FAILED: Outcome = "failed"
NOT_TRIED: Outcome = "not tried"
UNAVAILABLE = (NnkdError, OSError, ImportError, RuntimeError)  # no weights, no folder, no network, no device


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        subject: The module, or the kind and name of the entry.
        what: What was looked at.
        outcome: "not tried" where something the plugin needs is absent here.
        detail: What came, and what was expected.
    """

    subject: str
    what: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Candidate:
    """An entry to check.

    Attributes:
        kind: What it is offered as.
        entry: What the hook returned.
        target: Its class; None if it could not be imported or does not fit its interface.
        problem: Why not.
        taken_by: Another plugin that offers the same name; empty if none does.
    """

    kind: Kind
    entry: Entry
    target: type | None
    problem: str = ""
    taken_by: str = ""

    @property
    def subject(self) -> str:
        """Kind and name."""
        return f"{self.kind.replace('_', ' ')} {self.entry.name}"


def check(candidate: Candidate) -> list[Check]:
    """Everything there is to check about one entry."""
    subject, entry = candidate.subject, candidate.entry
    taken = f"also offered by {candidate.taken_by}; choose another" if candidate.taken_by else ""
    checks = [
        _verdict(subject, "name", taken),
        _verdict(subject, "licence", "" if entry.licence else "empty; give the SPDX name of the code's licence"),
        _verdict(subject, "summary", "" if entry.summary else "empty; nnKD_plugins shows it in the list"),
        _verdict(subject, "interface", candidate.problem),
    ]
    if candidate.target is None:
        return checks
    if candidate.kind != "student":  # a student's constructor is nnU-Net's
        problem = _options_problem(candidate.target, entry.name)
        checks.append(_verdict(subject, "options", problem))
        if problem:
            return checks
    return [*checks, *SMOKE[candidate.kind](candidate, candidate.target)]


def _verdict(subject: str, what: str, problem: str) -> Check:
    return Check(subject, what, FAILED if problem else OK, problem)


def _options_problem(target: type, name: str) -> str:
    """Why the options cannot be set with --set; empty if they can."""
    try:
        defaults = {option.name: option.default for option in options_of(target).values()}
        parse_options(target, defaults, name)
    except (BrokenPluginError, SettingError) as error:
        return str(error)
    if "channel" in defaults and issubclass(target, Teacher):
        return "channel is nnkd's own option of every teacher; give it another name"
    required = [
        p.name
        for p in _constructor(target).values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty
    ]
    return f"{', '.join(required)} has no default; every option needs one" if required else ""


def _constructor(cls: type[object]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__init__).parameters


def _guarded(subject: str, what: str, action: Callable[[], str]) -> Check:
    """Run a smoke call.

    Args:
        subject, what: For the Check.
        action: Returns the problem it found, or "".
    """
    try:
        return _verdict(subject, what, action())
    except (NnkdError, OSError, ImportError) as error:  # it refuses the toy case, or lacks a file or a package
        return Check(subject, what, NOT_TRIED, str(error))
    except Exception as error:  # noqa: BLE001 (the plugin's own code)
        return Check(subject, what, FAILED, f"{type(error).__name__}: {error}")


def _made(subject: str, make: Callable[[], Made]) -> tuple[Made | None, list[Check]]:
    """Construct a plugin's object with its default options.

    Returns:
        The object, or None; and the check of the construction.
    """
    try:
        return make(), [Check(subject, "construction", OK)]
    except UNAVAILABLE as error:
        return None, [Check(subject, "construction", NOT_TRIED, f"{type(error).__name__}: {error}")]
    except Exception as error:  # noqa: BLE001 (the plugin's own code)
        return None, [Check(subject, "construction", FAILED, f"{type(error).__name__}: {error}")]


def _check_teacher(candidate: Candidate, cls: type) -> Iterator[Check]:
    subject = candidate.subject
    for attribute, allowed in (("prompt", ("none", "text", "box")), ("channels", ("one", "all", "colour"))):
        came = getattr(cls, attribute)
        if came not in allowed:
            yield Check(subject, attribute, FAILED, f"is {came!r}, but one of {', '.join(allowed)} is expected")
            return
    problem = _costs_problem(cls)
    if problem:
        yield Check(subject, "costs_only", FAILED, problem)
        return
    options = parse_options(cls, {}, candidate.entry.name)
    teacher, checks = _made(subject, lambda: cls(TeacherContext(labels=LABELS), **options))
    yield from checks
    if teacher is None:
        return
    for what, slices in (("3D volume", 8), ("2D image", 1)):
        yield _guarded(subject, what, partial(_teacher_problem, teacher, toy_volume(slices)))
    if isinstance(teacher, BoxTeacher):
        yield _guarded(subject, "encode, decode", lambda: _embedding_problem(teacher))
    yield _guarded(subject, "weights", lambda: _weights_problem(teacher.weights(), candidate.entry))
    yield _guarded(subject, "notes", lambda: _notes_problem(teacher.notes()))


def _costs_problem(cls: type[Teacher]) -> str:
    if not isinstance(cls.costs_only, frozenset):
        return f"is {cls.costs_only!r}, but a frozenset of names of options is expected"
    strange = sorted(cls.costs_only - set(options_of(cls)), key=str)
    return f"names {', '.join(map(str, strange))}, which {cls.__name__} has no option of" if strange else ""


def _teacher_problem(teacher: Any, volume: Volume) -> str:
    before = volume.data.copy()
    answers = teacher.predict(volume, toy_prompts(teacher.prompt, volume))
    if not np.array_equal(before, volume.data):
        return "predict changed volume.data; work on a copy"
    if not isinstance(answers, Mapping):
        return f"predict returned {type(answers).__name__}, but a mapping from label name to array is expected"
    for label, mask in answers.items():
        problem = _mask_problem(label, mask, volume.shape)
        if problem:
            return problem
    return ""


def _mask_problem(label: object, mask: object, shape: tuple[int, ...]) -> str:
    if label not in LABELS:
        return f"answered for {label!r}, but was asked for {', '.join(LABELS)} (context.labels)"
    if not isinstance(mask, np.ndarray) or mask.shape != shape:
        came = f"shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        return f"'{label}' came as {came}, but an array of shape {shape} (Z, Y, X) is expected"
    if mask.dtype == bool:
        return ""
    if not np.issubdtype(mask.dtype, np.floating):
        return f"'{label}' came as {mask.dtype}, but bool, or float probabilities, are expected"
    if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
        return f"'{label}' came with values from {mask.min():g} to {mask.max():g}, but [0, 1] is expected"
    return ""


def _embedding_problem(teacher: BoxTeacher) -> str:
    image = np.random.default_rng(0).integers(0, 256, (32, 28, 3)).astype(np.uint8)
    embedding = teacher.encode(image)
    if not isinstance(embedding, np.ndarray) or embedding.ndim != 3 or embedding.dtype != np.float32:
        came = f"{embedding.dtype} {embedding.shape}" if isinstance(embedding, np.ndarray) else type(embedding).__name__
        return f"encode returned {came}, but a float32 array (channels, h, w) is expected"
    boxes = np.array([[4, 3, 17, 16], [15, 12, 28, 25]])
    return _unit_problem("decode", teacher.decode(embedding, boxes, (32, 28)), (2, 32, 28), "(n, H, W)")


def _unit_problem(what: str, array: object, shape: tuple[int, ...], axes: str) -> str:
    """What is wrong with probabilities that a method returned."""
    if not isinstance(array, np.ndarray) or array.shape != shape:
        came = f"shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        return f"{what} returned {came}, but an array of shape {shape} {axes} is expected"
    if not np.issubdtype(array.dtype, np.floating):
        return f"{what} returned {array.dtype}, but float32 is expected"
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        return f"{what} returned values from {array.min():g} to {array.max():g}, but [0, 1] is expected"
    return ""


def _weights_problem(weights: Iterable[Mapping[str, str]], entry: Entry) -> str:
    weights = list(weights)
    for file in weights:
        missing = {"name", "sha256", "licence"} - set(file)
        if missing:
            return f"lacks {', '.join(sorted(missing))} in {dict(file)}"
    if weights and not entry.weights_licence:
        return "uses weights, but its entry has no weights_licence"
    return ""


def _notes_problem(notes: object) -> str:
    if not isinstance(notes, Mapping):
        return f"are {type(notes).__name__}, but a mapping is expected"
    json.dumps(dict(notes))  # raises where the manifest could not hold them
    return ""


def _check_aggregator(candidate: Candidate, cls: type) -> Iterator[Check]:
    subject = candidate.subject
    options = parse_options(cls, {}, candidate.entry.name)
    aggregator, checks = _made(subject, lambda: cls(**options))
    yield from checks
    if aggregator is None:
        return
    if aggregator.draws_teacher:
        yield Check(subject, "table", NOT_TRIED, "draws a teacher per sample instead")
        return
    problem = _joint_problem if isinstance(aggregator, JointAggregator) else _table_problem
    for what, teachers, silent in (("one teacher", 1, ()), ("three teachers", 3, ()), ("abstentions", 4, (1, 3))):
        yield _guarded(subject, what, partial(problem, aggregator, teachers, silent))


def _named(aggregator: Any, teachers: int) -> Any:
    made = aggregator.for_teachers([f"teacher{k}" for k in range(teachers)], LABELS)
    if not isinstance(made, Aggregator):
        raise TypeError(f"for_teachers returned {type(made).__name__}, but an aggregator is expected")
    return made


def _table_problem(aggregator: Any, teachers: int, silent: Sequence[int]) -> str:
    aggregator = _named(aggregator, teachers)
    counts, answers = toy_counts(teachers, silent)
    before = counts.copy()
    table, found = aggregator.table(counts, answers), aggregator.estimates(counts, answers)
    if not np.array_equal(before, counts):
        return "table or estimates changed its counts; work on a copy"
    return _unit_problem("table", table, counts.shape, "(L, 2**K)") or _estimates_problem("estimates", found, answers)


def _joint_problem(aggregator: Any, teachers: int, silent: Sequence[int]) -> str:
    aggregator = _named(aggregator, teachers)
    said, counts, answers = toy_ballots(teachers, silent)
    before = said.copy(), counts.copy()
    table, found = aggregator.joint_table(said, counts, answers), aggregator.joint_estimates(said, counts, answers)
    if not (np.array_equal(before[0], said) and np.array_equal(before[1], counts)):
        return "joint_table or joint_estimates changed what it was given; work on a copy"
    problem = _unit_problem("joint_table", table, (len(said), answers.shape[1]), "(R, L)")
    if not problem and table.sum(axis=1).max() > 1 + 1e-6:
        problem = f"joint_table gives labels {table.sum(axis=1).max():g} in sum, but at most 1 is expected"
    return problem or _estimates_problem("joint_estimates", found, answers)


def _estimates_problem(what: str, found: object, answers: np.ndarray) -> str:
    if not isinstance(found, Mapping):
        return f"{what} returned {type(found).__name__}, but a mapping from name to array is expected"
    for name, values in found.items():
        if not isinstance(values, np.ndarray) or values.shape != answers.shape or values.dtype.kind not in "fiub":
            came = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            return f"{what} returned '{name}' as {came}, but numbers of shape {answers.shape} (K, L) are expected"
    return ""


def _check_sampler(candidate: Candidate, cls: type) -> Iterator[Check]:
    subject = candidate.subject
    options = parse_options(cls, {}, candidate.entry.name)
    sampler, checks = _made(subject, lambda: cls(**options))
    yield from checks
    if sampler is None:
        return
    for size in (2, 4):
        yield _guarded(subject, f"batches of {size}", partial(_batches_problem, sampler, size))


def _batches_problem(sampler: Any, batch_size: int) -> str:
    people = toy_participants()
    first, again = (
        list(itertools.islice(sampler.batches(people, batch_size, np.random.default_rng(7)), 100)) for _ in range(2)
    )
    if not first:
        return f"yielded no batch for {len(people)} cases"
    for batch in first:
        strange = [case for case in batch if case not in people]
        if len(batch) != batch_size or strange:
            return f"yielded {batch}, but {batch_size} identifiers out of {sorted(people)} are expected"
    return "" if first == again else "equal seeds gave different batches; draw from rng alone"


def _check_auxiliary_scheduler(candidate: Candidate, cls: type) -> Iterator[Check]:
    subject = candidate.subject
    options = parse_options(cls, {}, candidate.entry.name)
    datasets = ("Dataset801_A", "Dataset802_B", "Dataset803_C")
    made, checks = _made(subject, lambda: (cls(datasets, **options), cls(datasets, **options)))
    yield from checks
    if made is not None:
        yield _guarded(subject, "turns and state", partial(_scheduler_problem, *made, datasets))


def _scheduler_problem(scheduler: AuxiliaryScheduler, resumed: AuxiliaryScheduler, datasets: tuple[str, ...]) -> str:
    if scheduler.trains_on not in ("one", "all", "none"):
        return f"has trains_on = {scheduler.trains_on!r}, but 'one', 'all' or 'none' is expected"
    rng = np.random.default_rng(0)
    turns = rng.uniform(0, 1, (30, 2)).tolist() if scheduler.trains_on == "one" else []  # others are never asked
    for loss, cosine in turns[:15]:
        chosen = _turn(scheduler, loss, cosine)
        if chosen not in datasets:
            return f"select returned {chosen!r}, but one of {', '.join(datasets)} is expected"
        json.dumps(scheduler.trace())
    resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    for loss, cosine in turns[15:]:
        chosen, again = _turn(scheduler, loss, cosine), _turn(resumed, loss, cosine)
        if chosen != again:
            return f"resumed from its state_dict it selected {again}, but {chosen} was next"
    return ""


def _turn(scheduler: AuxiliaryScheduler, loss: float, cosine: float) -> str:
    for place, dataset in enumerate(scheduler.unscored(), 1):
        scheduler.score(dataset, loss + place, cosine / place, 1.0 / place, 1.0)
    chosen = scheduler.select()
    if chosen in scheduler.datasets:
        scheduler.update(chosen, loss, cosine)
    return chosen


def _check_student(candidate: Candidate, cls: type) -> Iterator[Check]:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    subject = candidate.subject
    mine, stock = list(_constructor(cls)), list(_constructor(nnUNetTrainer))
    problem = "" if mine == stock else f"has {mine}, but nnU-Net's own {stock} are expected (others crash in nnU-Net)"
    yield _verdict(subject, "constructor", problem)
    yield _guarded(subject, "pickle", lambda: _pickle_problem(cls))
    if not issubclass(cls, Student):
        yield Check(subject, "recipes", OK, "read by nnkd's students alone; this one trains as in nnU-Net")
        return
    problem = students.members_problem(cls)
    yield _verdict(subject, "members", problem)
    if problem:
        return
    problem = _options_problem(cls.options_class, candidate.entry.name)
    yield _verdict(subject, "options", problem)
    if problem:
        return
    yield _guarded(subject, "plan values", lambda: students.options_problem(cls))
    if not cls.no_network:
        for what, dimensions in (("2D network", 2), ("3D network", 3)):
            yield _guarded(subject, what, partial(students.network_problem, cls, dimensions))


def _pickle_problem(cls: type) -> str:
    return "" if pickle.loads(pickle.dumps(cls)) is cls else "pickles into another class"  # noqa: S301 (own bytes)


SMOKE: dict[Kind, Callable[[Candidate, type], Iterable[Check]]] = {
    "teacher": _check_teacher,
    "aggregator": _check_aggregator,
    "student": _check_student,
    "sampler": _check_sampler,
    "auxiliary_scheduler": _check_auxiliary_scheduler,
}
