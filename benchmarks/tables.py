"""Rows of a benchmark's JSONL, with their scores case by case, as a Markdown table."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path


def read(file: Path) -> list[dict]:
    """Rows of a JSONL; none if it is not there. A line that was cut off by a kill is passed over."""
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


Scores = dict[str, list[dict[str, float]]]  # by metric, for each label: by seed and case


def table(file: Path, subset: str, against: str, epochs: int) -> str:
    """The rows as a Markdown table: means over seeds and cases, intervals by bootstrap over cases.

    Args:
        file: The JSONL.
        subset: "test" or "choose".
        against: The row that differences are taken to.
        epochs: Of the students to show.
    """
    from nnkd.evaluation.cells import in_line
    from nnkd.evaluation.intervals import Bootstrap, mean

    bootstrap = Bootstrap()
    rows, case_of, seeds = _gather(file, subset, epochs)
    lines = [f"| row | seeds | DSC | HD (mm) | DSC minus '{against}' | ECE | Brier |", "|---" * 7 + "|"]
    for row, scores in rows.items():
        cells = []
        for metric, digits in (("DSC", 3), ("HD", 2)):
            cells.append(in_line(mean(scores[metric], case_of, bootstrap), digits))
        differs = against in rows and row != against
        cells.append(_difference(scores["DSC"], rows[against]["DSC"], case_of, bootstrap) if differs else "")
        for metric in ("ECE", "Brier"):
            cells.append(f"{mean(scores[metric], case_of, bootstrap).value:.4f}" if metric in scores else "")
        lines.append(f"| {row} | {len(seeds[row])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gather(file: Path, subset: str, epochs: int) -> tuple[dict[str, Scores], dict[str, str], dict[str, set[int]]]:
    """Scores by row, the case of each of their keys, and each row's seeds."""
    rows: dict[str, Scores] = {}
    case_of: dict[str, str] = {}
    seeds: dict[str, set[int]] = {}
    for found in read(file):
        if found["epochs"] != epochs:
            continue
        seeds.setdefault(found["row"], set()).add(found["seed"])
        for metric, by_label in found["scores"].items():
            labels = rows.setdefault(found["row"], {}).setdefault(metric, [{} for _ in by_label])
            for values, by_case in zip(labels, by_label.values(), strict=True):
                for case, value in by_case.items():
                    if (case in found["choose"]) == (subset == "choose"):
                        values[f"{found['seed']}/{case}"] = value
                        case_of[f"{found['seed']}/{case}"] = case
    return rows, case_of, seeds


def _difference(mine: list, theirs: list, case_of: Mapping[str, str], bootstrap: object) -> str:
    """Mean difference with its interval, over what both rows have."""
    from nnkd.evaluation.cells import in_line
    from nnkd.evaluation.intervals import paired_difference

    shared = [set(a) & set(b) for a, b in zip(mine, theirs, strict=True)]
    first, second = ([{c: by[c] for c in both} for by, both in zip(one, shared, strict=True)] for one in (mine, theirs))
    found = paired_difference(first, second, case_of, bootstrap)
    return in_line(found, 3, sign=True) if found else ""
