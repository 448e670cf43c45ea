"""Where voxels lie in the world: grids, their comparison, and the one orientation teachers see (LPS)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from nnkd.errors import GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 0.1  # voxels that a corner of a grid may lie off: far less than what any label map resolves
Box3D = tuple[int, int, int, int, int, int]  # (z0, y0, x0, z1, y1, x1) in voxels, upper bounds excluded
Scalar = TypeVar("Scalar", bound=np.generic)
T = TypeVar("T")


class _Orientations(Protocol):
    """As much of `nibabel.orientations` as is asked for here; an orientation is (3, 2), a row an axis."""

    def io_orientation(self, affine: NDArray[np.floating], /) -> NDArray[np.floating]: ...

    def ornt2axcodes(self, orientation: Sequence[Sequence[int]], /) -> tuple[str, ...]: ...

    def axcodes2ornt(self, codes: tuple[str, ...], /) -> NDArray[np.floating]: ...

    def ornt_transform(self, start: NDArray[np.floating], end: NDArray[np.floating], /) -> NDArray[np.floating]: ...

    def inv_ornt_aff(self, orientation: NDArray[np.floating], shape: tuple[int, ...], /) -> NDArray[np.floating]: ...

    def apply_orientation(self, array: NDArray[Scalar], orientation: NDArray[np.floating], /) -> NDArray[Scalar]: ...


@dataclass(frozen=True)
class Grid:
    """A voxel grid.

    Attributes:
        shape: (Z, Y, X) voxels.
        spacing: (z, y, x) mm.
        origin: (x, y, z) mm, LPS, centre of the first voxel.
        direction: (3, 3); columns are the world directions of the x, y and z axes.
        in_world: False for image formats without geometry (png, tif): only the shape means anything.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: NDArray[np.floating]
    in_world: bool = True

    @classmethod
    def from_properties(cls, shape: tuple[int, ...], properties: Mapping[str, Any]) -> Grid:
        """The grid of an array that one of nnU-Net's readers returned.

        Args:
            shape: (Z, Y, X) of the array.
            properties: The reader's properties.
        """
        spacing = _three(float(s) for s in properties["spacing"])
        shape3 = _three(int(s) for s in shape)
        if "sitk_stuff" in properties:
            stuff = properties["sitk_stuff"]
            axes = len(stuff["spacing"])
            if axes >= 3:  # four: channels in one file, behind the axes of space
                direction = np.asarray(stuff["direction"], dtype=float).reshape(axes, axes)[:3, :3]
                affine = np.eye(4)
                affine[:3, :3], affine[:3, 3] = direction * spacing[::-1], stuff["origin"][:3]
                return cls.from_affine(shape3, affine)[0]
            spacing = (1.0, spacing[1], spacing[2])
        if "nibabel_stuff" in properties:
            stuff = properties["nibabel_stuff"]
            affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)
            return cls.from_affine(shape3, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[0]
        if spacing[0] > 900:  # nnU-Net's 999 for "no third axis"
            spacing = (1.0, spacing[1], spacing[2])
        return cls(shape3, spacing, (0.0, 0.0, 0.0), np.eye(3), in_world="sitk_stuff" in properties)

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine: NDArray[np.floating]) -> tuple[Grid, float]:
        """The right-angled grid nearest to an affine.

        Args:
            shape: (Z, Y, X).
            affine: (4, 4), from voxels (x, y, z) to mm, LPS.

        Returns:
            The grid, and how far its corners lie from where the affine puts them, in voxels.

        Raises:
            GeometryError: If the affine holds no finite numbers or squeezes an axis to nothing.
        """
        linear = np.asarray(affine, dtype=float)[:3, :3]
        spacing = np.linalg.norm(linear, axis=0)
        if not np.isfinite(affine).all() or np.linalg.matrix_rank(linear) < 3:
            raise GeometryError(f"Its axes span no space ({np.round(linear, 4).tolist()}). Correct the header.")
        left, _, right = np.linalg.svd(linear / spacing)
        rotation = left @ right
        exact = np.abs(linear / spacing - rotation).max() < 1e-7  # what is right-angled already keeps its digits
        direction = linear / spacing if exact else rotation
        shape3 = _three(int(s) for s in shape)
        grid = cls(shape3, _three(spacing[::-1].tolist()), _three(np.asarray(affine)[:3, 3].tolist()), direction)
        return grid, farthest(np.asarray(affine, dtype=float), grid.affine, shape3)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) float64, from voxels (x, y, z) to mm, LPS."""
        found = np.eye(4)
        found[:3, :3] = np.asarray(self.direction, dtype=float) * np.asarray(self.spacing[::-1], dtype=float)
        found[:3, 3] = self.origin
        return found

    def difference(self, other: Grid) -> str:
        """What differs, as half a sentence; empty if both are the same grid: no corner lies a tenth of a voxel off."""
        if self.shape != other.shape:
            return f"size {_numbers(self.shape)} against {_numbers(other.shape)} voxels (z, y, x)"
        if not (self.in_world and other.in_world):
            return ""
        off = farthest(self.affine, other.affine, self.shape)
        if off < TOLERANCE:
            return ""
        apart = np.abs(np.subtract(self.spacing, other.spacing)) / np.minimum(self.spacing, other.spacing)
        if (apart * np.maximum(np.subtract(self.shape, 1), 1)).max() >= TOLERANCE:
            return f"spacing {_numbers(self.spacing)} against {_numbers(other.spacing)} mm (z, y, x)"
        if farthest(replace(self, origin=other.origin).affine, other.affine, self.shape) >= TOLERANCE:
            return f"direction (orientation of the axes; corners lie {off:.3g} voxels apart)"
        origins = f"origin {_numbers(self.origin)} against {_numbers(other.origin)} mm (x, y, z)"
        return f"{origins}, {off:.3g} voxels apart"


def farthest(one: NDArray[np.floating], other: NDArray[np.floating], shape: tuple[int, int, int]) -> float:
    """How far apart two affines put the corners of an array, in voxels (the smaller of both, along each axis).

    Args:
        one, other: (4, 4), from voxels (x, y, z) to mm.
        shape: (Z, Y, X) of the array.
    """
    corners = np.array([(*corner, 1.0) for corner in product(*((0.0, n - 1.0) for n in shape[::-1]))])
    apart = corners @ (np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).T[:, :3]
    inverses = (np.linalg.inv(np.asarray(affine, dtype=float)[:3, :3]) for affine in (one, other))
    return max(float(np.linalg.norm(apart @ inverse.T, axis=1).max()) for inverse in inverses)


def _three(values: Iterable[T]) -> tuple[T, T, T]:
    first, second, third = values
    return first, second, third


def _numbers(values: tuple[float, ...]) -> str:
    return "x".join(f"{v:g}" for v in values)


class Orientation:
    """Takes arrays of one grid to LPS order and back. Axes are permuted and flipped, never resampled, so that the
    round trip is exact; an oblique grid stays oblique.

    Attributes:
        grid: The re-oriented grid.
        stored_shape: (Z, Y, X) in file order.
    """

    def __init__(self, grid: Grid):
        import nibabel.orientations

        orientations: _Orientations = nibabel.orientations
        self._forward: NDArray[np.floating]
        self._backward: NDArray[np.floating]
        self.stored_shape = grid.shape
        affine = grid.affine
        shape_xyz = grid.shape[::-1]
        if not grid.in_world or grid.shape[0] == 1:  # 2D: there is no feet and no head
            self._forward = self._backward = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
            self.grid = grid
            return
        self._forward = orientations.io_orientation(affine)
        canonical = orientations.axcodes2ornt(orientations.ornt2axcodes([[0, 1], [1, 1], [2, 1]]))
        self._backward = orientations.ornt_transform(canonical, self._forward)
        turned = affine @ orientations.inv_ornt_aff(self._forward, shape_xyz)
        order = np.argsort(self._forward[:, 0]).astype(int)
        lengths = np.linalg.norm(turned[:3, :3], axis=0)
        self.grid = Grid(
            shape=_three(int(shape_xyz[i]) for i in order[::-1]),
            spacing=_three(float(v) for v in lengths[::-1]),
            origin=_three(float(v) for v in turned[:3, 3]),
            direction=turned[:3, :3] / lengths,
        )

    def axes(self) -> tuple[tuple[int, bool], ...]:
        """For each axis (z, y, x) of the file: which axis (0 z, 1 y, 2 x) of the re-oriented array it becomes, and
        whether it is reversed."""
        rows = self._forward[::-1]  # nibabel counts x, y, z
        return tuple((2 - int(axis), bool(sign < 0)) for axis, sign in rows)

    def turn(self, box: Box3D) -> Box3D:
        """A box in file order -> the box around the same voxels in LPS order."""
        ranges = [(0, 0)] * 3
        for low, high, size, (axis, reversed_) in zip(box[:3], box[3:], self.stored_shape, self.axes(), strict=True):
            ranges[axis] = (size - high, size - low) if reversed_ else (low, high)
        (z0, z1), (y0, y1), (x0, x1) = ranges
        return z0, y0, x0, z1, y1, x1

    def to_lps(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """(..., Z, Y, X) in file order -> (..., Z, Y, X) in LPS order; contiguous."""
        return self._apply(array, self._forward)

    def to_file(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """(..., Z, Y, X) in LPS order -> file order; contiguous."""
        return self._apply(array, self._backward)

    @staticmethod
    def _apply(array: NDArray[Scalar], orientation: NDArray[np.floating]) -> NDArray[Scalar]:
        import nibabel.orientations

        orientations: _Orientations = nibabel.orientations
        leading = tuple(range(array.ndim - 3))
        n = len(leading)
        spatial_first = array.transpose((n + 2, n + 1, n, *leading))  # (X, Y, Z, ...)
        turned = orientations.apply_orientation(spatial_first, orientation)
        back = turned.transpose((*range(3, 3 + n), 2, 1, 0))
        return np.ascontiguousarray(back)
