"""DICOM series as the images of a run: each is read once into a numbered image, and its label map goes back to it.

The images lie in a hidden folder within the results, which is gone when the run is over. Numbers, not names, since
results hold nobody's data: only a DICOM-SEG does, and it is written where it is asked for alone.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnkd.data.archives import unpack_into
from nnkd.data.predictions import Manifest
from nnkd.data.reading import formats
from nnkd.data.reading.dicom import segmentation_writer, volumes
from nnkd.data.reading.dicom.codes import CodeTable
from nnkd.data.reading.dicom.objects import shown
from nnkd.data.reading.dicom.segmentation_writer import Algorithm
from nnkd.data.reading.dicom.series import Found, scan
from nnkd.data.reading.dicom.volumes import DicomImage
from nnkd.data.reading.image import VOLUMES
from nnkd.errors import FolderError, GeometryError, NnkdError, SettingError
from nnkd.files import TEMPORARY_PREFIX
from nnkd.types import FolderCount

log = logging.getLogger("nnkd")

NOT_READ = "Its series could not be read; the run said why."  # in manifests, which hold nobody's data
NIFTI, SEG = "nifti", "dicomseg"
SEG_ENDING = ".dcm"
DICOM = "DICOM"  # what the folder is called in the count: its own name may be a patient's
CODES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT"}  # DICOM's, by what a model calls its channel


@dataclass(frozen=True)
class DicomRequest:
    """What is wanted of a DICOM folder.

    Attributes:
        series: UIDs, numbers or description patterns of the series to take; empty: all.
        modality: DICOM's code of those to take; empty: the model's, if its name says it.
        formats: What to write, of NIFTI and SEG.
        codes: A table of the user's own, of what labels mean.
    """

    series: tuple[str, ...] = ()
    modality: str = ""
    formats: tuple[str, ...] = (NIFTI,)
    codes: Path | None = None

    @property
    def needs_dicom(self) -> str:
        """What makes sense with DICOM alone, as the option's name; empty: nothing."""
        asked = {"--format dicomseg": SEG in self.formats, "--series": bool(self.series),
                 "--dicom_modality": bool(self.modality), "--segment_codes": self.codes is not None}  # fmt: skip
        return next((option for option, is_asked in asked.items() if is_asked), "")

    def check_no_dicom(self, source: Path) -> None:
        """Refuse what cannot be done, as the images are no DICOM.

        Raises:
            SettingError: If something was asked for that only DICOM has.
        """
        if self.needs_dicom:
            raise SettingError(
                f"{self.needs_dicom} goes with DICOM series, but '{source.absolute().name}' holds other images. Leave "
                f"it out, or give the folder or zip of the series (-i)."
            )


@dataclass(frozen=True)
class DicomCases:
    """Series that were read.

    Attributes:
        folder: The images, CASE_0000 and the ending that was asked for.
        images: By case, without their voxels.
        failed: Why a case could not be read, in one sentence. It may hold names of files and folders, which may be
            the patient's: it is shown and not kept.
        broken: The same by the names of files that belong to no series.
        count: Which files of the folder or zip were taken.
        formats: What to write.
        codes: What labels mean.
        algorithm: Who made the label maps.
    """

    folder: Path
    images: Mapping[str, DicomImage]
    failed: Mapping[str, str]
    broken: Mapping[str, str]
    formats: tuple[str, ...]
    codes: CodeTable = field(repr=False)
    count: FolderCount
    algorithm: Algorithm = field(default_factory=lambda: Algorithm("nnkd"))

    def made_by(self, manifest: Manifest) -> DicomCases:
        """The same, with who makes the label maps and the licences that these inherit."""
        lineage = [manifest.as_model(), *manifest.lineage]
        licences = {word for model in lineage for word in (model.licence, model.weights_licence) if word}
        licences |= {weights.licence for weights in manifest.weights if weights.licence}
        weights = ",".join(weights.sha256[:12] for weights in manifest.weights)
        parameters = {"weights": weights} if weights else {}
        version = manifest.versions.get("nnkd", "not stated")
        return replace(self, algorithm=Algorithm(manifest.made_by, version, parameters, ", ".join(sorted(licences))))

    @property
    def modalities(self) -> frozenset[str]:
        """DICOM's codes of the series."""
        return frozenset(image.modality for image in self.images.values())

    @property
    def writes_seg(self) -> bool:
        """Whether DICOM-SEGs are wanted."""
        return SEG in self.formats

    @property
    def keeps_label_maps(self) -> bool:
        """Whether NIfTI label maps are wanted, or DICOM-SEGs alone."""
        return NIFTI in self.formats

    def seg_of(self, case: str, folder: Path) -> Path:
        """Where a case's DICOM-SEG lies."""
        return folder / f"{case}{SEG_ENDING}"

    def write_seg(
        self, case: str, label_map: NDArray[np.integer], labels: Mapping[str, Sequence[int]], file: Path
    ) -> tuple[str, ...]:
        """Write a case's DICOM-SEG, in place.

        Args:
            case: Its identifier.
            label_map: (Z, Y, X) integers on the image's grid.
            labels: Integers by name.
            file: The target.

        Returns:
            What was chosen.

        Raises:
            NnkdError: If the source is gone or lacks what a DICOM-SEG needs.
        """
        return segmentation_writer.write(label_map, labels, self.images[case], file, self.algorithm, self.codes)

    def file_seg(self, case: str, label_map: Path, labels: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
        """Write a case's DICOM-SEG beside its label map, which is removed unless it is wanted, too.

        Args:
            case: Its identifier.
            label_map: On the image's grid.
            labels: Integers by name.

        Raises:
            NnkdError: As `write_seg`; GeometryError if the label map lies elsewhere.
        """
        image = formats.read(label_map)
        difference = image.grid.difference(self.images[case].grid)
        if difference:
            raise GeometryError(f"The label map of '{case}' does not lie on its series: {difference}.")
        said = self.write_seg(case, image.integers("The label map"), labels, self.seg_of(case, label_map.parent))
        if not self.keeps_label_maps:
            label_map.unlink()
        return said


def may_be_dicom(source: Path) -> bool:
    """Whether -i is an archive, or a folder that may hold series; whether it does, `dicom_cases` finds out."""
    return source.is_dir() or source.suffix.lower() == ".zip"


@contextmanager
def dicom_cases(
    source: Path,
    target: Path,
    wanted: DicomRequest,
    channels: Sequence[str] = ("",),
    ending: str = ".nii.gz",
    part: tuple[int, int] = (0, 1),
    otherwise: NnkdError | None = None,
) -> Iterator[DicomCases]:
    """Read the series of a folder or zip.

    Args:
        source: The folder or zip.
        target: The results' folder.
        wanted: What is wanted.
        channels: The model's.
        ending: Of the images, one of a format that says where it lies.
        part: Which of how many parts to take.
        otherwise: What is wrong if there is no DICOM at all.

    Raises:
        NnkdError: If there is no series, or the model wants something else.
    """
    if len(channels) > 1:
        raise SettingError(
            f"The model sees {len(channels)} channels ({', '.join(channels)}), but a DICOM series is one. Convert them "
            f"with 'nnKD_convert_dataset images_folder --channels' and predict the dataset's folder."
        )
    if ending not in VOLUMES:
        raise SettingError(f"The model's images are {ending} files, but DICOM series are volumes.")
    if SEG in wanted.formats:
        segmentation_writer.check_writable()
    codes = CodeTable.read(wanted.codes)
    there = target.is_dir()
    work = target / f"{TEMPORARY_PREFIX}{os.getpid()}-dicom"
    if part == (0, 1):  # what killed runs left, somebody's images; other parts may be at work at this moment
        for leftover in target.glob(f"{TEMPORARY_PREFIX}*-dicom"):
            shutil.rmtree(leftover, ignore_errors=True)
    try:
        (work / "images").mkdir(parents=True)
        found = scan(_unpacked(source, work / "zip"))
        if not (found.series or found.broken or any(aside.series for aside in found.aside)):
            raise otherwise or FolderError(
                f"'{source.absolute().name}' holds no image and no DICOM series. Correct -i."
            )
        found = _chosen(found, wanted, channels[0])
        yield _read(found, work / "images", wanted, ending, codes, part)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not there and target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def _unpacked(source: Path, folder: Path) -> Path:
    if source.is_dir():
        return source
    unpack_into(source, folder)
    return folder


def _chosen(found: Found, wanted: DicomRequest, channel: str) -> Found:
    modality = wanted.modality or ("" if wanted.series else CODES.get(channel.upper(), ""))
    return found.choose(wanted.series, modality)


def _read(
    found: Found, folder: Path, wanted: DicomRequest, ending: str, codes: CodeTable, part: tuple[int, int]
) -> DicomCases:
    first, step = part
    names = {f"case_{number:04d}": series for number, series in enumerate(found.series, start=1)}
    images: dict[str, DicomImage] = {}
    failed: dict[str, str] = {}
    for case in list(names)[first::step]:
        series = names[case]
        try:
            if series.problem:
                raise FolderError(series.problem)
            image = volumes.read(series.files)
            if SEG in wanted.formats:
                segmentation_writer.check_source(image)  # now, not after hours of computing
            formats.write(image, folder / f"{case}_0000{ending}")
        except NnkdError as error:
            failed[case] = str(error)
            continue
        images[case] = replace(image, array=np.zeros((1, 0, 0, 0), np.uint8))
        log.info("%s is series %s, %d slices.", case, series.title, len(image.slices))
        for sentence in image.said:
            log.warning("%s: %s.", case, sentence)
    # told by one part alone
    broken = {shown(one.file.name): f"It {one.reason}." for one in found.broken} if first == 0 else {}
    mine = [names[case] for case in list(names)[first::step]]
    count = FolderCount(DICOM, sum(len(series.files) for series in mine), _aside(found) if first == 0 else {}, broken)
    return DicomCases(folder, images, failed, broken, wanted.formats, codes, count)


def _aside(found: Found) -> dict[str, list[str]]:
    """Files that a rule sets aside, by rule."""
    names: dict[str, list[str]] = {}
    for aside in found.aside:
        names.setdefault(aside.rule, []).extend(shown(file.name) for file in aside.files)
    return names
