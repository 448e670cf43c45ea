"""Tables of `asap.py`: by target, student and number of shots; intervals by bootstrap over cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median

Values = dict[str, float]  # by fold and case


def tables(rows: Iterable[Mapping], against: str) -> str:
    """One Markdown table for each target, student and number of shots that has rows."""
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        groups.setdefault((row["target"], row["student"], row["shots"], row["turns"]), []).append(row)
    return "\n\n".join(
        f"{target}, {student}, {shots} shots, {turns} turns\n\n{_table(found, against)}"
        for (target, student, shots, turns), found in groups.items()
    )


def _table(rows: list[Mapping], against: str) -> str:
    from nnkd.evaluation.cells import in_line
    from nnkd.evaluation.intervals import Bootstrap, mean, paired_difference

    bootstrap = Bootstrap()
    case_of = {_key(row, case): case for row in rows for case in row["dsc"]}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    dsc, iou = ({method: _values(rows, method, metric) for method in methods} for metric in ("dsc", "iou"))
    lines = [f"| method | folds | DSC | mIoU | DSC minus {against} | CPU s | mostly chosen |", "|---" * 7 + "|"]
    for method in methods:
        folds = [row for row in rows if row["method"] == method]
        found = mean([dsc[method]], case_of, bootstrap)
        overlap = mean([iou[method]], case_of, bootstrap)
        gain = ""
        if method != against and against in methods:
            both = sorted(set(dsc[method]) & set(dsc[against]))
            mine, theirs = ([{key: values[key] for key in both}] for values in (dsc[method], dsc[against]))
            differs = paired_difference(mine, theirs, case_of, bootstrap)
            gain = in_line(differs, 3, sign=True) if differs else ""
        seconds = [row["cpu_seconds"] for row in folds if row["cpu_seconds"]]
        lines.append(
            f"| {method} | {len(folds)} | {in_line(found, 3)} | {overlap.value:.3f} | "
            f"{gain} | {f'{median(seconds):.0f}' if seconds else ''} | {_mostly(folds)} |"
        )
    return "\n".join(lines)


def _key(row: Mapping, case: str) -> str:
    return f"{row['fold']}/{case}"


def _values(rows: list[Mapping], method: str, metric: str) -> Values:
    return {_key(row, case): v for row in rows if row["method"] == method for case, v in row[metric].items()}


def _mostly(rows: list[Mapping]) -> str:
    """The three tasks with most turns over all folds, and their shares."""
    turns: Counter[str] = Counter()
    for row in rows:
        turns.update(row["chosen"])
    total = sum(turns.values())
    return ", ".join(f"{task.partition('_')[2]} {number / total:.0%}" for task, number in turns.most_common(3))
