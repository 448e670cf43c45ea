"""Auxiliary tasks of a few-shot training: which datasets, which of their labels, and which cases train along.

Preprocessed for a target they lie in nnUNet_preprocessed/TARGET/DATA_IDENTIFIER_auxiliaries/DatasetXXX_NAME, as nnU-Net
has its cases, with all labels of their dataset; an index beside them says what is what (`AuxiliaryIndex`).

Source: Yang et al., ASAP, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnkd import paths
from nnkd.data.origins import of_settings
from nnkd.errors import FileError, RecipeError, SettingError, UnknownNameError
from nnkd.files import read_json, sha256_text, write_json
from nnkd.plugin.schedulers import AuxiliaryScheduler
from nnkd.preprocessing.case_origins import LABEL_MEANING, OF_THE_GRID, STATISTICS
from nnkd.preprocessing.folders import is_preprocessed
from nnkd.preprocessing.freshness import command
from nnkd.types import Kind

EVERY = "*"
LEAST_CASES = 30  # of a label that DATASET:* makes a task of
MOST_CASES = 30
INDEX = "auxiliary.json"
OPTIONS = ("max_aux_cases", "turn")  # of a training, which do nothing without auxiliaries
SCHEDULER: Kind = "auxiliary_scheduler"


@dataclass(frozen=True)
class Task:
    """Foreground against background in one dataset.

    Attributes:
        dataset: Its full name.
        label: The one label that is foreground; None: all of them; "*": stands for a task per label.
    """

    dataset: str
    label: str | None = None

    @property
    def name(self) -> str:
        """As it stands in recipes: Dataset801_X, or Dataset803_Y:liver."""
        return self.dataset if self.label is None else f"{self.dataset}:{self.label}"


class AuxiliaryIndex(BaseModel):
    """What was preprocessed of a dataset for a target.

    Attributes:
        dataset: Full name.
        grid: A hash of the target's plan that the cases were made by, see `grid_of`.
        channels: How its channels became the target's, in words.
        schemes, use_mask: nnU-Net's normalisation by channel, which is the dataset's own.
        intensities: nnU-Net's intensity properties by channel, which are the dataset's own.
        measured: A hash of the files that they were taken from.
        labels: Integers by label.
        ignore_label: Voxels to leave out, or None.
        label_maps: sha256 by case, of all cases.
        present: Labels by case, of all cases, whether preprocessed or not; what could not be read is left out.
        inputs: By preprocessed case, what it was made from: digest by origin; of an earlier version one hash.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    dataset: str
    grid: str = ""
    channels: str = ""
    schemes: list[str] = Field(default_factory=list)
    use_mask: list[bool] = Field(default_factory=list)
    intensities: dict[str, dict[str, float]] = Field(default_factory=dict)
    measured: str = ""
    labels: dict[str, list[int]] = Field(default_factory=dict)
    ignore_label: int | None = None
    label_maps: dict[str, str] = Field(default_factory=dict)
    present: dict[str, list[str]] = Field(default_factory=dict)
    inputs: dict[str, dict[str, str] | str] = Field(default_factory=dict)

    def origins(self) -> dict[str, str]:
        """Of every preprocessed case, beside its files."""
        labels = [[name, values] for name, values in self.labels.items()]
        return {
            LABEL_MEANING: of_settings([labels, self.ignore_label]),
            "plans of the target": self.grid,
            "channels": of_settings([self.channels, self.schemes, self.use_mask]),
            STATISTICS: of_settings(self.intensities),
        }

    def holds(self, case: str) -> bool:
        """Whether a case was preprocessed, as the others were; of an earlier version that is not known in detail."""
        made = self.inputs.get(case)
        return isinstance(made, str) or (made is not None and self.origins().items() <= made.items())

    def values(self, task: Task) -> frozenset[int]:
        """The integers that are foreground."""
        labels = self.labels.values() if task.label is None else [self.labels[task.label]]
        return frozenset(value for values in labels for value in values)

    def chosen(self, task: Task, most: int) -> list[str]:
        """At most so many cases that have foreground. The same ones every time, fewer of the same if fewer are wanted,
        and for all labels of a dataset as far as they have them."""
        order = sorted(self.present, key=lambda case: sha256_text(f"{self.dataset}/{case}"))
        return [case for case in order if self._has(task, case)][:most]

    def _has(self, task: Task, case: str) -> bool:
        return bool(self.present[case]) if task.label is None else task.label in self.present[case]

    def tasks(self, task: Task) -> list[Task]:
        """The task itself, or those that "*" stands for.

        Raises:
            UnknownNameError: If there is no such label.
            RecipeError: If there is no case with foreground, or no label that enough cases have.
        """
        if task.label == EVERY:
            counts = {label: sum(label in there for there in self.present.values()) for label in self.labels}
            enough = [Task(self.dataset, label) for label, count in counts.items() if count >= LEAST_CASES]
            if not enough:
                found = ", ".join(f"{label} in {count}" for label, count in counts.items())
                raise RecipeError(
                    f"The auxiliary {task.name} stands for every label that {LEAST_CASES} cases or more have, but "
                    f"there is none ({found}). Name labels one by one, such as {self.dataset}:{next(iter(counts))}."
                )
            return enough
        if task.label is not None and task.label not in self.labels:
            raise UnknownNameError(
                f"The auxiliary {task.name} names a label that {self.dataset} has not; it has {', '.join(self.labels)}."
            )
        if not self.chosen(task, 1):
            raise RecipeError(
                f"The auxiliary {task.name} is empty: none of the {len(self.present)} labelled cases of "
                f"{self.dataset} has foreground. Leave it out."
            )
        return [task]


@dataclass(frozen=True)
class Prepared:
    """A task with its preprocessed cases.

    Attributes:
        task: What is to be learned.
        folder: Where the cases lie.
        index: Of that folder.
        cases: Those to train on.
    """

    task: Task
    folder: Path = field(repr=False)  # nnU-Net writes its trainer's attributes to a file
    index: AuxiliaryIndex = field(repr=False)
    cases: tuple[str, ...]


def folder_of(preprocessed: Path, identifier: str) -> Path:
    """Where the auxiliary datasets of a target lie.

    Args:
        preprocessed: nnUNet_preprocessed/TARGET.
        identifier: The configuration's data_identifier.
    """
    return preprocessed / f"{identifier}_auxiliaries"


def grid_of(plans: Mapping[str, Any], values: Mapping[str, Any], channels: Sequence[str]) -> str:
    """A hash of all of a target that its auxiliaries' preprocessed cases depend on.

    Args:
        plans: The target's.
        values: Of one configuration, see `nnkd.data.plans.configuration_of`.
        channels: Names of the target's.
    """
    made_by = {key: values.get(key) for key in OF_THE_GRID}
    return sha256_text(str((made_by, plans["transpose_forward"], len(values["patch_size"]), list(channels))))


def parse(texts: Sequence[str], target: str, known: Path | None = None) -> list[Task]:
    """The tasks of --auxiliaries: ID, ID:LABEL or ID:*, where a full name may stand for the id.

    Args:
        texts: As given.
        target: The dataset to be adapted to.
        known: Folder of preprocessed auxiliaries, for datasets that are there alone.

    Raises:
        RecipeError: If one is the target itself, or there twice.
        SettingError: If a label is missing after the colon.
        NnkdError: As `paths.dataset_name`.
    """
    tasks = []
    for text in texts:
        given, colon, label = text.partition(":")
        if colon and not label:
            raise SettingError(f"--auxiliaries got '{text}', but expects ID, ID:LABEL or ID:*, such as 803:liver.")
        dataset = _full_name(given, known)
        if dataset == target:
            raise RecipeError(
                f"The auxiliary '{text}' is the target {target} itself. Name other datasets with --auxiliaries."
            )
        task = Task(dataset, label or None)
        if task in tasks:
            raise RecipeError(f"The auxiliary {task.name} is given twice. Leave one of them out.")
        tasks.append(task)
    return tasks


def _full_name(given: str, known: Path | None) -> str:
    if given.isdigit() and known is not None and known.is_dir():
        there = sorted(p.name for p in known.glob(f"Dataset{int(given):03d}_*") if p.is_dir())
        if len(there) == 1:
            return there[0]
    return paths.dataset_name(given)


def read_index(folder: Path) -> AuxiliaryIndex | None:
    """Of one preprocessed auxiliary dataset; None where there is none that this version understands."""
    try:
        return AuxiliaryIndex.model_validate(read_json(folder / INDEX))
    except (FileError, ValidationError):
        return None


def write_index(folder: Path, index: AuxiliaryIndex) -> None:
    """Write it atomically."""
    write_json(folder / INDEX, index.model_dump())


@dataclass(frozen=True)
class Target:
    """What a few-shot training adapts to.

    Attributes:
        preprocessed: nnUNet_preprocessed/TARGET.
        plans: nnU-Net's, a recipe's or others.
        configuration: Its name.
        values: Its values.
        channels: Names of its channels.
    """

    preprocessed: Path
    plans: Mapping[str, Any]
    configuration: str
    values: Mapping[str, Any]
    channels: Sequence[str]

    @property
    def folder(self) -> Path:
        """Of its auxiliaries."""
        return folder_of(self.preprocessed, self.values["data_identifier"])

    def prepare(self, names: Sequence[str], most: int = MOST_CASES) -> list[Prepared]:
        """The tasks that names stand for, with their cases.

        Args:
            names: See `parse`.
            most: Cases of each task.

        Raises:
            RecipeError: If one is not preprocessed for this target, or has no cases.
            NnkdError: As `parse` and `AuxiliaryIndex.tasks`.
        """
        found: dict[str, Prepared] = {}
        for given in parse(names, self.preprocessed.name, self.folder):
            index = self._index(given, names)
            for task in index.tasks(given):
                cases = index.chosen(task, most)
                folder = self.folder / task.dataset
                missing = [case for case in cases if not (index.holds(case) and is_preprocessed(folder, case))]
                if missing:
                    raise RecipeError(
                        f"{len(missing)} of the {len(cases)} cases of the auxiliary {task.name} are not preprocessed. "
                        f"Run {self._command(names)} --max_aux_cases {most}."
                    )
                found[task.name] = Prepared(task, folder, index, tuple(cases))
        return list(found.values())

    def _index(self, task: Task, names: Sequence[str]) -> AuxiliaryIndex:
        index = read_index(self.folder / task.dataset)
        if index is None:
            raise RecipeError(
                f"The auxiliary {task.dataset} is not preprocessed for {self.configuration} of "
                f"{self.preprocessed.name}. Run {self._command(names)}; it says so if it does not fit."
            )
        if index.grid != grid_of(self.plans, self.values, self.channels):
            raise RecipeError(
                f"The auxiliary {task.dataset} was preprocessed for other plans of {self.preprocessed.name}. "
                f"Run {self._command(names)} again."
            )
        return index

    def _command(self, names: Sequence[str]) -> str:
        quoted = (f"'{name}'" if EVERY in name or " " in name else name for name in names)
        return command(self.preprocessed, self.plans, self.configuration, "--auxiliaries", *quoted)


def check_flags(scheduler: type[AuxiliaryScheduler] | None, name: str | None, names: Sequence[str]) -> None:
    """Whether -as and --auxiliaries go together.

    Args:
        scheduler, name: Of -as; None if it was not given.
        names: Of --auxiliaries.

    Raises:
        RecipeError: If one of them is missing.
    """
    if names and scheduler is None:
        raise RecipeError(
            "--auxiliaries names datasets to train along, but not how to choose among them. Add -as ucb, or -as none "
            "for the target alone."
        )
    if scheduler is not None and not names and scheduler.trains_on != "none":
        raise RecipeError(f"-as {name} chooses among auxiliary datasets, but there are none. Name them: --auxiliaries.")
