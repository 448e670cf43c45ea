"""Folders of preprocessed cases: which are whole, and what a killed run left."""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnkd.data.origins import difference
from nnkd.errors import DatasetError, FileError
from nnkd.files import TEMPORARY_PREFIX, load_json, read_json, remove_leftovers

# records grow with the cohort: written after every case, a thousand cases would write a million of them; what a kill
# loses is a few seconds' cases, which are done again
SECONDS_BETWEEN_RECORDS = 5
Origins = dict[str, str]


@contextmanager
def whole_case(folder: Path, case: str) -> Iterator[Path]:
    """Write a preprocessed case whole or not at all.

    Args:
        folder: Where it goes; made if need be.
        case: Its identifier.

    Yields:
        What the files are to be called, without ending.
    """
    # Written beside DATA_IDENTIFIER, because any stray file in it becomes a training case; moved with the data file
    # last, because that is the one nnU-Net lists.
    working = folder.parent / f".writing-{folder.name}-{case}"
    working.mkdir(exist_ok=True)
    try:
        yield working / case
        folder.mkdir(exist_ok=True)
        for file in sorted(working.iterdir(), key=lambda path: path.stem == case and path.suffix != ".pkl"):
            os.replace(file, folder / file.name)
    finally:
        for file in working.iterdir():
            file.unlink()
        working.rmdir()


def tidy(target: Path) -> None:
    """Remove what a killed run left half-written: our working folders, and JSON that nnU-Net itself writes.

    Args:
        target: nnUNet_preprocessed/DATASET.

    Raises:
        DatasetError: If a JSON that somebody made is broken.
    """
    for folder in (*target.glob(f"{TEMPORARY_PREFIX}*"), *target.glob(f"*_auxiliaries/{TEMPORARY_PREFIX}*")):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(target)
    remove_leftovers(target / "gt_segmentations")
    for file in target.glob("*.json"):
        try:
            load_json(file, nan=True)
        except ValueError:
            if not _made_anew(file):
                raise DatasetError(f"{file.name} of {target.name} is no valid JSON. Correct or delete it.") from None
            file.unlink()


def _made_anew(file: Path) -> bool:
    """Whether preprocessing writes the file again: not splits, and not plans that somebody made (a recipe, say)."""
    written = ("dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json")
    return file.name in written or file.name.endswith("_inputs.json") or "ResEncUNet" in file.name


def inputs_file(folder: Path) -> Path:
    """The record of what a configuration's cases were made from, beside DATA_IDENTIFIER."""
    return folder.parent / f"{folder.name}_inputs.json"


def read_inputs(folder: Path) -> dict[str, Origins | str]:
    """That record; empty where nnKD_plan_and_preprocess has not written one.

    Raises:
        DatasetError: If it is not as it was written.
    """
    file = inputs_file(folder)
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
    except FileError as error:
        raise DatasetError(str(error)) from error
    if not (isinstance(content, dict) and all(isinstance(made, dict | str) for made in content.values())):
        raise DatasetError(
            f"'{file.name}' of {file.parent.name} is not as nnKD_plan_and_preprocess wrote it. Delete it and run that "
            f"command again: it makes the cases anew."
        )
    return content


def is_preprocessed(folder: Path, case: str) -> bool:
    """Whether all three files of a case are there."""
    return all((folder / name).is_file() for name in (f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"))


def remove_case(folder: Path, case: str) -> None:
    """Remove a case's files, the one nnU-Net lists first."""
    for name in (f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"):
        (folder / name).unlink(missing_ok=True)


def listed_cases(folder: Path) -> Sequence[str]:
    """Cases that nnU-Net would train on."""
    if not folder.is_dir():
        return []
    names = (p.name for p in folder.iterdir() if p.suffix == ".b2nd" and not p.name.startswith("."))
    return sorted(name[:-5] for name in names if not name.endswith("_seg.b2nd"))


class CasesFolder(ABC):
    """A folder of preprocessed cases that is brought up to date, and the record of what its cases were made from.

    Attributes:
        folder: Where nnU-Net looks for cases.
        inputs: Of each case that is done, what it was made from: digest by origin (`nnkd.data.origins`); of an earlier
            version of nnkd one hash over everything.
        adopted: How many cases of an earlier version were found to hold.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Origins | str]):
        self.folder, self.inputs, self.adopted = folder, dict(inputs), 0
        self._written = time.monotonic()

    @abstractmethod
    def origins_of(self, case: str) -> Origins:
        """What a case would be made from now."""

    @abstractmethod
    def adopts(self, case: str, digest: str) -> bool:
        """Whether a case of an earlier version holds: its one hash, and its content as far as that hash says nothing of
        it."""

    @abstractmethod
    def write(self) -> None:
        """Write down what is done."""

    def what_changed(self, case: str) -> str | None:
        """None: the case holds. Else why it is to be made anew; empty if it was not made yet."""
        if not is_preprocessed(self.folder, case):
            return ""
        record, now = self.inputs.get(case), self.origins_of(case)
        if isinstance(record, str):
            if not self.adopts(case, record):
                return "an earlier version made it from something else"
            self.inputs[case], self.adopted = now, self.adopted + 1
            return None
        return difference(record, now) or None

    def begin(self, jobs: Iterable[str]) -> None:
        """Whoever is killed while these cases are done, or cannot do one, leaves none of before that counts as done."""
        for case in jobs:
            self.inputs.pop(case, None)
        self.save(at_once=True)

    def forget_removed(self, cases: Sequence[str]) -> None:
        """Remove preprocessed cases that are gone from the dataset, so that nobody trains on them."""
        for case in set(listed_cases(self.folder)) - set(cases):
            remove_case(self.folder, case)
        for case in set(self.inputs) - set(cases):
            self.inputs.pop(case)

    def save(self, *, at_once: bool = False) -> None:
        """Write down what is done, if that was not done a moment ago."""
        if at_once or time.monotonic() - self._written > SECONDS_BETWEEN_RECORDS:
            self.write()
            self._written = time.monotonic()
