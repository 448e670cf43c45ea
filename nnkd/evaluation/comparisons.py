"""Comparing label maps case by case, in several processes, keeping every result so that a killed run continues."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.by_name import FolderLabels
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.raw_pictures import sidecars
from nnkd.errors import DatasetError, NnkdError
from nnkd.evaluation.metrics import LabelResult, Structures, compare
from nnkd.evaluation.scores import FolderScores, Rules
from nnkd.files import read_json, remove_leftovers, sha256, sha256_text, write_json
from nnkd.processes import run_all

PARALLEL_FROM_BYTES = 20_000_000  # starting processes takes seconds; small sets are done by then
CACHE_VERSION = 2  # raise when a metric's value changes
EMPTY = "no label map"
KILLED = (
    "A process that compared label maps was ended from outside, probably for want of memory. Run the command again "
    "with -np 1: it continues where it stopped."
)


@dataclass(frozen=True)
class Settings:
    """What decides the values.

    Attributes:
        spec: The dataset.
        labels: Integers of the evaluated labels by name.
        definition: A name of `nnkd.evaluation.surfaces.DEFINITIONS`.
        tolerance: Of the NSD, in mm, by label.
    """

    spec: DatasetSpec
    labels: Mapping[str, Sequence[int]]
    definition: str
    tolerance: Mapping[str, float]

    @property
    def rules(self) -> Rules:
        """Those that tables name."""
        return Rules(self.definition, self.tolerance)


@dataclass(frozen=True)
class Files:
    """What lies where.

    Attributes:
        cases: To evaluate.
        references: Label map by case.
        predictions: Label map by folder's name and case.
        cache: Folder for the results of single cases.
        reference_labels: What the integers of the references mean; None: as in dataset.json.
        folder_labels: The same by folder's name, for those of other integers.
    """

    cases: Sequence[str]
    references: Mapping[str, Path]
    predictions: Mapping[str, Mapping[str, Path]]
    cache: Path
    reference_labels: FolderLabels | None = None
    folder_labels: Mapping[str, FolderLabels] = field(default_factory=dict)

    def labels_of(self, spec: DatasetSpec, name: str | None = None) -> FolderLabels:
        """How to read a folder's label maps in the integers of `spec`; without a name, the references."""
        found = self.reference_labels if name is None else self.folder_labels.get(name)
        return FolderLabels(spec, spec, "", name or "") if found is None else found


@dataclass(frozen=True)
class Compared:
    """What `compare_cases` did.

    Attributes:
        now: Cases compared in this run.
        earlier: Cases whose results were there.
        without_spacing: Whether no file has a spacing, so that distances are in pixels.
    """

    now: list[str]
    earlier: list[str]
    without_spacing: bool


@dataclass(frozen=True)
class _Task:
    """One case: its reference and the predictions still to compare, by folder name; None: no label map."""

    case: str
    reference: Path
    predictions: Mapping[str, Path | None]
    keys: Mapping[str, str]
    settings: Settings
    reference_labels: FolderLabels
    labels: Mapping[str, FolderLabels]


def compare_cases(
    settings: Settings,
    files: Files,
    folders: Sequence[FolderScores],
    workers: int | None = None,
    overwrite: bool = False,
) -> Compared:
    """Fill in the folders' results, failures and changed files.

    Args:
        settings: What decides the values.
        files: What lies where.
        folders: To fill, one for each of `files.predictions`.
        workers: Processes; None: one for small sets, else up to eight.
        overwrite: Compare anew what the cache holds.

    Raises:
        NnkdError: If a process was ended from outside.
    """
    files.cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files.cache)
    by_name = {folder.name: folder for folder in folders}
    in_world: list[bool] = []

    def take(name: str, case: str, content: Mapping[str, Any]) -> None:
        by_name[name].results[case] = {label: LabelResult.from_json(r) for label, r in content["labels"].items()}
        in_world.append(content["in_world"])

    tasks: list[_Task] = []
    for case in tqdm(files.cases, desc="looking for earlier results", leave=False, disable=None):
        keys = _keys(settings, files, case, by_name)
        known = {} if overwrite else _known(files.cache, keys, settings)
        for name, content in known.items():
            take(name, case, content)
        todo = {name: maps.get(case) for name, maps in files.predictions.items() if name not in known}
        if todo:
            labels = {name: files.labels_of(settings.spec, name) for name in todo}
            own = files.labels_of(settings.spec)
            tasks.append(_Task(case, files.references[case], todo, keys, settings, own, labels))
    compared = run_all(_compare_case, tasks, _workers(files) if workers is None else workers, killed=KILLED)
    for task, outcomes in tqdm(compared, "evaluating", len(tasks), unit="case", disable=None if tasks else True):
        for name, outcome in outcomes.items():
            if isinstance(outcome, str):
                by_name[name].failures[task.case] = outcome
                continue
            write_json(files.cache / f"{task.keys[name]}.json", outcome)
            take(name, task.case, outcome)
    now = sorted(task.case for task in tasks)
    return Compared(now, sorted(set(files.cases) - set(now)), bool(in_world) and not any(in_world))


def _workers(files: Files) -> int:
    size = sum(path.stat().st_size for path in files.references.values())
    return min(8, os.cpu_count() or 1) if size >= PARALLEL_FROM_BYTES else 1


def _keys(settings: Settings, files: Files, case: str, folders: Mapping[str, FolderScores]) -> dict[str, str]:
    """Name of the cached result by folder. Also notes a label map that is not the one its manifest recorded."""
    decisive = (
        CACHE_VERSION,
        settings.definition,
        sorted(settings.tolerance.items()),
        sorted(settings.labels.items()),
        sorted(settings.spec.values),  # other values make a file invalid
        settings.spec.ignore_label,
        settings.spec.file_ending,
    )
    reference, keys = files.references[case], {}
    of_reference = "".join(sha256(file) for file in (reference, *sidecars(reference, label_map=True)))
    for name, maps in files.predictions.items():
        of_prediction = sha256(maps[case]) if case in maps else EMPTY
        matched = [m for n in (None, name) if (m := files.labels_of(settings.spec, n).matching()) is not None]
        keys[name] = sha256_text(repr((of_reference, of_prediction, decisive, *matched)))
        manifest = folders[name].manifest
        record = manifest.cases.get(case) if manifest else None
        if record is not None and of_prediction not in (record.output, EMPTY):
            folders[name].changed.add(case)
    return keys


def _known(cache: Path, keys: Mapping[str, str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Results of an earlier run by folder; damaged ones are passed over and so computed anew."""
    known = {}
    for name, key in keys.items():
        file = cache / f"{key}.json"
        if not file.is_file():
            continue
        try:
            content = read_json(file)
            for label in settings.labels:
                LabelResult.from_json(content["labels"][label])
            known[name] = {"in_world": content["in_world"], "labels": content["labels"]}
        except (NnkdError, KeyError, TypeError):
            continue
    return known


def _compare_case(task: _Task) -> dict[str, Any]:
    """By folder: the case's results as JSON, or one sentence why there are none."""
    spec = task.settings.spec
    try:
        reference, grid, _ = task.reference_labels.read(task.reference)
    except DatasetError as error:
        return dict.fromkeys(task.predictions, str(error))
    ignored = reference == spec.ignore_label if spec.ignore_label is not None else None
    voxels = reference.size if ignored is None else int(reference.size - np.count_nonzero(ignored))
    how: dict[str, Any] = {"ignored": ignored, "definition": task.settings.definition}
    true = Structures(reference, task.settings.labels, grid.spacing, **how)
    outcomes: dict[str, Any] = {}
    for name, file in task.predictions.items():
        try:
            predicted = np.zeros_like(reference) if file is None else _read_on_grid(task.labels[name], file, grid)
        except DatasetError as error:
            outcomes[name] = str(error)
            continue
        structures = Structures(predicted, task.settings.labels, grid.spacing, **how)
        results = compare(structures, true, tolerance=task.settings.tolerance, voxels=voxels)
        outcomes[name] = {"in_world": grid.in_world, "labels": {k: r.to_json() for k, r in results.items()}}
    return outcomes


def _read_on_grid(labels: FolderLabels, file: Path, grid: Grid) -> np.ndarray:
    label_map, mine, _ = labels.read(file)
    if difference := mine.difference(grid):
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} does not lie on its reference's grid: {difference}. Predict it "
            f"again, or resample it to the reference."
        )
    return label_map
