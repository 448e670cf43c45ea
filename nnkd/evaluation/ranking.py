"""Ranking of methods: first by modality and metric, then the mean of the places.

A mean over all cases is the opinion of the modality with most of them, and millimetres and shares have no mean. Places
have. Every place rests on the labels that all methods answer for and on the cases in which nobody failed.

Source: paper 2 (LiteMedSAM with RepViT), section 4.4: places by modality for DSC, NSD and running time, averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from nnkd.data.dataset import DatasetSpec
from nnkd.data.groups import NO_VALUE, SMALLEST, known_columns
from nnkd.errors import SettingError
from nnkd.evaluation.cells import number
from nnkd.evaluation.groups.partitions import Partition
from nnkd.evaluation.intervals import Bootstrap, mean, ranks
from nnkd.evaluation.metrics import METRICS, RANKED
from nnkd.evaluation.part import Part, Plain
from nnkd.evaluation.scores import DIGITS, FolderScores, Rules, Scores, write_frame
from nnkd.types import Failure, Participant

KEY, TABLE = "ranking", "ranking.csv"
SECONDS = "seconds"  # a case's running time, as the manifests have it
DEFAULT = ("DSC", "NSD")
COLUMN = "modality"  # of participants.tsv
DECIMALS: Mapping[str, int] = {**DIGITS, SECONDS: 2}
MEAN_PLACE, ALL = "mean place", "all"
HIDDEN = f"groups of fewer than {SMALLEST} people"


@dataclass(frozen=True)
class Place:
    """One method in one modality by one metric.

    Attributes:
        folder: The method.
        modality: Name.
        metric: A name of RANKED, or SECONDS.
        value: Mean over cases; over labels the mean of their means.
        place: 1 for the best; what looks equal when printed shares a place.
        cases: How many the value rests on.
    """

    folder: str
    modality: str
    metric: str
    value: float
    place: int
    cases: int


@dataclass(frozen=True)
class MethodRanking:
    """Who is best: a part of an evaluation.

    Attributes:
        places: All of them.
        means: Mean place by folder, the best first.
        final: Place by folder, by its mean place.
        labels: Those that were ranked: all folders answer for them.
        not_ranked: (modality, metric) without a value that can be compared.
        rules: What decides the values.
    """

    places: Sequence[Place]
    means: Mapping[str, float]
    final: Mapping[str, int]
    labels: Sequence[str]
    not_ranked: Sequence[tuple[str, str]]
    rules: Rules
    key: ClassVar[str] = KEY

    def of(self, folder: str) -> list[Place]:
        """A folder's places."""
        return [place for place in self.places if place.folder == folder]

    def frame(self) -> pd.DataFrame:
        """One row per folder, modality and metric, then one per folder with its mean place."""
        rows = [tuple(vars(place).values()) for place in self.places]
        rows += [(name, ALL, MEAN_PLACE, value, self.final[name], None) for name, value in self.means.items()]
        columns = ["folder", "modality", "metric", "value", "place", "cases"]
        return self.rules.beside(pd.DataFrame(rows, columns=columns))

    def write(self, output: Path) -> None:
        """ranking.csv."""
        write_frame(self.frame(), output / TABLE)

    def of_folder(self, name: str) -> dict[str, Any]:
        """Its places and what they come to."""
        return {
            "place": self.final.get(name),
            "of": len(self.final),
            "mean_place": self.means.get(name),
            "labels": list(self.labels),
            "places": [{k: v for k, v in vars(place).items() if k != "folder"} for place in self.of(name)],
            "not_ranked": [{"modality": modality, "metric": metric} for modality, metric in self.not_ranked],
        }

    def section(self) -> dict[str, Any]:
        """A row a folder, the best first."""
        heads = list(dict.fromkeys((place.modality, place.metric) for place in self.places))
        rows = []
        for name, value in self.means.items():
            by_head = {(place.modality, place.metric): place for place in self.of(name)}
            cells = [(by_head[h].place, number(by_head[h].value, DECIMALS[h[1]])) for h in heads]
            rows.append((self.final[name], name, number(value, 2), cells))
        return {
            "heads": [f"{modality}: {metric}" for modality, metric in heads],
            "rows": rows,
            "labels": list(self.labels),
            "not_ranked": [f"{metric} of {modality}" for modality, metric in self.not_ranked],
        }

    def lines(self) -> list[str]:
        """For the console."""
        names = list(dict.fromkeys(place.modality for place in self.places))
        metrics = list(dict.fromkeys(place.metric for place in self.places))
        if not names:
            return ["No ranking: there is no label that all folders answer for in a case that nobody failed."]
        head = f"mean place over {', '.join(names)} by {', '.join(metrics)}:"
        return [head, *(f"  {self.final[name]}. {name}  {value:.2f}" for name, value in self.means.items())]

    def failures(self) -> list[Failure]:
        """None: what cannot be ranked is in `not_ranked`."""
        return []


def check_ranking(metrics: Sequence[str] | None, folders: int, modality: str | None = None) -> None:
    """Refuse what cannot be ranked, before anything is compared.

    Args:
        metrics: To rank by; None: no ranking.
        folders: How many there are.
        modality: Column to rank within.

    Raises:
        SettingError: If a metric is not one to rank by, there is only one folder, or a modality without a ranking.
    """
    if metrics is None:
        if modality is not None:
            raise SettingError(
                "--modality says within what to rank, but there is no --rank. Add it, or leave both out."
            )
        return
    if unknown := [name for name in metrics if name not in (*RANKED, SECONDS)]:
        raise SettingError(
            f"--rank got '{unknown[0]}', which is nothing to rank by. There are: {', '.join((*RANKED, SECONDS))}."
        )
    if folders < 2:
        raise SettingError(
            "--rank compares several folders, but one was given. Name the others with -i, or leave it out."
        )


def modalities_of_cases(
    spec: DatasetSpec, participants: Mapping[str, Participant], column: str | None
) -> dict[str, str]:
    """Modality by case.

    Args:
        spec: The dataset.
        participants: By case.
        column: Of participants.tsv; None: "modality" if somebody has a value there, else the names of dataset.json's
            channels, for all cases.

    Returns:
        By case. Other columns than "modality" tell of people: their groups too small to be shown are HIDDEN.

    Raises:
        SettingError: If nobody has a value in the column.
    """
    there = known_columns(participants.values())
    if column is not None and column not in there:
        known = f"The columns with values are {', '.join(there)}" if there else "No column has any"
        raise SettingError(f"--modality is '{column}', but no participant has a value there. {known}.")
    if column is None and COLUMN not in there:
        return dict.fromkeys(participants, " + ".join(spec.channel_names))
    values = {case: person.value(column or COLUMN) for case, person in participants.items()}
    found = {case: NO_VALUE if value is None else str(value) for case, value in values.items()}
    return found if column in (None, COLUMN) else _without_small_groups(found, participants)


def _without_small_groups(found: Mapping[str, str], participants: Mapping[str, Participant]) -> dict[str, str]:
    """The same with HIDDEN where a group has too few people."""
    people = {name: {participants[c].identifier for c in found if found[c] == name} for name in found.values()}
    members = tuple(np.arange(len(some)) for some in people.values())
    groups = Partition("", tuple(people), members, (tuple(range(len(people))),), spoken=False)
    shown = dict(zip(people, groups.shown(groups.sizes, SMALLEST), strict=True))
    return {case: name if shown[name] else HIDDEN for case, name in found.items()}


def rank_methods(scores: Scores, metrics: Sequence[str], modality_of: Mapping[str, str]) -> MethodRanking:
    """Rank, then aggregate.

    Args:
        scores: Of all folders.
        metrics: Names of RANKED, and SECONDS.
        modality_of: By case.
    """
    places: list[Place] = []
    not_ranked: list[tuple[str, str]] = []
    for modality in sorted({modality_of[case] for case in scores.cases}):
        if modality == HIDDEN:
            not_ranked += [(HIDDEN, metric) for metric in metrics]
            continue
        cases = [case for case in scores.cases if modality_of[case] == modality]
        for metric in metrics:
            found = {folder.name: _value(scores, folder, metric, cases) for folder in scores.folders}
            values = {name: value for name, (value, _) in found.items() if value is not None}
            if len(values) < len(found):
                not_ranked.append((modality, metric))
                continue
            higher = metric != SECONDS and bool(METRICS[metric].higher_is_better)
            order = ranks(values, higher, DECIMALS[metric])
            places += [Place(name, modality, metric, values[name], order[name], found[name][1]) for name in values]
    by_folder = {f.name: [p.place for p in places if p.folder == f.name] for f in scores.folders}
    means = {name: sum(found) / len(found) for name, found in by_folder.items() if found}
    means = dict(sorted(means.items(), key=lambda item: item[1]))
    return MethodRanking(places, means, ranks(means, False, 6), scores.common_labels, not_ranked, scores.rules)


def _value(scores: Scores, folder: FolderScores, metric: str, cases: Sequence[str]) -> tuple[float | None, int]:
    """Mean of a folder, and of how many cases; None where it cannot be compared."""
    if metric == SECONDS:
        records = folder.manifest.cases if folder.manifest else {}
        seconds = [records[case].seconds for case in cases if case in records and records[case].seconds > 0]
        return (sum(seconds) / len(seconds), len(seconds)) if seconds and len(seconds) == len(cases) else (None, 0)
    values = []
    for label in scores.common_labels:
        usable = [
            case for case in cases
            if not any(other.flag(case, label) in ("failed", "not_answered") for other in scores.folders)
        ]  # fmt: skip
        values.append(folder.values(label, metric, usable))
    estimate = mean(values, {case: case for case in cases}, Bootstrap(0))
    return (estimate.value, estimate.n_cases) if estimate else (None, 0)


def ranking_part(scores: Scores, metrics: Sequence[str] | None, modality_of: Mapping[str, str]) -> Part:
    """Rank, where it was asked for.

    Args:
        scores: Of all folders.
        metrics: Names of RANKED, and SECONDS; empty: DEFAULT; None: no ranking.
        modality_of: By case.
    """
    return Plain(KEY) if metrics is None else rank_methods(scores, metrics or DEFAULT, modality_of)
