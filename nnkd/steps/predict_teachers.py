"""imagesTr -> teachersTr (or any folder of images -> any folder): every teacher segments every case."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from nnkd.data.boxes import FORM
from nnkd.data.dataset import ImageFolder, RawDataset
from nnkd.data.nifti import check_whole
from nnkd.data.predictions import portable_error
from nnkd.errors import DatasetError, PredictionError, SettingError, UnknownNameError
from nnkd.files import sha256
from nnkd.teachers import box_sources, previews
from nnkd.teachers.box_sources import BoxSource
from nnkd.teachers.dry_run import foresee, measure
from nnkd.teachers.prompts import AROUND, BoxDrawing
from nnkd.teachers.ray_cluster import RayTeacher
from nnkd.teachers.runs import Outcome, RunningTeacher, TeacherJob, Work, open_folder
from nnkd.teachers.sharing import do_here
from nnkd.types import Failure, StepReport
from nnkd.weights.licences import announcement

log = logging.getLogger("nnkd")


def predict_teachers(
    jobs: Sequence[TeacherJob],
    dataset: RawDataset,
    images: ImageFolder,
    *,
    cases: Sequence[str] | None = None,
    device: str = "cuda",
    workers: int = 1,
    boxes_from: str | None = None,
    drawing: BoxDrawing = AROUND,
    overwrite: bool = False,
    dry_run: bool = False,
    preview: int = 0,
    preview_folder: Path | None = None,
    max_memory: float | None = None,
    executor: Literal["here", "ray"] = "here",
    ray_address: str | None = None,
) -> StepReport:
    """Let teachers segment cases. Finished cases whose inputs are unchanged are passed over, and so are those that
    another process is at work on, until it is done or dead.

    Args:
        jobs: The teachers.
        dataset: Whose labels are asked for.
        images: The cases' images.
        cases: Which of them; None: all.
        device: "cuda", "cpu" or "mps".
        workers: How many processes or threads a teacher may use.
        boxes_from: Where teachers that are prompted by boxes get them: another teacher's name, a file, or "labels".
        drawing: How boxes are drawn around masks.
        overwrite: Start anew.
        dry_run: Only say what would be done, and try each teacher on its first case; nothing is written.
        preview: Only draw what the teachers make of so many cases; nothing else is written.
        preview_folder: Where to; None: the dataset's folder "preview".
        max_memory: GiB that a case, or the GPU's share, may take; None: all there is.
        executor: "here": in this process. "ray": on the nodes of a Ray cluster.
        ray_address: Of the cluster; None: one is started on this machine.

    Returns:
        Cases (ALIAS/CASE with several teachers) done, skipped and failed, and a line for each teacher.

    Raises:
        NnkdError: If a teacher cannot be started, or its folder was made otherwise; nothing has been computed then.
    """
    if preview and dry_run:
        raise SettingError("--preview and --dry_run are two things; ask for one of them.")
    chosen = list(images.cases() if cases is None else cases)
    chosen = previews.spread(chosen, preview) if preview else chosen
    jobs = sorted(jobs, key=lambda job: job.teacher.prompt == "box")  # boxes may come from a teacher of the same call
    boxes = _boxes(jobs, dataset, images, boxes_from, drawing)
    hashes, broken = _check_inputs(images, chosen)
    work = Work(dataset, images, chosen, boxes, device, workers, hashes, broken, max_memory)
    on_ray = executor == "ray" and not (dry_run or preview)
    ready: list[RunningTeacher | RayTeacher] = []
    for job in jobs:
        ready.append(RayTeacher.start(job, work, ray_address) if on_ray else RunningTeacher.start(job, work))
        if boxes is not None and boxes.coming and job.alias == boxes_from:
            boxes.lineage = ready[-1].header.lineage
    if preview:
        return _preview(ready, preview_folder or dataset.folder / previews.FOLDER)
    for one in ready:
        if one.job.predictions.exists() and not overwrite:
            one.job.predictions.check(one.header)
    if dry_run:
        return _foresee(ready, overwrite)
    report, figures, several = StepReport(), {}, len(jobs) > 1
    while ready:
        one = ready.pop(0)  # so that a finished teacher's memory is free for the next one
        figures[one.job.alias] = _run(one, work, report, f"{one.job.alias}/" if several else "", overwrite)
        del one
    report.data = figures
    return report


def _boxes(
    jobs: Sequence[TeacherJob], dataset: RawDataset, images: ImageFolder, wanted: str | None, drawing: BoxDrawing
) -> BoxSource | None:
    asking = [job for job in jobs if job.teacher.prompt == "box"]
    if wanted is None and asking:
        names = ", ".join(job.alias for job in asking)
        raise PredictionError(
            f"The teacher{'s' if len(asking) > 1 else ''} {names} must be prompted by boxes, but none are given. Add "
            f"--boxes-from TEACHER, or a JSON file of the form {FORM}."
        )
    if wanted is None:
        return None
    if not asking:
        raise PredictionError("--boxes-from is given, but none of the chosen teachers is prompted by boxes.")
    if wanted in (job.alias for job in asking):
        raise PredictionError(f"'{wanted}' needs boxes itself, so they cannot come from it; name another teacher.")
    coming = [job.alias for job in jobs if job.teacher.prompt != "box"]
    return box_sources.find(wanted, dataset, images, asking[0].folder.parent, coming, drawing)


def _check_inputs(images: ImageFolder, cases: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Failure]]:
    """Look at every case's files before anything is computed; those that are wrong fail now, the others go on."""
    hashes, broken = {}, []
    for case in tqdm(cases, desc="checking images", unit="case", leave=False):
        try:
            files = images.files(case)
            for file in files:
                if file.stat().st_size == 0:
                    raise DatasetError(f"'{file.name}' in {file.parent.name} is empty (0 bytes). Copy it again.")
                check_whole(file)
            hashes[case] = {file.name: sha256(file) for file in files}
        except UnknownNameError:
            raise
        except (DatasetError, OSError) as error:
            broken.append(Failure(case, portable_error(error, images.folder)))
            log.warning("%s cannot be done: %s", case, broken[-1].reason)
    return hashes, broken


def _run(
    one: RunningTeacher | RayTeacher, work: Work, report: StepReport, prefix: str, overwrite: bool
) -> dict[str, object]:
    """All cases of one teacher."""
    open_folder(one.job, one.header, work, overwrite)
    begun = time.monotonic()
    found: dict[str, Outcome] = {failure.case: Outcome("failed", failure.reason) for failure in work.broken}
    for failure in work.broken:
        one.job.predictions.fail(failure.case, failure.reason)
    outcomes = one.do_all(work.readable) if isinstance(one, RayTeacher) else do_here(one, work.readable)
    for case, outcome in tqdm(outcomes, desc=one.job.alias, unit="case", total=len(work.readable)):
        found[case] = outcome
    kinds = {kind: [case for case in work.cases if found[case].kind == kind] for kind in ("done", "skipped", "failed")}
    report.done += [prefix + case for case in kinds["done"]]
    report.skipped += [prefix + case for case in kinds["skipped"]]
    report.failures += [Failure(prefix + case, found[case].reason) for case in kinds["failed"]]
    report.lines.append(_line(one.job, kinds))
    bound = announcement((model.model_dump() for model in one.header.lineage), f"what {one.job.alias} writes")
    report.lines += [bound] if bound else []
    numbers: dict[str, object] = {kind: len(cases) for kind, cases in kinds.items()}
    return {**numbers, "seconds": time.monotonic() - begun}


def _line(job: TeacherJob, kinds: Mapping[str, Sequence[str]]) -> str:
    where = f"{job.folder.parent.name}/{job.folder.name}"
    text = (
        f"{job.alias}: {len(kinds['done'])} written, {len(kinds['skipped'])} already there, "
        f"{len(kinds['failed'])} failed -> {where}"
    )
    manifest = job.predictions.manifest()
    lost: dict[str, int] = {}
    for case in kinds["done"]:
        record = manifest.cases.get(case)  # another call with --overwrite may have forgotten it already
        for label, voxels in (record.overlaps if record else {}).items():
            lost[label] = lost.get(label, 0) + voxels
    if lost:
        text += "; voxels lost where masks overlapped: " + ", ".join(f"{label} {n}" for label, n in lost.items())
    return text


def _foresee(ready: Sequence[RunningTeacher], overwrite: bool) -> StepReport:
    """What a run would do, from counts and from each teacher's first case, tried aside."""
    report, figures = StepReport(), {}
    forecasts = [foresee(one, overwrite) for one in ready]
    first = next((case for forecast in forecasts for case in forecast.todo), None)
    with previews.aside(ready) as moved:
        for one, forecast in zip(moved, forecasts, strict=True):
            if first is not None:
                measure(one, first, forecast)
    for one, forecast in zip(ready, forecasts, strict=True):
        report.failures += forecast.failures
        report.lines.append(forecast.line(one))
        figures[one.job.alias] = forecast.figures()
    report.data = figures
    return report


def _preview(ready: Sequence[RunningTeacher], folder: Path) -> StepReport:
    """Pictures of a few cases as all teachers see them."""
    work, several = ready[0].work, len(ready) > 1
    report = StepReport(failures=list(work.broken))
    with previews.aside(ready) as moved:
        for one in moved:
            for case in tqdm(work.readable, desc=f"{one.job.alias}, preview", unit="case"):
                outcome = one.do(case)
                if outcome.kind == "failed":
                    report.failures.append(Failure(f"{one.job.alias}/{case}" if several else case, outcome.reason))
        for case in work.readable:
            drawn = previews.draw(moved, case, folder / f"{case}.png")
            if drawn:
                report.done.append(case)
                report.lines.append(f"{folder.name}/{case}.png  {', '.join(drawn)}")
    report.data = {"preview": [folder / f"{case}.png" for case in report.done]}
    return report
