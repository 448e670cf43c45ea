"""Images and boxes -> a prediction folder: one file or a folder of npz, volumes or pictures, segmented one by one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnkd.boxes.cases import NPZ, BoxCase, find_cases
from nnkd.boxes.images import BoxImage, Slices, read_image
from nnkd.boxes.model import OpenedBoxModel
from nnkd.boxes.pictures import CtWindows, Looks, looks_of, read_windows
from nnkd.boxes.propagation import MEMORY, BoxedObject, Segmentation, segment
from nnkd.data.boxes import FORM, GivenBoxes, challenge_box, fingerprint
from nnkd.data.dataset import DatasetSpec
from nnkd.data.predictions import CaseRecord, Lineage, Manifest, PredictionFolder, Weights, portable_error, versions
from nnkd.errors import DatasetError, PredictionError, SettingError, UnknownNameError
from nnkd.files import remove_leftovers, sha256
from nnkd.types import Failure, StepReport

COSTS_ONLY = ("boxes", "runtime")  # other ones change no label map, or only voxels on the edge of rounding
OLD_S = 3600.0  # a file that has been in the writing for an hour belongs to a killed process
AS_STORED = "say --slices stored to segment the slices as they are stored"
PARTS = ("start", "read", "encode", "decode", "write")


@dataclass(frozen=True)
class BoxJob:
    """What to segment and how.

    Attributes:
        source: An image, or a folder of images.
        target: The prediction folder.
        boxes: A JSON file of boxes; None: those in the npz.
        from_reference: Draw boxes around the npz's own gts, for measurements only.
        modality: Of volumes; empty: dataset.json's, else guessed.
        window: CT's; see `nnkd.boxes.pictures.read_windows`.
        slices: Which slices of a volume are segmented.
        memory: Bytes that embeddings may take.
    """

    source: Path
    target: Path
    boxes: Path | None = None
    from_reference: bool = False
    modality: str = ""
    window: str | None = None
    slices: Slices = "axial"
    memory: int = MEMORY


def segment_boxes(job: BoxJob, open_model: Callable[[], OpenedBoxModel], overwrite: bool = False) -> StepReport:
    """Segment what lies in boxes. Finished cases whose inputs are unchanged are passed over.

    Args:
        job: What to segment and how.
        open_model: Gives the model; called when all else that can be checked is right.
        overwrite: Start anew.

    Returns:
        Cases done, skipped and failed; how long what took.

    Raises:
        NnkdError: If nothing can be done: no images, no boxes at all, a folder that was made otherwise.
    """
    begun = time.perf_counter()
    work = _prepare(job)
    opened = open_model()
    folder = _open(work, opened, overwrite)
    seen = folder.manifest()  # once: with thousands of cases it takes its time
    seconds = dict.fromkeys(PARTS, 0.0)
    seconds["start"] = time.perf_counter() - begun
    report, totals, assumed = StepReport(), Counter(), Counter()
    for case in tqdm(work.cases, desc=opened.name, unit="case", disable=len(work.cases) == 1 or None):
        try:
            outcome = _do(case, work, opened, folder, seen, seconds)
        except Exception as error:  # noqa: BLE001 - one bad case does not stop the others
            reason = portable_error(error, job.source.absolute())
            folder.fail(case.name, reason)
            report.failures.append(Failure(case.name, reason))
            continue
        if outcome is None:
            report.skipped.append(case.name)
            continue
        found, looks = outcome
        report.done.append(case.name)
        totals.update(encoded=found.encoded, decoded=found.decoded)
        assumed[looks.assumed] += 1
    report.lines = _lines(job, report, assumed, totals, seconds)
    report.data = {"seconds": seconds, **totals}
    return report


@dataclass
class _Work:
    """A job whose files were looked at.

    Attributes:
        job: It.
        cases: Its images.
        given: The file of boxes.
        labels: Integers by label; empty: objects are numbered.
        modality: Of volumes; empty: not known.
        windows: By label.
    """

    job: BoxJob
    cases: Sequence[BoxCase]
    given: GivenBoxes | None
    labels: Mapping[str, int]
    modality: str
    windows: CtWindows = field(default_factory=CtWindows)


def _prepare(job: BoxJob) -> _Work:
    cases = find_cases(job.source)
    home = job.source if job.source.is_dir() else job.source.parent
    if job.target.resolve() == home.resolve():
        raise SettingError(f"-o is the folder of the images, '{home.absolute().name}': label maps would replace them.")
    if job.target.is_file():
        raise SettingError(f"-o is the file '{job.target.name}', but a folder for label maps is expected.")
    if job.boxes is not None and job.from_reference:
        raise SettingError("--boxes and --boxes_from_gts are two sources of boxes; choose one.")
    given = None if job.boxes is None else GivenBoxes.read(job.boxes)
    if given is None and cases[0].ending not in NPZ:
        raise PredictionError(
            f"'{cases[0].file.name}' needs boxes. Add --boxes FILE, a JSON file {FORM}; a picture's boxes are "
            f"[y0, x0, y1, x1], and a volume may have [z, y0, x0, y1, x1] for single slices."
        )
    spec = next((DatasetSpec.read(f / "dataset.json") for f in (home, home.absolute().parent) if _described(f)), None)
    labels = {} if given is None else _integers(given, spec)
    modality = job.modality or (spec.channel_names[0] if spec is not None else "")
    return _Work(job, cases, given, labels, modality, read_windows(job.window, labels))


def _described(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()


def _integers(given: GivenBoxes, spec: DatasetSpec | None) -> dict[str, int]:
    """Integers of the boxes' labels: dataset.json's, else in the order in which the boxes name them."""
    if spec is None:
        return {label: number for number, label in enumerate(given.labels, start=1)}
    if spec.has_regions:
        raise DatasetError(
            f"dataset.json of {spec.name} has labels of several integers, which boxes cannot tell apart. Segment in "
            f"another folder than the dataset's."
        )
    strange = [label for label in given.labels if label not in spec.labels]
    if strange:
        raise UnknownNameError(
            f"'{given.name}' has boxes for {', '.join(strange)}, but dataset.json of {spec.name} beside the images "
            f"has {', '.join(spec.labels)}. Correct one of them."
        )
    return {label: values[0] for label, values in spec.labels.items()}


def _open(work: _Work, opened: OpenedBoxModel, overwrite: bool) -> PredictionFolder:
    job, weights = work.job, [Weights(**file) for file in opened.weights]
    options: dict[str, Any] = {
        "precision": opened.precision,
        "runtime": opened.runtime,
        "slices": job.slices,
        "modality": work.modality,
        "window": Path(job.window).name if job.window else "",
        "boxes": job.boxes.name if job.boxes else "gts" if job.from_reference else "npz",
    }
    licences = ", ".join(sorted({file.licence for file in weights if file.licence}))
    header = Manifest(
        kind="teacher",
        name=job.target.absolute().name,
        made_by=opened.name,
        versions=versions(*filter(None, (opened.distribution, opened.runtime))),
        options=options,
        labels={label: [integer] for label, integer in work.labels.items()},
        file_ending=work.cases[0].written,
        weights=weights,
        lineage=[Lineage(name=opened.name, licence=opened.licence, weights_licence=licences)],
        ground_truth=job.from_reference,
    )
    folder = PredictionFolder(job.target, COSTS_ONLY)
    folder.begin(header, overwrite)
    if overwrite:
        folder.forget(case.name for case in work.cases)
    remove_leftovers(job.target, OLD_S)
    return folder


def _do(
    case: BoxCase,
    work: _Work,
    opened: OpenedBoxModel,
    folder: PredictionFolder,
    seen: Manifest,
    seconds: dict[str, float],
) -> tuple[Segmentation, Looks] | None:
    """One case; None if it is there already."""
    begun = time.perf_counter()
    inputs = {case.file.name: sha256(case.file)}
    if work.given is not None:
        inputs["boxes"] = fingerprint(work.given.of(case.name))
    if folder.is_done(seen, case.name, inputs):
        return None
    image = read_image(case, work.job.slices)
    objects, names, looks = _objects(case, work, image)
    read = time.perf_counter()
    found = segment(opened.model, looks.picture, image.shape, objects, work.job.memory)
    computed = time.perf_counter()
    target = folder.file(case.name, case.written)
    image.write(found.label_map, target)
    record = CaseRecord(
        inputs=inputs,
        output=sha256(target),
        answers=list(names),
        overlaps={name: found.lost[integer] for name, integer in names.items() if integer in found.lost},
        seconds=round(time.perf_counter() - begun, 2),
        notes={"intensities": looks.notes(), "encoded_slices": found.encoded, "boxes": found.decoded},
    )
    if looks.assumed:
        record.notes["assumed"] = looks.assumed
    folder.record(case.name, record)
    for part, took in {**found.seconds, "read": read - begun, "write": time.perf_counter() - computed}.items():
        seconds[part] += took
    return found, looks


def _objects(case: BoxCase, work: _Work, image: BoxImage) -> tuple[list[BoxedObject], dict[str, int], Looks]:
    """What to segment in an image, integers by label, and the pictures."""
    if work.given is None:
        if work.job.from_reference:
            boxes = _around(image, case)
        elif image.boxes is None:
            raise PredictionError(
                f"'{case.file.name}' has no 'boxes'. Add --boxes FILE, or --boxes_from_gts to draw them around its gts."
            )
        else:
            said = f"'{case.file.name}' has"
            boxes = {str(n): challenge_box(b, image.shape, said) for n, b in enumerate(image.boxes.tolist(), start=1)}
        names = {name: int(name) for name in boxes}
        looks = looks_of(image, names, work.modality, work.windows)
        return [BoxedObject(names[name], box, looks.by_label[name]) for name, box in boxes.items()], names, looks
    boxes = work.given.seen(case.name, image.orientation, image.stored_shape, image.flat, AS_STORED)
    names = {label: work.labels[label] for label in boxes}
    looks = looks_of(image, names, work.modality, work.windows)
    objects = [BoxedObject(names[label], box, looks.by_label[label]) for label in boxes for box in boxes[label]]
    return objects, names, looks


def _around(image: BoxImage, case: BoxCase) -> dict[str, tuple[int, int, int, int, int, int]]:
    """A box around each value of an npz's own reference."""
    if image.reference is None:
        raise PredictionError(f"'{case.file.name}' has no 'gts' of its image's shape to draw boxes around.")
    found = {}
    for value in np.unique(image.reference):
        if value > 0:
            where = np.argwhere(image.reference == value)
            found[str(int(value))] = (*where.min(axis=0).tolist(), *(where.max(axis=0) + 1).tolist())
    return found


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
