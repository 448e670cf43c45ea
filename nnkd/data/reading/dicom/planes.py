"""Where the frames of a DICOM-SEG lie on a series, by their positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.geometry import TOLERANCE
from nnkd.errors import GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from nnkd.data.reading.dicom.volumes import DicomImage


@dataclass(frozen=True)
class Plane:
    """One frame.

    Attributes:
        segment: Its number; 0: a LABELMAP's.
        origin: (3,) mm, of its first pixel.
        steps: (2, 3) mm, from a row to the next, and from a column to the next.
        instances: SOPInstanceUIDs that it was made of; empty: not said.
    """

    segment: int
    origin: NDArray[np.float64]
    steps: NDArray[np.float64]
    instances: frozenset[str]


def planes(ds: Dataset, file: Path) -> Iterator[Plane]:
    shared = (ds.get("SharedFunctionalGroupsSequence") or [None])[0]
    for frame in ds.get("PerFrameFunctionalGroupsSequence") or ():

        def group(keyword: str, frame: Dataset = frame) -> Any:
            item = frame.get(keyword) or (shared.get(keyword) if shared is not None else None)
            return item[0] if item else None

        identified, where = group("SegmentIdentificationSequence"), group("PlanePositionSequence")
        plane, measures = group("PlaneOrientationSequence"), group("PixelMeasuresSequence")
        if where is None or plane is None or measures is None:
            raise GeometryError(f"Frames of '{file.name}' do not say where they lie. Export it again.")
        cosines = np.asarray(plane.ImageOrientationPatient, dtype=float).reshape(2, 3)
        between_rows, between_columns = (float(v) for v in measures.PixelSpacing)
        derived = (
            item for d in frame.get("DerivationImageSequence") or () for item in d.get("SourceImageSequence") or ()
        )
        yield Plane(
            0 if identified is None else int(identified.ReferencedSegmentNumber),
            np.asarray(where.ImagePositionPatient, dtype=float),
            np.stack([cosines[1] * between_rows, cosines[0] * between_columns]),
            frozenset(str(item.ReferencedSOPInstanceUID) for item in derived),
        )


def laid(
    plane: Plane, pixels: NDArray[np.integer], image: DicomImage, file: Path
) -> tuple[int, NDArray[np.integer], NDArray[np.integer]]:
    """Which slice a frame lies on, and where there its pixels lie.

    Args:
        pixels: (n, 2) rows and columns of the frame.

    Returns:
        The slice's index, and rows and columns (n,) each.
    """
    cosines = np.asarray(image.orientation, dtype=float).reshape(2, 3)
    apart, between_rows, between_columns = image.grid.spacing
    axes = np.stack([np.cross(cosines[0], cosines[1]) * apart, cosines[1] * between_rows, cosines[0] * between_columns])
    world = plane.origin + pixels @ plane.steps
    origins = np.asarray([s.position for s in image.slices], dtype=float)
    away = np.abs((origins - world[0]) @ axes[0]) / apart**2
    k = int(away.argmin())
    indices = (world - origins[k]) @ np.linalg.inv(axes)
    nearest = np.rint(indices)
    off = float(np.abs(indices - nearest).max())
    on_slice = nearest[:, 0] == 0
    if off >= TOLERANCE or not on_slice.all():
        raise GeometryError(
            f"A frame of '{file.name}' lies on no slice of the series, or between its voxels (by {off:.2g} of one). "
            f"Resample it onto the series where it was made."
        )
    rows, columns = nearest[:, 1].astype(int), nearest[:, 2].astype(int)
    height, width = image.size
    if rows.min() < 0 or columns.min() < 0 or rows.max() >= height or columns.max() >= width:
        raise GeometryError(
            f"A frame of '{file.name}' has voxels outside its slice. Give the DICOM-SEG of this series."
        )
    if plane.instances & {s.sop_instance for s in image.slices} - {image.slices[k].sop_instance} and (
        image.slices[k].sop_instance not in plane.instances
    ):
        raise GeometryError(
            f"A frame of '{file.name}' lies on one slice and says that it was made of another. Export it again."
        )
    return k, rows, columns


def on_grid(frames: NDArray[np.int32], image: DicomImage) -> NDArray[np.int32]:
    """(n, Rows, Columns) in the order of the slices -> (Z, Y, X) on the image's grid: `to_frames`, the other way."""
    count = int(np.prod(image.grid.shape))
    numbered = image.to_frames(np.arange(1, count + 1, dtype=np.int64).reshape(image.grid.shape))
    found = np.zeros(count + 1, np.int32)
    found[numbered.ravel()] = frames.ravel()
    return found[1:].reshape(image.grid.shape)
