"""imagesTr -> teachersTr (or any folder of images -> any folder): every teacher segments every case."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from nnkd.data.labels.numbering import numbering_problem
from nnkd.errors import SettingError
from nnkd.replacing import Written, check_results
from nnkd.teachers import previews
from nnkd.teachers.dry_run import foresee, measure
from nnkd.teachers.jobs import TeacherJob, TeacherRequest, Work
from nnkd.teachers.ray_cluster import RayTeacher
from nnkd.teachers.runs import Outcome, RunningTeacher, line, open_folder
from nnkd.teachers.sharing import do_here
from nnkd.types import Failure, FolderCount, StepReport
from nnkd.weights.licences import announcement

log = logging.getLogger("nnkd")
Started = TypeVar("Started", RunningTeacher, RayTeacher)


def predict_teachers(request: TeacherRequest) -> StepReport:
    """Let teachers segment cases. Finished cases whose inputs are unchanged are passed over, and so are those that
    another process is at work on, until it is done or dead.

    Args:
        request: Which teachers, which cases, and how.

    Returns:
        Cases (ALIAS/CASE with several teachers) done, skipped and failed, and a line for each teacher.

    Raises:
        NnkdError: If a teacher cannot be started, or its folder was made otherwise; nothing has been computed then.
    """
    dry_run, preview = request.dry_run, request.preview
    _warn_of_labels(request)
    if preview and dry_run:
        raise SettingError("--preview and --dry_run are two things; ask for one of them.")
    chosen = list(request.images.cases() if request.cases is None else request.cases)
    pictures = request.preview_folder or request.dataset.folder / previews.FOLDER
    if preview:
        chosen = previews.spread(chosen, preview)
        Written(pictures, request.replace).check(f"{case}.png" for case in chosen)
    else:
        _check_replacing(request, chosen)
    work = Work.of(request, chosen)
    if preview:
        tried = _started_here(request, work)
        report = _preview(tried, Written(pictures, request.replace))
        return replace(report, folders=_counts(request, tried))
    if dry_run:
        tried = _started_here(request, work)
        _check_folders(tried, request)
        return replace(_foresee(tried, request.overwrite), folders=_counts(request, tried))
    ready: list[RunningTeacher] | list[RayTeacher]
    if request.executor == "ray":
        ready = _started(request, work, partial(RayTeacher.start, work=work, address=request.ray_address))
    else:
        ready = _started_here(request, work)
    _check_folders(ready, request)
    figures, several = {}, len(ready) > 1
    report = StepReport(folders=_counts(request, ready))
    while ready:
        one = ready.pop(0)  # so that a finished teacher's memory is free for the next one
        figures[one.job.alias] = _run(one, work, report, f"{one.job.alias}/" if several else "", request.overwrite)
        del one
    report.data = figures
    return report


def _warn_of_labels(request: TeacherRequest) -> None:
    """Say before hours are spent that nothing can be trained on what these teachers write. It can be compared all the
    same, so it is no error here."""
    problem = numbering_problem(request.dataset.spec)
    if problem and any(job.folder.parent == request.dataset.teachers_folder() for job in request.jobs):
        log.warning("No student can be trained on this: dataset.json of %s %s", request.dataset.name, problem)


def _counts(request: TeacherRequest, ready: Sequence[RunningTeacher] | Sequence[RayTeacher]) -> list[FolderCount]:
    """Which files are taken: of the images, and of folders that teachers read beside them."""
    images = request.images.listing
    mine = images if request.cases is None else images.only(request.cases, rule="of a case that is not asked for")
    counts = [(request.listing or mine).count()]
    for one in ready:
        if isinstance(one, RunningTeacher):
            counts += one.teacher.folders(request.images.cases())
    return counts


def _started_here(request: TeacherRequest, work: Work) -> list[RunningTeacher]:
    return _started(request, work, partial(RunningTeacher.start, work=work))


def _started(request: TeacherRequest, work: Work, start: Callable[[TeacherJob], Started]) -> list[Started]:
    """The teachers, those that are prompted by boxes last: boxes may come from a teacher of the same call."""
    ready: list[Started] = []
    for job in sorted(request.jobs, key=lambda job: job.teacher.prompt == "box"):
        ready.append(start(job))
        if work.boxes is not None and work.boxes.coming and job.alias == request.boxes_from:
            work.boxes.lineage = ready[-1].header.lineage
    return ready


def _check_folders(ready: Sequence[RunningTeacher | RayTeacher], request: TeacherRequest) -> None:
    for one in ready:
        folder = one.job.predictions
        if folder.exists() and not request.overwrite:
            folder.check(one.header)


def _check_replacing(request: TeacherRequest, cases: Sequence[str]) -> None:
    """Refuse what would replace files that nnkd did not write, before any teacher is started."""
    for job in request.jobs:
        said = check_results(job.folder, request.images.folder)
        folder = job.predictions
        done = set(folder.cases()) if folder.is_readable() and not request.overwrite else set()
        folder.check_replacing([case for case in cases if case not in done], request.images.spec.file_ending)
        if said:
            log.warning(said)


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
    report.lines.append(line(one.job, kinds))
    bound = announcement((model.model_dump() for model in one.header.lineage), f"what {one.job.alias} writes")
    report.lines += [bound] if bound else []
    numbers: dict[str, object] = {kind: len(cases) for kind, cases in kinds.items()}
    return {**numbers, "seconds": time.monotonic() - begun}


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


def _preview(ready: Sequence[RunningTeacher], written: Written) -> StepReport:
    """Pictures of a few cases as all teachers see them."""
    work, several, folder = ready[0].work, len(ready) > 1, written.folder
    report = StepReport(failures=list(work.broken))
    with previews.aside(ready) as moved:
        for one in moved:
            for case in tqdm(work.readable, desc=f"{one.job.alias}, preview", unit="case"):
                outcome = one.do(case)
                if outcome.kind == "failed":
                    report.failures.append(Failure(f"{one.job.alias}/{case}" if several else case, outcome.reason))
        for case in work.readable:
            drawn = previews.draw(moved, case, written)
            if drawn:
                report.done.append(case)
                report.lines.append(f"{folder.name}/{case}.png  {', '.join(drawn)}")
    report.data = {"preview": [folder / f"{case}.png" for case in report.done]}
    return report
