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
from nnkd.data.predictions import versions
from nnkd.evaluation.cells import in_line
from nnkd.evaluation.inputs import Request
from nnkd.evaluation.metrics import EMPTY_MASKS, METRICS, Counts
from nnkd.evaluation.scores import COMMON, DIGITS, OVERALL, Cell, FolderScores, Scores
from nnkd.evaluation.surfaces import DEFINITIONS
from nnkd.files import read_json, remove_leftovers, write_json

SAID = ("DSC", "HD", "HD95", "NSD")  # on the console
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
            **{metric: row[label].value for metric, row in tables.items()},
        }
        for label, key in keys.items()
    }
    names = [*COUNTS, "Dice", "IoU"]
    return {
        "foreground_mean": {
            **{name: float(np.mean([means[key][name] for key in keys.values()])) for name in names},
            **{metric: row[OVERALL].value for metric, row in tables.items()},
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


def facts_of(request: Request, scores: Scores, dataset: str, without_spacing: bool) -> dict[str, Any]:
    """What every output names.

    Args:
        request: What was asked for.
        scores: All evaluated folders.
        dataset: Its name.
        without_spacing: Whether distances are in pixels.
    """
    definition = DEFINITIONS[scores.rules.definition]
    return {
        "dataset": dataset,
        "reference": request.reference.resolve().name,
        "definition": scores.rules.definition,
        "definition_text": definition.text,
        "percentile_rule": definition.percentile_rule,
        "empty_masks": EMPTY_MASKS,
        "tolerance_mm": request.tolerance,
        "tolerance_mm_by_label": dict(request.tolerances),
        "unit": "pixels (the files have no spacing)" if without_spacing else "mm",
        "bootstrap_resamples": scores.bootstrap.resamples,
        "seed": scores.bootstrap.seed,
        "cases": len(scores.cases),
        "participants": scores.n_participants,
        "common_cases_only": request.common_cases,
        "versions": versions(),
    }


def write_summaries(scores: Scores, spec: DatasetSpec, facts: Mapping[str, Any], output: Path) -> None:
    """NAME/summary.json of every folder; what killed runs left goes.

    Args:
        scores: All evaluated folders.
        spec: The dataset.
        facts: What every output names.
        output: Folder of the evaluation.
    """
    for folder in scores.folders:
        remove_leftovers(output / folder.name)
        content = summary(scores, folder, spec, str(facts["reference"]), facts)
        write_json(output / folder.name / "summary.json", content)


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
        for metric in SAID:
            cell = scores.table(metric)[folder.name][column]
            said = in_line(cell.estimate, DIGITS[metric]) if cell.estimate else "incomplete"
            parts.append(f"{metric} {said}{'†' if cell.estimate and cell.note else ''}")
        told = " ‡" if folder.manifest is not None and folder.manifest.ground_truth else ""
        lines.append(f"  {folder.name:{width}}  {'  '.join(parts)}{told}")
        if flags := scores.flags(folder):
            lines.append(f"  {'':{width}}  {len(flags)} flag(s), listed in the report")
    if scores.bootstrap.resamples and scores.n_participants < 2:
        lines.append("  no intervals: people are drawn for them, and all cases are of one participant")
    if any("†" in line for line in lines):
        lines.append("  † rests on fewer cases than the others")
    if any("‡" in line for line in lines):
        lines.append("  ‡ made with the help of ground truth")
    return [*lines, f"surfaces as in {facts['definition']}; report: {output / 'report.html'}"]
