"""labelsTr and consensus.json beside it: which label maps are manual, and which a consensus of which teachers' files.

A label map counts as a consensus only while its content is the one that consensus.json lists. So whoever edits a
consensus by hand has made it manual, without telling anybody, and manual label maps are never overwritten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nnkd.data.dataset import DatasetSpec, RawDataset
from nnkd.data.labels.numbering import meaning_of_labels
from nnkd.data.origins import difference
from nnkd.data.predictions import (
    Lineage,
    Manifest,
    PredictionFolder,
    files_of_cases,
    label_map_files,
    prediction_folders,
)
from nnkd.errors import DatasetError, FolderError
from nnkd.files import read_json, remove_leftovers, sha256, sha256_text, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


log = logging.getLogger("nnkd")
LABELS = "meaning of the labels"  # among a consensus's inputs


class CaseConsensus(BaseModel):
    """A label map that teachers made.

    Attributes:
        source: Always "consensus": manual label maps are not listed.
        sha256: Of the label map.
        teachers: Who took part in the vote.
        inputs: Hashes of what it was made from, see `inputs_of`.
        previous_sha256: Of the consensus it replaces, until it has: a process killed in between leaves that one, and
            it must not count as manual.
    """

    source: Literal["consensus"] = "consensus"
    sha256: str
    teachers: list[str]
    inputs: dict[str, str]
    previous_sha256: str | None = None


class ConsensusIndex(BaseModel):
    """consensus.json.

    Attributes:
        chosen: Teachers that were named with -t, the others being left out; None: all there are.
        cases: By identifier.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    chosen: list[str] | None = None
    cases: Annotated[dict[str, CaseConsensus], AfterValidator(files_of_cases)] = Field(default_factory=dict)


def read(dataset: RawDataset) -> ConsensusIndex:
    """Read consensus.json; empty if there is none.

    Raises:
        DatasetError: If it is not of this schema.
    """
    file = dataset.consensus_file()
    if not file.is_file():
        return ConsensusIndex()
    try:
        return ConsensusIndex.model_validate(read_json(file))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DatasetError(
            f"{file.name} of {dataset.name} is not as expected ({where}: {problem['msg']}). "
            f"Restore it; without it every label map in labelsTr counts as manual."
        ) from error


def manual_cases(dataset: RawDataset) -> list[str]:
    """Cases of labelsTr whose label map no consensus wrote, or that somebody has edited since; sorted."""
    index = read(dataset)
    return [case for case in label_map_files(dataset.folder / "labelsTr", dataset.spec.file_ending)
            if _is_manual(dataset, case, index)]  # fmt: skip


def _is_manual(dataset: RawDataset, case: str, index: ConsensusIndex) -> bool:
    file, record = dataset.label_file(case), index.cases.get(case)
    if not file.is_file():
        return False
    return record is None or sha256(file) not in (record.sha256, record.previous_sha256)


def inputs_of(manifests: Mapping[str, Manifest], case: str, spec: DatasetSpec) -> dict[str, str]:
    """Digests of what a consensus of a case is made from.

    Args:
        manifests: By teacher.
        case: Its identifier.
        spec: The dataset.

    Returns:
        "TEACHER/CASE" -> sha256 of its label map. Where the teacher abstains from a label, "TEACHER/CASE answers" too:
        the same label map says something else if a label that is not in it was not looked for. LABELS -> what the
        integers mean.
    """
    names = list(spec.labels)
    inputs = {LABELS: meaning_of_labels(spec)}
    for teacher, manifest in manifests.items():
        record = manifest.cases.get(case)
        if record is None:
            continue
        inputs[f"{teacher}/{case}"] = record.output
        answered = [name for name in names if name in record.answers]
        if answered != names:
            inputs[f"{teacher}/{case} answers"] = sha256_text("\n".join(answered))
    return inputs


def is_stale(dataset: RawDataset, case: str, inputs: Mapping[str, str], index: ConsensusIndex | None = None) -> bool:
    """Whether a case lacks a label map, or has a consensus of other inputs. A manual label map is never stale.

    Args:
        dataset: The dataset.
        case: Its identifier.
        inputs: What `inputs_of` says now.
        index: consensus.json, if it was read already.
    """
    return bool(_why_stale(dataset, case, inputs, read(dataset) if index is None else index))


def stale_cases(dataset: RawDataset) -> dict[str, str]:
    """Cases whose consensus no longer holds, sorted, and why: teachers' files in teachersTr have changed, other
    teachers are there now, or its integers mean other labels. Where no teacher's folder is left, only the last can be
    told.

    A consensus of an older version does not say what its integers mean. It holds as long as its teachers' files do:
    these have the same integers, and their manifests, which are checked, say what they mean.
    """
    index = read(dataset)
    manifests = {
        folder.name: folder.manifest()
        for folder in prediction_folders(dataset.teachers_folder())
        if index.chosen is None or folder.name in index.chosen
    }
    found, silent = {}, 0
    for case in sorted(index.cases):
        made, now = index.cases[case].inputs, inputs_of(manifests, case, dataset.spec)
        if not manifests:
            silent += LABELS not in made
            now = {**made, LABELS: now[LABELS]}
        if LABELS not in made:
            del now[LABELS]
        if why := _why_stale(dataset, case, now, index):
            found[case] = why
    if silent:
        log.warning(
            "consensus.json of %s does not say what the integers of %d label map(s) meant when they were made, and no "
            "teacher is left in teachersTr to compare with: they are taken for what dataset.json says.",
            dataset.name, silent,
        )  # fmt: skip
    return found


def _why_stale(dataset: RawDataset, case: str, inputs: Mapping[str, str], index: ConsensusIndex) -> str:
    file, record = dataset.label_file(case), index.cases.get(case)
    if not file.is_file():
        return "it has no label map"
    if _is_manual(dataset, case, index):
        return ""
    if record is None or record.sha256 != sha256(file):
        return "its label map is an older one"
    return difference(record.inputs, inputs)


def inherited(dataset: RawDataset) -> tuple[list[Lineage], bool]:
    """What somebody who learns from labelsTr inherits: the teachers whose consensus is in it. Manual label maps, and
    those that somebody has edited, have none.

    Args:
        dataset: The dataset; a teacher whose folder is gone from teachersTr is there by name alone.

    Returns:
        The teachers with their licences, sorted by name, and whether one of them was told of reference labels.

    Raises:
        DatasetError: If consensus.json is not of this schema.
        PredictionError: If a teacher's manifest is not.
    """
    cases = {case: record for case, record in read(dataset).cases.items() if dataset.label_file(case).is_file()}
    manual = set(manual_cases(dataset)) if cases else set()
    names = sorted({name for case, record in cases.items() if case not in manual for name in record.teachers})
    models, told = [], False
    for name in names:
        folder = PredictionFolder(dataset.teachers_folder() / name)
        manifest = folder.manifest() if folder.exists() else None
        models.append(Lineage(name=name) if manifest is None else manifest.as_model())
        told = told or (manifest is not None and manifest.ground_truth)
    return models, told


def inherited_of(
    datasets: Iterable[str], without_raw: Callable[[str], tuple[list[Lineage], bool]] = lambda _: ([], False)
) -> tuple[list[Lineage], bool]:
    """The same of several datasets, each model once.

    Args:
        datasets: Full names.
        without_raw: What is known of one whose raw folder is not here, as on many clusters; nothing, usually.
    """
    models: list[Lineage] = []
    told = False
    for name in dict.fromkeys(datasets):
        try:
            dataset = RawDataset.open(name)
        except FolderError:
            found, one_told = without_raw(name)
        else:
            found, one_told = inherited(dataset)
        models += [model for model in found if model not in models]
        told = told or one_told
    return models, told


def write(
    dataset: RawDataset,
    case: str,
    label_map: NDArray[np.integer],
    properties: Mapping[str, Any],
    *,
    teachers: Sequence[str],
    inputs: Mapping[str, str],
) -> bool:
    """Write a case's consensus and list it. Killed at any moment, the case has its old or its new consensus, and
    either counts as one.

    Args:
        dataset: The dataset.
        case: Its identifier.
        label_map: (Z, Y, X) integers in file order.
        properties: The reader's properties of the image.
        teachers: Who took part in the vote.
        inputs: What `inputs_of` says.

    Returns:
        Whether it was written; False if a manual label map is there, which stays.
    """
    target = dataset.label_file(case)

    def list_it(finished: Path) -> None:
        index = read(dataset)
        if _is_manual(dataset, case, index):
            raise _ManualError
        index.cases[case] = CaseConsensus(
            sha256=sha256(finished),
            teachers=list(teachers),
            inputs=dict(inputs),
            previous_sha256=sha256(target) if target.is_file() else None,
        )
        write_json(dataset.consensus_file(), index.model_dump(exclude_none=True))

    try:
        dataset.spec.write_label_map(label_map, target, properties, list_it)
    except _ManualError:
        return False
    return True


class _ManualError(Exception):
    """A manual label map is where a consensus was to go."""


@contextmanager
def writing(dataset: RawDataset, chosen: Sequence[str] | None = None) -> Iterator[None]:
    """Hold a dataset's labelsTr for one process, and tidy up before and after.

    Args:
        dataset: The dataset.
        chosen: Teachers named with -t, if any.

    Raises:
        DatasetError: If another process holds it.
    """
    lock = FileLock(dataset.folder / ".consensus.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DatasetError(
            f"Another nnKD_aggregate is writing labelsTr of {dataset.name}. Wait for it, or stop it."
        ) from None
    try:
        remove_leftovers(dataset.folder / "labelsTr")
        index = read(dataset)
        index.chosen = None if chosen is None else sorted(chosen)
        write_json(dataset.consensus_file(), index.model_dump(exclude_none=True))
        yield
        _settle(dataset)
    finally:
        lock.release()


def _settle(dataset: RawDataset) -> None:
    """Forget replaced consensuses and those whose label map is gone."""
    before, index = read(dataset), read(dataset)
    for case, record in list(index.cases.items()):
        file = dataset.label_file(case)
        if not file.is_file():
            del index.cases[case]
        elif record.previous_sha256 and sha256(file) == record.sha256:
            record.previous_sha256 = None
    if index != before:
        write_json(dataset.consensus_file(), index.model_dump(exclude_none=True))
