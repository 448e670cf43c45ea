"""Prediction folders and references -> summary.json, CSV and one HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnkd.auxiliary.section import section_of_folders
from nnkd.data.dataset import DatasetSpec
from nnkd.data.participants import participants_of_cases
from nnkd.errors import FolderError, PredictionError
from nnkd.evaluation.comparisons import Files, Settings, compare_cases
from nnkd.evaluation.groups.cohort import EvaluatedPeople, read_people
from nnkd.evaluation.groups.files import CSV_FILES, JSON_FILE
from nnkd.evaluation.groups.report import fairness_part
from nnkd.evaluation.inputs import (
    Request,
    check_values,
    counts,
    files_of,
    find_dataset_json,
    image_folders,
    label_maps,
    read_folders,
    reference_labels,
    shared_cases,
    with_ignored,
)
from nnkd.evaluation.part import Part, Plain
from nnkd.evaluation.ranking import TABLE as RANKING
from nnkd.evaluation.ranking import check_ranking, modalities_of_cases, ranking_part
from nnkd.evaluation.raters import TABLE as RATERS
from nnkd.evaluation.raters import raters_part
from nnkd.evaluation.report import Evaluation, write_report
from nnkd.evaluation.scores import Scores, write_scores
from nnkd.evaluation.summary import add_to_summary, facts_of, score_lines, write_summaries
from nnkd.evaluation.uncertainty import TABLES as UNCERTAINTY
from nnkd.evaluation.uncertainty import uncertainty_part
from nnkd.files import remove_leftovers
from nnkd.replacing import Written
from nnkd.types import Failure, StepReport, some

CACHE = ".cache"
TABLES = ("metrics.csv", "means.csv", "comparison.csv", JSON_FILE, *CSV_FILES, *UNCERTAINTY, RANKING, RATERS)
FILES = (*TABLES, "report.html")


def evaluate(request: Request) -> StepReport:
    """Compare folders with their reference and write what came of it.

    Writes NAME/summary.json for each folder, metrics.csv, means.csv, comparison.csv and report.html; where folders have
    maps of uncertainty, uncertainty.csv and volumes.csv too; with groups, fairness.json and fairness*.csv; ranking.csv
    and raters.csv where asked for. Compared cases are kept in .cache, by the content of both files and the settings, so
    that a killed run continues.

    Returns:
        A StepReport: the table as lines, failures by folder and case, the `Scores` as data["scores"], each `Part` by
        its key.

    Raises:
        NnkdError: If a folder, dataset.json, a label or a setting is not as expected; before anything is compared.
    """
    check_values(request)
    check_ranking(request.rank, len(request.predictions), request.modality)
    json_file = find_dataset_json(request)
    spec = with_ignored(DatasetSpec.read(json_file), request.reference)
    settings = _settings(request, spec)
    raters = [label_maps(folder, spec, "-ref") for folder in (request.reference, request.second_reference) if folder]
    references = files_of(raters[0])
    second = None if request.second_reference is None else (request.second_reference, files_of(raters[1]))
    own = [
        reference_labels(folder, spec, list(settings.labels))
        for folder in (request.reference, request.second_reference)
        if folder
    ]
    output = _output(request)
    folders, predictions, matched = read_folders(request, spec)
    found = {name: files_of(listing) for name, listing in predictions.items()}
    written = Written(output, request.replace)
    written.check([*FILES, *(f"{name}/summary.json" for name in found)])
    cases = shared_cases(references, found, request.common_cases)
    if second and not second[1].keys() & set(cases):
        raise PredictionError("The two folders of -ref have no case in common. Check that both are of the same cases.")
    people = _people(request, json_file.parent, cases)
    modality_of = {} if request.rank is None else modalities_of_cases(spec, people.by_case, request.modality)
    files = Files(cases, references, found, output / CACHE, own[0], matched)
    how = (request.workers, request.overwrite)
    compared = compare_cases(settings, files, folders, *how)
    if not any(folder.results for folder in folders):
        raise PredictionError(f"No case could be compared. The first: {next(iter(folders[0].failures.values()))}")
    person_of = {case: person.identifier for case, person in people.by_case.items()}
    scores = Scores(folders, list(settings.labels), cases, person_of, request.bootstrap, settings.rules)
    facts = facts_of(request, scores, spec.name, compared.without_spacing)
    remove_leftovers(output)
    evaluated = dict(zip(found, request.predictions, strict=True))
    parts: list[Part] = [
        uncertainty_part(evaluated, settings, files, scores),
        ranking_part(scores, request.rank, modality_of),
        raters_part(scores, str(facts["unit"]), request.reference, second, own[-1], settings, files, *how),
        fairness_part(scores, people, request.groups, facts),
        Plain("auxiliaries", content=section_of_folders(evaluated)),
    ]
    failures = [Failure(f"{f.name}/{case}", reason) for f in folders for case, reason in sorted(f.failures.items())]
    report = StepReport(compared.now, compared.earlier, failures, score_lines(scores, facts, output))
    given = request.dataset is not None or request.dataset_json is not None  # else it lies beside the references
    said = [labels.line() for labels in (*own, *matched.values()) if labels.source or given]
    report.lines += [line for line in said if line]
    for name, predicted in found.items():
        if missing := sorted(set(cases) - predicted.keys()):
            report.lines.append(f"{name} has no label map of {len(missing)} case(s), counted as empty: {some(missing)}")
    report.folders = counts(predictions, raters, cases, output)
    for part in parts:
        report.lines += part.lines()
        report.failures += part.failures()
    images = image_folders(request, json_file)
    with written.staged() as folder:
        write_summaries(scores, spec, facts, folder)
        write_scores(scores, folder)
        for part in parts:
            part.write(folder)
            for name in found:
                if (content := part.of_folder(name)) is not None:
                    add_to_summary(folder / name, part.key, content)
        write_report(Evaluation(scores, spec, facts, references, found, images, parts, files), folder / "report.html")
        written.remove(name for name in TABLES if not (folder / name).is_file())  # an earlier run's
    report.data = {"scores": scores, **{part.key: part for part in parts}}
    return report


def _settings(request: Request, spec: DatasetSpec) -> Settings:
    labels = {name: spec.labels[spec.check_label(name)] for name in (request.labels or spec.labels)}
    for label in request.tolerances:
        spec.check_label(label)
    near = {label: request.tolerances.get(label, request.tolerance) for label in labels}
    return Settings(spec, labels, request.definition, near)


def _people(request: Request, default: Path, cases: Sequence[str]) -> EvaluatedPeople:
    if request.groups is not None:
        return read_people(request.participants, default, cases)
    return EvaluatedPeople(participants_of_cases(request.participants or default, cases))


def _output(request: Request) -> Path:
    if request.output is not None:
        return request.output
    if len(request.predictions) > 1:
        raise FolderError("Several folders are evaluated together, so -o must name the folder to write to.")
    return request.predictions[0].resolve().parent / "evaluation"
