"""What a box model is worth in the end: masks of validation slices with exact boxes, as validation/summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnkd.boxes.pixels import prepare
from nnkd_litemedsam.sizes import SIZE
from nnkd_litemedsam.slices.loader import Reader, box_around


class Row(NamedTuple):
    """One label in one slice: DSC in [0, 1] by who segmented it."""

    dataset: str
    label: str
    dice: Mapping[str, float]


class Boxed(NamedTuple):
    """A slice whose targets all have boxes.

    Attributes:
        dataset: Its dataset's name.
        image: (1, 3, 256, 256) float32.
        shape: (h, w), what of it is no padding.
        labels: n names.
        boxes: (n, 4) float32, rows (x0, y0, x1, y1) in pixels of the 256.
        truth: (n, 256, 256) bool.
    """

    dataset: str
    image: Tensor
    shape: tuple[int, int]
    labels: list[str]
    boxes: Tensor
    truth: Tensor


def looks(reader: Reader, key: str, z: int, device: torch.device) -> list[Boxed]:
    """A slice in each grey scale that its labels are seen in, with all of them; without labels in the first one.

    Args:
        reader: With or without targets.
        key, z: The case and its slice.
        device: Where tensors go.
    """
    slices, case = reader.where(key)
    labels = slices.index.cases[case].targets().get(z, [])
    by_grey: dict[int, list[str]] = {}
    for label in labels:
        by_grey.setdefault(slices.index.grey_of[label], []).append(label)
    found = []
    for grey, mine in (by_grey or {0: []}).items():
        picture, stored = slices.read(case, z, grey)
        masks = [slices.mask(stored, label) for label in mine]
        rng = np.random.default_rng(0)  # unused without jitter
        boxes = np.array([box_around(mask, 0.0, rng) for mask in masks], dtype=np.float32).reshape(-1, 4)
        truth = np.zeros((len(masks), SIZE, SIZE), dtype=bool)
        for place, mask in enumerate(masks):
            truth[place, : mask.shape[0], : mask.shape[1]] = mask
        image = torch.from_numpy(prepare(picture, SIZE))[None].to(device)
        height, width = stored.shape
        found.append(
            Boxed(
                slices.name,
                image,
                (height, width),
                mine,
                torch.from_numpy(boxes).to(device),
                torch.from_numpy(truth).to(device),
            )
        )
    return found


def rows(boxed: Boxed, found: Mapping[str, Tensor]) -> list[Row]:
    """DSC of each label of a slice; what lies in the padding does not count.

    Args:
        boxed: The slice.
        found: (n, 256, 256) bool by who segmented it.
    """
    height, width = boxed.shape
    truth = boxed.truth[:, :height, :width]
    scores = {}
    for name, masks in found.items():
        mine = masks[:, :height, :width]
        common = (mine & truth).sum((1, 2)).float()
        scores[name] = (2 * common / (mine.sum((1, 2)) + truth.sum((1, 2))).clamp(min=1)).tolist()
    return [
        Row(boxed.dataset, label, {name: values[place] for name, values in scores.items()})
        for place, label in enumerate(boxed.labels)
    ]


def summary_of(found: Sequence[Row], slices: int, more: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content.

    Args:
        found: All rows.
        slices: How many slices were looked at.
        more: Further keys.

    Returns:
        "mean" over all rows, "by_label" {dataset: {label: ...}} with the number of slices, "slices", and `more`.
    """
    names = list(found[0].dice) if found else []
    by_label: dict[str, dict[str, Any]] = {}
    for dataset, label in sorted({(row.dataset, row.label) for row in found}):
        mine = [row for row in found if (row.dataset, row.label) == (dataset, label)]
        by_label.setdefault(dataset, {})[label] = {**_means(mine, names), "slices": len(mine)}
    return {
        "what": "DSC of slices at 256 pixels, with exact boxes around each label's mask",
        "slices": slices,
        "mean": {**more.get("mean", {}), **_means(found, names)},
        "by_label": by_label,
        **{key: value for key, value in more.items() if key != "mean"},
    }


def _means(found: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    return {f"Dice of {name}": round(float(np.mean([row.dice[name] for row in found])), 4) for name in names}
