"""What nnKD_evaluate prints of its scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnkd.evaluation.intervals import Estimate
from nnkd.evaluation.scores import COMMON, OVERALL, Scores


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
