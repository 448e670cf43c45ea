"""summary.json of an evaluated folder in nnU-Net's layout, with our metrics beside nnU-Net's.

nnU-Net's own figures (Dice, IoU and the counts) are of the label maps as they lie: a label nobody answered for is
empty there, so that its Dice is 0. Our own follow `nnkd.evaluation.scores`. File names are relative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.evaluation.intervals import Estimate
from nnkd.evaluation.metrics import METRICS, Counts
from nnkd.evaluation.scores import COMMON, OVERALL, Cell, FolderScores, Scores
from nnkd.files import read_json, write_json

COUNTS = ("FN", "FP", "TN", "TP", "n_pred", "n_ref")


def nnunet_key(spec: DatasetSpec, label: str) -> str:
    """How nnU-Net's summary.json calls a label or region: "1", "(1, 2)"."""
    value = spec.json["labels"][label]
    return str(tuple(value)) if isinstance(value, list | tuple) else str(value)


def summary(scores: Scores, folder: FolderScores, spec: DatasetSpec, reference: str, facts: Mapping[str, Any]) -> dict:
    """Content of summary.json.

    Args:
        scores: All evaluated folders.
        folder: The one to write.
        spec: The dataset.
        reference: Name of the reference folder.
        facts: Definition, tolerance and whatever else the block "nnkd" shall name.
    """
    keys = {label: nnunet_key(spec, label) for label in scores.labels}
    cases = [case for case in scores.cases if case not in folder.failures]
    tables = {metric: scores.table(metric)[folder.name] for metric in METRICS}
    means = {
        key: {
            **_nnunet_mean([_nnunet(folder.results[case][label].counts) for case in cases]),
            **{metric: _value(row[label]) for metric, row in tables.items()},
        }
        for label, key in keys.items()
    }
    names = [*COUNTS, "Dice", "IoU"]
    return {
        "foreground_mean": {
            **{name: float(np.mean([means[key][name] for key in keys.values()])) for name in names},
            **{metric: _value(row[OVERALL]) for metric, row in tables.items()},
        },
        "mean": means,
        "metric_per_case": [_case(folder, case, keys, spec.file_ending, reference) for case in cases],
        "nnkd": {
            **facts,
            "name": folder.name,
            "labels": keys,
            "tables": {m: {c: _cell(cell) for c, cell in row.items()} for m, row in tables.items()},
            "failures": folder.failures,
            "flags": [{"case": c, "label": label, "flag": flag} for c, label, flag in scores.flags(folder)],
        },
    }


def add_to_summary(folder: Path, key: str, content: Any) -> None:
    """Put something into the block "nnkd" of a folder's summary.json."""
    file = folder / "summary.json"
    whole = read_json(file)
    whole["nnkd"][key] = content
    write_json(file, whole)


def _case(folder: FolderScores, case: str, keys: Mapping[str, str], ending: str, reference: str) -> dict[str, Any]:
    metrics = {}
    for label, key in keys.items():
        flag, result = folder.flag(case, label), folder.results[case][label]
        ours = dict.fromkeys(METRICS) if flag == "not_answered" else {m: result.values.get(m) for m in METRICS}
        metrics[key] = {**_nnunet(result.counts), **ours, "flag": flag}
    file = folder.files.get(case)
    return {
        "metrics": metrics,
        "prediction_file": f"{folder.name}/{file}" if file else None,
        "reference_file": f"{reference}/{case}{ending}",
    }


def _nnunet(counts: Counts) -> dict[str, float]:
    """nnU-Net's own figures; NaN where it writes NaN."""
    union = counts.TP + counts.FP + counts.FN
    return {
        "Dice": 2 * counts.TP / (union + counts.TP) if union else float("nan"),
        "IoU": counts.TP / union if union else float("nan"),
        **vars(counts),
        "n_pred": counts.TP + counts.FP,
        "n_ref": counts.TP + counts.FN,
    }


def _nnunet_mean(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = {}
    for name in (*COUNTS, "Dice", "IoU"):
        numbers = [case[name] for case in cases if not np.isnan(case[name])]
        means[name] = float(np.mean(numbers)) if numbers else float("nan")
    return means


def _value(cell: Cell) -> float | None:
    return cell.estimate.value if cell.estimate else None


def _cell(cell: Cell) -> dict[str, Any]:
    found = vars(cell.estimate) if cell.estimate else {}
    return {**found, "note": cell.note} if cell.note else dict(found)


def score_lines(scores: Scores, facts: Mapping[str, Any], output: Path) -> list[str]:
    """The overall means and where to read on.

    Args:
        scores: All evaluated folders.
        facts: What every output names.
        output: Folder of the report.
    """
    width = max(len(folder.name) for folder in scores.folders)
    column = COMMON if COMMON in scores.columns() else OVERALL
    over = f"over {', '.join(scores.common_labels)}, which all folders answer for" if column == COMMON else "overall"
    lines = [f"{scores.n_participants} participants, {len(scores.cases)} cases; mean {over} (95 % interval):"]
    for folder in scores.folders:
        parts = []
        for metric, digits in (("DSC", 3), ("HD", 2), ("HD95", 2), ("NSD", 3)):
            cell = scores.table(metric)[folder.name][column]
            parts.append(f"{metric} {_number(cell.estimate, digits)}{'†' if cell.estimate and cell.note else ''}")
        told = " ‡" if folder.manifest is not None and folder.manifest.ground_truth else ""
        lines.append(f"  {folder.name:{width}}  {'  '.join(parts)}{told}")
        if flags := scores.flags(folder):
            lines.append(f"  {'':{width}}  {len(flags)} flag(s), listed in the report")
    if any("†" in line for line in lines):
        lines.append("  † rests on fewer cases than the others")
    if any("‡" in line for line in lines):
        lines.append("  ‡ made with the help of ground truth")
    return [*lines, f"surfaces as in {facts['definition']}; report: {output / 'report.html'}"]


def _number(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return "incomplete"
    if estimate.low is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}-{estimate.high:.{digits}f})"
