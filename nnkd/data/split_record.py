"""split.json: which cases nnKD_split sets aside or hides, drawn once, and the moving of their files.

It lies in the raw folder and holds names of cases, never attributes. It is written before the first file moves, and
every run first brings each file to where it wants it; so a killed run is finished by the next one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nnkd import paths
from nnkd.data import listing, splits
from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import files_of_cases, label_map_files, prediction_folders
from nnkd.data.reading.raw_pictures import sidecars
from nnkd.errors import DatasetError, FileError, ParticipantsError
from nnkd.files import read_json, write_json
from nnkd.types import Participant

RECORD, HIDDEN = "split.json", "labelsHidden"
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
        replace: Whether the other splits_final.json may be one that nnkd did not write.
    """

    folds: int = splits.DEFAULT_FOLDS
    test: float | None = None
    labelled: int | None = None
    shots: int | None = None
    stratify: Sequence[str] = ()
    bins: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seed: int = 0
    overwrite: bool = False
    replace: bool = False


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
    cases: Annotated[list[str], AfterValidator(files_of_cases)]
    returning: Annotated[list[str], AfterValidator(files_of_cases)] = Field(default_factory=list)

    @classmethod
    def of(cls, number: float, wishes: Wishes, cases: Sequence[str]) -> Draw:
        """A choice made now."""
        bins = {column: [float(edge) for edge in edges] for column, edges in wishes.bins.items()}
        return cls(number=number, seed=wishes.seed, stratify=list(wishes.stratify), bins=bins, cases=list(cases))

    def is_for(self, number: float, wishes: Wishes) -> bool:
        """Whether this is what is asked for."""
        other = Draw.of(number, wishes, self.cases)
        return self.model_dump(exclude={"returning"}) == other.model_dump(exclude={"returning"})


class Record(BaseModel):
    """split.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    test: Draw | None = None
    labelled: Draw | None = None

    @classmethod
    def read(cls, dataset: RawDataset) -> Record:
        """A dataset's; an empty one if there is none yet.

        Raises:
            DatasetError: If it is not as nnKD_split writes it.
        """
        file = dataset.folder / RECORD
        if not file.is_file():
            return cls()
        try:
            return cls.model_validate(read_json(file))
        except (ValidationError, FileError) as error:
            raise DatasetError(
                f"{RECORD} of {dataset.name} is not as nnKD_split writes it, so the test set is not known. Restore it."
            ) from error

    @property
    def tested(self) -> set[str]:
        """Cases in the test set."""
        return set(self.test.cases) if self.test else set()

    @property
    def hidden(self) -> set[str]:
        """Cases whose label maps are hidden."""
        return set(self.labelled.cases) if self.labelled else set()

    def draw_test(
        self, dataset: RawDataset, training: Mapping[str, Participant], wishes: Wishes, made: set[str]
    ) -> None:
        """Draw the test set, unless this very one was drawn before.

        Args:
            dataset: The raw dataset.
            training: Participants by case that is in no test set yet.
            wishes: What is asked for; nothing is drawn where no test set is.
            made: Cases whose label map in labelsTr is a consensus.

        Raises:
            DatasetError: If another one was drawn before, or its cases were used already.
        """
        if wishes.test is None:
            return
        before = self.test
        if before is None:
            rng = np.random.default_rng([wishes.seed, TEST_DRAW])
            _, away = splits.hold_out(training, wishes.test, wishes.stratify, rng, wishes.bins)
            _check_unused(dataset, set(away), made)
            self.test = Draw.of(wishes.test, wishes, away)
        elif not before.is_for(wishes.test, wishes):
            raise DatasetError(
                f"{dataset.name} has a test set already ({len(before.cases)} cases, --test {before.number:g} "
                f"--seed {before.seed}); drawing another would mix training and test. Leave --test out to keep it."
            )
        if self.labelled:
            self.labelled.cases = [case for case in self.labelled.cases if case not in self.tested]

    def draw_labelled(
        self, dataset: RawDataset, training: Mapping[str, Participant], wishes: Wishes, manual: set[str]
    ) -> None:
        """Draw whose manual label maps stay, unless this very choice was made before.

        Args:
            dataset: The raw dataset.
            training: Participants by case that is in no test set.
            wishes: What is asked for; nothing is drawn where no labelled ones are.
            manual: Cases with a manual label map in labelsTr.

        Raises:
            ParticipantsError: If there are no manual label maps.
            DatasetError: If another choice was made before and is not to be overwritten.
        """
        if wishes.labelled is None:
            return
        before, hidden_files = self.labelled, set(label_files(dataset.folder / HIDDEN, dataset))
        if before is not None and before.is_for(wishes.labelled, wishes):
            return
        if before is not None and not wishes.overwrite:
            raise DatasetError(
                f"Manual label maps of {dataset.name} were hidden already (--labelled {before.number:g} "
                f"--seed {before.seed}). Add --overwrite to choose again."
            )
        twice = sorted(manual & hidden_files)
        if before is not None and twice:
            raise DatasetError(
                f"Case '{twice[0]}' has a hidden label map and another manual one in labelsTr of {dataset.name}. Keep "
                f"one."
            )
        candidates = {case: person for case, person in training.items() if case in manual | hidden_files}
        if not candidates:
            raise ParticipantsError(
                f"--labelled needs manual label maps in labelsTr of {dataset.name}, but there are none."
            )
        rng = np.random.default_rng([wishes.seed, LABELLED_DRAW])
        hide, _ = splits.hold_out(candidates, wishes.labelled, wishes.stratify, rng, wishes.bins)
        self.labelled = Draw.of(wishes.labelled, wishes, hide)
        self.labelled.returning = sorted((hidden_files & set(candidates)) - set(hide))

    def bring_about(self, dataset: RawDataset) -> None:
        """Write split.json, then move what is not yet where it should be; each file by one os.replace.

        Raises:
            DatasetError: If a file cannot be moved; the next call continues.
        """
        if self == Record():
            return
        file = dataset.folder / RECORD
        write_json(file, self.model_dump())
        if self.test:
            _set_aside(dataset, self.tested)
        if self.labelled:
            _hide(dataset, self.labelled, self.tested)
            self.labelled.returning = []
            write_json(file, self.model_dump())


def image_files(dataset: RawDataset, which: str) -> dict[str, list[Path]]:
    """Image files by case, also of a case of which only some channels have moved yet."""
    folder = dataset.folder / f"images{which}"
    cases = listing.images(folder, dataset.spec.file_ending).cases if folder.is_dir() else {}
    return {case: [*files] for case, files in cases.items()}


def label_files(folder: Path, dataset: RawDataset) -> dict[str, Path]:
    """Label maps by case; none if there is no folder."""
    return label_map_files(folder, dataset.spec.file_ending)


def _check_unused(dataset: RawDataset, away: set[str], made: set[str]) -> None:
    """A test case that anything has learned from, or that a teacher has answered for, is refused: moving it would
    leave its traces behind."""
    for folder in prediction_folders(dataset.teachers_folder()):
        done = away & set(folder.manifest().cases)
        if done:
            raise DatasetError(
                f"Teacher '{folder.name}' has already segmented {len(done)} of the {len(away)} cases to be set aside. "
                f"Draw the test set before nnKD_predict_teachers, or remove teachersTr first."
            )
    listed = away & made
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
    there = away & (set(image_files(dataset, "Ts")) | set(label_files(dataset.folder / "labelsTs", dataset)))
    if there:
        raise DatasetError(
            f"imagesTs or labelsTs of {dataset.name} already has a case '{min(there)}', as imagesTr has. Rename one."
        )


def _set_aside(dataset: RawDataset, test: set[str]) -> None:
    # labels first: while its image is in imagesTr, a case without a label map is an ordinary unlabelled one
    for source in (HIDDEN, "labelsTr"):
        for case, label_map in label_files(dataset.folder / source, dataset).items():
            if case in test:
                _move(label_map, dataset.folder / "labelsTs")
    for case, images in image_files(dataset, "Tr").items():
        if case in test:
            for image in images:
                _move(image, dataset.folder / "imagesTs", is_label_map=False)
    number = len(image_files(dataset, "Tr"))
    if dataset.spec.json.get("numTraining") != number:
        write_json(dataset.folder / "dataset.json", {**dataset.spec.json, "numTraining": number})


def _hide(dataset: RawDataset, draw: Draw, test: set[str]) -> None:
    shown, hidden = (label_files(dataset.folder / name, dataset) for name in ("labelsTr", HIDDEN))
    for case in draw.returning:
        if case in hidden and case not in test:
            _move(hidden[case], dataset.folder / "labelsTr")
    for case in draw.cases:
        # once hidden, what is in labelsTr is a consensus, or somebody's new label map
        if case in shown and case not in hidden:
            _move(shown[case], dataset.folder / HIDDEN)


def _move(file: Path, folder: Path, is_label_map: bool = True) -> None:
    try:
        folder.mkdir(exist_ok=True)
        for moved in (*sidecars(file, is_label_map), file):
            if folder.name != "labelsTr" and os.path.lexists(folder / moved.name):  # a consensus there gives way
                raise DatasetError(
                    f"'{moved.name}' in {file.parent.name} is to be moved to {folder.name}, which has one already. "
                    f"Keep one of them and run the same command again: it continues where it stopped."
                )
            os.replace(moved, folder / moved.name)
    except OSError as error:
        raise DatasetError(
            f"'{file.name}' could not be moved to {folder.name} ({error.strerror}). Change the permissions and run "
            f"the same command again: it continues where it stopped."
        ) from error
