"""Preprocessed cases of earlier versions of nnkd, which noted one hash of the files and settings: whether they hold is
seen once from their content, and never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import FileError
from nnkd.files import sha256_text
from nnkd.preprocessing.case_origins import statistics_used
from nnkd.weights import pickles

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = 1e-5  # of the range of normalised intensities: float32


def digest_of_old(hashes: Sequence[str], plans: Mapping[str, Any], configuration: str) -> str:
    """The one hash of earlier versions.

    Args:
        hashes: sha256 of the case's images and label map.
        plans: nnU-Net's.
        configuration: Its name.
    """
    values = plans["configurations"][configuration]
    settings = sha256_text(str(sorted(values.items())) + str(plans["transpose_forward"]))
    return sha256_text("".join(hashes) + settings)


def holds(folder: Path, case: str, plans: Mapping[str, Any], values: Mapping[str, Any], spec: DatasetSpec) -> bool:
    """Whether a case's content is what labels and intensity statistics would make now; False also if that cannot be
    seen.

    Args:
        folder: DATA_IDENTIFIER.
        case: Its identifier.
        plans: nnU-Net's.
        values: Of the configuration.
        spec: The dataset.
    """
    try:
        return labels_fit(folder, case, spec) and statistics_fit(folder, case, plans, values) is True
    except FileError:  # broken, or of somebody else: it is made anew
        return False


def labels_fit(folder: Path, case: str, spec: DatasetSpec) -> bool:
    """Whether a case's class locations are those of the dataset's labels or regions, and its label map holds no other
    integers."""
    import blosc2

    pickles.check_case(folder, case)
    places = pickles.load(folder / f"{case}.pkl").get("class_locations", {})
    if set(places) != _classes(spec):
        return False
    stored = blosc2.open(urlpath=str(folder / f"{case}_seg.b2nd"), mode="r")[:]
    return set(np.unique(stored).tolist()) <= {-1, *spec.values}


def _classes(spec: DatasetSpec) -> set[int | tuple[int, ...]]:
    """What nnU-Net samples places of."""
    found: set[int | tuple[int, ...]] = set()
    for name, values in spec.labels.items():
        found.add(values if spec.has_regions and isinstance(spec.json["labels"][name], list) else values[0])
    if spec.ignore_label is not None:
        found.add((-1, *sorted(spec.values - {spec.ignore_label})))
    return found


def statistics_fit(folder: Path, case: str, plans: Mapping[str, Any], values: Mapping[str, Any]) -> bool | None:
    """Whether the dataset's intensity statistics are those that a case was normalised with; None: that cannot be seen.

    nnU-Net cuts CT at two percentiles before it normalises, and resampling stays within that range: so no value lies
    outside, and air, or dense bone, lies exactly on a bound.
    """
    import blosc2

    statistics = statistics_used(plans, values)
    if not statistics:
        return True
    pickles.check_array(folder / f"{case}.b2nd")
    data = blosc2.open(urlpath=str(folder / f"{case}.b2nd"), mode="r")
    seen = [
        _fits(data[int(channel)], known)
        for channel, known in statistics.items()
        if known and values["normalization_schemes"][int(channel)] == "CTNormalization"
    ]
    if False in seen:
        return False
    return True if seen.count(True) == len(statistics) else None


def _fits(channel: NDArray[np.float32], known: Mapping[str, float]) -> bool | None:
    low, high = (
        (known[bound] - known["mean"]) / max(known["std"], 1e-8) for bound in ("percentile_00_5", "percentile_99_5")
    )
    margin = EXACT * max(high - low, 1e-8)
    least, most = float(channel.min()), float(channel.max())
    if least < low - margin or most > high + margin:
        return False
    return True if least <= low + margin or most >= high - margin else None
