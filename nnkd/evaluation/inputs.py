"""What is evaluated and how; and what an evaluation reads: dataset.json, references and prediction folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnkd import paths
from nnkd.data import listing
from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.by_name import FolderLabels
from nnkd.data.listing import Listing
from nnkd.data.predictions import PredictionFolder
from nnkd.errors import DatasetError, FolderError, PredictionError, SettingError
from nnkd.evaluation.groups.partitions import GroupOptions
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.scores import FolderScores
from nnkd.evaluation.surfaces import DEFINITIONS
from nnkd.types import FolderCount, some


@dataclass(frozen=True)
class Request:
    """What is evaluated, and how.

    Attributes:
        predictions: Folders of label maps, with or without manifest.
        reference: Folder of reference label maps.
        second_reference: Another one of the same cases, for the agreement between raters; None: there is none.
        dataset: Id or name, to find dataset.json (and participants) with; None: beside the reference.
        dataset_json: dataset.json itself; wins over `dataset`.
        output: Folder to write to; None: "evaluation" beside the only prediction folder.
        names: Of the folders in tables; None: what their manifests or the folders are called.
        labels: Those to evaluate; None: all.
        tolerance: Of the NSD, in mm.
        tolerances: The same for single labels, where it differs.
        definition: Of surfaces, a name of `nnkd.evaluation.surfaces.DEFINITIONS`.
        bootstrap: Resamples and seed.
        participants: Folder with participants.tsv or cases.tsv, or participants.tsv itself; None: dataset.json's.
        groups: How participants are put into groups, to compare them; None: not at all.
        images: Folder of images for the overlays; None: the dataset's.
        rank: Metrics to rank the folders by, modality by modality; None: no ranking.
        modality: Column of participants.tsv to rank within; None: see `nnkd.evaluation.ranking.modalities_of_cases`.
        common_cases: Evaluate only cases that every folder has, instead of counting missing ones as empty.
        workers: Processes; None: one for small sets, else up to eight.
        overwrite: Compute anew what an earlier run left.
        replace: Whether files that nnkd did not write may be replaced.
    """

    predictions: Sequence[Path]
    reference: Path
    dataset: str | None = None
    dataset_json: Path | None = None
    output: Path | None = None
    names: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    tolerance: float = 2.0
    tolerances: Mapping[str, float] = field(default_factory=dict)
    definition: str = "monai"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    participants: Path | None = None
    groups: GroupOptions | None = None
    images: Path | None = None
    second_reference: Path | None = None
    rank: Sequence[str] | None = None
    modality: str | None = None
    common_cases: bool = False
    workers: int | None = None
    overwrite: bool = False
    replace: bool = False


def check_values(request: Request) -> None:
    """Refuse what nothing can be measured with, before anything is read.

    Raises:
        SettingError: With what is expected instead.
    """
    for tolerance in (request.tolerance, *request.tolerances.values()):
        if not (np.isfinite(tolerance) and tolerance >= 0):
            raise SettingError(f"--tolerance is {tolerance}, but a distance in mm of 0 or more is expected.")
    if request.bootstrap.resamples < 0:
        raise SettingError(f"--bootstrap is {request.bootstrap.resamples}, but a number of 0 or more is expected.")
    if request.definition not in DEFINITIONS:
        raise SettingError(f"There is no definition '{request.definition}'. There are: {', '.join(DEFINITIONS)}.")
    if request.workers is not None and request.workers < 1:
        raise SettingError(f"-np is {request.workers}, but at least one process is needed.")


def find_dataset_json(request: Request) -> Path:
    """Where the labels and the file ending stand: the file itself, the dataset's, or beside the reference.

    Raises:
        NnkdError: If it is not there.
    """
    if request.dataset_json is not None:
        if not request.dataset_json.is_file():
            raise FolderError(f"There is no file '{request.dataset_json}' (-djfile). Give the path of a dataset.json.")
        return request.dataset_json
    if request.dataset is not None:
        name = paths.dataset_name(request.dataset)
        rooms = [Path(os.environ[r]) for r in ("nnUNet_raw", "nnUNet_preprocessed") if os.environ.get(r)]
        for room in rooms:
            if (file := room / name / "dataset.json").is_file():
                return file
        raise DatasetError(f"{name} has no dataset.json in nnUNet_raw or nnUNet_preprocessed. Give it with -djfile.")
    file = _existing(request.reference, "-ref").resolve().parent / "dataset.json"
    if not file.is_file():
        raise DatasetError(
            f"No dataset.json lies beside '{request.reference.name}'. Name the dataset with -d, or the file itself "
            f"with -djfile."
        )
    return file


def _existing(folder: Path, flag: str) -> Path:
    if not folder.is_dir():
        raise FolderError(f"There is no folder '{folder}' ({flag}). Check the path.")
    return folder


def label_maps(folder: Path, spec: DatasetSpec, flag: str) -> Listing:
    """Label maps of a folder, without those of cases that failed since they were written.

    Args:
        folder: Where they lie.
        spec: The dataset.
        flag: The option that named the folder, for messages.

    Raises:
        NnkdError: If there is no such folder, or no label map in it.
    """
    found = listing.label_maps(_existing(folder, flag), spec.file_ending)
    predictions = PredictionFolder(folder)
    if predictions.exists():
        failed = predictions.manifest().failures.keys()
        found = found.only({*found.cases} - failed, rule="earlier label map of a case that failed")
    if not found.cases:
        others = sorted(found.unknown)
        there = f"it holds {some(others)}" if others else "it is empty"
        raise PredictionError(
            f"'{folder.name}' ({flag}) holds no label map with the ending {spec.file_ending} that dataset.json of "
            f"{spec.name} names; {there}. Give a folder of files named CASE{spec.file_ending}."
        )
    return found


def files_of(found: Listing) -> dict[str, Path]:
    """The label map of each case."""
    return {case: file for case, (file,) in found.cases.items()}


def counts(
    predictions: Mapping[str, Listing], references: Sequence[Listing], cases: Sequence[str], output: Path
) -> list[FolderCount]:
    """Which files are taken.

    Args:
        predictions: By name.
        references: One or two.
        cases: The cases to evaluate.
        output: The folder to write to.
    """
    known = {case for reference in references for case in reference.cases}
    named = []
    for name, found in predictions.items():
        found = found.only(known, rule="without reference").only(cases, rule="of a case that is not in every folder")
        named.append(found.told(output).count(name))
    others = [
        found.only(cases, rule="of a case that is not in every folder").told(output).count() for found in references
    ]
    return named + others


def read_folders(
    request: Request, spec: DatasetSpec
) -> tuple[list[FolderScores], dict[str, Listing], dict[str, FolderLabels]]:
    """The folders to evaluate, their label maps by name, and what their integers mean by name.

    Raises:
        NnkdError: If there is no label map, a name cannot be used, or a folder has none of the labels.
    """
    files = [label_maps(path, spec, "-i") for path in request.predictions]
    manifests = [f.manifest() if (f := PredictionFolder(p)).exists() else None for p in request.predictions]
    pairs = zip(request.predictions, manifests, strict=True)
    names = list(request.names or [manifest.name if manifest else path.resolve().name for path, manifest in pairs])
    if len(names) != len(request.predictions):
        raise SettingError(f"--names has {len(names)} names for {len(request.predictions)} folders. Give one for each.")
    if bad := next((n for n in names if names.count(n) > 1 or not n.strip(". ") or {"/", "\\"} & set(n)), None):
        raise SettingError(f"'{bad}' cannot name one folder (doubled, empty or with a slash). Give names with --names.")
    labels = {name: FolderLabels.of(path, spec) for name, path in zip(names, request.predictions, strict=True)}
    folders = [
        FolderScores(
            name, manifest, {case: path.name for case, path in files_of(found).items()}, unknown=labels[name].missing
        )
        for name, manifest, found in zip(names, manifests, files, strict=True)
    ]
    return folders, dict(zip(names, files, strict=True)), labels


def reference_labels(folder: Path, spec: DatasetSpec, labels: Sequence[str]) -> FolderLabels:
    """What the integers of a folder of references mean.

    Args:
        folder: Of -ref.
        spec: The dataset.
        labels: Those that are evaluated.

    Raises:
        DatasetError: If the references do not know one of the labels.
    """
    found = FolderLabels.of(folder, spec)
    if unknown := [label for label in labels if label in found.missing]:
        raise DatasetError(
            f"The references in '{folder.name}' know no {', '.join(unknown)}: their {found.source} names "
            f"{', '.join(found.own.labels)}. Choose among these with --labels."
        )
    return found


def with_ignored(spec: DatasetSpec, reference: Path) -> DatasetSpec:
    """The dataset, with an ignore label if only the references' own dataset.json has one: those voxels are nobody's."""
    if spec.ignore_label is not None or FolderLabels.of(reference, spec).own.ignore_label is None:
        return spec
    return replace(spec, json={**spec.json, "labels": {**spec.json["labels"], "ignore": max(spec.values) + 1}})


def shared_cases(
    references: Mapping[str, Path], found: Mapping[str, Mapping[str, Path]], common: bool = False
) -> list[str]:
    """The cases to evaluate, sorted.

    Args:
        references: Label map by case.
        found: Label map by folder's name and case.
        common: Only those that every folder has, instead of all that have a reference.

    Raises:
        PredictionError: If a folder has none of them, or there is none that all have.
    """
    for name, files in found.items():
        if not files.keys() & references.keys():
            raise PredictionError(
                f"None of the {len(files)} label maps of '{name}' is named as one of the {len(references)} references "
                f"('{min(files)}' here, '{min(references)}' there). Check that both folders are of the same cases."
            )
    if common:
        cases = sorted(set(references).intersection(*found.values()))
        if not cases:
            raise PredictionError("No case is in all folders. Leave --chill out, or evaluate them one by one.")
        return cases
    return sorted(references)


def image_folders(request: Request, json_file: Path) -> list[Path]:
    """Where images for the overlays may be, the likeliest first."""
    if request.images is not None:
        return [request.images]
    sibling = request.reference.resolve().parent / f"images{request.reference.name.removeprefix('labels')}"
    return [sibling, json_file.parent / "imagesTs", json_file.parent / "imagesTr"]
