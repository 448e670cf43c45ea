"""How well maps of uncertainty rank the errors of a label map: are its wrong voxels the uncertain ones?

Only voxels near the foreground count. Far from it nearly every voxel is right and certain, and such voxels, most of an
image, would make any map look perfect.

Values are counted in bins of 2**-11 of their size, 8 MB a map whatever the image: what is left of a tie within a bin
is treated as the tie it nearly is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnkd.data.reading.geometry import Grid
from nnkd.errors import NnkdError
from nnkd.evaluation.cells import cell
from nnkd.evaluation.comparisons import Files, Settings
from nnkd.evaluation.intervals import Bootstrap, Estimate, mean
from nnkd.evaluation.part import Part, Plain
from nnkd.evaluation.plots import caught_plot
from nnkd.evaluation.scores import Scores, write_frame
from nnkd.figures import embedded
from nnkd.inference.uncertainty import MAPS, UncertaintyFolder
from nnkd.types import Failure

KEY, TABLES = "uncertainty", ("uncertainty.csv", "volumes.csv")
DIGITS = 3
REACH = 10.0  # mm around the reference's and the prediction's foreground; pixels where there is no spacing
REGION = f"within {REACH:g} mm (without spacing: pixels) of the reference's or the prediction's foreground"
TOP = 0.01  # share of voxels that one would look at first
DROPPED_BITS = 12  # of float32's 23 bits behind the point
MEASURES: Mapping[str, str] = {
    "auroc": "AUROC: chance that a wrong voxel is more uncertain than a right one",
    "average_precision": "average precision",
    "wrong_in_top": f"share of wrong voxels among the most uncertain {TOP:.0%}",
    "wrong": "share of wrong voxels among all: what the two before come to by chance",
}
SHARES = np.linspace(0, 1, 101) ** 2  # of voxels looked at, for the plot


class Histogram:
    """Right and wrong voxels by value.

    Attributes:
        right, wrong: (bins,) int64, from the smallest value to the largest.
    """

    def __init__(self) -> None:
        bins = (np.float32(np.inf).view(np.uint32) >> DROPPED_BITS) + 1
        self.right, self.wrong = (np.zeros(int(bins), np.int64) for _ in range(2))

    def add(self, values: NDArray[np.floating], errors: NDArray[np.bool_]) -> None:
        """Count voxels.

        Args:
            values: (n,) float32, 0 or more.
            errors: (n,) bool.
        """
        index = np.maximum(values, 0).astype(np.float32).view(np.uint32) >> DROPPED_BITS
        for chosen, counts in ((~errors, self.right), (errors, self.wrong)):
            counts += np.bincount(index[chosen], minlength=len(counts))

    def ranking(self) -> Ranking | None:
        """None unless there are right and wrong voxels: else there is nothing to rank."""
        right, wrong = (counts[::-1].astype(np.float64) for counts in (self.right, self.wrong))  # most uncertain first
        used = right + wrong > 0
        right, wrong = right[used], wrong[used]
        n_right, n_wrong = right.sum(), wrong.sum()
        if not (n_right and n_wrong):
            return None
        seen_right, seen_wrong = np.cumsum(right), np.cumsum(wrong)
        seen = seen_right + seen_wrong
        first = TOP * seen[-1]
        found = {
            "auroc": float((right * (seen_wrong - wrong / 2)).sum() / (n_right * n_wrong)),
            "average_precision": float((wrong / n_wrong * seen_wrong / seen).sum()),
            "wrong_in_top": float(np.interp(first, [0, *seen], [0, *seen_wrong]) / first),
            "wrong": float(n_wrong / seen[-1]),
        }
        caught = np.interp(SHARES * seen[-1], [0, *seen], [0, *seen_wrong]) / n_wrong
        return Ranking(found, int(seen[-1]), caught)


@dataclass(frozen=True)
class Ranking:
    """How well one map ranks the errors of one case.

    Attributes:
        values: By name of MEASURES, in [0, 1].
        voxels: How many were ranked.
        caught: (len(SHARES),) share of all wrong voxels among that share of the most uncertain voxels.
    """

    values: dict[str, float]
    voxels: int
    caught: NDArray[np.float64]


@dataclass
class FolderRanking:
    """Of one prediction folder.

    Attributes:
        maps: Ranking by map's name and case.
        volumes: One row per case and label: case, label, reference, median, low, high, unit, inside.
        failures: One sentence by case whose maps could not be read.
        without: Cases without maps.
    """

    maps: dict[str, dict[str, Ranking]] = field(default_factory=lambda: {name: {} for name in MAPS})
    volumes: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    def estimate(self, name: str, measure: str, person_of: Mapping[str, str], bootstrap: Bootstrap) -> Estimate | None:
        """Mean over cases with its interval over participants; None if no case has right and wrong voxels."""
        return mean([{c: r.values[measure] for c, r in self.maps[name].items()}], person_of, bootstrap)

    def caught(self, name: str) -> NDArray[np.float64] | None:
        """Mean over cases of `Ranking.caught`."""
        found = [ranking.caught for ranking in self.maps[name].values()]
        return np.mean(found, axis=0) if found else None

    def coverage(self) -> dict[str, tuple[int, int]]:
        """By label: in how many cases the reference's volume lies in the interval, and of how many."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.volumes:
            inside, cases = found.get(row["label"], (0, 0))
            found[row["label"]] = (inside + row["inside"], cases + 1)
        return found


def rank_folder(uncertainty: UncertaintyFolder, settings: Settings, files: Files, name: str) -> FolderRanking | None:
    """Rank the errors of a prediction folder.

    Args:
        uncertainty: Its folder of maps.
        settings: Dataset and labels.
        files: What was compared.
        name: The folder's.

    Returns:
        None if there are no maps.
    """
    predictions = files.predictions[name]
    cases = sorted(set(files.cases) & set(predictions))
    if not any(uncertainty.maps(case) for case in cases):
        return None
    found = FolderRanking()
    volumes = {(row["case"], row["label"]): row for row in uncertainty.volumes().to_dict("records")}
    for case in cases:
        if not uncertainty.maps(case):
            found.without.append(case)
            continue
        try:
            reference, grid, _ = files.labels_of(settings.spec).read(files.references[case])
            predicted, mine, _ = files.labels_of(settings.spec, name).read(predictions[case])
            if mine.difference(grid):
                continue  # the comparison of label maps says so
            _rank_case(found, case, reference, predicted, uncertainty, settings, grid)
        except NnkdError as error:
            found.failures[case] = str(error)
            continue
        for label, values in settings.labels.items():
            if (row := volumes.get((case, label))) is not None:
                found.volumes.append(_volume(row, reference, values, grid))
    return found


def _rank_case(
    found: FolderRanking, case: str, reference: np.ndarray, predicted: np.ndarray, uncertainty: UncertaintyFolder,
    settings: Settings, grid: Grid,
) -> None:  # fmt: skip
    kept = sorted({value for values in settings.labels.values() for value in values})
    true, mine = (np.where(np.isin(label_map, kept), label_map, 0) for label_map in (reference, predicted))
    near = neighbourhood((true > 0) | (mine > 0), grid)
    if near is None:
        return
    box, region = near
    if settings.spec.ignore_label is not None:
        region &= reference[box] != settings.spec.ignore_label
    errors = (true[box] != mine[box])[region]
    for name in uncertainty.maps(case):
        histogram = Histogram()
        histogram.add(uncertainty.read(name, case, grid)[box][region], errors)
        if (ranking := histogram.ranking()) is not None:
            found.maps[name][case] = ranking


def neighbourhood(foreground: NDArray[np.bool_], grid: Grid) -> tuple[tuple[slice, ...], NDArray[np.bool_]] | None:
    """Voxels within REACH of a mask, foreground included.

    Args:
        foreground: (Z, Y, X) bool.
        grid: Its spacing counts.

    Returns:
        A box, and a bool array of its size; None for an empty mask.
    """
    box = []
    for axis in range(3):
        there = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(there):
            return None
        reach = int(np.ceil(REACH / grid.spacing[axis]))
        box.append(slice(max(0, int(there[0]) - reach), int(there[-1]) + reach + 1))
    inner = foreground[tuple(box)]
    return tuple(box), distance_transform_edt(~inner, sampling=grid.spacing) <= REACH


def _volume(row: Mapping[str, Any], reference: np.ndarray, values: Sequence[int], grid: Grid) -> dict[str, Any]:
    """A row of volumes.csv with the reference's volume."""
    voxels = int(np.isin(reference, values).sum())
    true = voxels * float(np.prod(grid.spacing)) / 1000 if grid.in_world else float(voxels)
    kept = {key: row[key] for key in ("case", "label", "members", "median", "low", "high", "unit")}
    return {**kept, "reference": true, "inside": bool(row["low"] <= true <= row["high"])}


@dataclass(frozen=True)
class ErrorRankings:
    """The part of an evaluation that tells how well maps of uncertainty rank errors.

    Attributes:
        folders: Those that have maps, by name.
        scores: Of all folders, whose people and intervals count here, too.
    """

    folders: Mapping[str, FolderRanking]
    scores: Scores
    key: ClassVar[str] = KEY

    def write(self, output: Path) -> None:
        """uncertainty.csv and volumes.csv."""
        for name, make in zip(TABLES, (self.frame, self.volumes_frame), strict=True):
            write_frame(make(), output / name)

    def frame(self) -> pd.DataFrame:
        """One row per folder, case, map and measure."""
        rows = [
            (folder, case, name, measure, value, ranking.voxels)
            for folder, found in self.folders.items()
            for name, cases in found.maps.items()
            for case, ranking in cases.items()
            for measure, value in ranking.values.items()
        ]
        return pd.DataFrame(rows, columns=["folder", "case", "map", "measure", "value", "voxels"])

    def volumes_frame(self) -> pd.DataFrame:
        """One row per folder, case and label."""
        columns = ["folder", "case", "label", "members", "reference", "median", "low", "high", "unit", "inside"]
        rows = [{"folder": folder, **row} for folder, found in self.folders.items() for row in found.volumes]
        return pd.DataFrame(rows, columns=columns)

    def of_folder(self, name: str) -> dict[str, Any] | None:
        """Means by map and measure, and how often volumes lie in their intervals."""
        if (found := self.folders.get(name)) is None:
            return None
        maps = {m: {measure: vars(e) for measure, e in self._estimates(found, m).items() if e} for m in MAPS}
        coverage = {label: {"inside": inside, "cases": cases} for label, (inside, cases) in found.coverage().items()}
        return {
            "region": REGION,
            "maps": maps,
            "coverage": coverage,
            "failures": found.failures,
            "without_maps": found.without,
        }

    def _estimates(self, found: FolderRanking, name: str) -> dict[str, Estimate | None]:
        """Of one map, by measure."""
        return {m: found.estimate(name, m, self.scores.person_of, self.scores.bootstrap) for m in MEASURES}

    def section(self) -> dict[str, Any]:
        """Means, curves and volumes."""
        return {
            "region": REGION,
            "measures": list(MEASURES.values()),
            "heads": ["AUROC", "average precision", "wrong in top 1 %", "wrong overall", "cases"],
            "maps": MAPS,
            "folders": [self._folder(name, found) for name, found in self.folders.items()],
        }

    def _folder(self, name: str, found: FolderRanking) -> dict[str, Any]:
        rows = [
            (title, [cell(e, DIGITS) for e in self._estimates(found, title).values()], len(found.maps[title]))
            for title in MAPS
        ]
        curves = {title: curve for title in MAPS if (curve := found.caught(title)) is not None}
        return {
            "name": name,
            "rows": rows,
            "src": embedded(caught_plot(SHARES, curves)) if curves else "",
            "coverage": [(label, inside, cases) for label, (inside, cases) in found.coverage().items()],
            "members": sorted({row["members"] for row in found.volumes}),
            "failures": sorted(found.failures.items()),
            "without": len(found.without),
        }

    def lines(self) -> list[str]:
        """None."""
        return []

    def failures(self) -> list[Failure]:
        """Cases whose maps could not be read."""
        pairs = ((name, found.failures) for name, found in self.folders.items())
        return [Failure(f"{name}/{case}", reason) for name, failed in pairs for case, reason in failed.items()]


def uncertainty_part(folders: Mapping[str, Path], settings: Settings, files: Files, scores: Scores) -> Part:
    """Rank the errors of those prediction folders that have maps.

    Args:
        folders: By name.
        settings, files: What was compared.
        scores: Of all folders.
    """
    found = {name: rank_folder(UncertaintyFolder(folder), settings, files, name) for name, folder in folders.items()}
    there = {name: ranking for name, ranking in found.items() if ranking is not None}
    return ErrorRankings(there, scores) if there else Plain(KEY)
