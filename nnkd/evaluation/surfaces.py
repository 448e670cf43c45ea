"""The surfaces of a label map's structures as sparse points, and the distances between two of them.

A label map is walked through once, a few planes at a time: what is kept are the places where labels meet, and what
meets there. From these every label's and every region's surface follows without the volume. So cost and memory follow
the surface, and one far false positive costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nnkd.evaluation._nearest import near_distances

PIECE = 1 << 20  # voxels looked at together: more leave the processor's cache, fewer are mostly borders

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Surface:
    """A mask's surface.

    Attributes:
        points: (n, 3) int, steps of the lattice, order (z, y, x).
        areas: (n,) float64, what each point weighs: 1, or mm2 (in 2D mm) of surface around it.
        spacing: (z, y, x) in mm; 0 along an axis that does not count (2D images).
    """

    points: NDArray[np.integer]
    areas: NDArray[np.float64]
    spacing: tuple[float, ...]

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """(n, 3) float64, mm."""
        return self.points.astype(np.float64) * np.asarray(self.spacing)

    @cached_property
    def tree(self) -> cKDTree:
        """For nearest-point queries; unbalanced trees are built in half the time and asked only once."""
        return cKDTree(self.places, leafsize=32, compact_nodes=False, balanced_tree=False)

    def distances_to(self, other: Surface) -> NDArray[np.float64]:
        """Distance from each point to the nearest one of another surface on the same lattice.

        Returns:
            (n,) float64, mm; of whole steps, so that equal distances are equal to the last bit wherever they lie.
        """
        distances = near_distances(self.points, other.points, self.spacing)
        far = np.flatnonzero(np.isnan(distances))
        if len(far):
            steps = self.points[far] - other.points[other.tree.query(self.places[far])[1]]
            distances[far] = np.sqrt(np.square(steps * np.asarray(self.spacing)).sum(axis=1))
        return distances


@dataclass(frozen=True)
class Meetings:
    """The places of a label map where labels meet.

    Attributes:
        points: (n, 3) int32, steps of the definition's lattice.
        values: (m, n) unsigned integers: the labels of the m voxels that are looked at in each place.
    """

    points: NDArray[np.int32]
    values: NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Definition:
    """What is called the surface of a mask, and what its distances come to.

    Attributes:
        text: The surface, for outputs and readers.
        percentile_rule: How the HD95 is found, likewise.
        meetings: From (label map, flat): every place that can be on the surface of some label or region.
        areas: From (members, spacing): what each place weighs; 0 where it is not on the surface. Members are (m, n)
            bool, whether each voxel of `Meetings.values` belongs to the mask.
        percentile: From ((n,) distances, (n,) areas, per cent).
        precision: In which distances are compared.
    """

    text: str
    percentile_rule: str
    meetings: Callable[[NDArray[np.integer], bool], Meetings]
    areas: Callable[[NDArray[np.bool_], Sequence[float]], NDArray[np.float64]]
    percentile: Callable[[NDArray[np.floating], NDArray[np.float64], float], float]
    precision: type[np.floating]

    def surface(self, meetings: Meetings, integers: Sequence[int], spacing: Sequence[float]) -> Surface:
        """Surface of the union of some integers; without points where the label map has none of them."""
        members = meetings.values == integers[0]
        for integer in integers[1:]:
            members |= meetings.values == integer
        areas = self.areas(members, spacing)
        here = np.flatnonzero(areas)
        return Surface(meetings.points[here], areas[here], tuple(spacing))


def _pieces(label_map: np.ndarray, flat: bool) -> Iterator[tuple[int, np.ndarray, bool]]:
    """A few planes at a time, in the smallest type, with a border of background and with the neighbouring planes.

    Yields:
        (first plane, (planes + 2, Y + 2, X + 2) array, whether it is the last). Flat images have one plane and, above
        and below, none.
    """
    n_planes, height, width = label_map.shape
    dtype = np.min_scalar_type(int(label_map.max(initial=0)))
    if flat:
        yield 0, np.pad(label_map[0].astype(dtype), 1)[None], True
        return
    step = max(1, PIECE // max(1, height * width))
    for first in range(0, n_planes, step):
        end = min(first + step, n_planes)
        piece = np.zeros((end - first + 2, height + 2, width + 2), dtype)
        low, high = max(first - 1, 0), min(end + 1, n_planes)
        piece[low - first + 1 : high - first + 1, 1:-1, 1:-1] = label_map[low:high]
        yield first, piece, end == n_planes


def _collect(found: list[tuple[np.ndarray, np.ndarray]], offsets: int) -> Meetings:
    points = [p for p, _ in found] or [np.zeros((0, 3), np.int32)]
    values = [v for _, v in found] or [np.zeros((offsets, 0), np.uint8)]
    return Meetings(np.concatenate(points), np.concatenate(values, axis=1))


def _take(piece: np.ndarray, here: np.ndarray, offsets: Sequence[int], first: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and values of the flat indices `here`; a piece's first plane is that before `first`."""
    values = np.stack([piece.ravel()[here + offset] for offset in offsets])
    plane, rest = np.divmod(here.astype(np.int32), piece[0].size)
    row, column = np.divmod(rest, piece.shape[2])
    return np.stack([plane + (first - 1), row - 1, column - 1], axis=1), values


def voxel_meetings(label_map: NDArray[np.integer], flat: bool) -> Meetings:
    """Voxels with a face neighbour of another label, outside the image counting as background.

    Args:
        label_map: (Z, Y, X) non-negative integers.
        flat: Whether Z = 1 is no axis.

    Returns:
        Points are voxels. Values: of the voxel itself, then of its face neighbours.
    """
    steps = (
        (0, 0, 0),
        *((0, y, x) for y, x in ((0, -1), (0, 1), (-1, 0), (1, 0))),
        *((-1, 0, 0), (1, 0, 0))[: 2 * (not flat)],
    )
    found = []
    for first, piece, _ in _pieces(label_map, flat):
        line, (plane, row) = piece.ravel(), (piece[0].size, piece.shape[2])
        differs = np.zeros(line.size, dtype=bool)
        for stride in (1, row, plane)[: 2 if flat else 3]:
            here = line[stride:] != line[:-stride]
            differs[stride:] |= here
            differs[:-stride] |= here
        differs &= line != 0
        inner = slice(None) if flat else slice(plane, -plane)
        start = 0 if flat else plane
        offsets = [z * plane + y * row + x for z, y, x in steps]
        found.append(_take(piece, np.flatnonzero(differs[inner]) + start, offsets, first + flat))
    return _collect(found, len(steps))


def corner_meetings(label_map: NDArray[np.integer], flat: bool) -> Meetings:
    """Corners of voxels around which not all labels are the same, outside the image counting as background.

    Args:
        label_map: (Z, Y, X) non-negative integers.
        flat: Whether Z = 1 is no axis.

    Returns:
        Points are corners: (0, 0, 0) is the image's own. Values: of the eight voxels around a corner (four if flat) in
        the order of CORNERS (of its first four).
    """
    corners = CORNERS[: 4 if flat else 8]
    found = []
    for first, piece, last in _pieces(label_map, flat):
        line, (plane, row) = piece.ravel(), (piece[0].size, piece.shape[2])
        mixed = np.zeros(line.size, dtype=bool)
        for stride in (1, row, plane)[: 2 if flat else 3]:  # now of pairs, then of squares, then of cubes
            mixed[stride:] |= mixed[:-stride].copy()
            mixed[stride:] |= line[stride:] != line[:-stride]
        inner = slice(None) if flat else slice(plane, None if last else -plane)
        start = 0 if flat else plane
        offsets = [(z - 1) * plane + (y - 1) * row + (x - 1) for z, y, x in corners]
        found.append(_take(piece, np.flatnonzero(mixed[inner]) + start, offsets, first + flat))
    return _collect(found, len(corners))


def voxel_areas(members: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """1 for voxels of the mask with a face neighbour outside it."""
    return (members[0] & ~members[1:].all(axis=0)).astype(np.float64)


def corner_areas(members: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Area in mm2 of the mask's surface around each corner; of flat images length in mm."""
    codes = np.zeros(members.shape[1], dtype=np.uint8)
    for bit, member in enumerate(members):
        codes |= member.view(np.uint8) << np.uint8(bit)
    return (surfel_areas(tuple(spacing)) if len(members) == 8 else contour_lengths(tuple(spacing[1:])))[codes]


# Those of a flat image come first.
CORNERS: tuple[Shape, ...] = tuple(sorted(product((0, 1), (0, 1), (0, 1)), key=lambda corner: -corner[0]))


@lru_cache(maxsize=64)
def surfel_areas(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Area of the marching cubes surface in a cube between eight voxel centres, by which of them are inside.

    The surface cuts every cube's edge in its middle. More than four voxels inside make the same surface as those that
    are outside, and voxels that do not touch by a face have surfaces of their own. So a handful of shapes is all.
    Source: Lorensen and Cline 1987; the shapes' areas are those that DeepMind's surface-distance has.

    Args:
        spacing: (z, y, x) in mm.

    Returns:
        (256,) float64, mm2; bit i of a code says whether voxel CORNERS[i] is inside.
    """
    faces = np.array([spacing[1] * spacing[2], spacing[0] * spacing[2], spacing[0] * spacing[1]])
    areas = np.zeros(256)
    for code in range(256):
        inside = {corner for bit, corner in enumerate(CORNERS) if code >> bit & 1}
        left = inside if len(inside) <= 4 else set(CORNERS) - inside
        while left:
            shape = _connected(left)
            left = left - shape
            areas[code] += sum(np.linalg.norm(faces * normal) for normal in _triangles(shape)) / 8
    return areas


def _neighbours(corner: Shape) -> dict[int, Shape]:
    """By axis."""
    z, y, x = corner
    return {0: (1 - z, y, x), 1: (z, 1 - y, x), 2: (z, y, 1 - x)}


def _connected(corners: set[Shape]) -> set[Shape]:
    """Those that can be reached from the first along edges."""
    shape, todo = set(), [min(corners)]
    while todo:
        corner = todo.pop()
        shape.add(corner)
        todo += [other for other in _neighbours(corner).values() if other in corners - shape]
    return shape


def _triangles(shape: set[Shape]) -> list[np.ndarray]:
    """Normals of a connected shape's triangles without signs, eight times the area long, in a cube of edge 1."""
    axes = {corner: [axis for axis, other in _neighbours(corner).items() if other in shape] for corner in shape}
    most = max(len(found) for found in axes.values())
    used = {axis for found in axes.values() for axis in found}
    ends = [found[0] for found in axes.values() if len(found) == 1]
    all_axes, unit = np.ones(3), np.eye(3)
    if len(shape) == 1:
        return [all_axes]
    if len(shape) == 2:
        return [2 * (all_axes - unit[axis]) for axis in ends]
    if len(shape) == 3:
        (normal,) = {0, 1, 2} - used
        return [all_axes, 2 * all_axes, 4 * unit[normal]]
    if len(used) == 2:  # a face
        (normal,) = {0, 1, 2} - used
        return [4 * unit[normal]] * 2
    if most == 3:  # a corner with its three neighbours
        return [all_axes] * 2 + [2 * all_axes] * 2
    return [all_axes, 3 * all_axes, *(2 * (all_axes - unit[axis]) for axis in ends)]  # a chain around a corner


@lru_cache(maxsize=64)
def contour_lengths(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Length of the marching squares contour in a square between four pixel centres, by which of them are inside.

    Args:
        spacing: (y, x) in mm.

    Returns:
        (16,) float64, mm; bit i of a code says whether pixel CORNERS[i] is inside.
    """
    lengths, cut = np.zeros(16), 0.5 * float(np.hypot(spacing[0], spacing[1]))
    for code in range(1, 15):
        inside = [corner[1:] for bit, corner in enumerate(CORNERS[:4]) if code >> bit & 1]
        if len(inside) != 2:
            lengths[code] = cut
        elif inside[0][0] == inside[1][0]:  # a row
            lengths[code] = spacing[1]
        else:
            lengths[code] = spacing[0] if inside[0][1] == inside[1][1] else 2 * cut
    return lengths


def linear_percentile(distances: NDArray[np.floating], areas: NDArray[np.float64], per_cent: float) -> float:
    """Interpolated linearly between the two nearest; every point counts the same."""
    return float(np.percentile(distances.astype(np.float64), per_cent))


def area_percentile(distances: NDArray[np.floating], areas: NDArray[np.float64], per_cent: float) -> float:
    """The smallest distance within which that share of the area lies."""
    order = np.lexsort((areas, distances))
    shares = np.cumsum(areas[order]) / np.sum(areas[order])
    return float(distances[order[min(int(np.searchsorted(shares, per_cent / 100)), len(order) - 1)]])


DEFINITIONS: Mapping[str, Definition] = {
    # Single precision, as in MONAI: it also hides the last bit by which 3 * 0.1 mm misses a tolerance of 0.3 mm.
    "monai": Definition(
        "surface = centres of the mask's voxels that touch its outside by a face; every voxel counts the same. The "
        "values are those of MONAI's compute_hausdorff_distance, compute_surface_dice and "
        "compute_average_surface_distance (symmetric)",
        "HD95 = larger of the two directed 95th percentiles over voxels, interpolated linearly",
        voxel_meetings,
        voxel_areas,
        linear_percentile,
        np.float32,
    ),
    "surfel": Definition(
        "surface = marching cubes surface (in 2D: marching squares contour) around the mask; every piece counts by its "
        "area (length), and distances are those of the voxels' corners it lies at. The values are those of DeepMind's "
        "surface-distance",
        "HD95 = larger of the two directed distances within which 95 % of the surface's area lies, not interpolated",
        corner_meetings,
        corner_areas,
        area_percentile,
        np.float64,
    ),
}
