"""The report's section on fairness: paper 1's Table 3 and Figures 2 and 3, and every group's means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkd.evaluation.cells import NONE, interval, number, quantity
from nnkd.evaluation.groups.fairness import Fairness, GroupFigures, Pair
from nnkd.evaluation.groups.measures import Figure, GroupTests, stars
from nnkd.evaluation.groups.partitions import FEW, GroupOptions, Partition
from nnkd.evaluation.groups.plots import accuracy_plot, change_plot, group_plot
from nnkd.figures import embedded

MOST_PLOTS = 36  # of labels and attributes; beyond, the tables say more
MOST_DETAILED = 4  # folders with a table of every group
MOST_PAIRS = 4
PLOTTED_FOLDERS = 8
EMPTY = {"text": NONE, "small": ""}
VERDICT_CLASSES = {"rose": "better", "dropped": "worse", "no drop shown": "unclear"}


def fairness_section(fairness: Fairness | None, options: GroupOptions, problems: Sequence[str]) -> dict[str, Any]:
    """For the template.

    Args:
        fairness: None where people could not be put into groups: then the section says why.
        options: What was asked for.
        problems: Why not, a sentence each.
    """
    start = {"problems": list(problems), "notes": [], "smallest": options.smallest, "few": FEW}
    if fairness is None:
        return {**start, "partitions": [], "details": [], "pairs": [], "tests": 0}
    detailed = [folder.name for folder in fairness.scores.folders]
    if len(detailed) > MOST_DETAILED:
        detailed = [fairness.scores.best().name]
    plain = [some for some in fairness.cohort.partitions if not some.crossed]
    return {
        **start,
        "notes": list(fairness.cohort.notes),
        "metric": fairness.metric,
        "columns": fairness.columns,
        "partitions": [_partition(fairness, some) for some in fairness.cohort.partitions],
        "plots": _plots(fairness, plain),
        "details": [
            (name, [_detail(fairness, name, some) for some in fairness.cohort.partitions]) for name in detailed
        ],
        "left_out": len(fairness.scores.folders) - len(detailed),
        "pairs": [_pair(fairness, pair, plain) for pair in fairness.pairs[:MOST_PAIRS]],
        "more_pairs": max(0, len(fairness.pairs) - MOST_PAIRS),
        "tests": max((_number_of_tests(fairness, f.name) for f in fairness.scores.folders), default=0),
    }


def _number_of_tests(fairness: Fairness, folder: str) -> int:
    return sum(key[0] == folder and found.tests is not None for key, found in fairness.figures.items())


def _partition(fairness: Fairness, some: Partition) -> dict[str, Any]:
    """Rows of Table 3: spread by folder; the smallest of a column is marked."""
    rows = []
    for folder in fairness.scores.folders:
        found = [fairness.of(folder.name, some.title, column) for column in fairness.columns]
        rows.append((folder.name, [_spread_cell(fairness, one) for one in found]))
    for index in range(len(fairness.columns)):
        values = [row[index]["text"] for _, row in rows if row[index]["text"] != NONE]
        for _, row in rows:
            row[index]["lowest"] = len(values) > 1 and row[index]["text"] == min(values, key=float)
    return {"title": some.title, "rows": rows, "groups": _sizes(fairness, some)}


def _spread_cell(fairness: Fairness, found: GroupFigures | None) -> dict[str, Any]:
    if found is None or found.by_chance is None:
        return _cell(fairness, None if found is None else found.std)
    return _cell(fairness, found.std, chance=f"by chance {number(found.by_chance, fairness.digits)}")


def _sizes(fairness: Fairness, some: Partition) -> str:
    kept = some.shown(some.sizes, fairness.cohort.options.smallest)
    parts = [f"{name}: {n}" for name, n, there in zip(some.names, some.sizes, kept, strict=True) if there]
    return ", ".join(parts)


def _detail(fairness: Fairness, folder: str, some: Partition) -> dict[str, Any]:
    """One folder's groups: means, and under them gap, equity and tests."""
    found = [fairness.of(folder, some.title, column) for column in fairness.columns]
    equities = [None if one is None else one.equity for one in found]
    tests = [None if one is None else one.tests for one in found]
    kept = some.shown(some.sizes, fairness.cohort.options.smallest)
    rows = []
    for name, n, there in zip(some.names, some.sizes, kept, strict=True):
        if there:
            cells = [_mean_cell(fairness, one, name) for one in found]
            rows.append({"name": name, "n": int(n), "few": n < FEW, "cells": cells})
    below = [("largest gap", [_cell(fairness, None if one is None else one.gap) for one in found])]
    if any(equities):
        below.append((f"equity-scaled {fairness.metric}", [_cell(fairness, one) for one in equities]))
    if not some.crossed:
        below.append(("ANOVA", [_anova_cell(one) for one in tests]))
        below.append(("Kruskal-Wallis", [_kruskal_cell(one) for one in tests]))
    return {"title": some.title, "rows": rows, "below": below}


def _mean_cell(fairness: Fairness, found: GroupFigures | None, name: str) -> dict[str, Any]:
    if found is None:
        return _cell(fairness, None)
    return _cell(fairness, found.means.get(name), worst=name == found.worst)


def _anova_cell(tests: GroupTests | None) -> dict[str, Any]:
    if tests is None or tests.p is None:
        return dict(EMPTY)
    return _test_cell(tests.p, tests.p_holm, f"η² {tests.eta2:.3f}, ω² {tests.omega2:.3f}")


def _kruskal_cell(tests: GroupTests | None) -> dict[str, Any]:
    if tests is None or tests.p_kruskal is None:
        return dict(EMPTY)
    return _test_cell(tests.p_kruskal, tests.p_kruskal_holm, f"ε² {tests.epsilon2:.3f}")


def _test_cell(p: float, p_holm: float | None, effects: str) -> dict[str, Any]:
    return {"text": stars(p), "small": f"p {p:.2g}, {_holm(p_holm)}", "more": effects, "test": True}


def _holm(p: float | None) -> str:
    return "" if p is None else f"Holm {stars(p)} {p:.2g}"


def _plots(fairness: Fairness, plain: Sequence[Partition]) -> list[tuple[str, list[dict[str, str]]]]:
    if not 0 < len(plain) * len(fairness.scores.labels) <= MOST_PLOTS:
        return []
    return [(some.title, [_plot(fairness, some, label) for label in fairness.scores.labels]) for some in plain]


def _plot(fairness: Fairness, some: Partition, label: str) -> dict[str, str]:
    folders = {}
    for folder in fairness.scores.folders[:PLOTTED_FOLDERS]:
        if found := fairness.of(folder.name, some.title, label):
            folders[folder.name] = (found.boxes, stars(found.tests.p) if found.tests else "")
    kept = some.shown(some.sizes, fairness.cohort.options.smallest)
    groups = [name for name, there in zip(some.names, kept, strict=True) if there]
    picture = group_plot(folders, groups, label, _quantity(fairness))
    return {"src": embedded(picture), "alt": f"{fairness.metric} of {label} by {some.title}"}


def _pair(fairness: Fairness, pair: Pair, plain: Sequence[Partition]) -> dict[str, Any]:
    plots = []
    for some in plain:
        changes = {c: found for c in fairness.columns if (found := pair.changes.get((some.title, c)))}
        if changes:
            picture = change_plot(changes, some.title, pair.before, pair.after, _quantity(fairness))
            plots.append({"src": embedded(picture), "alt": f"Gaps by {some.title} before and after"})
    bars = {c: (a.before, a.after, stars(a.p), a.verdict == "dropped") for c, a in pair.accuracy.items()}
    drawn = 0 < len(bars) <= MOST_PLOTS
    return {
        "before": pair.before,
        "after": pair.after,
        "accuracy": [_accuracy_row(fairness, pair, column) for column in pair.accuracy],
        "bars": embedded(accuracy_plot(bars, pair.before, pair.after, _quantity(fairness))) if drawn else "",
        "plots": plots,
        "tables": [t for some in fairness.cohort.partitions if (t := _change_table(fairness, pair, some))["rows"]],
    }


def _accuracy_row(fairness: Fairness, pair: Pair, column: str) -> dict[str, Any]:
    found = pair.accuracy[column]
    change = _change_cell(fairness, found.change)
    return {
        "label": column,
        "before": number(found.before, fairness.digits),
        "after": number(found.after, fairness.digits),
        "change": change["text"],
        "interval": change["small"],
        "p": f"{stars(found.p)} {found.p:.2g}",
        "holm": _holm(found.p_holm),
        "people": found.people,
        "verdict": found.verdict,
        "class": VERDICT_CLASSES[found.verdict],
    }


def _change_table(fairness: Fairness, pair: Pair, some: Partition) -> dict[str, Any]:
    """Means by group, gap and spread: after minus before."""
    found = [pair.changes.get((some.title, c)) for c in fairness.columns]
    names = [name for name in some.names if any(one and name in one.means for one in found)]
    parts = [(name, [one.means.get(name) if one else None for one in found]) for name in names]
    if names:
        parts.append(("largest gap", [one.gap if one else None for one in found]))
        parts.append(("standard deviation", [one.std if one else None for one in found]))
    return {"title": some.title, "rows": [(name, [_change_cell(fairness, f) for f in row]) for name, row in parts]}


def _quantity(fairness: Fairness) -> str:
    return quantity(fairness.metric, "mm")


def _cell(fairness: Fairness, found: Figure | None, **more: Any) -> dict[str, Any]:
    value = None if found is None else found.value
    return {"text": number(value, fairness.digits), "small": interval(found, fairness.digits), **more}


def _change_cell(fairness: Fairness, found: Figure | None) -> dict[str, str]:
    value = None if found is None else found.value
    text, small = number(value, fairness.digits, True), interval(found, fairness.digits, True)
    return {"text": text.replace("-", "−"), "small": small.replace("-", "−")}


def fairness_lines(fairness: Fairness | None) -> list[str]:
    """What the command says at the end: each folder's largest gap, and how many tests stay significant."""
    if fairness is None or not fairness.cohort.partitions:
        return ["no groups of participants could be compared", *_notes(fairness)]
    titles = ", ".join(some.title for some in fairness.cohort.partitions if not some.crossed)
    hidden = f"groups of fewer than {fairness.cohort.options.smallest} are hidden"
    lines = [f"groups by {titles} ({len(fairness.cohort.people)} participants; {hidden}):"]
    for folder in fairness.scores.folders:
        found = {k[1:]: one for k, one in fairness.figures.items() if k[0] == folder.name and one.tests}
        if found:
            (title, label), one = max(found.items(), key=lambda item: item[1].gap.value)
            corrected = [other.tests.p_holm for other in found.values() if other.tests]
            widest = f"{number(one.gap.value, fairness.digits)} ({label} by {title}, worst {one.worst})"
            lines.append(
                f"  {folder.name}: largest gap in {fairness.metric} {widest}; "
                f"{sum(p is not None and p < 0.05 for p in corrected)} of {len(found)} tests "
                f"significant after Holm's correction"
            )
    for pair in fairness.pairs:
        dropped = [column for column, a in pair.accuracy.items() if a.verdict == "dropped"]
        lines.append(f"  {pair.after} against {pair.before}: accuracy dropped in {', '.join(dropped) or 'no label'}")
    return [*lines, *_notes(fairness)]


def _notes(fairness: Fairness | None) -> list[str]:
    return [f"  {note}" for note in (fairness.cohort.notes if fairness else ())]
