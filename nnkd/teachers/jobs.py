"""What is asked of teachers: which of them, for which cases, and what they all share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from nnkd.data.boxes import FORM
from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.data.listing import Listing
from nnkd.data.predictions import PredictionFolder, portable_error
from nnkd.data.reading.nifti import check_whole
from nnkd.errors import DatasetError, PredictionError, UnknownNameError
from nnkd.files import sha256
from nnkd.plugin.teachers import Teacher
from nnkd.teachers import box_sources
from nnkd.teachers.box_sources import BoxSource
from nnkd.teachers.prompts import AROUND, BoxDrawing
from nnkd.types import Entry, Failure

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
        replace: Whether files in its folder that nnkd did not write may be replaced.
    """

    alias: str
    teacher: type[Teacher]
    entry: Entry
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    channel: str | int | None = None
    distribution: str = ""
    replace: bool = False

    @property
    def predictions(self) -> PredictionFolder:
        """The folder to write."""
        return PredictionFolder(self.folder, self.teacher.costs_only, self.replace)


@dataclass(frozen=True)
class TeacherRequest:
    """Which teachers are to segment what.

    Attributes:
        jobs: The teachers.
        dataset: Whose labels are asked for.
        images: The cases' images.
        cases: Which of them; None: all.
        listing: Which files of the images' folder are this call's; None: those of `cases`.
        device: "cuda", "cpu" or "mps".
        workers: How many processes or threads a teacher may use.
        boxes_from: Where teachers that are prompted by boxes get them: another teacher's name, a file, or "labels".
        drawing: How boxes are drawn around masks.
        overwrite: Start anew.
        replace: Whether pictures that nnkd did not draw may be replaced; of folders, each job says.
        dry_run: Only say what would be done, and try each teacher on its first case; nothing is written.
        preview: Only draw what the teachers make of so many cases; nothing else is written.
        preview_folder: Where to; None: the dataset's folder "preview".
        max_memory: GiB that a case, or the GPU's share, may take; None: all there is.
        executor: "here": in this process. "ray": on the nodes of a Ray cluster.
        ray_address: Of the cluster; None: one is started on this machine.
    """

    jobs: Sequence[TeacherJob]
    dataset: RawDataset
    images: ImageFolder
    _: KW_ONLY
    cases: Sequence[str] | None = None
    listing: Listing | None = None
    device: str = "cuda"
    workers: int = 1
    boxes_from: str | None = None
    drawing: BoxDrawing = AROUND
    overwrite: bool = False
    replace: bool = False
    dry_run: bool = False
    preview: int = 0
    preview_folder: Path | None = None
    max_memory: float | None = None
    executor: Literal["here", "ray"] = "here"
    ray_address: str | None = None


@dataclass(frozen=True)
class Work:
    """What all teachers of one call share.

    Attributes:
        dataset: Whose labels are asked for.
        images: The cases' images.
        cases: All that are asked for.
        boxes: Where boxes come from, if a teacher needs some.
        device: "cuda", "cpu" or "mps".
        workers: How many processes or threads a teacher may use.
        hashes: sha256 of the image files, by case; cases that cannot be read are left out.
        broken: These, and why.
        max_memory: GiB that a case, or the GPU's share, may take; None: all there is.
    """

    dataset: RawDataset
    images: ImageFolder
    cases: Sequence[str]
    boxes: BoxSource | None
    device: str
    workers: int
    hashes: Mapping[str, Mapping[str, str]]
    broken: Sequence[Failure]
    max_memory: float | None = None

    @classmethod
    def of(cls, request: TeacherRequest, cases: Sequence[str]) -> Work:
        """Find the boxes, and look at every case's files before anything is computed.

        Args:
            request: What is asked for.
            cases: Those of its cases that are to be done.

        Raises:
            NnkdError: If boxes are missing, not needed, or not what they should be.
        """
        boxes = _boxes(request)
        hashes, broken = _check_inputs(request.images, cases)
        return cls(
            dataset=request.dataset,
            images=request.images,
            cases=cases,
            boxes=boxes,
            device=request.device,
            workers=request.workers,
            hashes=hashes,
            broken=broken,
            max_memory=request.max_memory,
        )

    @property
    def spec(self) -> DatasetSpec:
        return self.images.spec

    @property
    def readable(self) -> list[str]:
        """Cases whose images could be read."""
        return [case for case in self.cases if case in self.hashes]


def _boxes(request: TeacherRequest) -> BoxSource | None:
    wanted, asking = request.boxes_from, [job for job in request.jobs if job.teacher.prompt == "box"]
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
    coming = [job.alias for job in request.jobs if job.teacher.prompt != "box"]
    return box_sources.find(wanted, request.dataset, request.images, asking[0].folder.parent, coming, request.drawing)


def _check_inputs(images: ImageFolder, cases: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Failure]]:
    """Look at every case's files before anything is computed; those that are wrong fail now, the others go on."""
    hashes, broken = {}, []
    for case in tqdm(cases, desc="checking images", unit="case", leave=False):
        try:
            files = images.files(case)
            for file in files:
                check_whole(file)
            hashes[case] = {file.name: sha256(file) for file in files}
        except UnknownNameError:
            raise
        except (DatasetError, OSError) as error:
            broken.append(Failure(case, portable_error(error, images.folder)))
            log.warning("%s cannot be done: %s", case, broken[-1].reason)
    return hashes, broken
