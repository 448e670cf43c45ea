"""DRIVE, retinal vessels: 2D RGB photographs (tif) and manual label maps (gif) of one or two raters.

Source: Staal et al. 2004, Ridge-based vessel segmentation in color images of the retina.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments, reading
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, Source, SourceCase

from nnkd.data.dataset import Split
from nnkd.data.reading.formats import read
from nnkd.data.reading.image import Image, flat
from nnkd.errors import DatasetError, FolderError
from nnkd.files import is_visible
from nnkd.types import StepReport

RATERS = ("1st_manual", "2nd_manual")
VESSEL, IGNORE = 1, 2


def convert(
    source: Path, target: Target | str, *, raters: bool = False, swap: bool = False, fov: bool = False
) -> StepReport:
    """Convert DRIVE: label maps are the first rater's.

    Args:
        source: The folder with training/ and test/.
        target: Where it goes.
        raters: Write what both raters of the test photographs drew to ratersTs/1st_manual and ratersTs/2nd_manual
            (values 0 and 1), so that they can be imported as teachers.
        swap: The test photographs become the training cases and the other way round. With `raters` they get no
            label map, so that a student learns from the two raters' consensus alone.
        fov: Outside the camera's field of view lies nnU-Net's ignore label.

    Raises:
        FolderError: If training/images is missing.
    """
    if not (source / "training" / "images").is_dir():
        raise FolderError(f"'{source.name}' has no training/images. Give the folder with DRIVE's training and test.")
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=("R", "G", "B"),
        labels={"vessel": VESSEL, **({"ignore": IGNORE} if fov else {})},
        file_ending=".png",
        options={"raters": raters, "swap": swap, "fov": fov},
        more_json={"reference": "Staal et al. 2004, Ridge-based vessel segmentation in color images of the retina"},
    )
    cases = []
    for part in ("training", "test"):
        split: Split = "Tr" if (part == "training") != swap else "Ts"
        for image in sorted(p for p in (source / part / "images").glob("*.tif") if is_visible(p)):
            number = image.name.split("_")[0]
            drawn = {r: file for r in RATERS if (file := _only(source / part / r, number))}
            label = drawn.get(RATERS[0])
            mask = _only(source / part / "mask", number) if fov else None
            both = len(drawn) == len(RATERS) and raters
            more: dict[str, Source] = {f"raters{split}/{r}": partial(_vessels, f) for r, f in drawn.items() if both}
            if both and swap:
                label = None
            name = reading.case_name(image)
            cases.append(SourceCase(name, [image], partial(_vessels, label, mask) if label else None, split, more))
    return writer.write(cases, read=[source])


def _only(folder: Path, number: str) -> Path | None:
    return next((p for p in sorted(folder.glob(f"{number}_*")) if is_visible(p)), None)


def _vessels(drawing: Path, field_of_view: Path | None = None) -> Image:
    """White -> vessel, and what lies outside the field of view -> ignore."""
    labels = _white(drawing).astype(np.uint8)
    if field_of_view is not None:
        outside = ~_white(field_of_view)
        if outside.shape != labels.shape:
            raise DatasetError(f"'{field_of_view.name}' and '{drawing.name}' differ in size. Download them again.")
        labels[outside] = IGNORE
    return flat(labels[None])


def _white(file: Path) -> np.ndarray:
    """Where a drawing in black and white is white, (Y, X) bool."""
    values = read(file, label_map=True).integers(f"'{file.name}'")[0]
    return values > values.max() / 2  # white is 255, but 1 in the second rater's files, which have a palette


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("drive", __doc__, "DRIVE -d 712 -n Drive --raters --swap")
    parser.add_argument("--raters", action="store_true", help="write both raters' maps of the test photographs apart")
    parser.add_argument("--swap", action="store_true", help="train on the test photographs, test on the training ones")
    parser.add_argument("--fov", action="store_true", help="outside the field of view lies the ignore label")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
