"""How well a label map agrees with its reference: overlap and surface distances in mm, per label.

Surfaces are kept as sparse points and compared with a k-d tree, so that the cost follows the surface and not the
volume, and one far false positive costs nothing. Each surface is found once per label map and shared by all metrics,
and the reference's by all predictions. A new metric is one row of METRICS, a new definition one row of DEFINITIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

State = Literal["compared", "both_empty", "prediction_empty", "reference_empty"]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Surface:
    """A mask's surface.

    Attributes:
        points: (n, 3) float64, mm from the array's first voxel, order (z, y, x).
    """

    points: np.ndarray

    @cached_property
    def tree(self) -> cKDTree:
        """For nearest-point queries; unbalanced trees are built in half the time and asked only once."""
        return cKDTree(self.points, leafsize=32, compact_nodes=False, balanced_tree=False)

    def distances_to(self, other: Surface) -> np.ndarray:
        """Distance from each point to the nearest one of another surface.

        Returns:
            (n,) float32, mm. Single precision, as in MONAI: it also hides the last bit by which 5 * 0.4 mm may
            miss a tolerance of 2 mm.
        """
        return other.tree.query(self.points)[0].astype(np.float32)


def voxel_surface(mask: np.ndarray, corner: Sequence[int], spacing: Sequence[float]) -> Surface:
    """Centres of the voxels that have a face neighbour outside the mask; outside the image counts as outside.

    Args:
        mask: (Z, Y, X) bool, cut to the mask's bounding box or larger.
        corner: (z, y, x) of its first voxel in the whole array.
        spacing: (z, y, x) in mm; an axis of spacing 0 is no axis (2D images).
    """
    inner = mask.copy()
    for axis in range(3):
        if spacing[axis] == 0:
            continue
        now, before = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        now[1:] &= before[:-1]
        now[:-1] &= before[1:]
        now[0] = now[-1] = False
    return Surface((np.argwhere(mask & ~inner) + np.asarray(corner)) * np.asarray(spacing, dtype=np.float64))


@dataclass(frozen=True)
class Definition:
    """What is called the surface of a mask.

    Attributes:
        text: For outputs and readers.
        surface: From (mask, corner, spacing).
    """

    text: str
    surface: Callable[[np.ndarray, Sequence[int], Sequence[float]], Surface]


DEFINITIONS: Mapping[str, Definition] = {
    "monai": Definition(
        "surface = centres of the mask's voxels that touch its outside by a face; HD = larger of the two directed "
        "maxima; HD95 = larger of the two directed 95th percentiles (linear interpolation); NSD = share of both "
        "surfaces within the tolerance. The values are those of MONAI's compute_hausdorff_distance and "
        "compute_surface_dice",
        voxel_surface,
    ),
}


class Structures:
    """All labels of one label map: where they lie, their masks and surfaces, each found once.

    Attributes:
        labels: The integers of each label or region, by name.
        shape: (Z, Y, X) voxels.
    """

    def __init__(
        self,
        label_map: np.ndarray,
        labels: Mapping[str, Sequence[int]],
        spacing: Sequence[float],
        *,
        ignored: np.ndarray | None = None,
        definition: str = "monai",
    ):
        """Find where the labels lie.

        Args:
            label_map: (Z, Y, X) non-negative integers.
            labels: Integers by label name; several for a region.
            spacing: (z, y, x) in mm.
            ignored: bool (Z, Y, X), voxels to leave out; None: none.
            definition: A name of DEFINITIONS.
        """
        self._map = np.where(ignored, 0, label_map) if ignored is not None else label_map
        self.labels = labels
        self.shape: tuple[int, ...] = label_map.shape
        self._flat = label_map.shape[0] == 1
        self._spacing = (0.0, *spacing[1:]) if self._flat else tuple(spacing)
        self._definition = DEFINITIONS[definition]
        self._found = find_objects(self._map)
        self._surfaces: dict[str, Surface] = {}

    @property
    def diagonal(self) -> float:
        """Of the image, in mm: what a distance costs when one of the two masks is empty."""
        return float(np.linalg.norm(np.multiply(self.shape, self._spacing)))

    def box(self, name: str) -> Box | None:
        """Bounding box of a label; None where it is empty."""
        boxes = [self._found[v - 1] for v in self.labels[name] if 0 < v <= len(self._found)]
        return join_boxes([box for box in boxes if box is not None])

    def mask(self, name: str, box: Box) -> np.ndarray:
        """bool mask of a label within a box."""
        part, values = self._map[box], self.labels[name]
        mask = part == values[0]
        for value in values[1:]:
            mask |= part == value
        return mask

    def surface(self, name: str) -> Surface:
        """Surface of a label that is not empty."""
        if name not in self._surfaces:
            box = self.box(name)
            corner = [side.start for side in box]
            self._surfaces[name] = self._definition.surface(self.mask(name, box), corner, self._spacing)
        return self._surfaces[name]


def join_boxes(boxes: Sequence[Box]) -> Box | None:
    """The smallest box around some boxes; None of none."""
    if not boxes:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


@dataclass(frozen=True)
class Counts:
    """Voxels by prediction and reference, the ignored ones left out."""

    TP: int
    FP: int
    FN: int
    TN: int

    @property
    def state(self) -> State:
        """Whether there is anything to compare."""
        if self.TP + self.FP + self.FN == 0:
            return "both_empty"
        if self.TP + self.FP == 0:
            return "prediction_empty"
        return "reference_empty" if self.TP + self.FN == 0 else "compared"


class Comparison:
    """One label of a prediction beside its reference: what metric functions are given.

    Attributes:
        tolerance: Of the NSD, in mm.
    """

    def __init__(self, prediction: Structures, reference: Structures, name: str, voxels: int, tolerance: float):
        self._prediction, self._reference, self._name, self._voxels = prediction, reference, name, voxels
        self.tolerance = tolerance

    @cached_property
    def counts(self) -> Counts:
        """Voxel counts."""
        boxes = [self._prediction.box(self._name), self._reference.box(self._name)]
        box = join_boxes([b for b in boxes if b is not None])
        if box is None:
            return Counts(0, 0, 0, self._voxels)
        predicted, true = self._prediction.mask(self._name, box), self._reference.mask(self._name, box)
        both, n_pred, n_ref = (int(np.count_nonzero(m)) for m in (predicted & true, predicted, true))
        return Counts(both, n_pred - both, n_ref - both, self._voxels - n_pred - n_ref + both)

    @cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Prediction to reference and reference to prediction, float32, mm; neither mask is empty."""
        predicted, true = self._prediction.surface(self._name), self._reference.surface(self._name)
        return predicted.distances_to(true), true.distances_to(predicted)

    @property
    def diagonal(self) -> float:
        """Of the image, in mm."""
        return self._reference.diagonal


def dice(comparison: Comparison) -> float:
    """Dice similarity coefficient, in [0, 1]."""
    counts = comparison.counts
    return 2 * counts.TP / (2 * counts.TP + counts.FP + counts.FN)


def hausdorff(comparison: Comparison) -> float:
    """Symmetric Hausdorff distance, mm."""
    return float(max(d.max() for d in comparison.distances))


def hausdorff_95(comparison: Comparison) -> float:
    """Larger of the two directed 95th percentiles of surface distance, mm."""
    return float(max(np.percentile(d.astype(np.float64), 95) for d in comparison.distances))


def surface_dice(comparison: Comparison) -> float:
    """Normalised surface distance: share of both surfaces within the tolerance, in [0, 1]."""
    tolerance = np.float32(comparison.tolerance)
    near = sum(int(np.count_nonzero(d <= tolerance)) for d in comparison.distances)
    return near / sum(d.size for d in comparison.distances)


@dataclass(frozen=True)
class Metric:
    """One column of every output.

    Attributes:
        title: What it stands for.
        unit: "mm", or "" for shares.
        higher_is_better: Which way to rank.
        value: Where both masks hold something.
        worst: Where exactly one of them is empty.
    """

    title: str
    unit: str
    higher_is_better: bool
    value: Callable[[Comparison], float]
    worst: Callable[[Comparison], float]


def _zero(_: Comparison) -> float:
    return 0.0


def _diagonal(comparison: Comparison) -> float:
    return comparison.diagonal


METRICS: Mapping[str, Metric] = {
    "DSC": Metric("Dice similarity coefficient", "", True, dice, _zero),
    "HD": Metric("Hausdorff distance", "mm", False, hausdorff, _diagonal),
    "HD95": Metric("95th percentile of the Hausdorff distance", "mm", False, hausdorff_95, _diagonal),
    "NSD": Metric("normalised surface distance", "", True, surface_dice, _zero),
}


@dataclass(frozen=True)
class LabelResult:
    """What one label of one case came to.

    Attributes:
        state: Whether both, one or none of the masks was empty.
        counts: Voxels.
        values: By metric; empty where both masks are (not counted in any mean).
    """

    state: State
    counts: Counts
    values: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """For the cache."""
        return {"counts": vars(self.counts), "values": dict(self.values)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LabelResult:
        """From the cache."""
        counts = Counts(**content["counts"])
        return cls(counts.state, counts, dict(content["values"]))


def compare(
    prediction: Structures, reference: Structures, *, tolerance: float, voxels: int | None = None
) -> dict[str, LabelResult]:
    """All metrics of all labels of the reference.

    Both masks empty: no values, not counted. Exactly one empty: DSC and NSD 0, distances the image's diagonal, so
    that leaving an organ out never improves a mean.

    Args:
        prediction: On the reference's grid, with the same voxels ignored.
        reference: What it is compared with.
        tolerance: Of the NSD, in mm.
        voxels: How many voxels are not ignored; None: all of them.

    Returns:
        By label name.
    """
    results = {}
    size = int(np.prod(reference.shape)) if voxels is None else voxels
    for name in reference.labels:
        comparison = Comparison(prediction, reference, name, size, tolerance)
        state = comparison.counts.state
        values: dict[str, float] = {}
        if state != "both_empty":
            values = {
                key: metric.value(comparison) if state == "compared" else metric.worst(comparison)
                for key, metric in METRICS.items()
            }
        results[name] = LabelResult(state, comparison.counts, values)
    return results
