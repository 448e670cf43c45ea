"""How well a label map agrees with its reference: overlap, volumes, and surface distances in mm, per label.

Each surface is found once per label map and shared by all metrics, and the reference's by all predictions. A new metric
is one row of METRICS; what a surface is stands in `nnkd.evaluation.surfaces`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnkd.evaluation.surfaces import DEFINITIONS, Meetings, Surface

LINE = 1 << 17  # voxels counted together: with their sums they stay in the processor's cache
State = Literal["compared", "both_empty", "prediction_empty", "reference_empty"]
EMPTY_MASKS = (
    "in neither file: not counted; in exactly one: DSC and NSD 0, HD, HD95 and ASSD the image's diagonal, VD as it is, "
    "RVD -1 where the prediction is empty and not counted where the reference is"
)


class Structures:
    """All labels of one label map: their surfaces, each found once.

    Attributes:
        label_map: (Z, Y, X) non-negative integers, 0 where it is ignored.
        labels: The integers of each label or region, by name.
        definition: What a surface is.
        voxel_volume: In ml; thousandths of a pixel for formats without spacing.
    """

    def __init__(
        self,
        label_map: NDArray[np.integer],
        labels: Mapping[str, Sequence[int]],
        spacing: Sequence[float],
        *,
        ignored: NDArray[np.bool_] | None = None,
        definition: str = "monai",
    ):
        """Nothing is computed yet.

        Args:
            label_map: (Z, Y, X) non-negative integers.
            labels: Integers by label name; several for a region.
            spacing: (z, y, x) in mm.
            ignored: bool (Z, Y, X), voxels to leave out; None: none.
            definition: A name of DEFINITIONS.
        """
        self.label_map = np.where(ignored, 0, label_map) if ignored is not None else label_map
        self.labels = labels
        self.definition = DEFINITIONS[definition]
        self.voxel_volume = float(np.prod(spacing)) / 1000
        self._flat = label_map.shape[0] == 1
        self._spacing = (0.0, *spacing[1:]) if self._flat else tuple(spacing)
        self._surfaces: dict[str, Surface] = {}

    @property
    def diagonal(self) -> float:
        """Of the image, in mm: what a distance costs when one of the two masks is empty."""
        return float(np.linalg.norm(np.multiply(self.label_map.shape, self._spacing)))

    @cached_property
    def _meetings(self) -> Meetings:
        return self.definition.meetings(self.label_map, self._flat)

    def surface(self, name: str) -> Surface:
        """Surface of a label."""
        if name not in self._surfaces:
            self._surfaces[name] = self.definition.surface(self._meetings, self.labels[name], self._spacing)
        return self._surfaces[name]


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


def count_voxels(prediction: Structures, reference: Structures, voxels: int) -> dict[str, Counts]:
    """Voxels of all labels of the reference, from one walk through both label maps.

    Args:
        prediction: On the reference's grid.
        reference: What it is compared with.
        voxels: How many there are in all.

    Returns:
        By label name.
    """
    integers = sorted({value for values in reference.labels.values() for value in values})
    predicted, true = prediction.label_map.reshape(-1), reference.label_map.reshape(-1)
    size = max(int(predicted.max(initial=0)), int(true.max(initial=0)), *integers, 0) + 1
    index = np.zeros(size, dtype=np.intp)
    index[integers] = np.arange(1, len(integers) + 1)
    n = len(integers) + 1
    line = np.zeros(n * n, dtype=np.int64)
    for start in range(0, true.size, LINE):
        p, r = predicted[start : start + LINE], true[start : start + LINE]
        here = np.flatnonzero((p | r) != 0)  # of bool: several times faster than of integers
        line += np.bincount(index[p[here]] * n + index[r[here]], minlength=n * n)
    table = line.reshape(n, n)
    found = {}
    for name, values in reference.labels.items():
        own = index[list(values)]
        both, n_pred, n_ref = (int(t.sum()) for t in (table[np.ix_(own, own)], table[own], table[:, own]))
        found[name] = Counts(both, n_pred - both, n_ref - both, voxels - n_pred - n_ref + both)
    return found


class Comparison:
    """One label of a prediction beside its reference: what metric functions are given.

    Attributes:
        counts: Voxels.
        tolerance: Of the NSD, in mm.
    """

    def __init__(self, prediction: Structures, reference: Structures, name: str, counts: Counts, tolerance: float):
        self._prediction, self._reference, self._name = prediction, reference, name
        self.counts, self.tolerance = counts, tolerance

    @cached_property
    def surfaces(self) -> tuple[Surface, Surface]:
        """The prediction's and the reference's."""
        return self._prediction.surface(self._name), self._reference.surface(self._name)

    @cached_property
    def distances(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Prediction to reference and reference to prediction, mm, in the definition's precision; neither is empty."""
        predicted, true = self.surfaces
        precision = self._reference.definition.precision
        return predicted.distances_to(true).astype(precision), true.distances_to(predicted).astype(precision)

    def percentile(self, per_cent: float) -> float:
        """Larger of the two directed percentiles, mm."""
        rule = self._reference.definition.percentile
        pairs = zip(self.distances, self.surfaces, strict=True)
        return max(rule(distances, surface.areas, per_cent) for distances, surface in pairs)

    @property
    def area(self) -> float:
        """Of both surfaces."""
        return float(sum(surface.areas.sum() for surface in self.surfaces))

    @property
    def diagonal(self) -> float:
        """Of the image, in mm."""
        return self._reference.diagonal

    @property
    def voxel_volume(self) -> float:
        """In ml."""
        return self._reference.voxel_volume


def dice(comparison: Comparison) -> float:
    """Dice similarity coefficient, in [0, 1]."""
    counts = comparison.counts
    return 2 * counts.TP / (2 * counts.TP + counts.FP + counts.FN)


def hausdorff(comparison: Comparison) -> float:
    """Symmetric Hausdorff distance, mm."""
    return float(max(d.max() for d in comparison.distances))


def hausdorff_95(comparison: Comparison) -> float:
    """Larger of the two directed 95th percentiles of surface distance, mm."""
    return comparison.percentile(95)


def surface_dice(comparison: Comparison) -> float:
    """Normalised surface distance: share of both surfaces within the tolerance, in [0, 1]."""
    near = 0.0
    for distances, surface in zip(comparison.distances, comparison.surfaces, strict=True):
        near += float(surface.areas[distances <= distances.dtype.type(comparison.tolerance)].sum())
    return near / comparison.area


def mean_surface_distance(comparison: Comparison) -> float:
    """Average symmetric surface distance: mean over both surfaces together, mm."""
    pairs = zip(comparison.distances, comparison.surfaces, strict=True)
    return float(sum(np.dot(distances, surface.areas) for distances, surface in pairs)) / comparison.area


def volume_difference(comparison: Comparison) -> float:
    """Prediction minus reference, ml."""
    return (comparison.counts.FP - comparison.counts.FN) * comparison.voxel_volume


def relative_volume_difference(comparison: Comparison) -> float | None:
    """The same by the reference's volume: -1 for an empty prediction; None for an empty reference."""
    counts = comparison.counts
    true = counts.TP + counts.FN
    return (counts.FP - counts.FN) / true if true else None


@dataclass(frozen=True)
class Metric:
    """One column of every output.

    Attributes:
        title: What it stands for.
        unit: "mm", "ml", or "" for shares.
        higher_is_better: Which way to rank; None: neither, so it is not ranked.
        value: Where both masks hold something.
        worst: Where exactly one of them is empty; None: not counted.
    """

    title: str
    unit: str
    higher_is_better: bool | None
    value: Callable[[Comparison], float | None]
    worst: Callable[[Comparison], float | None]


def _zero(_: Comparison) -> float:
    return 0.0


def _diagonal(comparison: Comparison) -> float:
    return comparison.diagonal


# Volume differences have a sign, which shows whether masks are too large or too small; errors of opposite sign
# cancel in a mean. Without it they could not be ranked either: an empty mask costs less than one that is too large.
METRICS: Mapping[str, Metric] = {
    "DSC": Metric("Dice similarity coefficient", "", True, dice, _zero),
    "HD": Metric("Hausdorff distance", "mm", False, hausdorff, _diagonal),
    "HD95": Metric("95th percentile of the Hausdorff distance", "mm", False, hausdorff_95, _diagonal),
    "NSD": Metric("normalised surface distance", "", True, surface_dice, _zero),
    "ASSD": Metric("average symmetric surface distance", "mm", False, mean_surface_distance, _diagonal),
    "VD": Metric("volume difference, prediction minus reference", "ml", None, volume_difference, volume_difference),
    "RVD": Metric(
        "volume difference as a share of the reference's volume",
        "",
        None,
        relative_volume_difference,
        relative_volume_difference,
    ),
}
RANKED = tuple(name for name, metric in METRICS.items() if metric.higher_is_better is not None)


@dataclass(frozen=True)
class LabelResult:
    """What one label of one case came to.

    Attributes:
        state: Whether both, one or none of the masks was empty.
        counts: Voxels.
        values: By metric; None where it is not counted. Empty where both masks are (not counted in any mean).
    """

    state: State
    counts: Counts
    values: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """For the cache."""
        return {"counts": vars(self.counts), "values": dict(self.values)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LabelResult:
        """From the cache."""
        counts = Counts(**content["counts"])
        return cls(counts.state, counts, dict(content["values"]))


def compare(
    prediction: Structures,
    reference: Structures,
    *,
    tolerance: float | Mapping[str, float],
    voxels: int | None = None,
) -> dict[str, LabelResult]:
    """All metrics of all labels of the reference.

    Empty masks are treated as EMPTY_MASKS says, so that leaving an organ out never improves a mean that is ranked.

    Args:
        prediction: On the reference's grid, with the same voxels ignored and the same definition.
        reference: What it is compared with.
        tolerance: Of the NSD, in mm: for all labels, or by label.
        voxels: How many voxels are not ignored; None: all of them.

    Returns:
        By label name.
    """
    results = {}
    size = reference.label_map.size if voxels is None else voxels
    for name, counts in count_voxels(prediction, reference, size).items():
        near = tolerance[name] if isinstance(tolerance, Mapping) else tolerance
        comparison = Comparison(prediction, reference, name, counts, near)
        values: dict[str, float | None] = {}
        if counts.state != "both_empty":
            compared = counts.state == "compared"
            values = {key: (m.value if compared else m.worst)(comparison) for key, m in METRICS.items()}
        results[name] = LabelResult(counts.state, counts, values)
    return results
