"""DICOM-SEG as manual labels: each frame goes to the slice that lies where it lies, whatever the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.dicom.codes import CodeTable, key
from nnkd.data.reading.dicom.frames import UNREADABLE, unreadable
from nnkd.data.reading.dicom.planes import laid, on_grid, planes
from nnkd.data.reading.image import Image
from nnkd.errors import DatasetError, GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from nnkd.data.reading.dicom.volumes import DicomImage

CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # BINARY or FRACTIONAL, and LABELMAP


@dataclass(frozen=True)
class Segment:
    """What one segment of a DICOM-SEG is.

    Attributes:
        label: Its SegmentLabel.
        codes: Values of its type, modifier and region; empty strings where there is none.
    """

    label: str
    codes: tuple[str, str, str]


def is_segmentation(file: Path) -> bool:
    """Whether a file is a DICOM-SEG."""
    import pydicom

    try:
        return str(pydicom.dcmread(file, specific_tags=["SOPClassUID"]).get("SOPClassUID", "")) in CLASSES
    except (pydicom.errors.InvalidDicomError, OSError, EOFError):
        return False


def references(file: Path) -> frozenset[str]:
    """SeriesInstanceUIDs that a DICOM-SEG refers to.

    Raises:
        DatasetError: If it is no DICOM-SEG.
    """
    ds = _opened(file, pixels=False)
    return frozenset(str(item.SeriesInstanceUID) for item in ds.get("ReferencedSeriesSequence") or ())


def read(
    file: Path, image: DicomImage, labels: Mapping[str, int] | None = None, codes: CodeTable | None = None
) -> Image:
    """Read a DICOM-SEG as a label map on an image's grid.

    Each frame goes to the slice that lies where it lies; slices without a frame are background. Segments become labels
    by their names, else by their codes.

    Args:
        file: BINARY or LABELMAP.
        image: The series that it belongs to.
        labels: Integers by label name; None: the segments' own numbers.
        codes: What labels mean; None: the package's table.

    Returns:
        One channel of integers, and what was chosen.

    Raises:
        DatasetError: If it is no DICOM-SEG or FRACTIONAL, segments overlap or are none of the labels.
        GeometryError: If it lies in another frame of reference, or frames lie on no slice.
    """
    ds = _opened(file)
    try:
        said = _check_belongs(ds, image, file)
        segments = _segments_of(ds, file)
        if labels is None:
            integers = {number: number for number in segments}
        else:
            integers = _integers(segments, labels, codes or CodeTable.read())
        frames = _Frames(np.zeros((len(image.slices), *image.size), np.int32), segments, integers)
        _fill(frames, ds, image, file)
    except UNREADABLE as error:
        raise unreadable(file, error) from error
    frames.check(file, labels or {})
    label_map = on_grid(frames.array, image)
    lost = int((frames.array > 0).sum() - (label_map > 0).sum())
    if lost:  # only where a tilt was undone: a slice's rim may lie half a voxel outside the box
        said.append(f"{lost} voxels at the rim of tilted slices lie outside the image's grid")
    missing = [segment.label for number, segment in segments.items() if number not in frames.found]
    if missing:
        said.append(f"{', '.join(missing)}: described, but without a voxel")
    return Image(label_map[None], image.grid, said=tuple(said))


@dataclass
class _Frames:
    """A label map on the slices of a series, while it is filled.

    Attributes:
        array: (n, Rows, Columns).
        segments: By number.
        integers: Of the label by the segment's number; segments that are no label have none.
        found: Numbers of segments with a voxel.
        overlaps: Voxels that two segments claim, by their labels.
        nameless: Segments with voxels that are no label.
    """

    array: NDArray[np.int32]
    segments: Mapping[int, Segment]
    integers: Mapping[int, int]
    found: set[int] = field(default_factory=set)
    overlaps: Counter[tuple[str, str]] = field(default_factory=Counter)
    nameless: set[str] = field(default_factory=set)

    def add(self, number: int, k: int, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> None:
        """Put voxels of a segment onto slice k."""
        integer, label = self.integers[number], self.segments[number].label
        there = self.array[k, rows, columns]
        for other in np.unique(there[(there > 0) & (there != integer)]).tolist():
            first = next(self.segments[n].label for n, value in self.integers.items() if value == other)
            self.overlaps[first, label] += int((there == other).sum())
        self.array[k, rows, columns] = integer
        self.found.add(number)

    def check(self, file: Path, labels: Iterable[str]) -> None:
        """Refuse what makes no label map."""
        if self.nameless:
            raise DatasetError(
                f"'{file.name}' has the segment(s) {', '.join(sorted(self.nameless))}, but the labels are "
                f"{', '.join(labels)}: neither names nor codes fit. Name them (--labels), or take them out."
            )
        if self.overlaps:
            (one, other), count = self.overlaps.most_common(1)[0]
            raise DatasetError(
                f"Segments of '{file.name}' overlap ({one} and {other} in {count} voxels), but a label map has one "
                f"label a voxel. Decide where it was made which of them is on top."
            )


def _fill(frames: _Frames, ds: Dataset, image: DicomImage, file: Path) -> None:
    from pydicom.pixels import iter_pixels

    many = ds.SegmentationType == "LABELMAP"
    # pydicom reads frames one by one only where each begins with a byte of its own
    stored = iter_pixels(ds) if ds.Rows * ds.Columns % 8 == 0 else ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    for plane, pixels in zip(planes(ds, file), stored, strict=True):
        if not pixels.any():
            continue
        for number in np.unique(pixels[pixels > 0]).tolist() if many else [plane.segment]:
            if number not in frames.segments:
                raise DatasetError(f"'{file.name}' has a frame of segment {number}, which it does not describe.")
            if number not in frames.integers:
                frames.nameless.add(frames.segments[number].label)
                continue
            where = np.argwhere(pixels == number if many else pixels)
            frames.add(number, *laid(plane, where, image, file))


def _opened(file: Path, pixels: bool = True) -> Dataset:
    import pydicom

    try:
        ds = pydicom.dcmread(file, stop_before_pixels=not pixels)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise DatasetError(f"'{file.name}' in {file.parent.name} is no DICOM file. Export it again.") from error
    if str(ds.get("SOPClassUID", "")) not in CLASSES:
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is no DICOM-SEG ({ds.get('Modality', 'no modality')})."
        )
    if ds.get("SegmentationType") not in ("BINARY", "LABELMAP"):
        raise DatasetError(
            f"'{file.name}' in {file.parent.name} is a {ds.get('SegmentationType')} DICOM-SEG, but BINARY or "
            f"LABELMAP is expected: one value a voxel. Threshold it where it was made."
        )
    return ds


def _check_belongs(ds: Dataset, image: DicomImage, file: Path) -> list[str]:
    series = {str(item.SeriesInstanceUID) for item in ds.get("ReferencedSeriesSequence") or ()}
    mine, theirs = image.frame_of_reference, str(ds.get("FrameOfReferenceUID") or "")
    if mine and theirs and mine != theirs:
        raise GeometryError(
            f"'{file.name}' lies in another frame of reference than its series: positions of one mean nothing in the "
            f"other. Register them, or give the DICOM-SEG of this series."
        )
    if image.series in series:
        return []
    if not (mine and theirs):
        raise GeometryError(
            f"'{file.name}' refers to another series, and no frame of reference says that both lie alike."
        )
    return ["refers to another series of the same frame of reference; matched by position"]


def _segments_of(ds: Dataset, file: Path) -> dict[int, Segment]:
    def value(sequence: Any) -> str:
        return str(sequence[0].get("CodeValue") or "") if sequence else ""

    found = {}
    for item in ds.get("SegmentSequence") or ():
        kind = item.get("SegmentedPropertyTypeCodeSequence")
        modifier = kind[0].get("SegmentedPropertyTypeModifierCodeSequence") if kind else None
        number = int(item.SegmentNumber)
        codes = (value(kind), value(modifier), value(item.get("AnatomicRegionSequence")))
        if number:  # 0: a LABELMAP's background
            found[number] = Segment(str(item.get("SegmentLabel") or f"segment {number}"), codes)
    if not found:
        raise DatasetError(f"'{file.name}' describes no segment. Export it again.")
    return found


def _integers(segments: Mapping[int, Segment], labels: Mapping[str, int], codes: CodeTable) -> dict[int, int]:
    """The label's integer by segment number, by name, else by code; segments that are no label are left out."""
    by_name = {key(label): integer for label, integer in labels.items()}
    by_code: dict[tuple[str, ...], int | None] = {}
    for label, integer in labels.items():
        meaning = codes.of(label)
        values = tuple("" if c is None else c.value for c in (meaning.type, meaning.modifier, meaning.region))
        by_code[values] = None if values in by_code else integer  # two labels of one code: only names tell
    found = {number: by_name.get(key(s.label), by_code.get(s.codes)) for number, s in segments.items()}
    return {number: integer for number, integer in found.items() if integer is not None}
