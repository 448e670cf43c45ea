"""imagesTr -> teachersTr (or any folder of images -> any folder): every teacher segments every case."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnkd import box_sources, prompts
from nnkd.box_sources import BoxSource
from nnkd.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.devices import check_device
from nnkd.errors import BrokenPluginError, DatasetError, NnkdError, PredictionError, UnknownNameError
from nnkd.files import remove_leftovers, sha256
from nnkd.geometry import Orientation
from nnkd.intensities import is_colour
from nnkd.interfaces import Teacher
from nnkd.labelling import compose
from nnkd.nifti import check_whole
from nnkd.predictions import Manifest, PredictionFolder, Weights, lineage_of, portable_error, portable_options, versions
from nnkd.prompts import AROUND, BoxDrawing
from nnkd.types import Entry, Failure, Prompt, StepReport, TeacherContext, Volume

OLD_S = 3600.0  # a file that has been in the writing for an hour belongs to a killed process
COMPRESSED = 0.02  # bytes a voxel of a compressed label map, roughly; for --dry_run before anything is written
log = logging.getLogger("nnkd")


@dataclass(frozen=True)
class TeacherJob:
    """One teacher to run.

    Attributes:
        alias: What to call it in folders, recipes and messages.
        teacher: Its class.
        entry: How it is registered; its licences go into the manifest.
        folder: The prediction folder to write.
        options: All options of its class, converted.
        channel: Name or index of the channel it sees; unused if it takes all of them. None: the first.
        distribution: The distribution that offers it.
    """

    alias: str
    teacher: type[Teacher]
    entry: Entry
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    channel: str | int | None = None
    distribution: str = ""


@dataclass(frozen=True)
class _Work:
    """What all teachers of one call share."""

    dataset: RawDataset
    images: ImageFolder
    cases: Sequence[str]
    boxes: BoxSource | None
    device: str
    workers: int
    hashes: Mapping[str, Mapping[str, str]]  # of the image files, by case; cases that cannot be read are left out
    broken: Sequence[Failure]

    @property
    def spec(self) -> DatasetSpec:
        return self.images.spec


@dataclass
class _Ready:
    """A teacher that could be started, and what its manifest begins with."""

    job: TeacherJob
    teacher: Teacher
    header: Manifest
    channel: int | None

    @property
    def folder(self) -> PredictionFolder:
        return PredictionFolder(self.job.folder, self.job.teacher.costs_only)


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
) -> StepReport:
    """Let teachers segment cases. Finished cases whose inputs are unchanged are passed over.

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
        dry_run: Only say what would be done; nothing is written.

    Returns:
        Cases (ALIAS/CASE with several teachers) done, skipped and failed, and a line for each teacher.

    Raises:
        NnkdError: If a teacher cannot be started, or its folder was made otherwise; nothing has been computed then.
    """
    chosen = list(images.cases() if cases is None else cases)
    jobs = sorted(jobs, key=lambda job: job.teacher.prompt == "box")  # boxes may come from a teacher of the same call
    boxes = _boxes(jobs, dataset, images, boxes_from, drawing)
    hashes, broken = _check_inputs(images, chosen)
    work = _Work(dataset, images, chosen, boxes, device, workers, hashes, broken)
    ready: list[_Ready] = []
    for job in jobs:
        ready.append(_start(job, work))
        if boxes is not None and boxes.coming and job.alias == boxes_from:
            boxes.lineage = ready[-1].header.lineage
    for one in ready:
        if one.folder.exists() and not overwrite:
            one.folder.check(one.header)
    report = StepReport(data={})
    figures: dict[str, object] = {}
    while ready:
        one = ready.pop(0)  # so that a finished teacher's memory is free for the next one
        prefix = f"{one.job.alias}/" if len(jobs) > 1 else ""
        figures[one.job.alias] = (
            _foresee(one, work, report, overwrite) if dry_run else _run(one, work, report, prefix, overwrite)
        )
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
            f"--boxes-from TEACHER, or a JSON file of the form {prompts.FORM}."
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


def _start(job: TeacherJob, work: _Work) -> _Ready:
    """Construct a teacher and its manifest's header."""
    channel = _channel(job, work.spec)
    device = _device(job, work.device)
    context = TeacherContext(tuple(work.spec.labels), device, work.dataset, work.workers)
    try:
        teacher = job.teacher(context, **job.options)
        weights = [Weights(**found) for found in teacher.weights()]
    except NnkdError:
        raise
    except Exception as error:  # a plugin's code
        raise BrokenPluginError(
            f"The teacher '{job.alias}' could not be started ({portable_error(error, work.images.folder)}). "
            f"Check its options and what it needs to be installed."
        ) from error
    options = portable_options(job.options)
    if channel is not None:
        names = work.spec.channel_names
        options["channel"] = names[channel] if names.count(names[channel]) == 1 else channel
    lineage, ground_truth = [lineage_of(job.entry, weights)], False
    if job.teacher.prompt == "box" and work.boxes is not None:
        options |= work.boxes.options
        lineage += [model for model in work.boxes.lineage if model not in lineage]
        ground_truth = work.boxes.ground_truth
    header = Manifest(
        kind="teacher",
        name=job.alias,
        made_by=job.entry.name,
        versions=versions(*filter(None, (job.distribution, "nnunetv2", "SimpleITK"))),
        options=options,
        labels={name: list(values) for name, values in work.spec.labels.items()},
        file_ending=work.spec.file_ending,
        weights=weights,
        lineage=lineage,
        ground_truth=ground_truth,
    )
    return _Ready(job, teacher, Manifest.model_validate_json(header.model_dump_json()), channel)


def _channel(job: TeacherJob, spec: DatasetSpec) -> int | None:
    """Index of the channel a teacher sees; None if it sees all of them."""
    if job.teacher.channels == "all":
        if job.channel is not None:
            raise UnknownNameError(f"The teacher '{job.alias}' takes all channels; leave {job.alias}.channel out.")
        return None
    names, wanted = spec.channel_names, 0 if job.channel is None else job.channel
    if job.teacher.channels == "colour" and job.channel is None and is_colour(names):
        return None
    if names.count(str(wanted)) == 1:
        return names.index(str(wanted))
    if str(wanted).isdigit() and int(wanted) < len(names):
        return int(wanted)
    there = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    raise UnknownNameError(f"'{job.alias}.channel' got '{wanted}', but {spec.name} has the channels {there}.")


def _device(job: TeacherJob, wanted: str) -> str:
    """Where a teacher is to compute. torch is imported only for teachers that can use more than the CPU."""
    if wanted == "cpu" or wanted not in job.teacher.devices:
        if wanted != "cpu":
            log.info("%s computes on the CPU", job.alias)
        return "cpu"
    check_device(wanted)
    return wanted


def _run(one: _Ready, work: _Work, report: StepReport, prefix: str, overwrite: bool) -> dict[str, object]:
    """All cases of one teacher."""
    _open(one, work, overwrite)
    manifest = one.folder.manifest()
    failures, done, skipped = [], [], []
    begun = time.monotonic()
    for failure in work.broken:
        one.folder.fail(failure.case, failure.reason)
        failures.append(failure)
    for case in tqdm([c for c in work.cases if c in work.hashes], desc=one.job.alias, unit="case"):
        try:
            inputs = _inputs(one, work, case)
            if one.folder.is_done(manifest, case, inputs):
                skipped.append(case)
                continue
            write = _one_case(one, work, case, inputs)
        except Exception as error:  # noqa: BLE001 - one bad case, or a plugin's fault, does not stop the others
            failures.append(Failure(case, portable_error(error, work.images.folder)))
            one.folder.fail(case, failures[-1].reason)
            continue
        write()  # out of the guard: a full disk stops the command, since every later case would meet it too
        done.append(case)
    report.done += [prefix + case for case in done]
    report.skipped += [prefix + case for case in skipped]
    report.failures += [Failure(prefix + f.case, f.reason) for f in failures]
    report.lines.append(_line(one, done, skipped, failures))
    return {"done": len(done), "skipped": len(skipped), "failed": len(failures), "seconds": time.monotonic() - begun}


def _open(one: _Ready, work: _Work, overwrite: bool) -> None:
    """Begin or continue the folder. Parts of one job (-num_parts) may all come with --overwrite: each forgets only
    its own cases, unless what is there was made otherwise."""
    folder = one.folder
    try:
        if overwrite and folder.exists():
            folder.check(one.header)
        folder.begin(one.header)
        if overwrite:
            folder.forget(work.cases)
    except PredictionError:
        if not overwrite:
            raise
        for file in folder.folder.glob(f"*{work.spec.file_ending}"):
            file.unlink()
        folder.begin(one.header, overwrite=True)
    remove_leftovers(folder.folder, OLD_S)


def _inputs(one: _Ready, work: _Work, case: str) -> dict[str, str]:
    """sha256 of everything the case is made from."""
    found = dict(work.hashes[case])
    for name, file in one.teacher.inputs(case).items():
        found[name] = _sha256_once(file, file.stat().st_mtime_ns)
    if one.job.teacher.prompt == "box" and work.boxes is not None:
        found["boxes"] = work.boxes.fingerprint(case)
    return found


@cache
def _sha256_once(file: Path, _: int) -> str:
    """One file may belong to all cases; the second argument is its time of change."""
    return sha256(file)


def _one_case(one: _Ready, work: _Work, case: str, inputs: Mapping[str, str]) -> Callable[[], None]:
    """Read, predict, compose, turn back; what is returned writes the result."""
    begun = time.monotonic()
    volume, orientation, properties = work.images.volume(case)
    seen = volume if one.channel is None else volume.only(one.channel)
    returned = one.teacher.predict(seen, _prompts(one, work, volume, orientation))
    answer = compose(returned, work.spec, volume.shape, one.job.alias)
    return partial(
        one.folder.write,
        work.spec,
        case,
        orientation.to_file(answer.label_map),
        properties,
        inputs=inputs,
        answers=answer.answers,
        overlaps=answer.overlaps,
        seconds=time.monotonic() - begun,
        notes=one.teacher.notes(),
    )


def _prompts(one: _Ready, work: _Work, volume: Volume, orientation: Orientation) -> Mapping[str, Prompt]:
    if one.teacher.prompt == "text":
        return prompts.texts(work.spec)
    if one.teacher.prompt == "box" and work.boxes is not None:
        return work.boxes.prompts(volume, orientation)
    return {}


def _line(one: _Ready, done: Sequence[str], skipped: Sequence[str], failures: Sequence[Failure]) -> str:
    where = f"{one.job.folder.parent.name}/{one.job.folder.name}"
    text = f"{one.job.alias}: {len(done)} written, {len(skipped)} already there, {len(failures)} failed -> {where}"
    manifest = one.folder.manifest()
    lost: dict[str, int] = {}
    for case in done:
        for label, voxels in manifest.cases[case].overlaps.items():
            lost[label] = lost.get(label, 0) + voxels
    if lost:
        text += "; voxels lost where masks overlapped: " + ", ".join(f"{label} {n}" for label, n in lost.items())
    return text


def _foresee(one: _Ready, work: _Work, report: StepReport, overwrite: bool) -> dict[str, object]:
    """What a run would do; writes nothing."""
    manifest = one.header if overwrite or not one.folder.exists() else one.folder.manifest()
    done, todo, failures = [], [], list(work.broken)
    for case in work.hashes:
        try:
            inputs = _inputs(one, work, case)
            (done if one.folder.is_done(manifest, case, inputs) else todo).append(case)
        except (NnkdError, OSError) as error:
            if one.job.teacher.prompt == "box" and work.boxes is not None and work.boxes.coming:
                todo.append(case)
                continue
            failures.append(Failure(case, portable_error(error, work.images.folder)))
    size = _bytes_per_case(one, work, manifest) * len(todo)
    report.failures += failures
    report.lines.append(
        f"{one.job.alias}: {len(todo)} to do, {len(done)} already there, {len(failures)} cannot be done; about "
        f"{size / 1e6:.1f} MB to write to {one.job.folder.parent.name}/{one.job.folder.name} (dry run)"
    )
    return {"todo": len(todo), "done": len(done), "failed": len(failures), "bytes": size}


def _bytes_per_case(one: _Ready, work: _Work, manifest: Manifest) -> float:
    """Mean size of the label maps that are there; before the first, a guess from the first image's size."""
    sizes = [one.folder.file(case, manifest.file_ending).stat().st_size for case in manifest.cases]
    if sizes:
        return sum(sizes) / len(sizes)
    for case in work.hashes:
        try:
            array, _, _ = work.images.read(case)
        except DatasetError:
            continue
        packed = work.spec.file_ending.endswith((".gz", ".png", ".nrrd", ".tif", ".tiff"))
        return float(array[0].size) * (COMPRESSED if packed else 1.0)
    return 0.0
