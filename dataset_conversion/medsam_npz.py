"""MedSAM's npz stacks: a folder of .npz with imgs, gts (optional) and spacing; 3D grey or 2D RGB.

Source: Ma et al. 2024, Segment anything in medical images (the layout of its code and challenges).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments, sources
from nnkd_dataset_conversion.reading import case_name
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, SourceCase

from nnkd.data.reading import npz
from nnkd.data.reading.geometry import TOLERANCE, Grid
from nnkd.data.reading.image import Image, flat
from nnkd.errors import DatasetError, FolderError, GeometryError
from nnkd.files import is_visible
from nnkd.types import StepReport


def convert(
    source: Path, target: Target | str, *, labels: Mapping[str, int], channels: Sequence[str] = (), merge: bool = False
) -> StepReport:
    """Convert a folder of stacks; the first decides whether the dataset is 2D (png) or 3D (nii.gz).

    Args:
        source: The folder.
        target: Where it goes.
        labels: Integer in `gts` by label name.
        channels: Channel names; empty: R, G, B for RGB, else "CT" is NOT assumed and a name must be given.
        merge: Every value above 0 is the one label (stacks that number instances).

    Raises:
        FolderError: If there is no .npz.
        DatasetError: If a name is missing.
    """
    files = sorted(p for p in source.glob("*.npz") if is_visible(p))
    if not files:
        raise FolderError(f"'{source.name}' has no .npz file. Give the folder they lie in.")
    if merge and len(labels) != 1:
        raise DatasetError(f"{len(labels)} labels are named, but merging leaves one. Name one label.")
    rgb = _image(files[0]).flat
    channels = channels or (("R", "G", "B") if rgb else ())
    if not channels:
        raise DatasetError("A stack does not say its modality. Give --channels CT (or MRI ...).")
    integer = next(iter(labels.values()))
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=channels,
        labels=labels,
        file_ending=".png" if rgb else ".nii.gz",
        relabel=(lambda array: np.where(array > 0, integer, 0)) if merge else None,
        options={"merge": merge},
    )
    cases = [
        SourceCase(case_name(f), [partial(_image, f)], partial(_label, f) if _has_labels(f) else None) for f in files
    ]
    report = writer.write(cases)
    report.folders.append(sources.count_own(source, files))
    return report


def _image(file: Path) -> Image:
    imgs = _array(file, "imgs")
    if imgs.ndim != 3:
        raise DatasetError(f"imgs of '{file.name}' has {imgs.ndim} axes, but 3 are expected: (Z, Y, X) or (Y, X, RGB).")
    if imgs.shape[-1] == 3:
        return flat(np.moveaxis(imgs, -1, 0), colour=True)
    return _placed(imgs, file)


def _label(file: Path) -> Image:
    gts = _array(file, "gts")
    if gts.ndim not in (2, 3):
        raise DatasetError(f"gts of '{file.name}' has {gts.ndim} axes, but 2 or 3 are expected.")
    return flat(gts[None]) if gts.ndim == 2 else _placed(gts, file)


def _placed(array: np.ndarray, file: Path) -> Image:
    """A (Z, Y, X) array in the world; stacks without origin and direction lie at zero, along the axes."""
    told = {"spacing": np.ones(3), "origin": np.zeros(3), "direction": np.eye(3).ravel()}
    for key, default in told.items():  # all (x, y, z), spacing in mm
        if key in _keys(file) or key == "spacing":
            try:
                told[key] = _array(file, key).astype(float).reshape(default.shape)
                if not np.isfinite(told[key]).all():
                    raise ValueError(key)
            except (TypeError, ValueError) as error:
                raise DatasetError(
                    f"{key} of '{file.name}' is not what a volume's {key} can be. Correct it."
                ) from error
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = told["direction"].reshape(3, 3) * told["spacing"], told["origin"]
    try:
        grid, off = Grid.from_affine(array.shape, affine)
    except GeometryError as error:
        raise DatasetError(f"spacing or direction of '{file.name}' cannot be a volume's. Correct it.") from error
    if off >= TOLERANCE or (told["spacing"] <= 0).any():
        raise DatasetError(f"spacing or direction of '{file.name}' cannot be a volume's. Correct it.")
    return Image(array[None], grid)


def _has_labels(file: Path) -> bool:
    try:
        return "gts" in _keys(file)
    except DatasetError:  # told when the case is read
        return False


def _keys(file: Path) -> list[str]:
    return npz.names(file)


def _array(file: Path, key: str) -> np.ndarray:
    if key not in _keys(file):
        raise DatasetError(f"'{file.name}' has no '{key}', but holds {', '.join(_keys(file))}. Is it a MedSAM stack?")
    found = npz.read(file, (key,))[key]
    if not found.size:
        raise DatasetError(f"{key} of '{file.name}' has the shape {found.shape}: there is nothing. Download it again.")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("medsam_npz", __doc__, "npz_folder -d 720 -n Lesion --channels CT --labels lesion=1")
    parser.add_argument("--labels", nargs="+", required=True, action=arguments.Labels, help="NAME=INTEGER in gts")
    parser.add_argument("--channels", nargs="+", default=(), help="channel names (default for RGB: R G B)")
    parser.add_argument("--merge", action="store_true", help="every value above 0 is the one label")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
