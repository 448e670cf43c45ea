"""A trained student and a folder of images -> a prediction folder. nnU-Net's arguments and result; beyond it: one bad
image does not stop the rest, nothing half-written remains, and a manifest says what made the label maps."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnkd.auxiliary import record
from nnkd.data.dataset import DatasetSpec, ImageFolder
from nnkd.data.dicom_cases import NOT_READ, SEG_ENDING, dicom_cases, may_be_dicom
from nnkd.data.listing import label_maps
from nnkd.data.predictions import Lineage, Manifest, PredictionFolder, Weights, versions
from nnkd.data.recipes import Recipe
from nnkd.errors import DatasetError, FolderError, NnkdError, PredictionError
from nnkd.files import TEMPORARY_PREFIX, sha256
from nnkd.inference.runs import Request, Run, load_predictors
from nnkd.inference.uncertainty import UncertaintyFolder
from nnkd.replacing import DATASET_JSON, check_folder, check_results
from nnkd.types import Failure, FolderCount, StepReport

log = logging.getLogger("nnkd")


def predict(request: Request) -> StepReport:
    """Predict a folder of images, or the DICOM series in a folder or zip.

    Raises:
        NnkdError: If the model or the folder of images is not as it should be.
    """
    check_folder(request.target)
    spec = DatasetSpec(request.model.dataset_json(), request.source.name)
    if not request.source.exists():
        raise FolderError(f"There is no folder '{request.source.name}' to predict (-i).")
    if not may_be_dicom(request.source):
        raise FolderError(
            f"'{request.source.name}' is a file, but a folder of images, or a DICOM folder or zip is wanted."
        )
    cases, otherwise = _images(request.source, spec)
    if cases:
        request.wanted.check_no_dicom(request.source)
        return _predict(request, spec, cases[request.part_id :: request.num_parts])
    part = (request.part_id, request.num_parts)
    with dicom_cases(
        request.source, request.target, request.wanted, spec.channel_names, spec.file_ending, part, otherwise
    ) as given:
        return _predict(replace(request, source=given.folder, dicom=given), spec, sorted(given.images))


def _images(source: Path, spec: DatasetSpec) -> tuple[list[str], DatasetError | None]:
    """Cases of a folder of images; where there is none, why."""
    if not source.is_dir():
        return [], None
    try:
        return ImageFolder(source, spec).cases(), None
    except DatasetError as error:
        return [], error


def _predict(request: Request, spec: DatasetSpec, cases: Sequence[str]) -> StepReport:
    plans, images = request.model.plans(), ImageFolder(request.source, spec)
    folder, beside = _checked_folder(request, spec, plans, cases)
    predictors = load_predictors(request)
    _check_cascade(request, predictors[0])
    header = _header(request, plans, spec, predictors[0])
    if request.dicom is not None:
        request = replace(request, dicom=request.dicom.made_by(header))
    manifest = folder.begin(header, overwrite=not request.resume and request.num_parts == 1)
    if request.num_parts == 1:  # what a killed run left; other parts may be writing at this moment
        for leftover in request.target.glob(f"{TEMPORARY_PREFIX}*"):
            if leftover != request.source.parent:
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        UncertaintyFolder(request.target).remove_leftovers()
    for name, content in beside.items():
        folder.written.write_json(name, content)
    record.carry(request.model.parts(), request.target, request.replace)  # for nnKD_evaluate's report
    report = StepReport(folders=_counts(request, images, cases))
    if request.dicom is not None:
        report.failures += [Failure(n, why) for n, why in {**request.dicom.failed, **request.dicom.broken}.items()]
        for case in request.dicom.failed:
            folder.fail(case, NOT_READ)
    run, todo = Run(request, predictors, images, folder, report), {}
    for case in cases:
        try:
            inputs = {file.name: sha256(file) for file in images.files(case)}
        except NnkdError as error:
            run.fail(case, str(error))
            continue
        if request.resume and folder.is_done(manifest, case, inputs) and request.is_complete(case):
            report.skipped.append(case)
        else:
            todo[case] = inputs
    run.do(todo)
    report.lines.append(f"{len(report.done)} case(s) predicted, {len(report.skipped)} were there already")
    return report


def _counts(request: Request, images: ImageFolder, cases: Sequence[str]) -> list[FolderCount]:
    """Which files are taken, of those that are this call's."""
    if request.dicom is not None:
        counts = [request.dicom.count]
    else:
        counts = [images.listing.part(request.part_id, request.num_parts).told(request.target).count()]
    if request.previous_stage is not None and request.previous_stage.is_dir():
        before = label_maps(request.previous_stage, images.spec.file_ending)
        counts.append(before.only(cases, rule="of a case that is not predicted").told(request.target).count())
    return counts


def _checked_folder(
    request: Request, spec: DatasetSpec, plans: Mapping[str, Any], cases: Sequence[str]
) -> tuple[PredictionFolder, dict[str, Any]]:
    """-o, and the JSON files that nnU-Net's ensemble reads there.

    Raises:
        NnkdError: If something would be replaced that nnkd did not write; nothing has been written then.
    """
    said = check_results(request.target, request.source if request.dicom is None else None)
    folder = PredictionFolder(request.target, replace=request.replace)
    beside = {DATASET_JSON: request.model.dataset_json(), "plans.json": plans}
    others = [name for name, content in beside.items() if folder.written.differs(name, content)]
    todo = set(cases) - (set(folder.cases()) if request.resume and folder.exists() else set())
    names = [name for case in sorted(todo) for name in request.beside(case)]
    keeps = request.dicom is None or request.dicom.keeps_label_maps
    folder.check_replacing(sorted(todo) if keeps else (), spec.file_ending, [*others, *names])
    if said:
        log.warning(said)
    return folder, beside


def _header(request: Request, plans: Mapping[str, Any], spec: DatasetSpec, predictor: Any) -> Manifest:
    from nnkd.inference.samples import samples_of

    sampler = samples_of(predictor)
    recipe = Recipe.of_plans(plans)
    trainer, plans_name, configuration = request.model.folder.name.split("__")[:3]
    return Manifest(
        kind="student",
        name=request.target.name,
        made_by=trainer,
        versions=versions("nnunetv2", "torch"),
        options={
            "plans": plans_name,
            "configuration": configuration,
            "folds": list(request.model.folds),
            "checkpoint": request.model.checkpoint,
            "step_size": request.step_size,
            "mirroring": request.mirroring,
            **({"samples": sampler.number} if sampler else {}),
            "uncertainty": request.uncertainty,
            "recipe": recipe.content() if recipe.teachers or recipe.auxiliary_scheduler else None,
        },
        labels={name: list(values) for name, values in spec.labels.items()},
        file_ending=spec.file_ending if request.dicom is None or request.dicom.keeps_label_maps else SEG_ENDING,
        weights=[Weights(**w) for w in request.model.weights()],
        lineage=[Lineage(**model) for model in recipe.lineage],
        ground_truth=recipe.ground_truth,
    )


def _check_cascade(request: Request, predictor: Any) -> None:
    previous = predictor.configuration_manager.previous_stage_name
    if previous is not None and request.previous_stage is None:
        raise PredictionError(
            f"'{request.model.folder.name}' is the second stage of a cascade. Predict {previous} first and name that "
            f"folder with -prev_stage_predictions."
        )
