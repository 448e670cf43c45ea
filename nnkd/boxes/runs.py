"""One run over images with boxes: what is asked for, its prediction folder, and each image on its way through."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.boxes.cases import NPZ, BoxCase, count, find_cases
from nnkd.boxes.images import BoxImage, Slices, read_image
from nnkd.boxes.model import OpenedBoxModel
from nnkd.boxes.pictures import CtWindows, Looks, looks_of, read_windows
from nnkd.boxes.propagation import MEMORY, BoxedObject, segment
from nnkd.data.boxes import FORM, GivenBoxes, challenge_box, fingerprint
from nnkd.data.dataset import DatasetSpec
from nnkd.data.dicom_cases import SEG_ENDING, DicomCases, DicomRequest
from nnkd.data.predictions import CaseRecord, Lineage, Manifest, PredictionFolder, Weights, versions
from nnkd.data.reading.geometry import Box3D
from nnkd.errors import DatasetError, PredictionError, SettingError, UnknownNameError
from nnkd.files import remove_leftovers, sha256
from nnkd.replacing import check_results
from nnkd.types import FolderCount

log = logging.getLogger("nnkd")
COSTS_ONLY = ("boxes", "runtime")  # other ones change no label map, or only voxels on the edge of rounding
OLD_S = 3600.0  # a file that has been in the writing for an hour belongs to a killed process
AS_STORED = "say --slices stored to segment the slices as they are stored"


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
        wanted: What is wanted of DICOM series.
        dicom: The series that `source` was made of; None: it was made of none.
        replace: Whether files that nnkd did not write may be replaced.
    """

    source: Path
    target: Path
    boxes: Path | None = None
    from_reference: bool = False
    modality: str = ""
    window: str | None = None
    slices: Slices = "axial"
    memory: int = MEMORY
    wanted: DicomRequest = field(default_factory=DicomRequest)
    dicom: DicomCases | None = None
    replace: bool = False


@dataclass(frozen=True)
class Done:
    """An image that was segmented.

    Attributes:
        encoded: How often a slice was embedded.
        decoded: How many boxes were.
        assumed: What was assumed about its intensities; empty: nothing.
        seconds: Wall time of "read", "encode", "decode" and "write".
        said: What was chosen to write it.
    """

    encoded: int
    decoded: int
    assumed: str
    seconds: Mapping[str, float]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoxWork:
    """A job whose files were looked at.

    Attributes:
        job: It.
        cases: Its images.
        given: The file of boxes.
        labels: Integers by label; empty: objects are numbered.
        modality: Of volumes; empty: not known.
        windows: By label.
        count: Which files of the source are taken.
    """

    job: BoxJob
    cases: Sequence[BoxCase]
    given: GivenBoxes | None
    labels: Mapping[str, int]
    modality: str
    count: FolderCount
    windows: CtWindows = field(default_factory=CtWindows)

    @classmethod
    def of(cls, job: BoxJob) -> BoxWork:
        """Look at a job's files.

        Raises:
            NnkdError: If nothing can be done: no images, no boxes at all, two sources of boxes.
        """
        given = None if job.boxes is None else GivenBoxes.read(job.boxes)
        cases = find_cases(job.source, () if given is None else given.content)
        home = job.source if job.source.is_dir() else job.source.parent
        said = check_results(job.target, home)
        if said:
            log.warning(said)
        if job.boxes is not None and job.from_reference:
            raise SettingError("--boxes and --boxes_from_gts are two sources of boxes; choose one.")
        if given is None and cases[0].ending not in NPZ:
            raise PredictionError(
                f"'{cases[0].file.name}' needs boxes. Add --boxes FILE, a JSON file {FORM}; a picture's boxes are "
                f"[y0, x0, y1, x1], and a volume may have [z, y0, x0, y1, x1] for single slices."
            )
        spec = next(
            (DatasetSpec.read(f / "dataset.json") for f in (home, home.absolute().parent) if _described(f)), None
        )
        labels = {} if given is None else _integers(given, spec)
        modality = job.modality or (spec.channel_names[0] if spec is not None else "")
        window = Path(job.window) if job.window else None
        counted = count(job.source, cases, job.target, job.boxes, window)
        return cls(job, cases, given, labels, modality, counted, read_windows(job.window, labels))

    @property
    def folder(self) -> PredictionFolder:
        """The prediction folder."""
        return PredictionFolder(self.job.target, COSTS_ONLY, self.job.replace)

    def check_replacing(self, overwrite: bool) -> None:
        """Refuse to replace what nnkd did not write, before anything is computed.

        Raises:
            ReplacingError: If a case that is not done would.
        """
        dicom, folder = self.job.dicom, self.folder
        done = set(folder.cases()) if folder.is_readable() and not overwrite else set()
        todo = [case.name for case in self.cases if case.name not in done]
        segs = [dicom.seg_of(case, folder.folder).name for case in todo] if dicom and dicom.writes_seg else []
        keeps = dicom is None or dicom.keeps_label_maps
        folder.check_replacing(todo if keeps else (), self.cases[0].written, segs)

    def open_folder(self, opened: OpenedBoxModel, overwrite: bool) -> PredictionFolder:
        """Begin or continue the prediction folder.

        Raises:
            PredictionError: If it was made otherwise and is not to be overwritten.
        """
        job, weights = self.job, [Weights(**file) for file in opened.weights]
        options: dict[str, Any] = {
            "precision": opened.precision,
            "runtime": opened.runtime,
            "slices": job.slices,
            "modality": self.modality,
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
            labels={label: [integer] for label, integer in self.labels.items()},
            file_ending=self.cases[0].written if job.dicom is None or job.dicom.keeps_label_maps else SEG_ENDING,
            weights=weights,
            lineage=[Lineage(name=opened.name, licence=opened.licence, weights_licence=licences)],
            ground_truth=job.from_reference,
        )
        folder = self.folder
        folder.begin(header, overwrite)
        if overwrite:
            folder.forget(case.name for case in self.cases)
        remove_leftovers(job.target, OLD_S)
        return folder

    def do(self, case: BoxCase, opened: OpenedBoxModel, folder: PredictionFolder, seen: Manifest) -> Done | None:
        """Segment an image and write what was found.

        Args:
            case: Which.
            opened: The model.
            folder: Where to.
            seen: Its manifest when this run began.

        Returns:
            What it took; None if it is there already.

        Raises:
            NnkdError: If the image or its boxes are wrong, or the label map cannot be written.
        """
        begun = time.perf_counter()
        inputs = {case.file.name: sha256(case.file)}
        if self.given is not None:
            inputs["boxes"] = fingerprint(self.given.of(case.name))
        if folder.is_done(seen, case.name, inputs) and self._is_filed(case, folder):
            return None
        image = read_image(case, self.job.slices)
        objects, names, looks = self._objects(case, image)
        read = time.perf_counter()
        found = segment(opened.model, looks.picture, image.shape, objects, self.job.memory)
        computed = time.perf_counter()
        target = folder.file(case.name, seen.file_ending)
        said = self._file(case, image.in_file_order(found.label_map), names, folder, seen)
        if self.job.dicom is None or self.job.dicom.keeps_label_maps:
            image.write(found.label_map, target, partial(folder.announce, target.name))
            folder.adopt_sidecar(case.name, seen.file_ending)
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
        if looks.odd:
            record.notes["images"] = list(looks.odd)
        folder.record(case.name, record)
        seconds = {**found.seconds, "read": read - begun, "write": time.perf_counter() - computed}
        return Done(found.encoded, found.decoded, looks.assumed, seconds, (*looks.odd, *said))

    def _is_filed(self, case: BoxCase, folder: PredictionFolder) -> bool:
        """Whether a case's DICOM-SEG is there, if one is wanted."""
        dicom = self.job.dicom
        return dicom is None or not dicom.writes_seg or dicom.seg_of(case.name, folder.folder).is_file()

    def _file(
        self, case: BoxCase, label_map: np.ndarray, names: Mapping[str, int], folder: PredictionFolder, seen: Manifest
    ) -> tuple[str, ...]:
        """Write a case's DICOM-SEG, if one is wanted; returns what was chosen."""
        dicom = self.job.dicom
        if dicom is None or not dicom.writes_seg:
            return ()
        labels = {name: [integer] for name, integer in names.items()}
        with folder.written.writing(dicom.seg_of(case.name, folder.folder).name) as temporary:
            return dicom.made_by(seen).write_seg(case.name, label_map, labels, temporary)

    def _objects(self, case: BoxCase, image: BoxImage) -> tuple[list[BoxedObject], dict[str, int], Looks]:
        """What to segment in an image, integers by label, and the pictures."""
        boxes = self._boxes(case, image)
        names = {label: self.labels[label] if self.labels else int(label) for label in boxes}
        looks = looks_of(image, names, self.modality, self.windows)
        objects = [BoxedObject(names[label], box, looks.by_label[label]) for label in boxes for box in boxes[label]]
        return objects, names, looks

    def _boxes(self, case: BoxCase, image: BoxImage) -> dict[str, list[Box3D]]:
        """An image's boxes by label; those of an npz are numbered."""
        if self.given is not None:
            return self.given.seen(case.name, image.orientation, image.stored_shape, image.flat, AS_STORED)
        if self.job.from_reference:
            return _around(image, case)
        if image.boxes is None:
            raise PredictionError(
                f"'{case.file.name}' has no 'boxes'. Add --boxes FILE, or --boxes_from_gts to draw them around its gts."
            )
        numbered = enumerate(image.boxes.tolist(), start=1)
        return {str(n): [challenge_box(box, image.shape, f"'{case.file.name}' has")] for n, box in numbered}


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


def _around(image: BoxImage, case: BoxCase) -> dict[str, list[Box3D]]:
    """A box around each value of an npz's own reference."""
    if image.reference is None:
        raise PredictionError(f"'{case.file.name}' has no 'gts' of its image's shape to draw boxes around.")
    found = {}
    for value in np.unique(image.reference):
        if value > 0:
            where = np.argwhere(image.reference == value)
            found[str(int(value))] = [(*where.min(axis=0).tolist(), *(where.max(axis=0) + 1).tolist())]
    return found
