"""A DICOM series -> a volume on a right-angled grid, and label maps of it back to the series' slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.dicom import shears
from nnkd.data.reading.dicom.frames import UNREADABLE, Frame, Six, Three, opened, read_frames, unreadable
from nnkd.data.reading.dicom.pixels import Plane, measurements, read_planes
from nnkd.data.reading.dicom.stacks import arrange, named
from nnkd.data.reading.dicom.uptake import suv_factor
from nnkd.data.reading.image import Image
from nnkd.errors import DatasetError, GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SHARED = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality", "SeriesDescription")


@dataclass(frozen=True)
class Slice:
    """Where one plane of a volume came from.

    Attributes:
        file: The DICOM file.
        frame: 0-based frame within it.
        sop_class, sop_instance: UIDs of the file's object.
        position: ImagePositionPatient, mm LPS.
    """

    file: Path
    frame: int
    sop_class: str
    sop_instance: str
    position: Three


@dataclass(frozen=True, kw_only=True)
class DicomImage(Image):
    """A volume made of a DICOM series.

    Attributes:
        slices: In the order of the array's Z axis.
        size: (Y, X) of the slices, Rows and Columns; the array is larger where slices are shifted.
        orientation: ImageOrientationPatient.
        study, series, frame_of_reference: UIDs; empty if the files have none.
        modality: DICOM's code, such as "CT".
        description: SeriesDescription.
        offsets: (Z, 2), where the first pixel of each slice lies in the array, in voxels (y, x); None: at the first
            voxel of its plane.
    """

    slices: tuple[Slice, ...]
    size: tuple[int, int]
    orientation: Six
    study: str
    series: str
    frame_of_reference: str
    modality: str
    description: str
    offsets: NDArray[np.float64] | None = None

    def to_frames(self, label_map: NDArray[Any]) -> NDArray[Any]:
        """Bring a label map back to the frames that the volume came from.

        Args:
            label_map: (Z, Y, X) on `grid`.

        Returns:
            (len(slices), Rows, Columns), in the order of `slices`. Where slices are shifted against each other, each
            pixel has the value of the nearest voxel.

        Raises:
            GeometryError: If it has another shape.
        """
        if label_map.shape != self.grid.shape:
            raise GeometryError(
                f"A label map of {label_map.shape} voxels does not lie on the image's {self.grid.shape}. Give one that "
                f"was made on this image."
            )
        return label_map if self.offsets is None else shears.redo(label_map, self.offsets, self.size)


@dataclass(frozen=True)
class _Header:
    """What all files of a series share, and how many slices the series has by its own word (0: not said)."""

    series: str
    study: str
    frame_of_reference: str
    modality: str
    description: str
    slices: int


def read(files: Sequence[Path], suv: bool = False) -> DicomImage:
    """Read one DICOM series.

    Every file is read once, and all of them become slices: what does not fit is an error, never left out. CT has
    Hounsfield units as its slopes and intercepts say, PET what its Units say (Bq/ml), MR its rescaled values.

    Args:
        files: All files of the series, in any order.
        suv: PET becomes standardised uptake values by body weight; an error for other modalities.

    Raises:
        DatasetError: If a file is unreadable or no image, if the series is several volumes, or if SUV cannot be
            computed.
        GeometryError: If slices do not fill a box.
    """
    if not files:
        raise DatasetError("A DICOM series without a file was asked for. Give the folder that holds it.")
    where = f"The DICOM series in '{files[0].parent.name}'"
    frames: list[Frame] = []
    planes: list[Plane] = []
    headers: list[_Header] = []
    said: list[str] = []
    for file in files:
        ds = opened(file)
        found, pixels, header, sentences = _load(ds, file, suv)
        frames += found
        planes += pixels
        headers.append(header)
        said += [s for s in sentences if s not in said]
    header = _shared(headers, where)
    said += _incomplete(headers, frames, where)
    stack = arrange(frames, where)
    ordered = [frames[k] for k in stack.order]
    array, outside, more = measurements([planes[k] for k in stack.order], ordered, header.modality, not suv)
    del planes
    if stack.offsets is not None:
        array = shears.undo(array, stack.offsets, stack.grid.shape, outside)
    if ordered[0].sop_class == _SECONDARY_CAPTURE:
        said.append("it is a secondary capture: its values may be no measurements")
    if suv:
        said.append("Bq/ml became standardised uptake values by body weight")
    return DicomImage(
        array[None], stack.grid, said=(*said, *stack.said, *more),
        slices=tuple(Slice(f.file, f.index, f.sop_class, f.sop_instance, f.position) for f in ordered),
        size=frames[0].shape, orientation=ordered[0].orientation, study=header.study, series=header.series,
        frame_of_reference=header.frame_of_reference, modality=header.modality, description=header.description,
        offsets=stack.offsets,
    )  # fmt: skip


def _load(ds: Dataset, file: Path, suv: bool) -> tuple[list[Frame], list[Plane], _Header, tuple[str, ...]]:
    """Everything that is wanted of a file, so that its data set need not be kept."""
    try:
        frames = read_frames(ds, file)
        planes, said = read_planes(ds, file)
        if suv:
            factor = suv_factor(ds, file)
            frames = [replace(f, slope=f.slope * factor, intercept=f.intercept * factor) for f in frames]
        stated = int(ds.get("NumberOfSlices") or ds.get("ImagesInAcquisition") or 0)
        series, study, reference, modality, description = (str(ds.get(keyword) or "") for keyword in _SHARED)
        return frames, planes, _Header(series, study, reference, modality, description, stated), said
    except UNREADABLE as error:
        raise unreadable(file, error) from error


def _shared(headers: Sequence[_Header], where: str) -> _Header:
    """The header of the series.

    Raises:
        DatasetError: If files belong to several.
    """
    what: tuple[tuple[str, Callable[[_Header], str]], ...] = (
        ("series (SeriesInstanceUID)", lambda h: h.series),
        ("modalities", lambda h: h.modality),
        ("frames of reference, so that positions cannot be compared", lambda h: h.frame_of_reference),
    )
    for name, of in what:
        counts = Counter(of(h) for h in headers)
        if len(counts) > 1:
            raise DatasetError(
                f"{where} mixes files of {len(counts)} {name} ({', '.join(map(str, counts.values()))} files). Put "
                f"those that belong together into a folder of their own."
            )
    return headers[0]


def _incomplete(headers: Sequence[_Header], frames: Sequence[Frame], where: str) -> list[str]:
    """A word if the series is said to be larger; slices that lack at an end leave no gap.

    Raises:
        DatasetError: If a single slice of several is there.
    """
    stated = max(h.slices for h in headers)
    if stated <= len(frames):
        return []
    if len(frames) == 1:
        raise DatasetError(
            f"{where} is one slice ({named(frames)}) of {stated}, as its header says, and no volume. Export it whole."
        )
    return [f"its header speaks of {stated} slices, and {len(frames)} are here"]
