"""Two references of the same cases: how well folders agree with each, and how well the two agree with each other.

A folder that agrees with each as well as they agree with each other cannot be told from a third rater. All figures rest
on the cases that both references have, and on the labels that all folders answer for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nnkd.evaluation.comparisons import Files, Settings, compare_cases
from nnkd.evaluation.metrics import METRICS
from nnkd.evaluation.scores import DIGITS, OVERALL, Cell, FolderScores, Rules, Scores
from nnkd.types import Failure

SHOWN = ("DSC", "HD95", "NSD")


@dataclass(frozen=True)
class Raters:
    """Everything about the two.

    Attributes:
        names: Of the references.
        against: The folders' scores against the first and against the second one.
        between: The second reference, as a folder, against the first.
    """

    names: tuple[str, str]
    against: tuple[Scores, Scores]
    between: Scores

    def cells(self, metric: str, column: str) -> Iterator[tuple[str | None, str, Cell]]:
        """(folder, reference, cell); last, without a folder, the agreement between the references."""
        for folder in self.against[0].folders:
            for name, scores in zip(self.names, self.against, strict=True):
                yield folder.name, name, scores.table(metric)[folder.name][column]
        first, second = self.names
        yield None, first, self.between.table(metric)[second][column]

    def failures(self) -> list[Failure]:
        """Files that could not be compared, beyond those that the first reference's evaluation names."""
        found = []
        for scores, reference in ((self.against[1], self.names[1]), (self.between, self.names[0])):
            for folder in scores.folders:
                failures = sorted(folder.failures.items())
                found += [Failure(f"{folder.name}/{case} against {reference}", why) for case, why in failures]
        return found

    def lines(self) -> list[str]:
        """For the console."""
        width = max(len(folder.name) for folder in (*self.against[0].folders, *self.between.folders))
        lines = [f"against {' and '.join(self.names)}, and these against each other (mean DSC, {self.count} cases):"]
        for folder, reference, cell in self.cells("DSC", OVERALL):
            value = f"{cell.estimate.value:.3f}" if cell.estimate else "-"
            lines.append(f"  {folder or self.names[1]:{width}}  {reference}  {value}")
        return lines

    @property
    def count(self) -> int:
        """Cases that both references have."""
        return len(self.between.cases)


def rater_names(first: Path, second: Path) -> tuple[str, str]:
    """What to call two reference folders: their names, where these are the same their parents' too."""
    names = [folder.resolve().name for folder in (first, second)]
    if names[0] == names[1]:
        names = [f"{folder.resolve().parent.name}/{folder.resolve().name}" for folder in (first, second)]
    if names[0] == names[1]:
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return names[0], names[1]


def compare_raters(
    scores: Scores,
    names: tuple[str, str],
    references: tuple[Mapping[str, Path], Mapping[str, Path]],
    settings: Settings,
    files: Files,
    person_of: Mapping[str, str],
    workers: int = 1,
    overwrite: bool = False,
) -> Raters:
    """Compare folders with a second reference, and that with the first one.

    Args:
        scores: Against the first reference.
        names: Of the references.
        references: Label map by case.
        settings: What decides the values.
        files: What was compared with the first reference.
        person_of: Participant by case.
        workers: Processes.
        overwrite: Compare anew what the cache holds.
    """
    cases = [case for case in files.cases if case in references[1]]
    labels = scores.common_labels or scores.labels
    folders = [FolderScores(f.name, f.manifest, f.files) for f in scores.folders]
    compare_cases(settings, Files(cases, references[1], files.predictions, files.cache), folders, workers, overwrite)
    second = FolderScores(names[1], None, {case: references[1][case].name for case in cases})
    between = Files(cases, references[0], {names[1]: references[1]}, files.cache)
    compare_cases(settings, between, [second], workers, overwrite)
    made = [Scores(found, labels, cases, person_of, scores.bootstrap) for found in (scores.folders, folders, [second])]
    return Raters(names, (made[0], made[1]), made[2])


def raters_frame(raters: Raters, rules: Rules) -> pd.DataFrame:
    """One row per folder, reference, label and metric; `inter_rater` marks the references' own agreement."""
    rows = []
    for metric, kind in METRICS.items():
        for column in (*raters.between.labels, OVERALL):
            for folder, reference, cell in raters.cells(metric, column):
                who = (folder or raters.names[1], reference, folder is None)
                rows.append((*who, column, metric, *_numbers(cell), kind.unit, cell.note))
    columns = ["folder", "reference", "inter_rater", "label", "metric", "mean", "low", "high", "cases", "participants"]
    return rules.beside(pd.DataFrame(rows, columns=[*columns, "unit", "note"]))


def _numbers(cell: Cell) -> tuple[Any, ...]:
    found = cell.estimate
    return (found.value, found.low, found.high, found.n_cases, found.n_participants) if found else (None,) * 3 + (0, 0)


def raters_section(raters: Raters, unit: str) -> dict[str, Any]:
    """For the report's template: overall means."""
    rows: dict[tuple[str | None, str], list[str]] = {}
    for metric in SHOWN:
        for folder, reference, cell in raters.cells(metric, OVERALL):
            rows.setdefault((folder, reference), []).append(_text(cell, DIGITS[metric]))
    *folders, between = rows.items()
    return {
        "names": raters.names,
        "cases": raters.count,
        "labels": raters.between.labels,
        "heads": [f"{metric} [{unit.split()[0]}]" if METRICS[metric].unit else metric for metric in SHOWN],
        "rows": [(folder, reference, cells) for (folder, reference), cells in folders],
        "between": between[1],
    }


def _text(cell: Cell, digits: int) -> str:
    if cell.estimate is None:
        return "—"
    value, low, high = cell.estimate.value, cell.estimate.low, cell.estimate.high
    mark = "†" if cell.note else ""
    interval = "" if low is None else f" ({low:.{digits}f}–{high:.{digits}f})"
    return f"{value:.{digits}f}{mark}{interval}"


def raters_json(raters: Raters, folder: str) -> dict[str, Any]:
    """For a folder's summary.json: overall means and those of each label, by metric and reference."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        for column in (OVERALL, *raters.between.labels):
            for name, reference, cell in raters.cells(metric, column):
                if name in (folder, None):
                    key = "between the references" if name is None else reference
                    value = cell.estimate.value if cell.estimate else None
                    found.setdefault(metric, {}).setdefault(column, {})[key] = value
    return {"references": list(raters.names), "cases": raters.count, "means": found}
