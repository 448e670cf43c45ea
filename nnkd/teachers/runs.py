"""A teacher at work: started once with its manifest's header, then asked for one case after another."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

from nnkd.data.dataset import DatasetSpec
from nnkd.data.intensities import is_colour
from nnkd.data.predictions import (
    Manifest,
    PredictionFolder,
    Weights,
    lineage_of,
    portable_error,
    portable_options,
    versions,
)
from nnkd.data.reading import readers
from nnkd.data.reading.geometry import Orientation
from nnkd.devices import check_device, limit_memory
from nnkd.errors import BrokenPluginError, NnkdError, PredictionError, ReplacingError, UnknownNameError
from nnkd.files import remove_leftovers, sha256
from nnkd.plugin.teachers import Teacher
from nnkd.teachers import prompts
from nnkd.teachers.answers import compose
from nnkd.teachers.box_sources import BoxSource
from nnkd.teachers.claims import Claim
from nnkd.teachers.jobs import TeacherJob, Work
from nnkd.types import Prompt, TeacherContext, Volume

OLD_S = 3600.0  # a file that has been in the writing for an hour belongs to a killed process
GIB = 2**30
log = logging.getLogger("nnkd")


@dataclass(frozen=True)
class Outcome:
    """What became of a case: done, already there (skipped), failed, or taken over by somebody else (lost)."""

    kind: Literal["done", "skipped", "failed", "lost"]
    reason: str = ""


@dataclass
class RunningTeacher:
    """A teacher that could be started.

    Attributes:
        job: What it runs for.
        work: What it shares with others.
        teacher: The teacher.
        header: What its manifest begins with.
        channel: Index of the channel it sees; None: all.
    """

    job: TeacherJob
    work: Work
    teacher: Teacher
    header: Manifest
    channel: int | None
    _seen: Manifest | None = None

    @classmethod
    def start(cls, job: TeacherJob, work: Work) -> RunningTeacher:
        """Construct a teacher and its manifest's header.

        Raises:
            NnkdError: If it cannot be started; nothing has been computed then.
        """
        channel = _channel(job, work.spec)
        device = _device(job, work.device)
        if work.max_memory is not None:
            limit_memory(device, work.max_memory * GIB)
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
        return cls(job, work, teacher, _header(job, work, weights, channel), channel)

    @property
    def folder(self) -> PredictionFolder:
        """What it writes."""
        return self.job.predictions

    def elsewhere(self, folder: Path, boxes: BoxSource | None) -> RunningTeacher:
        """The same teacher, writing to another folder, with boxes from another source."""
        work = replace(self.work, boxes=boxes)
        return RunningTeacher(replace(self.job, folder=folder), work, self.teacher, self.header, self.channel)

    def inputs(self, case: str) -> dict[str, str]:
        """sha256 of everything the case is made from."""
        found = dict(self.work.hashes[case])
        for name, file in self.teacher.inputs(case).items():
            found[name] = _sha256_once(file, file.stat().st_mtime_ns)
        if self.job.teacher.prompt == "box" and self.work.boxes is not None:
            found["boxes"] = self.work.boxes.fingerprint(case)
        return found

    def do(self, case: str, claim: Claim | None = None) -> Outcome:
        """Segment a case and write it, unless it is there already.

        Args:
            case: Its identifier.
            claim: What lets this process do it; if it was taken over meanwhile, nothing is written.

        Raises:
            NnkdError: If the disk is full: every later case would meet that too. A bad case is an outcome.
        """
        try:
            inputs = self.inputs(case)
            known = self._known(case, inputs)
            if known is not None:
                return known
            write = self._segment(case, inputs)
        except Exception as error:  # noqa: BLE001 - one bad case, or a plugin's fault, does not stop the others
            reason = portable_error(error, self.work.images.folder)
            self.folder.fail(case, reason)
            return Outcome("failed", reason)
        if claim is not None and not claim.holds():
            return Outcome("lost")
        try:
            write()
        except ReplacingError as error:  # somebody has put a file there meanwhile
            self.folder.fail(case, str(error))
            return Outcome("failed", str(error))
        return Outcome("done")

    def _known(self, case: str, inputs: Mapping[str, str]) -> Outcome | None:
        """What became of the case before, or in another process since this one began; None: nothing yet."""
        if self._seen is None:
            self._seen = self.folder.manifest()
        if self.folder.is_done(self._seen, case, inputs):
            return Outcome("skipped")
        now = self.folder.manifest()
        if self.folder.is_done(now, case, inputs):
            return Outcome("skipped")
        if now.failures.get(case) != self._seen.failures.get(case) and case in now.failures:
            return Outcome("failed", now.failures[case])
        return None

    def _segment(self, case: str, inputs: Mapping[str, str]) -> Callable[[], None]:
        """Read, predict, compose, turn back; what is returned writes the result."""
        begun = time.monotonic()
        volume, orientation, properties = self.work.images.volume(case)
        seen = volume if self.channel is None else volume.only(self.channel)
        asked = self.prompts(volume, orientation)
        if self.work.max_memory is not None:
            check_memory(seen, len(asked) or len(self.work.spec.labels), self.work.max_memory)
        returned = self.teacher.predict(seen, asked)
        answer = compose(returned, self.work.spec, volume.shape, self.job.alias)
        return partial(
            self.folder.write,
            self.work.spec,
            case,
            orientation.to_file(answer.label_map),
            properties,
            inputs=inputs,
            answers=answer.answers,
            overlaps=answer.overlaps,
            seconds=time.monotonic() - begun,
            notes=readers.noted(properties) | dict(self.teacher.notes()),
        )

    def prompts(self, volume: Volume, orientation: Orientation) -> Mapping[str, Prompt]:
        """What the teacher is told about a case, by label."""
        if self.teacher.prompt == "text":
            return prompts.texts(self.work.spec)
        if self.teacher.prompt == "box" and self.work.boxes is not None:
            return self.work.boxes.prompts(volume, orientation)
        return {}


def open_folder(job: TeacherJob, header: Manifest, work: Work, overwrite: bool) -> None:
    """Begin or continue a teacher's folder. Parts of one job (-num_parts) may all come with --overwrite: each forgets
    only its own cases, unless what is there was made otherwise.

    Raises:
        PredictionError: If it was made otherwise and is not to be overwritten.
        ReplacingError: If its manifest is none of nnkd's.
    """
    folder = job.predictions
    try:
        if overwrite and folder.exists():
            folder.check(header)
        folder.begin(header)
        if overwrite:
            folder.forget(work.cases)
    except PredictionError:
        if not overwrite:
            raise
        if folder.is_readable():
            folder.forget()
        folder.begin(header, overwrite=True)
    remove_leftovers(folder.folder, OLD_S)


def line(job: TeacherJob, kinds: Mapping[str, Sequence[str]]) -> str:
    """What became of a teacher's cases, in one line; `kinds` are those of `Outcome`."""
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


def check_memory(volume: Volume, labels: int, limit: float) -> None:
    """Refuse a case that cannot fit.

    Args:
        volume: The case.
        labels: How many are asked for; each takes a float32 a voxel until label maps are made of them.
        limit: GiB.

    Raises:
        PredictionError: If it takes more.
    """
    voxels = volume.data[0].size
    needed = (volume.data.nbytes + voxels * 4 * (labels + 2)) / GIB
    if needed > limit:
        z, y, x = volume.shape
        raise PredictionError(
            f"'{volume.case}' ({z}x{y}x{x} voxels, {labels} labels) takes at least {needed:.2f} GiB, but --max_memory "
            f"is {limit:g}. Allow more, ask for fewer labels, or crop the image."
        )


def _header(job: TeacherJob, work: Work, weights: Sequence[Weights], channel: int | None) -> Manifest:
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
        weights=list(weights),
        lineage=lineage,
        ground_truth=ground_truth,
    )
    return Manifest.model_validate_json(header.model_dump_json())


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


@cache
def _sha256_once(file: Path, _: int) -> str:
    """One file may belong to all cases; the second argument is its time of change."""
    return sha256(file)
