"""Writes splits_final.json by participant, and, once, sets a test set aside or hides manual label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from nnkd import paths
from nnkd.data import splits
from nnkd.data.dataset import RawDataset, Split
from nnkd.data.participants import PARTICIPANTS_FILE, participants_of_cases
from nnkd.data.split_record import FOLD_DRAW, HIDDEN, Record, Wishes, image_files
from nnkd.errors import DatasetError, ParticipantsError, SettingError
from nnkd.files import read_json
from nnkd.replacing import Written
from nnkd.types import FolderCount, Participant, StepReport
from nnkd.votes import consensus

WHICH: tuple[Split, ...] = ("Tr", "Ts")


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
    record = Record.read(dataset)
    people = _people(dataset, sorted(record.tested | set(dataset.images().cases())), wishes)
    if wishes.test is not None:
        made = set(consensus.read(dataset).cases) - set(consensus.manual_cases(dataset))
        record.draw_test(dataset, _training(people, record), wishes, made)
    if wishes.labelled is not None:
        record.draw_labelled(dataset, _training(people, record), wishes, set(consensus.manual_cases(dataset)))
    folds = _folds(dataset, _training(people, record), record, wishes)
    file = paths.room("nnUNet_preprocessed") / dataset.name / splits.SPLITS
    _check_splits(file, folds, dataset, wishes)
    # nothing has been touched so far
    record.bring_about(dataset)
    if _as_sets(folds) != _as_sets(_existing_splits(file)):
        splits.write(file, folds, wishes.replace)
    return _report(dataset, people, folds, record, wishes)


def _training(people: Mapping[str, Participant], record: Record) -> dict[str, Participant]:
    return {case: person for case, person in people.items() if case not in record.tested}


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
    labelled = set(consensus.manual_cases(dataset)) - record.hidden
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


def _existing_splits(file: Path) -> list[splits.Fold] | None:
    return read_json(file) if file.is_file() else None


def _as_sets(folds: Any) -> Any:
    """Folds without the order of their cases, which means nothing; what is no list of folds stays as it is."""
    try:
        return [{side: frozenset(cases) for side, cases in fold.items()} for fold in folds]
    except (AttributeError, TypeError):
        return folds


def _check_splits(file: Path, folds: list[splits.Fold], dataset: RawDataset, wishes: Wishes) -> None:
    existing = _existing_splits(file)
    if existing is None or _as_sets(existing) == _as_sets(folds):
        return
    if not wishes.overwrite:
        raise DatasetError(
            f"{splits.SPLITS} of {dataset.name} is there already and says otherwise; folds that were trained would no "
            f"longer match it. Add --overwrite to replace it."
        )
    Written(file.parent, wishes.replace).check([file.name])


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
    subsets = {"all": sorted(people), **{f"fold {k}": fold["val"] for k, fold in enumerate(folds)}}
    lines += splits.share_lines(people, subsets | ({"test": test} if test else {}), wishes.stratify, wishes.bins)
    lines += _leak(dataset, people, training, test)
    counts = [count for which in WHICH for count in _counts(dataset, which)]
    return StepReport(done=training, lines=lines, folders=counts, data={"folds": folds, "test": test, "hidden": hidden})


def _counts(dataset: RawDataset, which: Split) -> list[FolderCount]:
    images, labels = dataset.images(which), dataset.label_maps(which)
    there = [images.listing.count()] if images.folder.is_dir() else []
    return [*there, *([labels.count()] if labels.folder.is_dir() else [])]


def _leak(
    dataset: RawDataset, people: Mapping[str, Participant], training: Sequence[str], test: Sequence[str]
) -> list[str]:
    """imagesTs may have come with the download; people in it who are in imagesTr too are worth a warning."""
    others = [case for case in image_files(dataset, "Ts") if case not in test]
    persons = {person.identifier for person in participants_of_cases(dataset.folder, others).values()}
    shared = persons & {people[case].identifier for case in training}
    if not shared:
        return []
    return [f"warning: {len(shared)} participant(s) have cases in imagesTr and in the imagesTs that came with the data"]


def _count(people: Mapping[str, Participant], cases: Sequence[str]) -> str:
    persons = len({people[case].identifier for case in cases})
    return f"{persons} participant{'s' if persons != 1 else ''} ({len(cases)} case{'s' if len(cases) != 1 else ''})"
