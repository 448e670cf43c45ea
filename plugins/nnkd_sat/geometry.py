"""SAT's preprocessing, as far as it moves voxels, and the way back.

SAT answers in the space that its data loader makes: axes turned to an orientation code (RAS), resampled linearly to 1 x
1 x 3 mm, cropped to the voxels above 0 of the raw image. What it writes has an identity affine, so where that space
lies must be worked out again from the image.

Source: SAT's data/inference_dataset.py, which calls MONAI's LoadImaged, Orientationd, Spacingd and CropForegroundd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnkd.data.reading import nifti
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.itk import with_grid
from nnkd.errors import DatasetError, GeometryError
from nnkd.teachers.foreign import resample_nearest

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

SPACING = (1.0, 1.0, 3.0)  # mm, along the axes of the orientation code
SAME_AFFINE = 1e-3  # MONAI resamples only what differs by more
SAME_CORNER = 1e-8
CT_RANGE = (-500.0, 1000.0)  # HU, what SAT cuts CT to before it normalises
PERCENTILES = (0.5, 99.5)  # for everything else
SLACK = 2  # voxels by which rounding may move a side of the crop
LOOKED_AT = 200_000  # voxels that are compared with SAT's own image
ALIKE = 0.99  # correlation with SAT's own image; rounding alone leaves more than 0.9999


@dataclass(frozen=True)
class Resampled:
    """An image as SAT resamples it, before the crop.

    Attributes:
        data: (X, Y, Z) float32, axes as the orientation code says.
        affine: (4, 4), voxels to RAS world in mm.
        low: First voxel of the foreground on each axis.
        high: One past its last.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.floating]
    low: tuple[int, ...]
    high: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z) of the crop."""
        return tuple(b - a for a, b in zip(self.low, self.high, strict=True))

    def cropped(self, low: Sequence[int], shape: Sequence[int]) -> NDArray[np.float32]:
        """(X, Y, Z) of the crop that begins at `low`."""
        return self.data[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]


def loaded(file: Path) -> SpatialImage:
    """nibabel's image of voxels.

    Raises:
        DatasetError: If the file holds something else, such as a surface.
    """
    from nibabel.spatialimages import SpatialImage

    image = nifti.opened(file)
    if not isinstance(image, SpatialImage):
        raise DatasetError(
            f"'{file.name}' is a {type(image).__name__}, but an image of voxels is expected. Convert it."
        )
    return image


def resample(file: Path, case: str, code: str = "RAS", doubt: bool = False) -> Resampled:
    """Do with an image what SAT does.

    Args:
        file: NIfTI, the very file that SAT reads: rounding in its header counts.
        case: Its name, for messages.
        code: SAT's `orientation_code`.
        doubt: Place the new voxels the other way, of the two that MONAI has. Which one it takes of an oblique image
            hangs on the last digits of its arithmetic.

    Raises:
        DatasetError: If it is unreadable, no volume, holds NaN, or has no voxel above 0.
    """
    from nibabel import orientations

    try:
        image = loaded(file)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(
            f"'{file.name}' of '{case}' cannot be read as SAT reads it ({error}). Convert it."
        ) from error
    if data.ndim != 3:
        raise DatasetError(f"'{file.name}' of '{case}' has {data.ndim} axes, but SAT wants volumes of 3. Split it.")
    if not np.isfinite(data).all():
        raise DatasetError(
            f"'{case}' has voxels without a number (NaN or infinite), so SAT's normalisation would leave nothing. "
            f"Convert it again."
        )
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(tuple(code))
    )
    affine = image.affine @ orientations.inv_ornt_aff(turn, data.shape)
    data = orientations.apply_orientation(data, turn)
    target, shape = _target(affine, data.shape, doubt)
    if data.shape != shape or not np.allclose(affine, target, atol=SAME_AFFINE):
        data = _linear(data, np.linalg.solve(affine, target), shape)
    else:
        target = affine
    return Resampled(data, target, *_foreground(data, case))


def _target(affine: np.ndarray, shape: tuple[int, ...], doubt: bool) -> tuple[np.ndarray, tuple[int, ...]]:
    """The affine and shape of the resampled image: axes as they are, the spacing SAT's; the first voxel stays where it
    is, or, where the axes are askew by rounding, the middle does."""
    q, r = np.linalg.qr(affine[:3, :3])
    target = np.eye(4)
    target[:3, :3] = q * np.sign(np.diag(r)) * SPACING
    corners = np.array(list(product(*((0.0, n - 1.0) for n in shape)))).T
    there = np.linalg.solve(target[:3, :3], affine[:3, :3]) @ corners
    extent = there.max(1) - there.min(1)
    new = tuple(int(n) for n in np.round(extent + 1.0))
    lowest = [i for i in range(8) if np.all(np.abs(there.min(1) - there[:, i]) <= SAME_CORNER)]
    if bool(lowest) != doubt:
        lowest = lowest or [int(np.argmin(there.sum(0)))]
        target[:3, 3] = affine[:3, :3] @ corners[:, lowest[0]] + affine[:3, 3]
    else:
        middle = affine[:3, :3] @ (np.asarray(shape) / 2.0) + affine[:3, 3]
        target[:3, 3] = middle - target[:3, :3] @ (np.asarray(new) / 2.0)
    return target, new


def _linear(data: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation at matrix @ voxel; outside, the nearest voxel's value."""
    from scipy import ndimage

    inner = matrix[:3, :3] if np.count_nonzero(matrix[:3, :3]) > 3 else np.diag(matrix[:3, :3])
    return ndimage.affine_transform(
        data.astype(np.float64), inner, matrix[:3, 3], shape, order=1, mode="nearest"
    ).astype(np.float32)


def _foreground(data: np.ndarray, case: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The box around the voxels above 0."""
    above = data > 0
    if not above.any():
        raise DatasetError(
            f"'{case}' has no voxel above 0, and SAT looks at nothing else: its raw intensities may have been "
            f"rescaled. Give it the scan as it was (CT in HU)."
        )
    lows, highs = [], []
    for axis in range(3):
        filled = np.flatnonzero(above.any(axis=tuple(a for a in range(3) if a != axis)))
        lows.append(int(filled[0]))
        highs.append(int(filled[-1]) + 1)
    return tuple(lows), tuple(highs)


def locate(
    made: Resampled, shape: tuple[int, ...], own: NDArray[np.float32] | None, modality: str, case: str
) -> tuple[int, ...]:
    """Where SAT's crop begins.

    Where MONAI's arithmetic leaves 1e-8 of a neighbour in a voxel of value 0, it counts as foreground, so that SAT's
    crop may be a voxel larger than ours. Its own image, which it writes beside the masks, tells.

    Args:
        made: The image as SAT resampled it.
        shape: (X, Y, Z) of SAT's masks.
        own: SAT's own image of that shape, normalised; None if it is not there.
        modality: What SAT was told.
        case: For messages.

    Returns:
        The first voxel on each axis, in voxels of `made`.

    Raises:
        GeometryError: If the shape is another one, or SAT's image is not this case's.
    """
    spare = [there - ours for there, ours in zip(shape, made.shape, strict=True)]
    if any(abs(s) > SLACK for s in spare) or (any(spare) and own is None):
        raise GeometryError(
            f"SAT's masks of '{case}' have {_size(shape)} voxels, but {_size(made.shape)} were expected of its image "
            f"at 1x1x3 mm, cut to what is above 0. They may be another case's, or orientation is another one."
        )
    if own is None:
        return made.low
    if own.shape != tuple(shape):
        raise GeometryError(f"SAT's image of '{case}' has {_size(own.shape)} voxels, but its masks {_size(shape)}.")
    best, likeness = made.low, -2.0
    for start in product(*(_starts(a, s) for a, s in zip(made.low, spare, strict=True))):
        inside = all(a >= 0 and a + n <= size for a, n, size in zip(start, shape, made.data.shape, strict=True))
        found = _correlation(made.cropped(start, shape), own, modality) if inside else -2.0
        if found > likeness:
            best, likeness = start, found
    if likeness < ALIKE:
        raise GeometryError(
            f"The image that SAT wrote beside its masks of '{case}' is not this case's at 1x1x3 mm (correlation "
            f"{likeness:.2f}). The masks may be another case's, or orientation is another one."
        )
    return best


def _starts(low: int, spare: int) -> list[int]:
    """Where an axis may begin if SAT's crop has `spare` voxels more than ours."""
    ends = sorted((low, low - spare))
    return sorted(range(ends[0], ends[1] + 1), key=lambda start: abs(start - low))


def _correlation(ours: np.ndarray, own: np.ndarray, modality: str) -> float:
    """Of the cut intensities, in a part of the voxels."""
    step = max(1, ours.size // LOOKED_AT)
    chosen, theirs = ours.ravel()[::step].astype(np.float64), own.ravel()[::step].astype(np.float64)
    low, high = CT_RANGE if modality == "ct" else np.percentile(ours, PERCENTILES)
    chosen = np.clip(chosen, low, high)
    if chosen.std() == 0 or theirs.std() == 0:
        return float(chosen.std() == theirs.std())
    return float(np.corrcoef(chosen, theirs)[0, 1])


def bring_back(mask: NDArray[np.bool_], made: Resampled, low: tuple[int, ...], target: Grid) -> NDArray[np.bool_]:
    """A mask of SAT's on an image's grid.

    Args:
        mask: (X, Y, Z) bool, SAT's crop.
        made: The image as SAT resampled it.
        low: Where the crop begins.
        target: The grid.

    Returns:
        (Z, Y, X) bool on `target`: nearest neighbour; outside the crop False.
    """
    affine = made.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(low, dtype=float)
    grid = grid_of_affine(affine, mask.shape)
    return resample_nearest(with_grid(np.ascontiguousarray(mask.T).astype(np.uint8), grid), target) != 0


def grid_of_affine(affine: NDArray[np.floating], shape: tuple[int, ...]) -> Grid:
    """nibabel's affine (RAS) and shape (X, Y, Z) as a grid (LPS)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    x, y, z = (int(n) for n in shape)
    along_x, along_y, along_z = map(float, lengths)
    left, back, up = map(float, lps[:3, 3])
    return Grid((z, y, x), (along_z, along_y, along_x), (left, back, up), lps[:3, :3] / lengths)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
