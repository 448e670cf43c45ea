"""Two references of the same cases: how well folders agree with each, and how well the two agree with each other.

A folder that agrees with each as well as they agree with each other cannot be told from a third rater. All figures rest
on the cases that both references have, and on the labels that all folders answer for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from nnkd.data.labels.by_name import FolderLabels
from nnkd.evaluation.cells import in_line, number, quantity
from nnkd.evaluation.comparisons import Files, Settings, compare_cases
from nnkd.evaluation.metrics import METRICS
from nnkd.evaluation.part import Part, Plain
from nnkd.evaluation.scores import DIGITS, OVERALL, Cell, FolderScores, Scores, numbers, write_frame
from nnkd.types import Failure

KEY, TABLE = "raters", "raters.csv"
SHOWN = ("DSC", "HD95", "NSD")


@dataclass(frozen=True)
class Raters:
    """Everything about the two: a part of an evaluation.

    Attributes:
        names: Of the references.
        against: The folders' scores against the first and against the second one.
        between: The second reference, as a folder, against the first.
        unit: Of distances.
    """

    names: tuple[str, str]
    against: tuple[Scores, Scores]
    between: Scores
    unit: str
    key: ClassVar[str] = KEY

    def cells(self, metric: str, column: str) -> Iterator[tuple[str | None, str, Cell]]:
        """(folder, reference, cell); last, without a folder, the agreement between the references."""
        for folder in self.against[0].folders:
            for name, scores in zip(self.names, self.against, strict=True):
                yield folder.name, name, scores.table(metric)[folder.name][column]
        first, second = self.names
        yield None, first, self.between.table(metric)[second][column]

    @property
    def count(self) -> int:
        """Cases that both references have."""
        return len(self.between.cases)

    def frame(self) -> pd.DataFrame:
        """One row per folder, reference, label and metric; `inter_rater` marks the references' own agreement."""
        rows = []
        for metric, kind in METRICS.items():
            for column in (*self.between.labels, OVERALL):
                for folder, reference, cell in self.cells(metric, column):
                    who = (folder or self.names[1], reference, folder is None)
                    rows.append((*who, column, metric, *numbers(cell.estimate), kind.unit, cell.remarks))
        keys = ["folder", "reference", "inter_rater", "label", "metric"]
        columns = [*keys, "mean", "low", "high", "cases", "participants", "unit", "note"]
        return self.between.rules.beside(pd.DataFrame(rows, columns=columns))

    def write(self, output: Path) -> None:
        """raters.csv."""
        write_frame(self.frame(), output / TABLE)

    def of_folder(self, name: str) -> dict[str, Any]:
        """Overall means and those of each label, by metric and reference."""
        found: dict[str, Any] = {}
        for metric in METRICS:
            for column in (OVERALL, *self.between.labels):
                for folder, reference, cell in self.cells(metric, column):
                    if folder in (name, None):
                        key = "between the references" if folder is None else reference
                        found.setdefault(metric, {}).setdefault(column, {})[key] = cell.value
        return {"references": list(self.names), "cases": self.count, "means": found}

    def section(self) -> dict[str, Any]:
        """Overall means."""
        rows: dict[tuple[str | None, str], list[str]] = {}
        for metric in SHOWN:
            for folder, reference, cell in self.cells(metric, OVERALL):
                text = in_line(cell.estimate, DIGITS[metric], dash="–", mark="†" if cell.note and cell.estimate else "")
                rows.setdefault((folder, reference), []).append(text)
        *folders, between = rows.items()
        return {
            "names": self.names,
            "cases": self.count,
            "labels": self.between.labels,
            "heads": [quantity(metric, self.unit) for metric in SHOWN],
            "rows": [(folder, reference, cells) for (folder, reference), cells in folders],
            "between": between[1],
        }

    def lines(self) -> list[str]:
        """Mean DSC against each reference, and between them."""
        width = max(len(folder.name) for folder in (*self.against[0].folders, *self.between.folders))
        lines = [f"against {' and '.join(self.names)}, and these against each other (mean DSC, {self.count} cases):"]
        for folder, reference, cell in self.cells("DSC", OVERALL):
            value = "-" if cell.value is None else number(cell.value, DIGITS["DSC"])
            lines.append(f"  {folder or self.names[1]:{width}}  {reference}  {value}")
        return lines

    def failures(self) -> list[Failure]:
        """Files that could not be compared, beyond those that the first reference's evaluation names."""
        found = []
        for scores, reference in ((self.against[1], self.names[1]), (self.between, self.names[0])):
            for folder in scores.folders:
                failures = sorted(folder.failures.items())
                found += [Failure(f"{folder.name}/{case} against {reference}", why) for case, why in failures]
        return found


def rater_names(first: Path, second: Path) -> tuple[str, str]:
    """What to call two reference folders: their names, where these are the same their parents' too."""
    names = [folder.resolve().name for folder in (first, second)]
    if names[0] == names[1]:
        names = [f"{folder.resolve().parent.name}/{folder.resolve().name}" for folder in (first, second)]
    if names[0] == names[1]:
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return names[0], names[1]


def raters_part(
    scores: Scores,
    unit: str,
    reference: Path,
    second: tuple[Path, Mapping[str, Path]] | None,
    labels_of_second: FolderLabels,
    settings: Settings,
    files: Files,
    workers: int | None = None,
    overwrite: bool = False,
) -> Part:
    """Compare folders with a second reference, and that with the first one, where there is one.

    Args:
        scores: Against the first reference.
        unit: Of distances.
        reference: The first reference's folder.
        second: The second one's, and its label map by case; None: there is none.
        labels_of_second: What its integers mean.
        settings: What decides the values.
        files: What was compared with the first reference.
        workers, overwrite: See `compare_cases`.
    """
    if second is None:
        return Plain(KEY)
    folder, label_maps = second
    names = rater_names(reference, folder)
    cases = [case for case in files.cases if case in label_maps]
    again = [FolderScores(f.name, f.manifest, f.files, unknown=f.unknown) for f in scores.folders]
    other = FolderScores(names[1], None, {case: label_maps[case].name for case in cases})
    matched = {names[1]: labels_of_second}
    against = Files(cases, label_maps, files.predictions, files.cache, labels_of_second, files.folder_labels)
    between = Files(cases, files.references, {names[1]: label_maps}, files.cache, files.reference_labels, matched)
    compare_cases(settings, against, again, workers, overwrite)
    compare_cases(settings, between, [other], workers, overwrite)
    labels, rest = scores.common_labels or scores.labels, (cases, scores.person_of, scores.bootstrap, scores.rules)
    first_scores, second_scores, own_scores = (Scores(f, labels, *rest) for f in (scores.folders, again, [other]))
    return Raters(names, (first_scores, second_scores), own_scores, unit)
