"""Writes splits_final.json by participant, and, once, sets a test set aside or hides manual label maps.

split.json in the raw folder says which cases went where (names of cases, never attributes). It is written before the
first file moves, and every run first brings each file to where split.json wants it; so a killed run is finished by the
next one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnkd import paths
from nnkd.data import splits
from nnkd.data.dataset import RawDataset
from nnkd.data.participants import PARTICIPANTS_FILE, participants_of_cases
from nnkd.data.predictions import label_map_files, prediction_folders
from nnkd.errors import DatasetError, FileError, ParticipantsError, SettingError
from nnkd.files import is_visible, read_json, write_json
from nnkd.types import Participant, StepReport
from nnkd.votes import consensus

RECORD, SPLITS, HIDDEN = "split.json", "splits_final.json", "labelsHidden"
TEST_DRAW, LABELLED_DRAW, FOLD_DRAW = range(3)  # one stream of random numbers each, so that they do not interact


@dataclass(frozen=True)
class Wishes:
    """What the user asks for.

    Attributes:
        folds: Number of cross-validation folds.
        test: Participants to set aside: a whole number, or a share below 1; None: leave the test set as it is.
        labelled: Participants whose manual label maps stay in labelsTr; None: leave them as they are.
        shots: Participants who train in each fold, all others validating; None: cross-validation.
        stratify: Columns of participants.tsv.
        bins: Inner bounds by numeric column; quartiles for the others.
        seed: Of all draws.
        overwrite: Whether another splits_final.json, or another choice of labelled participants, is replaced.
    """

    folds: int = splits.DEFAULT_FOLDS
    test: float | None = None
    labelled: int | None = None
    shots: int | None = None
    stratify: Sequence[str] = ()
    bins: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seed: int = 0
    overwrite: bool = False


class Draw(BaseModel):
    """A choice of participants.

    Attributes:
        number, seed, stratify, bins: What was asked for.
        cases: For the test set those moved, for labelled ones those whose label maps are hidden.
        returning: Cases whose label maps are on their way back to labelsTr.
    """

    model_config = ConfigDict(extra="forbid")

    number: float
    seed: int
    stratify: list[str]
    bins: dict[str, list[float]]
    cases: list[str]
    returning: list[str] = Field(default_factory=list)

    def is_for(self, number: float, wishes: Wishes) -> bool:
        """Whether this is what is asked for."""
        other = _draw(number, wishes, self.cases)
        return self.model_dump(exclude={"returning"}) == other.model_dump(exclude={"returning"})


class Record(BaseModel):
    """split.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    test: Draw | None = None
    labelled: Draw | None = None


def split(dataset: RawDataset, wishes: Wishes) -> StepReport:
    """Split a dataset's training cases.

    Args:
        dataset: The raw dataset.
        wishes: What is asked for.

    Returns:
        Numbers per fold and, where stratified, shares of groups. `data` holds folds, test, hidden (lists of cases).

    Raises:
        ParticipantsError: If people or columns are missing, or there are too few people.
        SettingError: If a number makes no sense.
        DatasetError: If a split, a test set or labels were chosen otherwise before, or cases were used already.
    """
    lock = FileLock(dataset.folder / ".split.lock")
    try:
        with lock.acquire(timeout=0):
            return _split(dataset, wishes)
    except Timeout:
        raise DatasetError(f"Another nnKD_split is working on {dataset.name}. Wait for it, or stop it.") from None


def _split(dataset: RawDataset, wishes: Wishes) -> StepReport:
    record = _read_record(dataset)
    gone = set(record.test.cases) if record.test else set()
    people = _people(dataset, sorted(gone | set(dataset.images().cases())), wishes)
    training = {case: person for case, person in people.items() if case not in gone}
    if wishes.test is not None:
        record.test = _test_draw(dataset, record.test, training, wishes)
        gone = set(record.test.cases)
        training = {case: person for case, person in training.items() if case not in gone}
        if record.labelled:
            record.labelled.cases = [case for case in record.labelled.cases if case not in gone]
    if wishes.labelled is not None:
        record.labelled = _labelled_draw(dataset, record, training, wishes)
    folds = _folds(dataset, training, record, wishes)
    file = paths.room("nnUNet_preprocessed") / dataset.name / SPLITS
    _check_splits(file, folds, dataset, wishes.overwrite)
    # nothing has been touched so far
    _bring_about(dataset, record)
    if _as_sets(folds) != _as_sets(_existing_splits(file)):
        write_json(file, folds)
    return _report(dataset, people, folds, record, wishes)


def _folds(
    dataset: RawDataset, training: Mapping[str, Participant], record: Record, wishes: Wishes
) -> list[splits.Fold]:
    rng = np.random.default_rng([wishes.seed, FOLD_DRAW])
    if wishes.shots is None:
        return splits.participant_folds(training, wishes.folds, wishes.stratify, rng, wishes.bins)
    if wishes.stratify:
        raise SettingError(
            f"--shots {wishes.shots} draws a few people at random, who cannot have the shares of all, but --stratify "
            f"names {', '.join(wishes.stratify)}. Leave one of them out."
        )
    hidden = set(record.labelled.cases) if record.labelled else set()
    labelled = set(consensus.manual_cases(dataset)) - hidden
    if not labelled and not consensus.read(dataset).cases:
        raise ParticipantsError(
            f"--shots {wishes.shots} draws people who have label maps, but labelsTr of {dataset.name} holds none. "
            f"Put some there, or a consensus (nnKD_aggregate), first."
        )
    return splits.few_shot_folds(training, wishes.shots, wishes.folds, rng, labelled or None)


def _people(dataset: RawDataset, cases: Sequence[str], wishes: Wishes) -> dict[str, Participant]:
    if wishes.stratify and not (dataset.folder / PARTICIPANTS_FILE).is_file():
        raise ParticipantsError(
            f"Stratifying by {', '.join(wishes.stratify)} needs {PARTICIPANTS_FILE} in {dataset.name}, but there is "
            f"none. Put it beside dataset.json, or leave --stratify out."
        )
    return participants_of_cases(dataset.folder, cases)


def _draw(number: float, wishes: Wishes, cases: Sequence[str]) -> Draw:
    bins = {column: [float(edge) for edge in edges] for column, edges in wishes.bins.items()}
    return Draw(number=number, seed=wishes.seed, stratify=list(wishes.stratify), bins=bins, cases=list(cases))


def _test_draw(dataset: RawDataset, before: Draw | None, training: Mapping[str, Participant], wishes: Wishes) -> Draw:
    if before is not None:
        if before.is_for(wishes.test, wishes):
            return before
        raise DatasetError(
            f"{dataset.name} has a test set already ({len(before.cases)} cases, --test {before.number:g} "
            f"--seed {before.seed}); drawing another would mix training and test. Leave --test out to keep it."
        )
    rng = np.random.default_rng([wishes.seed, TEST_DRAW])
    _, away = splits.hold_out(training, wishes.test, wishes.stratify, rng, wishes.bins)
    _check_unused(dataset, set(away))
    return _draw(wishes.test, wishes, away)


def _check_unused(dataset: RawDataset, away: set[str]) -> None:
    """A test case that anything has learned from, or that a teacher has answered for, is refused: moving it would
    leave its traces behind."""
    for folder in prediction_folders(dataset.teachers_folder()):
        done = away & set(folder.manifest().cases)
        if done:
            raise DatasetError(
                f"Teacher '{folder.name}' has already segmented {len(done)} of the {len(away)} cases to be set aside. "
                f"Draw the test set before nnKD_predict_teachers, or remove teachersTr first."
            )
    listed = away & (set(consensus.read(dataset).cases) - set(consensus.manual_cases(dataset)))
    if listed:
        raise DatasetError(
            f"labelsTr holds a consensus for {len(listed)} of the {len(away)} cases to be set aside, which is no "
            f"reference. Draw the test set before nnKD_aggregate, or remove these label maps first."
        )
    preprocessed = paths.room("nnUNet_preprocessed") / dataset.name
    done = away & {file.stem for file in preprocessed.glob("*/*.pkl")}
    if done:
        raise DatasetError(
            f"{len(done)} of the {len(away)} cases to be set aside are preprocessed already, and fold 'all' would "
            f"train on them. Remove them from nnUNet_preprocessed/{dataset.name}, or draw the test set first."
        )
    there = away & (set(_image_files(dataset, "Ts")) | set(_label_files(dataset.folder / "labelsTs", dataset)))
    if there:
        raise DatasetError(
            f"imagesTs or labelsTs of {dataset.name} already has a case '{min(there)}', as imagesTr has. Rename one."
        )


def _labelled_draw(dataset: RawDataset, record: Record, training: Mapping[str, Participant], wishes: Wishes) -> Draw:
    before, hidden_files = record.labelled, set(_label_files(dataset.folder / HIDDEN, dataset))
    if before is not None and before.is_for(wishes.labelled, wishes):
        return before
    if before is not None and not wishes.overwrite:
        raise DatasetError(
            f"Manual label maps of {dataset.name} were hidden already (--labelled {before.number:g} "
            f"--seed {before.seed}). Add --overwrite to choose again."
        )
    manual = set(consensus.manual_cases(dataset))
    twice = sorted(manual & hidden_files)
    if before is not None and twice:
        raise DatasetError(
            f"Case '{twice[0]}' has a hidden label map and another manual one in labelsTr of {dataset.name}. Keep one."
        )
    candidates = {case: person for case, person in training.items() if case in manual | hidden_files}
    if not candidates:
        raise ParticipantsError(
            f"--labelled needs manual label maps in labelsTr of {dataset.name}, but there are none."
        )
    rng = np.random.default_rng([wishes.seed, LABELLED_DRAW])
    hide, _ = splits.hold_out(candidates, wishes.labelled, wishes.stratify, rng, wishes.bins)
    draw = _draw(wishes.labelled, wishes, hide)
    draw.returning = sorted((hidden_files & set(candidates)) - set(hide))
    return draw


def _bring_about(dataset: RawDataset, record: Record) -> None:
    """Write split.json, then move what is not yet where it should be; each file by one os.replace."""
    if record == Record():
        return
    file = dataset.folder / RECORD
    write_json(file, record.model_dump())
    if record.test:
        _set_aside(dataset, set(record.test.cases))
    if record.labelled:
        _hide(dataset, record.labelled, set(record.test.cases) if record.test else set())
        record.labelled.returning = []
        write_json(file, record.model_dump())


def _set_aside(dataset: RawDataset, test: set[str]) -> None:
    # labels first: while its image is in imagesTr, a case without a label map is an ordinary unlabelled one
    for source in (HIDDEN, "labelsTr"):
        for case, label_map in _label_files(dataset.folder / source, dataset).items():
            if case in test:
                _move(label_map, dataset.folder / "labelsTs")
    for case, images in _image_files(dataset, "Tr").items():
        if case in test:
            for image in images:
                _move(image, dataset.folder / "imagesTs")
    number = len(_image_files(dataset, "Tr"))
    if dataset.spec.json.get("numTraining") != number:
        write_json(dataset.folder / "dataset.json", {**dataset.spec.json, "numTraining": number})


def _hide(dataset: RawDataset, draw: Draw, test: set[str]) -> None:
    shown, hidden = (_label_files(dataset.folder / name, dataset) for name in ("labelsTr", HIDDEN))
    for case in draw.returning:
        if case in hidden and case not in test:
            _move(hidden[case], dataset.folder / "labelsTr")
    for case in draw.cases:
        # once hidden, what is in labelsTr is a consensus, or somebody's new label map
        if case in shown and case not in hidden:
            _move(shown[case], dataset.folder / HIDDEN)


def _move(file: Path, folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
        os.replace(file, folder / file.name)
    except OSError as error:
        raise DatasetError(
            f"'{file.name}' could not be moved to {folder.name} ({error.strerror}). Change the permissions and run "
            f"the same command again: it continues where it stopped."
        ) from error


def _image_files(dataset: RawDataset, which: str) -> dict[str, list[Path]]:
    """Image files by case, also of a case of which only some channels have moved yet."""
    folder = dataset.folder / f"images{which}"
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(dataset.spec.file_ending)}")
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(file.name)
        if match and is_visible(file):
            found.setdefault(match.group(1), []).append(file)
    return found


def _label_files(folder: Path, dataset: RawDataset) -> dict[str, Path]:
    return label_map_files(folder, dataset.spec.file_ending) if folder.is_dir() else {}


def _read_record(dataset: RawDataset) -> Record:
    file = dataset.folder / RECORD
    if not file.is_file():
        return Record()
    try:
        return Record.model_validate(read_json(file))
    except (ValidationError, FileError) as error:
        raise DatasetError(
            f"{RECORD} of {dataset.name} is not as nnKD_split writes it, so the test set is not known. Restore it."
        ) from error


def _existing_splits(file: Path) -> list[splits.Fold] | None:
    return read_json(file) if file.is_file() else None


def _as_sets(folds: Any) -> Any:
    """Folds without the order of their cases, which means nothing; what is no list of folds stays as it is."""
    try:
        return [{side: frozenset(cases) for side, cases in fold.items()} for fold in folds]
    except (AttributeError, TypeError):
        return folds


def _check_splits(file: Path, folds: list[splits.Fold], dataset: RawDataset, overwrite: bool) -> None:
    existing = _existing_splits(file)
    if existing is not None and _as_sets(existing) != _as_sets(folds) and not overwrite:
        raise DatasetError(
            f"{SPLITS} of {dataset.name} is there already and says otherwise; folds that were trained would no longer "
            f"match it. Add --overwrite to replace it."
        )


def _report(
    dataset: RawDataset,
    people: Mapping[str, Participant],
    folds: list[splits.Fold],
    record: Record,
    wishes: Wishes,
) -> StepReport:
    test = record.test.cases if record.test else []
    hidden = record.labelled.cases if record.labelled else []
    training = sorted(folds[0]["train"] + folds[0]["val"])
    lines = [f"{dataset.name}: {_count(people, training)} for training"]
    if test:
        lines.append(f"test (imagesTs): {_count(people, test)}")
    if record.labelled:
        kept = sorted(set(consensus.manual_cases(dataset)) & set(training) - set(hidden))
        lines.append(f"manual label maps: {_count(people, kept)}; hidden in {HIDDEN}: {_count(people, hidden)}")
    lines += [
        f"fold {k}: {_count(people, fold['train'])} to train, {_count(people, fold['val'])} to validate"
        + (f" (the same as fold {folds.index(fold)}; ask for fewer)" if folds.index(fold) < k else "")
        for k, fold in enumerate(folds)
    ]
    lines += _shares(people, folds, test, wishes)
    lines += _leak(dataset, people, training, test)
    return StepReport(done=training, lines=lines, data={"folds": folds, "test": test, "hidden": hidden})


def _shares(
    people: Mapping[str, Participant], folds: list[splits.Fold], test: Sequence[str], wishes: Wishes
) -> list[str]:
    """Shares of each group in everybody, in each fold's validation part and in the test set."""
    subsets = [sorted(people), *(fold["val"] for fold in folds), *([test] if test else [])]
    names = ["all", *(f"fold {k}" for k in range(len(folds))), *(["test"] if test else [])]
    lines = ["share of participants [%]: " + ", ".join(names)] if wishes.stratify else []
    totals = [len({people[case].identifier for case in subset}) for subset in subsets]
    for column in wishes.stratify:
        for group, counts in splits.group_counts(people, subsets, column, wishes.bins.get(column)).items():
            shares = (f"{100 * count / total:.0f}" for count, total in zip(counts, totals, strict=True))
            lines.append(f"  {column} {group}: " + ", ".join(shares))
    return lines


def _leak(
    dataset: RawDataset, people: Mapping[str, Participant], training: Sequence[str], test: Sequence[str]
) -> list[str]:
    """imagesTs may have come with the download; people in it who are in imagesTr too are worth a warning."""
    others = [case for case in _image_files(dataset, "Ts") if case not in test]
    persons = {person.identifier for person in participants_of_cases(dataset.folder, others).values()}
    shared = persons & {people[case].identifier for case in training}
    if not shared:
        return []
    return [f"warning: {len(shared)} participant(s) have cases in imagesTr and in the imagesTs that came with the data"]


def _count(people: Mapping[str, Participant], cases: Sequence[str]) -> str:
    persons = len({people[case].identifier for case in cases})
    return f"{persons} participant{'s' if persons != 1 else ''} ({len(cases)} case{'s' if len(cases) != 1 else ''})"
