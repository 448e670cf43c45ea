"""The files that SAT writes: DATASET/seg_ID/LABEL.nii.gz, one for each text, and DATASET/img_ID.nii.gz."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnkd.data.reading.nifti import check_whole, read_voxels
from nnkd.teachers.foreign import MaskFile

MASKS = "seg_"
IMAGE = "img_"


@dataclass(frozen=True)
class Result:
    """What SAT wrote for one image.

    Attributes:
        name: What SAT calls the image: its file name without .nii.gz.
        masks: Files by lower-case text.
        image: The image as it was given to the network; None if it is not there.
    """

    name: str
    masks: Mapping[str, Path]
    image: Path | None

    def files(self) -> list[Path]:
        """All of them."""
        return [*self.masks.values(), *([self.image] if self.image else [])]

    def mask(self, text: str) -> NDArray[np.bool_]:
        """(X, Y, Z) bool.

        Raises:
            DatasetError: If it is truncated or no mask.
        """
        return MaskFile.read(self.masks[text]).values.T != 0

    def own_image(self) -> NDArray[np.float32] | None:
        """(X, Y, Z) float32 normalised intensities, if they are there."""
        if self.image is None:
            return None
        check_whole(self.image)
        return read_voxels(self.image).T.astype(np.float32, copy=False)


def find(folder: Path) -> dict[str, list[Result]]:
    """Everything that SAT wrote, by the name of the image; the same name may occur in several datasets."""
    found: dict[str, list[Result]] = {}
    for masks in sorted(path for path in folder.rglob(f"{MASKS}*") if path.is_dir()):
        name = masks.name[len(MASKS) :]
        files = {f.name[: -len(".nii.gz")].lower(): f for f in sorted(masks.glob("*.nii.gz")) if f.name[0] != "."}
        image = masks.parent / f"{IMAGE}{name}.nii.gz"
        found.setdefault(name, []).append(Result(name, files, image if image.is_file() else None))
    return found


def of_case(results: Mapping[str, Sequence[Result]], case: str) -> list[Result]:
    """Those whose image is called like the case, with or without nnU-Net's number of the channel."""
    pattern = re.compile(rf"{re.escape(case)}(_\d{{4}})?(\.nii)?")
    return [result for name, several in results.items() if pattern.fullmatch(name) for result in several]
