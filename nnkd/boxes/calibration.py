"""Pictures with boxes, from a folder that a user has, on which a box model is made smaller and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnkd.boxes.cases import BoxCase, count, find_cases
from nnkd.boxes.images import BoxImage, read_image
from nnkd.boxes.pictures import CtWindows, looks_of
from nnkd.data.dataset import DatasetSpec
from nnkd.data.intensities import windows_of
from nnkd.errors import DatasetError, FolderError
from nnkd.types import FolderCount

MOST = 64  # pictures, at most one from each image, spread over all images
SMALLEST = 20  # pixels of a mask that counts


@dataclass(frozen=True)
class CalibrationPicture:
    """A slice with boxes.

    Attributes:
        case: Its image's name.
        image: (H, W, 3) uint8.
        boxes: (n, 4) int, rows (y0, x0, y1, x1), upper bounds excluded.
        masks: (n, H, W) bool, what is in each box; None: not known.
    """

    case: str
    image: NDArray[np.uint8]
    boxes: NDArray[np.integer]
    masks: NDArray[np.bool_] | None


def read_pictures(folder: Path) -> tuple[list[CalibrationPicture], FolderCount]:
    """Read one slice of each image: the one with the largest reference, or the middle one.

    Args:
        folder: MedSAM's npz (imgs, gts); or a raw dataset with imagesTr and labelsTr; or images alone, whose boxes then
            are the middle halves of the slices.

    Returns:
        The pictures, and which files of the folder were taken; of many images, MOST are.

    Raises:
        FolderError: If there is no image.
        DatasetError: If one is broken.
    """
    if not folder.is_dir():
        raise FolderError(f"There is no folder '{folder.name}' with calibration cases (--calibration).")
    images, labels = folder, None
    if (folder / "imagesTr").is_dir():
        images, labels = folder / "imagesTr", folder / "labelsTr"
    spec = DatasetSpec.read(folder / "dataset.json") if (folder / "dataset.json").is_file() else None
    cases = find_cases(images)
    counted = count(images, cases)
    if labels is not None:
        cases = [case for case in cases if (labels / f"{case.name}{case.ending}").is_file()]
        counted = count(images, cases, others="without a label map, or a further channel")
    chosen = [cases[i] for i in sorted({int(i) for i in np.linspace(0, len(cases) - 1, min(MOST, len(cases)))})]
    found = [picture for case in chosen if (picture := _picture(case, labels, spec)) is not None]
    if not found:
        raise FolderError(f"'{folder.absolute().name}' has no image with a reference to calibrate on (--calibration).")
    return found, counted


def _picture(case: BoxCase, labels: Path | None, spec: DatasetSpec | None) -> CalibrationPicture | None:
    image = read_image(case)
    reference = image.reference
    if labels is not None:
        file = labels / f"{case.name}{case.ending}"
        found = read_image(replace(case, file=file), label_map=True)
        reference = found.data
        if reference.shape != image.shape:
            raise DatasetError(
                f"The label map of '{case.name}' has the size {reference.shape}, its image {image.shape}."
            )
        if image.orientation is not None and found.orientation is not None:
            difference = found.orientation.grid.difference(image.orientation.grid)
            if difference:
                raise DatasetError(
                    f"The label map of '{case.name}' does not lie on its image's grid: {difference}. Correct it."
                )
    names = {} if spec is None else {values[0]: name for name, values in spec.labels.items()}
    modality = "" if spec is None else spec.channel_names[0]
    if reference is None:
        return _without_reference(case, image, modality)
    areas = (reference > 0).reshape(len(reference), -1).sum(1)
    z = int(areas.argmax())
    values = [int(v) for v in np.unique(reference[z]) if v > 0 and (reference[z] == v).sum() >= SMALLEST]
    if not values:
        return None
    masks = np.stack([reference[z] == value for value in values])
    label = names.get(values[0], "")
    return CalibrationPicture(case.name, _seen(image, z, label, modality), np.array(list(map(_box, masks))), masks)


def _without_reference(case: BoxCase, image: BoxImage, modality: str) -> CalibrationPicture:
    _, height, width = image.shape
    box = [height // 4, width // 4, max(height // 4 + 1, height * 3 // 4), max(width // 4 + 1, width * 3 // 4)]
    return CalibrationPicture(case.name, _seen(image, len(image.data) // 2, "", modality), np.array([box]), None)


def _seen(image: BoxImage, z: int, label: str, modality: str) -> np.ndarray:
    looks = looks_of(image, [label], modality, CtWindows(windows_of((label,))))
    return looks.picture(looks.by_label[label], z)


def _box(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1]
