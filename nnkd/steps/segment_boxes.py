"""Images and boxes -> a prediction folder: one file or a folder of npz, volumes or pictures, segmented one by one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from tqdm import tqdm

from nnkd.boxes.cases import holds_images
from nnkd.boxes.model import OpenedBoxModel
from nnkd.boxes.runs import BoxJob, BoxWork
from nnkd.data.dicom_cases import NOT_READ, DicomCases, dicom_cases
from nnkd.data.predictions import portable_error
from nnkd.errors import SettingError
from nnkd.replacing import check_folder
from nnkd.types import Failure, StepReport

PARTS = ("start", "read", "encode", "decode", "write")


def segment_boxes(job: BoxJob, open_model: Callable[[], OpenedBoxModel], overwrite: bool = False) -> StepReport:
    """Segment what lies in boxes. Finished cases whose inputs are unchanged are passed over.

    Where the source holds no image but DICOM series, each of them is one.

    Args:
        job: What to segment and how.
        open_model: Gives the model; called when all else that can be checked is right.
        overwrite: Start anew.

    Returns:
        Cases done, skipped and failed; how long what took.

    Raises:
        NnkdError: If nothing can be done: no images, no boxes at all, a folder that was made otherwise, a file in the
            way that nnkd did not write.
    """
    check_folder(job.target)
    if not job.source.exists() or holds_images(job.source):
        job.wanted.check_no_dicom(job.source)
        return _segment(job, open_model, overwrite)
    with dicom_cases(job.source, job.target, job.wanted, (job.modality,)) as given:
        modality = job.modality or _modality(given)
        return _segment(replace(job, source=given.folder, dicom=given, modality=modality), open_model, overwrite)


def _segment(job: BoxJob, open_model: Callable[[], OpenedBoxModel], overwrite: bool) -> StepReport:
    begun = time.perf_counter()
    work = BoxWork.of(job)
    work.check_replacing(overwrite)
    opened = open_model()
    folder = work.open_folder(opened, overwrite)
    seen = folder.manifest()  # once: with thousands of cases it takes its time
    seconds = dict.fromkeys(PARTS, 0.0)
    seconds["start"] = time.perf_counter() - begun
    report = StepReport(folders=[work.count if job.dicom is None else job.dicom.count])
    if job.dicom is not None:
        report.failures += [Failure(n, why) for n, why in {**job.dicom.failed, **job.dicom.broken}.items()]
        for name in job.dicom.failed:
            folder.fail(name, NOT_READ)
    totals: Counter[str] = Counter()
    assumed: Counter[str] = Counter()
    for case in tqdm(work.cases, desc=opened.name, unit="case", disable=len(work.cases) == 1 or None):
        try:
            done = work.do(case, opened, folder, seen)
        except Exception as error:  # noqa: BLE001 - one bad case does not stop the others
            reason = portable_error(error, job.source.absolute())
            folder.fail(case.name, reason)
            report.failures.append(Failure(case.name, reason))
            continue
        if done is None:
            report.skipped.append(case.name)
            continue
        report.done.append(case.name)
        report.lines += [f"{case.name}: {sentence}" for sentence in done.said]
        totals.update(encoded=done.encoded, decoded=done.decoded)
        assumed[done.assumed] += 1
        for part, took in done.seconds.items():
            seconds[part] += took
    report.lines += _lines(job, report, assumed, totals, seconds)
    report.data = {"seconds": seconds, **totals}
    return report


def _modality(given: DicomCases) -> str:
    """What the series are of, as this command calls it."""
    if len(given.modalities) > 1:
        raise SettingError(
            f"The series are of several modalities ({', '.join(sorted(given.modalities))}), which are seen in "
            f"different windows. Choose one with --dicom_modality."
        )
    return "".join("MRI" if code == "MR" else code for code in given.modalities)


def _lines(
    job: BoxJob, report: StepReport, assumed: Mapping[str, int], totals: Mapping[str, int], seconds: Mapping[str, float]
) -> list[str]:
    lines = [
        f"{len(report.done)} written, {len(report.skipped)} already there, {len(report.failures)} failed -> "
        f"{job.target.absolute().name}"
    ]
    for kind, scale in (("CT", "a CT window"), ("not CT", "percentiles of their intensities")):
        if assumed.get(kind):
            lines.append(
                f"No modality is given: {assumed[kind]} image(s) were taken for {kind}, seen in {scale}. "
                f"Say --modality if that is wrong."
            )
    if report.done:
        times = ", ".join(f"{part} {seconds[part]:.1f}" for part in PARTS)
        lines.append(f"{totals['encoded']} slices encoded, {totals['decoded']} boxes decoded; seconds: {times}")
    return lines
