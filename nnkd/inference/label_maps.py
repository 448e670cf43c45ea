"""Logits on the preprocessed grid -> label map on the image's grid, plane by plane with a running arg-max.

nnU-Net resamples every head as a whole, in double precision, before it takes the arg-max. Here one plane of the result
is interpolated at a time, in single precision. Voxels whose answer hangs on rounding are computed again, in double
precision and in the order of scipy's additions, so that the label map is nnU-Net's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnkd.devices import threads

if TYPE_CHECKING:
    import torch

DEFAULT = "resample_data_or_seg_to_shape"
APART = ("force_separate_z", "separate_z_anisotropy_threshold")
KNOWN = {"is_seg": False, "order": 1, "order_z": 0}
SINGLE = 2.0**-21  # what three interpolations in single precision may be off, as a share of the largest logit
HALF = 2.0**-9  # two steps of half precision, in which nnU-Net hands on logits; float32 is covered by SINGLE
SMALLEST = 2.0**-22  # below, sigmoid(x) is exactly 0.5 in single precision


@dataclass(frozen=True)
class Axis:
    """One axis of a linear resampling: out[i] = (1 - weight[i]) * in[first[i]] + weight[i] * in[second[i]].

    Attributes:
        first, second: (new size,) int64.
        weight: (new size,) float64 in [0, 1).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def linear(cls, size: int, new: int) -> Axis:
        """As scikit-image's `resize` of order 1 with mode "edge": voxels' centres, clamped at the border."""
        position = np.clip((np.arange(new) + 0.5) * (size / new) - 0.5, 0, size - 1)
        first = np.floor(position).astype(np.int64)
        return cls(first, np.minimum(first + 1, size - 1), position - first)

    @classmethod
    def nearest(cls, size: int, new: int) -> Axis:
        """As nnU-Net takes the slices of an anisotropic axis."""
        position = np.clip((size / new) * (np.arange(new) + 0.5) - 0.5, 0, size - 1)
        first = np.floor(position + 0.5).astype(np.int64)
        return cls(first, first, np.zeros(new))

    def along(self, array: torch.Tensor, dim: int) -> torch.Tensor:
        """Resample one axis of an array."""
        import torch

        if len(self.weight) == array.shape[dim] and np.array_equal(self.first, np.arange(len(self.first))):
            return array
        first = array.index_select(dim, torch.from_numpy(self.first))
        if not self.weight.any():
            return first
        weight = torch.from_numpy(self.weight).to(array.dtype)
        shape = [-1 if axis == dim else 1 for axis in range(array.ndim)]
        return first.lerp_(array.index_select(dim, torch.from_numpy(self.second)), weight.view(shape))


@dataclass(frozen=True)
class Resampling:
    """From the preprocessed grid to the cropped image's grid, as nnU-Net's default resamples probabilities.

    Attributes:
        axes: In the preprocessed order.
    """

    axes: tuple[Axis, Axis, Axis]

    @classmethod
    def of(
        cls, shape: Sequence[int], plans: Any, configuration: Any, properties: Mapping[str, Any], **rule: Any
    ) -> Resampling:
        """For one case.

        Args:
            shape: Of the preprocessed image.
            plans, configuration: nnU-Net's managers.
            properties: Of nnU-Net's preprocessor.
            rule: nnU-Net's force_separate_z and separate_z_anisotropy_threshold; None, or left out: its defaults.
        """
        from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

        target = properties["shape_after_cropping_and_before_resampling"]
        spacing = [properties["spacing"][i] for i in plans.transpose_forward]
        current = list(configuration.spacing)
        current = current if len(current) == len(target) else [spacing[0], *current]
        forced = rule.pop("force_separate_z", None)
        separate, lowest = determine_do_sep_z_and_axis(forced, current, spacing, **rule)
        made = [
            (Axis.nearest if separate and axis == lowest else Axis.linear)(int(size), int(new))
            for axis, (size, new) in enumerate(zip(shape, target, strict=True))
        ]
        return cls((made[0], made[1], made[2]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return tuple(len(axis.first) for axis in self.axes)

    def planes(self, array: NDArray[np.floating]) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """The two resampled input planes between which each plane of the result lies, and the second one's weight.

        Args:
            array: (heads, *S) of any floating type.

        Yields:
            (heads, Y, X) float32 twice, and a number in [0, 1).
        """
        import torch

        slices, rows, columns = self.axes
        whole = torch.from_numpy(array)
        known: dict[int, torch.Tensor] = {}
        for first, second, weight in zip(slices.first, slices.second, slices.weight, strict=True):
            needed = (int(first), int(second if weight else first))
            known = {i: plane for i, plane in known.items() if i in needed}
            for i in needed:
                if i not in known:
                    known[i] = rows.along(columns.along(whole[:, i].float(), 2), 1)
            yield known[needed[0]], known[needed[1]], float(weight)

    def exactly(
        self, array: NDArray[np.floating], z: int, y: NDArray[np.integer], x: NDArray[np.integer]
    ) -> NDArray[np.floating]:
        """Single voxels of a plane as nnU-Net computes them: float64, corner by corner in scipy's order.

        Args:
            array: (heads, *S).
            z: The plane.
            y, x: (n,) indices in it.

        Returns:
            (heads, n) of the array's type.
        """
        corners = []
        for axis, index in zip(self.axes, (np.full_like(y, z), y, x), strict=True):
            weight = axis.weight[index]
            corners.append(((axis.first[index], 1.0 - weight), (axis.second[index], weight)))
        total = np.zeros((len(array), len(y)))
        for (i, a), (j, b), (k, c) in product(*corners):
            total += array[:, i, j, k].astype(np.float64) * a * b * c
        return total.astype(array.dtype)


def label_map(
    logits: NDArray[np.floating],
    plans: Any,
    configuration: Any,
    labels: Any,
    properties: Mapping[str, Any],
    workers: int = 1,
) -> NDArray[np.integer]:
    """What nnU-Net's `convert_predicted_logits_to_segmentation_with_correct_shape` returns, in a sixth of the time and
    a fifteenth of the memory (`benchmarks/export.py`). Plans that resample probabilities in another way than nnU-Net's
    default go nnU-Net's way.

    Args:
        logits: (heads, *S) float16 or float32 on the preprocessed grid.
        plans, configuration, labels: nnU-Net's managers.
        properties: Of nnU-Net's preprocessor.
        workers: Threads.

    Returns:
        (Z, Y, X) uint8, or uint16 from 255 labels on, on the image's grid.
    """
    largest = max(float(logits.max()), -float(logits.min()))
    if not (_is_default(configuration, labels) and np.isfinite(largest)):
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans, configuration, labels, properties, num_threads_torch=workers
        )
    resampling = Resampling.of(logits.shape[1:], plans, configuration, properties, **_rule(configuration))
    dtype = np.uint8 if len(labels.foreground_labels) < 255 else np.uint16
    whole = np.zeros(tuple(properties["shape_before_cropping"]), dtype)
    target = whole[_crop(properties)]
    with threads(workers):
        for z, (first, second, weight) in enumerate(resampling.planes(logits)):
            plane, unsure = _decide(first, second, weight, labels, largest, logits.dtype == np.float16)
            y, x = np.nonzero(unsure)
            if len(y):
                values = resampling.exactly(logits, z, y, x)
                plane[y, x] = labels.convert_logits_to_segmentation(values[:, None, None])[0, 0]
            target[z] = plane
    return whole.transpose(plans.transpose_backward)


def on_image(
    array: NDArray[np.float32], plans: Any, configuration: Any, properties: Mapping[str, Any], workers: int = 1
) -> NDArray[np.float32]:
    """A map on the preprocessed grid, such as an entropy -> the image's grid, interpolated as nnU-Net's default
    resamples probabilities; 0 outside of the crop.

    Args:
        array: (*S) float32.
        plans, configuration: nnU-Net's managers.
        properties: Of nnU-Net's preprocessor.
        workers: Threads.

    Returns:
        (Z, Y, X) float32.
    """
    resampling = Resampling.of(array.shape, plans, configuration, properties, **_rule(configuration))
    whole = np.zeros(tuple(properties["shape_before_cropping"]), np.float32)
    target = whole[_crop(properties)]
    with threads(workers):
        for z, (first, second, weight) in enumerate(resampling.planes(array[None])):
            target[z] = first[0].lerp(second[0], weight).numpy() if weight else first[0].numpy()
    return whole.transpose(plans.transpose_backward)


_KEY = "resampling_fn_probabilities"


def _rule(configuration: Any) -> dict[str, Any]:
    """When an axis is resampled apart: as the plans say, if they resample in nnU-Net's default way."""
    content = configuration.configuration
    given = content.get(f"{_KEY}_kwargs", {}) if content.get(_KEY) == DEFAULT else {}
    return {key: given[key] for key in APART if key in given}


def _is_default(configuration: Any, labels: Any) -> bool:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    content = configuration.configuration
    options = content.get(f"{_KEY}_kwargs", {})
    rest = set(options) - set(KNOWN) - set(APART)
    known = all(options.get(key) == value for key, value in KNOWN.items())
    return content.get(_KEY) == DEFAULT and known and not rest and type(labels) is LabelManager


def _crop(properties: Mapping[str, Any]) -> tuple[slice, ...]:
    return tuple(slice(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"])


def _decide(
    first: torch.Tensor, second: torch.Tensor, weight: float, labels: Any, largest: float, half: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a plane, and where rounding decides: (Y, X) int16 and bool."""
    import torch

    heads = (a.lerp(b, weight) if weight else a for a, b in zip(first, second, strict=True))
    near = largest * SINGLE + SMALLEST
    plane = torch.zeros(first.shape[1:], dtype=torch.int16)
    if labels.has_regions:
        unsure = torch.zeros(first.shape[1:], dtype=torch.bool)
        for integer, head in zip(labels.regions_class_order, heads, strict=True):
            plane.masked_fill_(head > 0, integer)
            unsure |= head.abs() <= near
        return plane.numpy(), unsure.numpy()
    best = next(heads)
    runner_up = torch.full_like(best, -torch.inf)
    for label, head in enumerate(heads, start=1):
        plane.masked_fill_(head > best, label)
        runner_up = torch.maximum(runner_up, torch.minimum(best, head))
        best = torch.maximum(best, head)
    gap = best - runner_up
    return plane.numpy(), (gap <= (best.abs() * HALF + near if half else near)).numpy()
