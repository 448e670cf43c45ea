"""Prediction folders and references -> summary.json, CSV and one HTML report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnkd import paths
from nnkd.auxiliary.section import section_of_folders
from nnkd.data.dataset import DatasetSpec
from nnkd.data.participants import participants_of_cases
from nnkd.data.predictions import Manifest, PredictionFolder, label_map_files, versions
from nnkd.errors import DatasetError, FolderError, PredictionError, SettingError
from nnkd.evaluation.comparisons import Files, Settings, compare_cases
from nnkd.evaluation.groups.cohort import EvaluatedPeople, read_people
from nnkd.evaluation.groups.partitions import GroupOptions
from nnkd.evaluation.groups.report import report_fairness
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.metrics import EMPTY_MASKS
from nnkd.evaluation.ranking import (
    DEFAULT,
    MethodRanking,
    check_ranking,
    modalities_of_cases,
    rank_methods,
    ranking_frame,
    ranking_section,
)
from nnkd.evaluation.raters import Raters, compare_raters, rater_names, raters_frame, raters_json, raters_section
from nnkd.evaluation.report import Evaluation, write_report
from nnkd.evaluation.scores import FolderScores, Rules, Scores, write_frame, write_scores
from nnkd.evaluation.summary import add_to_summary, score_lines, summary
from nnkd.evaluation.surfaces import DEFINITIONS
from nnkd.evaluation.uncertainty import (
    FolderRanking,
    rank_folders,
    ranking_json,
    rankings_frame,
    section,
    volumes_frame,
)
from nnkd.files import remove_leftovers, write_json
from nnkd.types import Failure, StepReport

CACHE = ".cache"
PARALLEL_FROM_BYTES = 20_000_000  # starting processes takes seconds; small sets are done by then


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


def evaluate(request: Request) -> StepReport:
    """Compare folders with their reference and write what came of it.

    Writes NAME/summary.json for each folder, metrics.csv, means.csv, comparison.csv and report.html; where folders have
    maps of uncertainty, uncertainty.csv and volumes.csv too; with groups, fairness.json and fairness*.csv; ranking.csv
    and raters.csv where asked for. Compared cases are kept in .cache, by the content of both files and the settings, so
    that a killed run continues.

    Returns:
        A StepReport: the table as lines, failures by folder and case, the `Scores` as data["scores"], `Fairness`
        or None as data["fairness"].

    Raises:
        NnkdError: If a folder, dataset.json, a label or a setting is not as expected; before anything is compared.
    """
    _check_settings(request)
    json_file = _dataset_json(request)
    spec = DatasetSpec.read(json_file)
    labels = {name: spec.labels[spec.check_label(name)] for name in (request.labels or spec.labels)}
    references = _label_maps(request.reference, spec, "-ref")
    others = _label_maps(request.second_reference, spec, "-ref") if request.second_reference else None
    output = _output(request)
    folders, found = _folders(request, spec)
    cases = _cases(request, references, found)
    if others is not None and not others.keys() & set(cases):
        raise PredictionError("The two folders of -ref have no case in common. Check that both are of the same cases.")
    people = _people(request, json_file, cases)
    modality_of = None if request.rank is None else modalities_of_cases(spec, people.by_case, request.modality)
    settings = Settings(spec, labels, request.definition, _tolerances(request, spec, labels))
    files = Files(cases, references, found, output / CACHE)
    compared = compare_cases(settings, files, folders, _workers(request, references), request.overwrite)
    person_of = {case: person.identifier for case, person in people.by_case.items()}
    scores = Scores(folders, list(labels), cases, person_of, request.bootstrap)
    if not any(folder.results for folder in folders):
        raise PredictionError(f"No case could be compared. The first: {next(iter(folders[0].failures.values()))}")
    facts = _facts(request, spec, scores, compared.without_spacing)
    evaluated = dict(zip((folder.name for folder in folders), request.predictions, strict=True))
    rankings = rank_folders(evaluated, spec, labels, {case: references[case] for case in cases}, found)
    rules = Rules(request.definition, settings.tolerance)
    _write_tables(scores, spec, rules, facts, output)
    _write_rankings(rankings, person_of, request, output)
    fair = report_fairness(scores, people, request.groups, request.bootstrap, facts, output)
    images, uncertain = _image_folders(request, json_file), section(rankings, person_of, request.bootstrap)
    methods = rank_methods(scores, request.rank or DEFAULT, modality_of) if modality_of is not None else None
    raters = None if others is None else _raters(request, scores, settings, files, others, person_of)
    _write_more(methods, raters, rules, scores, output)
    evaluation = Evaluation(
        scores, spec, facts, request.reference, references, found, images, uncertain, fair.section,
        methods and ranking_section(methods), raters and raters_section(raters, str(facts["unit"])),
        section_of_folders(evaluated),
    )  # fmt: skip
    write_report(evaluation, output / "report.html")
    report = StepReport(done=compared.now, skipped=compared.earlier)
    more = [line for part in (methods, raters) if part is not None for line in part.lines()]
    report.lines.extend([*score_lines(scores, facts, output), *more, *fair.lines])
    report.data = {"scores": scores, "fairness": fair.fairness, "ranking": methods, "raters": raters}
    report.failures.extend([*_failures(folders), *(raters.failures() if raters else ())])
    report.failures.extend(Failure("participants", problem) for problem in fair.problems)
    for name, ranking in rankings.items():
        report.failures.extend(Failure(f"{name}/{case}", reason) for case, reason in ranking.failures.items())
    return report


def _raters(
    request: Request,
    scores: Scores,
    settings: Settings,
    files: Files,
    others: Mapping[str, Path],
    person_of: Mapping[str, str],
) -> Raters:
    names = rater_names(request.reference, request.second_reference)
    references, workers = (files.references, others), _workers(request, files.references)
    return compare_raters(scores, names, references, settings, files, person_of, workers, request.overwrite)


def _people(request: Request, json_file: Path, cases: Sequence[str]) -> EvaluatedPeople:
    if request.groups is not None:
        return read_people(request.participants, json_file.parent, cases)
    return EvaluatedPeople(participants_of_cases(request.participants or json_file.parent, cases))


def _check_settings(request: Request) -> None:
    for tolerance in (request.tolerance, *request.tolerances.values()):
        if not (np.isfinite(tolerance) and tolerance >= 0):
            raise SettingError(f"--tolerance is {tolerance}, but a distance in mm of 0 or more is expected.")
    if request.bootstrap.resamples < 0:
        raise SettingError(f"--bootstrap is {request.bootstrap.resamples}, but a number of 0 or more is expected.")
    if request.definition not in DEFINITIONS:
        raise SettingError(f"There is no definition '{request.definition}'. There are: {', '.join(DEFINITIONS)}.")
    if request.rank is not None:
        check_ranking(request.rank, len(request.predictions))
    elif request.modality is not None:
        raise SettingError("--modality says within what to rank, but there is no --rank. Add it, or leave both out.")
    if request.workers is not None and request.workers < 1:
        raise SettingError(f"-np is {request.workers}, but at least one process is needed.")


def _tolerances(request: Request, spec: DatasetSpec, labels: Iterable[str]) -> dict[str, float]:
    """Of the NSD, in mm, by evaluated label."""
    for label in request.tolerances:
        spec.check_label(label)
    return {label: request.tolerances.get(label, request.tolerance) for label in labels}


def _dataset_json(request: Request) -> Path:
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


def _label_maps(folder: Path, spec: DatasetSpec, flag: str) -> dict[str, Path]:
    files = label_map_files(_existing(folder, flag), spec.file_ending)
    if not files:
        others = sorted({p.name for p in folder.iterdir() if not p.name.startswith(".")})[:3]
        there = f"it holds {', '.join(others)}" if others else "it is empty"
        raise PredictionError(
            f"'{folder.name}' ({flag}) holds no label map with the ending {spec.file_ending} that dataset.json of "
            f"{spec.name} names; {there}. Give a folder of files named CASE{spec.file_ending}."
        )
    return files


def _output(request: Request) -> Path:
    if request.output is not None:
        return request.output
    if len(request.predictions) > 1:
        raise FolderError("Several folders are evaluated together, so -o must name the folder to write to.")
    return request.predictions[0].resolve().parent / "evaluation"


def _folders(request: Request, spec: DatasetSpec) -> tuple[list[FolderScores], dict[str, dict[str, Path]]]:
    """The folders to evaluate, and their label maps by name and case."""
    files = [_label_maps(path, spec, "-i") for path in request.predictions]
    manifests = [f.manifest() if (f := PredictionFolder(p)).exists() else None for p in request.predictions]
    pairs = zip(request.predictions, manifests, strict=True)
    names = list(request.names or [manifest.name if manifest else path.resolve().name for path, manifest in pairs])
    if len(names) != len(request.predictions):
        raise SettingError(f"--names has {len(names)} names for {len(request.predictions)} folders. Give one for each.")
    if bad := next((n for n in names if names.count(n) > 1 or not n.strip(". ") or {"/", "\\"} & set(n)), None):
        raise SettingError(f"'{bad}' cannot name one folder (doubled, empty or with a slash). Give names with --names.")
    for name, manifest in zip(names, manifests, strict=True):
        _check_manifest(name, manifest, spec)
    folders = [
        FolderScores(name, manifest, {case: path.name for case, path in found.items()})
        for name, manifest, found in zip(names, manifests, files, strict=True)
    ]
    return folders, dict(zip(names, files, strict=True))


def _check_manifest(name: str, manifest: Manifest | None, spec: DatasetSpec) -> None:
    """The same integer must mean the same label in both."""
    for label, values in (manifest.labels if manifest else {}).items():
        if label not in spec.labels:
            raise PredictionError(
                f"The manifest of '{name}' has the label '{label}', but dataset.json of {spec.name} has "
                f"{', '.join(spec.labels)}. Evaluate it with the dataset.json it was made with."
            )
        if tuple(values) != tuple(spec.labels[label]):
            raise PredictionError(
                f"'{label}' is {values} in the manifest of '{name}', but {list(spec.labels[label])} in dataset.json of "
                f"{spec.name}. Evaluate it with the dataset.json it was made with."
            )


def _cases(request: Request, references: Mapping[str, Path], found: Mapping[str, Mapping[str, Path]]) -> list[str]:
    for name, files in found.items():
        if not files.keys() & references.keys():
            raise PredictionError(
                f"None of the {len(files)} label maps of '{name}' is named as one of the {len(references)} references "
                f"('{min(files)}' here, '{min(references)}' there). Check that both folders are of the same cases."
            )
    if request.common_cases:
        cases = sorted(set(references).intersection(*found.values()))
        if not cases:
            raise PredictionError("No case is in all folders. Leave --chill out, or evaluate them one by one.")
        return cases
    return sorted(references)


def _workers(request: Request, references: Mapping[str, Path]) -> int:
    if request.workers is not None:
        return request.workers
    size = sum(path.stat().st_size for path in references.values())
    return min(8, os.cpu_count() or 1) if size >= PARALLEL_FROM_BYTES else 1


def _facts(request: Request, spec: DatasetSpec, scores: Scores, flat: bool) -> dict[str, Any]:
    """What every output names."""
    return {
        "dataset": spec.name,
        "reference": request.reference.resolve().name,
        "definition": request.definition,
        "definition_text": DEFINITIONS[request.definition].text,
        "percentile_rule": DEFINITIONS[request.definition].percentile_rule,
        "empty_masks": EMPTY_MASKS,
        "tolerance_mm": request.tolerance,
        "tolerance_mm_by_label": dict(request.tolerances),
        "unit": "pixels (the files have no spacing)" if flat else "mm",
        "bootstrap_resamples": request.bootstrap.resamples,
        "seed": request.bootstrap.seed,
        "cases": len(scores.cases),
        "participants": scores.n_participants,
        "common_cases_only": request.common_cases,
        "versions": versions(),
    }


def _write_tables(scores: Scores, spec: DatasetSpec, rules: Rules, facts: Mapping[str, Any], output: Path) -> None:
    remove_leftovers(output)
    for folder in scores.folders:
        remove_leftovers(output / folder.name)
        content = summary(scores, folder, spec, str(facts["reference"]), facts)
        write_json(output / folder.name / "summary.json", content)
    write_scores(scores, rules, output)


def _write_rankings(
    rankings: Mapping[str, FolderRanking], person_of: Mapping[str, str], request: Request, output: Path
) -> None:
    """uncertainty.csv, volumes.csv and a key in summary.json; an earlier run's tables go where there are no maps."""
    for name, ranking in rankings.items():
        add_to_summary(output / name, "uncertainty", ranking_json(ranking, person_of, request.bootstrap))
    for name, make in {"uncertainty": rankings_frame, "volumes": volumes_frame}.items():
        write_frame(make(rankings) if rankings else None, output / f"{name}.csv")


def _write_more(
    methods: MethodRanking | None, raters: Raters | None, rules: Rules, scores: Scores, output: Path
) -> None:
    """ranking.csv, raters.csv and their keys in summary.json; an earlier run's tables go where none is asked for."""
    write_frame(methods and ranking_frame(methods, rules), output / "ranking.csv")
    write_frame(raters and raters_frame(raters, rules), output / "raters.csv")
    for folder in scores.folders:
        if methods is not None:
            add_to_summary(output / folder.name, "ranking", methods.to_json(folder.name))
        if raters is not None:
            add_to_summary(output / folder.name, "raters", raters_json(raters, folder.name))


def _image_folders(request: Request, json_file: Path) -> list[Path]:
    """Where images for the overlays may be, the likeliest first."""
    if request.images is not None:
        return [request.images]
    siblings = [request.reference.resolve().parent / f"images{request.reference.name.removeprefix('labels')}"]
    return [*siblings, json_file.parent / "imagesTs", json_file.parent / "imagesTr"]


def _failures(folders: Sequence[FolderScores]) -> Iterator[Failure]:
    for folder in folders:
        for case, reason in sorted(folder.failures.items()):
            yield Failure(f"{folder.name}/{case}", reason)
