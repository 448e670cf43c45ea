"""Whether label maps are as good for one group of people as for another, and what a second student changes.

Source: Li et al. 2025, section 3: Figure 2 (one-way ANOVA by sex, age and BMI), Table 3 (standard deviation over group
means, before and after fair training), Figure 3 (whether accuracy dropped).
Departs: Kruskal-Wallis, Holm's correction, effect sizes, intervals and what chance alone gives stand beside. Everybody
counts once, with the mean over their cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from nnkd.evaluation.groups.cohort import Cohort
from nnkd.evaluation.groups.measures import (
    Figure,
    GroupTests,
    box,
    counts,
    drawn_means,
    equity_scaled,
    figure,
    gap,
    group_tests,
    holm,
    means,
    person_means,
    spread,
    spread_by_chance,
    wilcoxon,
)
from nnkd.evaluation.groups.partitions import Partition
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.metrics import METRICS
from nnkd.evaluation.scores import OVERALL, FolderScores, Scores

METRIC = "DSC"
DIGITS = {True: 2, False: 4}  # of values with a unit (mm), and of shares
Box = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class GroupFigures:
    """One folder's groups in one column.

    Attributes:
        means: By shown group; several numbers of people are never given, the cohort's are in the partition.
        boxes: For box plots.
        std: Over group means.
        by_chance: What `std` comes to if the groups do not differ.
        gap: Highest minus lowest mean.
        worst, best: Groups.
        equity: Equity-scaled score; None for distances.
        tests: None in intersections and in the column Overall.
    """

    means: Mapping[str, Figure]
    boxes: Mapping[str, Box]
    std: Figure
    by_chance: float | None
    gap: Figure
    worst: str
    best: str
    equity: Figure | None
    tests: GroupTests | None


@dataclass(frozen=True)
class GroupChanges:
    """What a second folder changes for groups, over the people counted in both.

    Attributes:
        means: After minus before, by shown group.
        gap_before, gap_after, gap: And their difference.
        std_before, std_after, std: And their difference.
    """

    means: Mapping[str, Figure]
    gap_before: float
    gap_after: float
    gap: Figure
    std_before: float
    std_after: float
    std: Figure


@dataclass(frozen=True)
class Accuracy:
    """What a second folder changes for everybody.

    Attributes:
        before, after: Means over the people counted in both.
        change: After minus before.
        p: Wilcoxon's signed-rank test; `p_holm` corrected for the number of labels (None in the column Overall).
        people: Counted in both.
        verdict: By the interval of the change.
    """

    before: float
    after: float
    change: Figure
    p: float
    people: int
    verdict: Literal["dropped", "rose", "no drop shown"]
    p_holm: float | None = None


@dataclass
class Pair:
    """Two folders: the first one given is "before", any other "after".

    Attributes:
        before, after: Names.
        accuracy: By column.
        changes: By partition's title and column.
    """

    before: str
    after: str
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    changes: dict[tuple[str, str], GroupChanges] = field(default_factory=dict)


class Fairness:
    """All figures of all folders.

    Attributes:
        scores, cohort, metric: What they are of.
        columns: Labels, and Overall: the mean over all labels of people in whom all are counted.
        figures: By folder, partition's title and column; missing where fewer than two groups can be shown.
        pairs: Every folder against the first.
        digits: Decimals that are written: of DSC four, as in paper 1's Table 3; of distances two.
    """

    def __init__(self, scores: Scores, cohort: Cohort, bootstrap: Bootstrap, metric: str = METRIC):
        self.scores, self.cohort, self.metric, self._bootstrap = scores, cohort, metric, bootstrap
        self.columns = [*scores.labels, OVERALL] if len(scores.labels) > 1 else list(scores.labels)
        self.digits = DIGITS[bool(METRICS[metric].unit)]
        self._higher = METRICS[metric].higher_is_better
        self._scaled = self._higher and not METRICS[metric].unit
        self._values = {folder.name: self._matrix(folder) for folder in scores.folders}
        self.figures: dict[tuple[str, str, str], GroupFigures] = {}
        for some in cohort.partitions:
            self._describe(some)
        for folder in scores.folders:
            self._correct(folder.name)
        first, *others = [folder.name for folder in scores.folders]
        self.pairs = [self._pair(first, other) for other in others]

    def of(self, folder: str, title: str, column: str) -> GroupFigures | None:
        """Figures of one folder, partition and column."""
        return self.figures.get((folder, title, column))

    def _matrix(self, folder: FolderScores) -> np.ndarray:
        """(P, M): a row a person, a column a label, and Overall."""
        person_of, names = dict(self.cohort.person_of), [person.identifier for person in self.cohort.people]
        columns = [
            person_means(folder.values(label, self.metric, self.scores.cases), person_of, names)
            for label in self.scores.labels
        ]
        if len(columns) > 1:
            columns.append(np.mean(columns, axis=0))  # NaN where a label is not counted
        return np.stack(columns, axis=1)

    def _describe(self, some: Partition) -> None:
        folders = list(self._values)
        values = np.concatenate([self._values[name] for name in folders], axis=1)
        drawn = drawn_means(values, some.members, self._bootstrap)
        centre, numbers = means(values, some.members), counts(values, some.members)
        for index, (folder, column) in enumerate((f, c) for f in folders for c in self.columns):
            kept = np.flatnonzero(some.shown(numbers[:, index], self.cohort.options.smallest))
            if len(kept) < 2:
                continue
            samples = [_counted(values[some.members[group], index]) for group in kept]
            self.figures[folder, some.title, column] = self._figures(
                [some.names[group] for group in kept], samples, centre[kept, index], drawn[:, kept, index],
                tested=not some.crossed and column != OVERALL,
            )  # fmt: skip

    def _figures(
        self, names: Sequence[str], samples: Sequence[np.ndarray], centre: np.ndarray, drawn: np.ndarray, tested: bool
    ) -> GroupFigures:
        numbers = np.array([len(sample) for sample in samples])
        worst, best = int(np.argmin(centre)), int(np.argmax(centre))
        if not self._higher:
            worst, best = best, worst
        return GroupFigures(
            means={name: figure(centre[i], drawn[:, i]) for i, name in enumerate(names)},
            boxes={name: box(sample) for name, sample in zip(names, samples, strict=True)},
            std=figure(spread(centre), spread(drawn)),
            by_chance=spread_by_chance(samples),
            gap=figure(gap(centre), gap(drawn)),
            worst=names[worst],
            best=names[best],
            equity=figure(equity_scaled(centre, numbers), equity_scaled(drawn, numbers)) if self._scaled else None,
            tests=group_tests(samples) if tested else None,
        )

    def _correct(self, folder: str) -> None:
        """Holm's correction for all labels and attributes of a folder."""
        family = [key for key, found in self.figures.items() if key[0] == folder and found.tests is not None]
        parts = [(key, found) for key in family if (found := self.figures[key].tests) is not None]
        for (key, found), p, kruskal in zip(
            parts, holm([t.p for _, t in parts]), holm([t.p_kruskal for _, t in parts]), strict=True
        ):
            corrected = replace(found, p_holm=p, p_kruskal_holm=kruskal)
            self.figures[key] = replace(self.figures[key], tests=corrected)

    def _pair(self, before: str, after: str) -> Pair:
        both = ~np.isnan(self._values[before]) & ~np.isnan(self._values[after])
        values = [np.where(both, self._values[name], np.nan) for name in (before, after)]
        pair = Pair(before, after)
        self._add_accuracy(pair, *values)
        for some in self.cohort.partitions:
            self._add_changes(pair, some, *values)
        return pair

    def _add_accuracy(self, pair: Pair, before: np.ndarray, after: np.ndarray) -> None:
        everybody = [np.arange(len(before))]
        drawn = drawn_means(after - before, everybody, self._bootstrap)[:, 0]
        for index, column in enumerate(self.columns):
            change = _counted(after[:, index] - before[:, index])
            if not len(change):
                continue
            found = figure(change.mean(), drawn[:, index]) if len(change) > 1 else Figure(float(change.mean()))
            pair.accuracy[column] = Accuracy(
                before=float(np.nanmean(before[:, index])),
                after=float(np.nanmean(after[:, index])),
                change=found,
                p=wilcoxon(change),
                people=len(change),
                verdict=self._verdict(found),
            )
        labels = [column for column in pair.accuracy if column != OVERALL]
        for label, p in zip(labels, holm([pair.accuracy[label].p for label in labels]), strict=True):
            pair.accuracy[label] = replace(pair.accuracy[label], p_holm=p)

    def _verdict(self, change: Figure) -> Literal["dropped", "rose", "no drop shown"]:
        if change.low is None or change.high is None or change.low <= 0 <= change.high:
            return "no drop shown"
        return "rose" if (change.value > 0) == self._higher else "dropped"

    def _add_changes(self, pair: Pair, some: Partition, before: np.ndarray, after: np.ndarray) -> None:
        numbers = counts(after - before, some.members)
        centres = [means(values, some.members) for values in (before, after)]
        drawn = [drawn_means(values, some.members, self._bootstrap) for values in (before, after)]  # the same people
        for index, column in enumerate(self.columns):
            kept = np.flatnonzero(some.shown(numbers[:, index], self.cohort.options.smallest))
            if len(kept) < 2:
                continue
            (old, new), (old_drawn, new_drawn) = (c[kept, index] for c in centres), (d[:, kept, index] for d in drawn)
            pair.changes[some.title, column] = GroupChanges(
                means={
                    some.names[group]: figure(new[i] - old[i], new_drawn[:, i] - old_drawn[:, i])
                    for i, group in enumerate(kept)
                },
                gap_before=float(gap(old)),
                gap_after=float(gap(new)),
                gap=figure(gap(new) - gap(old), gap(new_drawn) - gap(old_drawn)),
                std_before=float(spread(old)),
                std_after=float(spread(new)),
                std=figure(spread(new) - spread(old), spread(new_drawn) - spread(old_drawn)),
            )


def _counted(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
