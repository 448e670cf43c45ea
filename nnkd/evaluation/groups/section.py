"""The report's section on fairness: paper 1's Table 3 and Figures 2 and 3, and every group's means."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from nnkd.evaluation.groups.fairness import Fairness, GroupFigures, Pair
from nnkd.evaluation.groups.files import DIGITS
from nnkd.evaluation.groups.measures import Figure, stars
from nnkd.evaluation.groups.partitions import FEW, GroupOptions, Partition
from nnkd.evaluation.groups.plots import accuracy_plot, change_plot, group_plot
from nnkd.evaluation.metrics import METRICS

MOST_PLOTS = 36  # of labels and attributes; beyond, the tables say more
MOST_DETAILED = 4  # folders with a table of every group
MOST_PAIRS = 4
PLOTTED_FOLDERS = 8
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
        values = [row[index]["text"] for _, row in rows if row[index]["text"] != "—"]
        for _, row in rows:
            row[index]["lowest"] = len(values) > 1 and row[index]["text"] == min(values, key=float)
    return {"title": some.title, "rows": rows, "groups": _sizes(fairness, some)}


def _spread_cell(fairness: Fairness, found: GroupFigures | None) -> dict[str, Any]:
    if found is None:
        return {"text": "—", "small": ""}
    chance = "" if found.by_chance is None else f"by chance {_number(fairness, found.by_chance)}"
    return {"text": _number(fairness, found.std.value), "small": _interval(fairness, found.std), "chance": chance}


def _sizes(fairness: Fairness, some: Partition) -> str:
    kept = some.shown(some.sizes, fairness.cohort.options.smallest)
    parts = [f"{name}: {n}" for name, n, there in zip(some.names, some.sizes, kept, strict=True) if there]
    return ", ".join(parts)


def _detail(fairness: Fairness, folder: str, some: Partition) -> dict[str, Any]:
    """One folder's groups: means, and under them gap, equity and tests."""
    found = {column: fairness.of(folder, some.title, column) for column in fairness.columns}
    kept = some.shown(some.sizes, fairness.cohort.options.smallest)
    rows = []
    for name, n, there in zip(some.names, some.sizes, kept, strict=True):
        if there:
            cells = [_mean_cell(fairness, one, name) for one in found.values()]
            rows.append({"name": name, "n": int(n), "few": n < FEW, "cells": cells})
    below = [("largest gap", [_gap_cell(fairness, one) for one in found.values()])]
    if any(one and one.equity for one in found.values()):
        below.append((f"equity-scaled {fairness.metric}", [_equity_cell(fairness, one) for one in found.values()]))
    if not some.crossed:
        below.append(("ANOVA", [_anova_cell(one) for one in found.values()]))
        below.append(("Kruskal-Wallis", [_kruskal_cell(one) for one in found.values()]))
    return {"title": some.title, "rows": rows, "below": below}


def _mean_cell(fairness: Fairness, found: GroupFigures | None, name: str) -> dict[str, Any]:
    if found is None or name not in found.means:
        return {"text": "—", "small": ""}
    one = found.means[name]
    return {"text": _number(fairness, one.value), "small": _interval(fairness, one), "worst": name == found.worst}


def _gap_cell(fairness: Fairness, found: GroupFigures | None) -> dict[str, Any]:
    if found is None:
        return {"text": "—", "small": ""}
    return {"text": _number(fairness, found.gap.value), "small": _interval(fairness, found.gap)}


def _equity_cell(fairness: Fairness, found: GroupFigures | None) -> dict[str, Any]:
    if found is None or found.equity is None:
        return {"text": "—", "small": ""}
    return {"text": _number(fairness, found.equity.value), "small": _interval(fairness, found.equity)}


def _anova_cell(found: GroupFigures | None) -> dict[str, Any]:
    if found is None or found.tests is None or found.tests.p is None:
        return {"text": "—", "small": ""}
    one = found.tests
    small = f"p {one.p:.2g}, Holm {stars(one.p_holm)} {one.p_holm:.2g}"
    return {"text": stars(one.p), "small": small, "more": f"η² {one.eta2:.3f}, ω² {one.omega2:.3f}", "test": True}


def _kruskal_cell(found: GroupFigures | None) -> dict[str, Any]:
    if found is None or found.tests is None or found.tests.p_kruskal is None:
        return {"text": "—", "small": ""}
    one = found.tests
    small = f"p {one.p_kruskal:.2g}, Holm {stars(one.p_kruskal_holm)} {one.p_kruskal_holm:.2g}"
    return {"text": stars(one.p_kruskal), "small": small, "more": f"ε² {one.epsilon2:.3f}", "test": True}


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
    return {"src": _embedded(picture), "alt": f"{fairness.metric} of {label} by {some.title}"}


def _pair(fairness: Fairness, pair: Pair, plain: Sequence[Partition]) -> dict[str, Any]:
    plots = []
    for some in plain:
        changes = {c: found for c in fairness.columns if (found := pair.changes.get((some.title, c)))}
        if changes:
            picture = change_plot(changes, some.title, pair.before, pair.after, _quantity(fairness))
            plots.append({"src": _embedded(picture), "alt": f"Gaps by {some.title} before and after"})
    bars = {c: (a.before, a.after, stars(a.p), a.verdict == "dropped") for c, a in pair.accuracy.items()}
    bars_picture = _embedded(accuracy_plot(bars, pair.before, pair.after, _quantity(fairness))) if bars else ""
    return {
        "before": pair.before,
        "after": pair.after,
        "accuracy": [_accuracy_row(fairness, pair, column) for column in pair.accuracy],
        "bars": bars_picture if 0 < len(bars) <= MOST_PLOTS else "",
        "plots": plots,
        "tables": [t for some in fairness.cohort.partitions if (t := _change_table(fairness, pair, some))["rows"]],
    }


def _accuracy_row(fairness: Fairness, pair: Pair, column: str) -> dict[str, Any]:
    found = pair.accuracy[column]
    holm = "" if found.p_holm is None else f"Holm {stars(found.p_holm)} {found.p_holm:.2g}"
    return {
        "label": column,
        "before": _number(fairness, found.before),
        "after": _number(fairness, found.after),
        "change": _number(fairness, found.change.value, sign=True),
        "interval": _interval(fairness, found.change, sign=True),
        "p": f"{stars(found.p)} {found.p:.2g}",
        "holm": holm,
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


def _change_cell(fairness: Fairness, found: Figure | None) -> dict[str, str]:
    if found is None:
        return {"text": "—", "small": ""}
    return {"text": _number(fairness, found.value, sign=True), "small": _interval(fairness, found, sign=True)}


def _number(fairness: Fairness, value: float, sign: bool = False) -> str:
    digits = DIGITS[bool(METRICS[fairness.metric].unit)]
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−") if sign else text


def _interval(fairness: Fairness, found: Figure, sign: bool = False) -> str:
    if found.low is None or found.high is None:
        return ""
    between = " to " if sign else "–"
    return f"{_number(fairness, found.low, sign)}{between}{_number(fairness, found.high, sign)}"


def _quantity(fairness: Fairness) -> str:
    unit = METRICS[fairness.metric].unit
    return f"{fairness.metric} [{unit}]" if unit else fairness.metric


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


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
            widest = f"{_number(fairness, one.gap.value)} ({label} by {title}, worst {one.worst})"
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
