"""What an image takes of the memory, by its header and once resampled, compared before it is taken."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd import limits
from nnkd.data.reading import itk
from nnkd.data.reading.image import DATA_FILES, FREESURFER, HEADER_BYTES, VOLUMES, ending_of
from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = 4  # that a voxel takes at least: images are computed with in float32


def check_announced(file: Path) -> None:
    """Refuse a volume whose header announces more than there can be; pictures and unknown files pass.

    Raises:
        DatasetError: If it takes more than `limits.memory`, or more than a file of its size unpacks to.
    """
    ending = ending_of(file)
    if ending not in VOLUMES or ending in FREESURFER:
        return
    seen = itk.information(file)
    if seen is None:
        return
    values = math.prod(max(n, 0) for n in seen.shape) * max(seen.components, 1)
    if not values:
        raise DatasetError(f"'{file.name}' in {file.parent.name} announces no voxel ({seen.shape}). Convert it again.")
    if values * BYTES < limits.GIB // 4:  # the quick way for nearly all
        return
    packed = sum(part.stat().st_size for part in (file, *_partners(file, ending)))
    problem = limits.too_large(values * BYTES) or limits.too_large(values, packed)
    if problem:
        shape = " x ".join(map(str, seen.shape))
        raise DatasetError(f"'{file.name}' in {file.parent.name} announces {shape} voxels: it {problem}")


def _partners(file: Path, ending: str) -> list[Path]:
    """Where else voxels of a header lie; of a list of files, all of its folder."""
    if ending in DATA_FILES:
        found = re.search(DATA_FILES[ending], file.read_bytes()[:HEADER_BYTES], re.MULTILINE | re.IGNORECASE)
        named = file.parent / os.fsdecode(found[1]) if found else file
        return [named] if named != file and named.is_file() else [p for p in file.parent.iterdir() if p.is_file()]
    others = (file.with_suffix(other) for other in (".img", ".hdr", ".IMG"))
    return [other for other in others if other != file and other.is_file()]


def check_resampled(array: NDArray[Any], spacing: Sequence[float], configuration: Any, plans: Any, what: str) -> None:
    """Refuse a case that would not fit into the memory once nnU-Net has resampled it.

    Args:
        array: (C, Z, Y, X) in file order.
        spacing: (z, y, x) mm, of it.
        configuration, plans: nnU-Net's managers.
        what: Which case it is, to begin the message with.

    Raises:
        DatasetError: If it needs more than `limits.memory`, or a spacing is none.
    """
    order = list(plans.transpose_forward)
    given = np.asarray(spacing, dtype=float)
    if given.size != 3 or not (np.isfinite(given).all() and (given > 0).all()):
        raise DatasetError(f"{what} has the spacing {tuple(spacing)}, but three numbers above 0 (mm) are expected.")
    steps = given[order]
    target = [float(v) for v in configuration.spacing]
    target = [steps[0], *target] if len(target) < 3 else target  # 2D: slices stay where they are
    new = np.asarray(_inside(array), dtype=float)[order] * steps / target
    # float32 of all channels, and one of them in double precision while it is resampled
    problem = limits.too_large(float(np.prod(np.maximum(new, 1))) * (4 * len(array) + 8))
    if problem:
        raise DatasetError(
            f"{what} with a spacing of {_words(spacing)} mm becomes {_words(new)} voxels at the network's "
            f"{_words(target)} mm: it {problem}"
        )


def _inside(array: NDArray[Any]) -> list[int]:
    """(Z, Y, X) of the box around what is not 0, which nnU-Net crops to."""
    filled = (array != 0).any(0)
    sides = [np.flatnonzero(filled.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return [int(side[-1] - side[0] + 1) if side.size else n for side, n in zip(sides, filled.shape, strict=True)]


def _words(numbers: Any) -> str:
    return " x ".join(f"{float(n):.4g}" for n in numbers)
