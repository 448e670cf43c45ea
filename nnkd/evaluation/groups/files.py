"""fairness.json and its tables as CSV: figures of groups, never of single people.

Figures are rounded. With all digits, and every case's own value in metrics.csv, the mean of a small group would have
only one possible list of members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnkd.data.groups import PAPERS_BINS
from nnkd.evaluation.groups.fairness import Accuracy, Fairness, GroupChanges, GroupFigures
from nnkd.evaluation.groups.measures import Figure, GroupTests, stars
from nnkd.evaluation.groups.partitions import FEW, GroupOptions
from nnkd.evaluation.metrics import METRICS
from nnkd.evaluation.scores import write_frame
from nnkd.files import write_json

JSON_FILE = "fairness.json"
CSV_FILES = ("fairness.csv", "fairness_groups.csv", "fairness_changes.csv")
SIGNIFICANT = 3  # digits of p and of test statistics
DEFINITIONS: Mapping[str, str] = {
    "mean": "everybody counts once, with the mean over their cases; 95 % bootstrap interval over people within groups",
    "std": "standard deviation over group means (paper 1, Table 3), divided by the number of groups",
    "std_by_chance": "what std comes to on average if the groups do not differ, from the variance within them",
    "gap": "highest minus lowest group mean",
    "equity_scaled": "mean over all people / (1 + sum of the groups' distances from it) (Tian et al. 2024)",
    "anova": "one-way analysis of variance on people's means (paper 1, Figure 2)",
    "stars": "N.S. p >= 0.05, * < 0.05, ** < 0.01, *** < 0.001, **** < 0.0001",
    "holm": "Holm's correction for all labels and attributes of a folder, or, for accuracy, all labels of a pair",
    "people": "of a group: in all evaluated cases; how many of them a label is counted for is not told by group",
    "changes": "after minus before, over people counted in both; p: Wilcoxon's signed-rank test",
}


def write_fairness(
    fairness: Fairness | None, options: GroupOptions, problems: Sequence[str], facts: Mapping[str, Any], output: Path
) -> None:
    """Write fairness.json, fairness.csv, fairness_groups.csv and, for several folders, fairness_changes.csv.

    Args:
        fairness: None where people could not be put into groups; then only the problems are written.
        options: What was asked for.
        problems: Why not, a sentence each.
        facts: Definition, tolerance and whatever else is to be named.
        output: Folder.
    """
    write_json(output / JSON_FILE, fairness_json(fairness, options, problems, facts))
    if fairness is None:
        return
    frames = [figures_frame(fairness), groups_frame(fairness), changes_frame(fairness)]
    for name, frame in zip(CSV_FILES, frames, strict=True):
        if len(frame):
            write_frame(frame, output / name)


def fairness_json(
    fairness: Fairness | None, options: GroupOptions, problems: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Content of fairness.json."""
    bins = {column: list(edges) for column, edges in options.bins.items() if column in options.attributes}
    content: dict[str, Any] = {
        **facts,
        "attributes": list(options.attributes),
        "bins": bins,
        "bins_from": "paper 1" if options.bins is PAPERS_BINS else "--bins",
        "smallest_group": options.smallest,
        "few": FEW,
        "problems": list(problems),
        "notes": [],
        "definitions": dict(DEFINITIONS),
    }
    if fairness is None:
        return content
    return {
        **content,
        "notes": list(fairness.cohort.notes),
        "metric": fairness.metric,
        "metric_unit": METRICS[fairness.metric].unit,
        "groups": {some.title: _cohort_sizes(fairness, some.title) for some in fairness.cohort.partitions},
        "folders": {folder.name: _folder(fairness, folder.name) for folder in fairness.scores.folders},
        "changes": [_pair(fairness, index) for index in range(len(fairness.pairs))],
    }


def _cohort_sizes(fairness: Fairness, title: str) -> dict[str, Any]:
    some = next(s for s in fairness.cohort.partitions if s.title == title)
    kept = some.shown(some.sizes, fairness.cohort.options.smallest)
    triples = zip(some.names, some.sizes, kept, strict=True)
    return {name: {"people": int(n), "few": bool(n < FEW)} for name, n, there in triples if there}


def _folder(fairness: Fairness, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for some in fairness.cohort.partitions:
        columns = {c: fairness.of(folder, some.title, c) for c in fairness.columns}
        found[some.title] = {column: _figures(fairness, one) for column, one in columns.items() if one}
    return found


def _figures(fairness: Fairness, found: GroupFigures) -> dict[str, Any]:
    return {
        "groups": {name: _figure(fairness, one) for name, one in found.means.items()},
        "std": _figure(fairness, found.std),
        "std_by_chance": rounded(fairness, found.by_chance),
        "gap": _figure(fairness, found.gap),
        "worst": found.worst,
        "best": found.best,
        "equity_scaled": _figure(fairness, found.equity) if found.equity else None,
        "tests": _tests(found.tests) if found.tests else None,
    }


def _tests(found: GroupTests) -> dict[str, Any]:
    anova = {"f": found.f, "p": found.p, "p_holm": found.p_holm}
    kruskal = {"h": found.h, "p": found.p_kruskal, "p_holm": found.p_kruskal_holm}
    return {
        "people": found.people,
        "anova": {**_short(anova), **_stars(found.p, found.p_holm), "eta2": _share(found.eta2),
                  "omega2": _share(found.omega2)},
        "kruskal_wallis": {**_short(kruskal), **_stars(found.p_kruskal, found.p_kruskal_holm),
                           "epsilon2": _share(found.epsilon2)},
    }  # fmt: skip


def _pair(fairness: Fairness, index: int) -> dict[str, Any]:
    pair = fairness.pairs[index]
    changes: dict[str, dict[str, Any]] = {}
    for (title, column), found in pair.changes.items():
        changes.setdefault(title, {})[column] = _changes(fairness, found)
    accuracy = {column: _accuracy(fairness, found) for column, found in pair.accuracy.items()}
    return {"before": pair.before, "after": pair.after, "accuracy": accuracy, "groups": changes}


def _accuracy(fairness: Fairness, found: Accuracy) -> dict[str, Any]:
    return {
        "before": rounded(fairness, found.before),
        "after": rounded(fairness, found.after),
        "change": _figure(fairness, found.change),
        **_short({"p": found.p, "p_holm": found.p_holm}),
        **_stars(found.p, found.p_holm),
        "people": found.people,
        "verdict": found.verdict,
    }


def _changes(fairness: Fairness, found: GroupChanges) -> dict[str, Any]:
    return {
        "groups": {name: _figure(fairness, one) for name, one in found.means.items()},
        **{
            name: {
                "before": rounded(fairness, getattr(found, f"{name}_before")),
                "after": rounded(fairness, getattr(found, f"{name}_after")),
                "change": _figure(fairness, getattr(found, name)),
            }
            for name in ("gap", "std")
        },
    }


def figures_frame(fairness: Fairness) -> pd.DataFrame:
    """One row per folder, attribute and label: spread, gap, equity and tests."""
    rows = []
    for (folder, title, column), found in fairness.figures.items():
        tested = _tests(found.tests) if found.tests else {"people": None, "anova": {}, "kruskal_wallis": {}}
        row = {
            "folder": folder, "attribute": title, "label": column, "metric": fairness.metric,
            "groups": len(found.means), "people": tested["people"],
            **_columns(fairness, "std", found.std), "std_by_chance": rounded(fairness, found.by_chance),
            **_columns(fairness, "gap", found.gap), "worst": found.worst, "best": found.best,
            **_columns(fairness, "equity_scaled", found.equity),
        }  # fmt: skip
        for test, keys in (("anova", ("f", "eta2", "omega2")), ("kruskal_wallis", ("h", "epsilon2"))):
            for key in (*keys, "p", "stars", "p_holm", "stars_holm"):
                row[f"{test}_{key}"] = tested[test].get(key)
        rows.append({**row, "smallest_group": fairness.cohort.options.smallest})
    return pd.DataFrame(rows)


def groups_frame(fairness: Fairness) -> pd.DataFrame:
    """One row per folder, attribute, label and shown group."""
    sizes = {some.title: _cohort_sizes(fairness, some.title) for some in fairness.cohort.partitions}
    rows = [
        {
            "folder": folder, "attribute": title, "label": column, "metric": fairness.metric, "group": group,
            **sizes[title].get(group, {}), **_columns(fairness, "mean", one),
        }
        for (folder, title, column), found in fairness.figures.items()
        for group, one in found.means.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def changes_frame(fairness: Fairness) -> pd.DataFrame:
    """One row per pair of folders, label and what changed: accuracy, gap, std, and every shown group's mean."""
    rows: list[dict[str, Any]] = []
    for pair in fairness.pairs:
        for column, whole in pair.accuracy.items():
            start = {"before": pair.before, "after": pair.after, "label": column, "metric": fairness.metric}
            said = _accuracy(fairness, whole)
            rows.append({**start, "attribute": "", "group": "", "what": "accuracy", "value_before": said["before"],
                         "value_after": said["after"], **_columns(fairness, "change", whole.change),
                         **{key: said[key] for key in ("p", "p_holm", "verdict")}})  # fmt: skip
            for title in (some.title for some in fairness.cohort.partitions):
                if (found := pair.changes.get((title, column))) is not None:
                    rows += [{**start, "attribute": title, **row} for row in _change_rows(fairness, found)]
    order = ("before", "after", "attribute", "label", "metric", "what", "group")
    frame = pd.DataFrame(rows)
    return frame[[*order, *(c for c in frame.columns if c not in order)]] if rows else frame


def _change_rows(fairness: Fairness, found: GroupChanges) -> list[dict[str, Any]]:
    said = _changes(fairness, found)
    rows = [
        {"what": name, "group": "", "value_before": said[name]["before"], "value_after": said[name]["after"],
         **_columns(fairness, "change", getattr(found, name))}
        for name in ("gap", "std")
    ]  # fmt: skip
    means = [{"what": "mean", "group": g, **_columns(fairness, "change", one)} for g, one in found.means.items()]
    return [*rows, *means]


def rounded(fairness: Fairness, value: float | None) -> float | None:
    """As it is written."""
    return None if value is None else round(value, fairness.digits)


def _figure(fairness: Fairness, found: Figure) -> dict[str, float | None]:
    return {name: rounded(fairness, value) for name, value in vars(found).items()}


def _columns(fairness: Fairness, name: str, found: Figure | None) -> dict[str, float | None]:
    numbers = _figure(fairness, found) if found else dict.fromkeys(("value", "low", "high"))
    return {name: numbers["value"], f"{name}_low": numbers["low"], f"{name}_high": numbers["high"]}


def _short(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if v is None else float(f"{v:.{SIGNIFICANT}g}") for name, v in values.items()}


def _share(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _stars(p: float | None, p_holm: float | None) -> dict[str, str]:
    return {"stars": stars(p), "stars_holm": stars(p_holm)}
