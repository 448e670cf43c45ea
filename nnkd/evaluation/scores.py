"""Scores of evaluated folders: what counts, what is flagged, and the tables that follow from it.

Honesty's rules, for every mean: a label that is in neither file is not counted. A label or a whole label map that is
missing gets the worst values. A label that a folder's manifest says nobody answered for (an abstention) is not counted
in that folder's mean of the label, but then that mean rests on fewer cases than the others': it is marked and takes
no part in the ranking, and so is a mean that lacks cases whose files could not be compared. A folder that never
answers for a label has no overall mean; one over the labels that all folders answer for stands beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from nnkd.data.predictions import Manifest
from nnkd.evaluation.intervals import Bootstrap, Estimate, mean, paired_difference, ranks
from nnkd.evaluation.metrics import EMPTY_MASKS, METRICS, RANKED, LabelResult
from nnkd.evaluation.surfaces import DEFINITIONS
from nnkd.files import atomic, for_spreadsheet

OVERALL, COMMON = "Overall", "Common labels"
DIGITS: Mapping[str, int] = {"DSC": 3, "NSD": 3, "HD": 2, "HD95": 2, "ASSD": 2, "VD": 2, "RVD": 3}
FLAGS: Mapping[str, str] = {
    "missing_prediction": "no label map for this case: counted as empty",
    "prediction_empty": "in the reference, but not in the prediction: DSC and NSD 0, distances = image diagonal",
    "reference_empty": "in the prediction, but not in the reference: DSC and NSD 0, distances = image diagonal, no RVD",
    "both_empty": "in neither: not counted",
    "not_answered": "the folder does not answer for this label: not counted, the mean is marked",
    "failed": "the two files could not be compared: not counted, the mean is marked",
    "changed": "the label map is not the one the manifest recorded",
}


@dataclass
class FolderScores:
    """One evaluated folder.

    Attributes:
        name: In tables and file names.
        manifest: What it says about itself; None without a manifest.
        files: Label map's file name by case.
        results: By case and label; cases without a label map are compared with an empty one.
        failures: One sentence by case that could not be compared.
        changed: Cases whose label map is not the one the manifest recorded.
        unknown: Labels that the folder's own dataset.json or manifest does not name.
    """

    name: str
    manifest: Manifest | None = None
    files: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, LabelResult]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    unknown: Collection[str] = ()

    def answers(self, case: str, label: str) -> bool:
        """Whether the folder answers for a label in a case. A case its manifest does not list is a missing
        prediction of every label it answers for elsewhere."""
        if label in self.unknown:
            return False
        if self.manifest is None or not self.manifest.cases:
            return True
        record = self.manifest.cases.get(case)
        if record is not None:
            return label in record.answers
        return any(label in other.answers for other in self.manifest.cases.values())

    def flag(self, case: str, label: str) -> str:
        """One of FLAGS, or nothing."""
        if case in self.failures:
            return "failed"
        if not self.answers(case, label):
            return "not_answered"
        state = self.results[case][label].state
        if state == "both_empty":
            return state
        if case not in self.files:
            return "missing_prediction"
        return "" if state == "compared" else state

    def values(self, label: str, metric: str, cases: Iterable[str] | None = None) -> dict[str, float]:
        """Counted values of a label by case."""
        return {
            case: value
            for case in (self.results if cases is None else cases)
            if self.flag(case, label) not in ("failed", "not_answered", "both_empty")
            and (value := self.results[case][label].values[metric]) is not None
        }


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        estimate: The mean and its interval; None where there is none.
        note: Why there is none, or why it is incomplete; empty for a plain mean.
        rank: Place in its column; None for cells that take no part.
    """

    estimate: Estimate | None
    note: str = ""
    rank: int | None = None

    @property
    def value(self) -> float | None:
        """The mean."""
        return self.estimate.value if self.estimate else None

    @property
    def remarks(self) -> str:
        """The note, and why there is no interval."""
        why = self.estimate.without_interval if self.estimate else ""
        return "; ".join(text for text in (self.note, why) if text)


@dataclass(frozen=True)
class Difference:
    """The means of two folders compared, over the cases both answer for."""

    first: str
    second: str
    label: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True)
class Rules:
    """What decides the values of a table, and so stands in each of its rows.

    Attributes:
        definition: A name of `nnkd.evaluation.surfaces.DEFINITIONS`.
        tolerance: Of the NSD, in mm, by label.
    """

    definition: str
    tolerance: Mapping[str, float]

    def beside(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The table with these rules as columns. Where the labels behind a row's NSD have several tolerances, no
        single one is written."""
        near = set(self.tolerance.values())
        joint = near.pop() if len(near) == 1 else None
        labels = frame["label"] if "label" in frame else [None] * len(frame)
        tolerance = [
            self.tolerance.get(label, joint) if metric == "NSD" else None
            for label, metric in zip(labels, frame["metric"], strict=True)
        ]
        return frame.assign(
            definition=self.definition,
            percentile_rule=DEFINITIONS[self.definition].percentile_rule,
            empty_masks=EMPTY_MASKS,
            tolerance_mm=tolerance,
        )


class Scores:
    """All evaluated folders against one reference.

    Attributes:
        folders: In the order given.
        labels: Names.
        cases: Evaluated ones.
        person_of: Participant by case.
        bootstrap: How intervals are made.
        rules: What decides the values.
    """

    def __init__(
        self,
        folders: Sequence[FolderScores],
        labels: Sequence[str],
        cases: Sequence[str],
        person_of: Mapping[str, str],
        bootstrap: Bootstrap,
        rules: Rules,
    ):
        self.folders, self.labels, self.cases = list(folders), list(labels), list(cases)
        self.person_of, self.bootstrap, self.rules = person_of, bootstrap, rules
        self._tables: dict[str, dict[str, dict[str, Cell]]] = {}
        self._differences: dict[str, list[Difference]] = {}

    @property
    def n_participants(self) -> int:
        """People behind the evaluated cases."""
        return len({self.person_of[case] for case in self.cases})

    def unanswered(self, folder: FolderScores) -> list[str]:
        """Labels the folder never answers for in the evaluated cases."""
        return [label for label in self.labels if not any(folder.answers(case, label) for case in self.cases)]

    @property
    def common_labels(self) -> list[str]:
        """Labels that every folder answers for."""
        never = {label for folder in self.folders for label in self.unanswered(folder)}
        return [label for label in self.labels if label not in never]

    def columns(self) -> list[str]:
        """Of the tables: labels, the mean over all of them, and over the common ones where these differ."""
        common = self.common_labels
        more = [COMMON] if common and len(common) < len(self.labels) else []
        return [*self.labels, OVERALL, *more]

    def table(self, metric: str) -> dict[str, dict[str, Cell]]:
        """Cells by folder and column."""
        if metric not in self._tables:
            rows = {f.name: {c: self._cell(f, c, metric) for c in self.columns()} for f in self.folders}
            for column in self.columns() if metric in RANKED else ():
                self._rank(rows, column, metric)
            self._tables[metric] = rows
        return self._tables[metric]

    def _labels_of(self, column: str) -> list[str]:
        return {OVERALL: self.labels, COMMON: self.common_labels}.get(column) or [column]

    def _cell(self, folder: FolderScores, column: str, metric: str) -> Cell:
        labels = self._labels_of(column)
        never = [label for label in labels if label in self.unanswered(folder)]
        if never:
            answered = len(labels) - len(never)
            return Cell(None, f"incomplete: {answered} of {len(labels)} labels" if answered else "not answered")
        values = [folder.values(label, metric, self.cases) for label in labels]
        estimate = mean(values, self.person_of, self.bootstrap)
        if estimate is None:
            return Cell(None, "in no case")
        return Cell(estimate, self._gaps(folder, labels))

    def _gaps(self, folder: FolderScores, labels: Sequence[str]) -> str:
        flags = {case: {folder.flag(case, label) for label in labels} for case in self.cases}
        parts = []
        for flag, words in (("not_answered", "not answered"), ("failed", "failed")):
            if n := sum(flag in found for found in flags.values()):
                parts.append(f"{words} in {n} of {len(self.cases)} cases")
        return ", ".join(parts)

    def _rank(self, rows: Mapping[str, dict[str, Cell]], column: str, metric: str) -> None:
        taking_part = {
            name: c.estimate.value for name, row in rows.items() if (c := row[column]).estimate and not c.note
        }
        places = ranks(taking_part, METRICS[metric].higher_is_better is True, DIGITS.get(metric, 3))
        for name, place in places.items():
            rows[name][column] = Cell(rows[name][column].estimate, "", place)

    def best(self) -> FolderScores:
        """The folder with the best overall DSC; if none has one, the last."""
        table = self.table("DSC")
        for column in (OVERALL, COMMON):
            for folder in reversed(self.folders):
                if column in table[folder.name] and table[folder.name][column].rank == 1:
                    return folder
        return self.folders[-1]

    def case_means(self, folder: FolderScores, metric: str = "DSC") -> dict[str, float]:
        """Mean over a case's counted labels, by case."""
        values = [folder.values(label, metric, self.cases) for label in self.labels]
        found = {case: [v[case] for v in values if case in v] for case in self.cases}
        return {case: sum(numbers) / len(numbers) for case, numbers in found.items() if numbers}

    def differences(self, metric: str) -> list[Difference]:
        """Every pair of folders, the later one minus the earlier one, label by label and over the labels both
        answer for."""
        if metric not in self._differences:
            self._differences[metric] = self._compute_differences(metric)
        return self._differences[metric]

    def _compute_differences(self, metric: str) -> list[Difference]:
        found = []
        for index, second in enumerate(self.folders):
            for first in self.folders[index + 1 :]:
                never = {*self.unanswered(first), *self.unanswered(second)}
                both = [label for label in self.labels if label not in never]
                title = OVERALL if both == self.labels else f"{len(both)} of {len(self.labels)} labels"
                for column, labels in [*((label, [label]) for label in both), (title, both)]:
                    if estimate := self._difference(first, second, labels, metric):
                        found.append(Difference(first.name, second.name, column, metric, estimate))
        return found

    def _difference(
        self, first: FolderScores, second: FolderScores, labels: Sequence[str], metric: str
    ) -> Estimate | None:
        pairs: tuple[list, list] = ([], [])
        for label in labels:
            both = [
                case for case in self.cases
                if not {first.flag(case, label), second.flag(case, label)} & {"failed", "not_answered"}
            ]  # fmt: skip
            for values, folder in zip(pairs, (first, second), strict=True):
                values.append(folder.values(label, metric, both))
        return paired_difference(*pairs, self.person_of, self.bootstrap)

    def flags(self, folder: FolderScores) -> list[tuple[str, str, str]]:
        """(case, label, flag) of everything worth a look; what is in neither file is not."""
        found: list[tuple[str, str, str]] = []
        never = set(self.unanswered(folder))
        found += [("all", label, "not_answered") for label in self.labels if label in never]
        for case in self.cases:
            by_flag: dict[str, list[str]] = {}
            for label in self.labels:
                flag = folder.flag(case, label)
                if flag not in ("", "both_empty") and (label not in never or flag == "failed"):
                    by_flag.setdefault(flag, []).append(label)
            if case in folder.changed:
                by_flag["changed"] = self.labels
            found += [(case, "all" if labels == self.labels else ", ".join(labels), f) for f, labels in by_flag.items()]
        return found


def metrics_frame(scores: Scores) -> pd.DataFrame:
    """One row per folder, case, label and metric."""
    rows = []
    for folder in scores.folders:
        for case in scores.cases:
            for label in scores.labels:
                flag = folder.flag(case, label)
                counted = flag not in ("failed", "not_answered", "both_empty")
                for name, metric in METRICS.items():
                    value = folder.results[case][label].values[name] if counted else None
                    rows.append((folder.name, case, label, name, value, metric.unit, flag))
    columns = ["folder", "case", "label", "metric", "value", "unit", "flag"]
    return scores.rules.beside(pd.DataFrame(rows, columns=columns))


def means_frame(scores: Scores) -> pd.DataFrame:
    """One row per folder, column of the tables and metric."""
    rows = []
    for name, metric in METRICS.items():
        for folder, row in scores.table(name).items():
            for column, cell in row.items():
                rows.append((folder, column, name, *numbers(cell.estimate), metric.unit, cell.remarks))
    columns = ["folder", "label", "metric", "mean", "low", "high", "cases", "participants", "unit", "note"]
    return scores.rules.beside(pd.DataFrame(rows, columns=columns))


def comparison_frame(scores: Scores) -> pd.DataFrame:
    """One row per pair of folders, label and metric: the first minus the second."""
    rows = [
        (d.first, d.second, d.label, name, *numbers(d.estimate), metric.unit)
        for name, metric in METRICS.items()
        for d in scores.differences(name)
    ]
    columns = ["first", "second", "label", "metric", "difference", "low", "high", "cases", "participants"]
    return scores.rules.beside(pd.DataFrame(rows, columns=[*columns, "unit"]))


def write_scores(scores: Scores, folder: Path) -> None:
    """metrics.csv, means.csv and comparison.csv."""
    for name, make in {"metrics": metrics_frame, "means": means_frame, "comparison": comparison_frame}.items():
        write_frame(make(scores), folder / f"{name}.csv")


def write_frame(frame: pd.DataFrame, file: Path) -> None:
    """Write a table atomically. A name that spreadsheets would take for a formula gets an apostrophe."""
    plain = frame.map(lambda cell: for_spreadsheet(cell) if isinstance(cell, str) else cell)
    with atomic(file) as temporary:
        plain.rename(columns=for_spreadsheet).to_csv(temporary, index=False)


def numbers(estimate: Estimate | None) -> tuple[Any, ...]:
    """Value, low, high, cases and participants, as a table's row has them."""
    if estimate is None:
        return None, None, None, 0, 0
    return estimate.value, estimate.low, estimate.high, estimate.n_cases, estimate.n_participants


def verdict(difference: Difference) -> Literal["better", "worse", "unclear"]:
    """What the interval says of the first folder: unclear if it holds 0, there is none, or the metric is not ranked."""
    estimate = difference.estimate
    if difference.metric not in RANKED or estimate.low is None or estimate.high is None:
        return "unclear"
    if estimate.low <= 0 <= estimate.high:
        return "unclear"
    return "better" if (estimate.value > 0) == METRICS[difference.metric].higher_is_better else "worse"
