"""The report's section on uncertainty: how well maps rank the errors, and whether volumes lie in their intervals."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from nnkd.evaluation.intervals import Bootstrap, Estimate
from nnkd.evaluation.plots import caught_plot
from nnkd.evaluation.uncertainty import MEASURES, REGION, SHARES, FolderRanking
from nnkd.inference.uncertainty import MAPS


def section(
    rankings: Mapping[str, FolderRanking], person_of: Mapping[str, str], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """For the template; None if no folder has maps.

    Args:
        rankings: By folder's name.
        person_of: Participant by case.
        bootstrap: How intervals are made.
    """
    if not rankings:
        return None
    return {
        "region": REGION,
        "measures": list(MEASURES.values()),
        "heads": ["AUROC", "average precision", "wrong in top 1 %", "wrong overall", "cases"],
        "maps": MAPS,
        "folders": [_folder(name, found, person_of, bootstrap) for name, found in rankings.items()],
    }


def _folder(name: str, found: FolderRanking, person_of: Mapping[str, str], bootstrap: Bootstrap) -> dict[str, Any]:
    rows = []
    for title in MAPS:
        estimates = [found.estimate(title, measure, person_of, bootstrap) for measure in MEASURES]
        rows.append((title, [_cell(e) for e in estimates], len(found.maps[title])))
    curves = {title: curve for title in MAPS if (curve := found.caught(title)) is not None}
    picture = base64.b64encode(caught_plot(SHARES, curves)).decode("ascii") if curves else ""
    return {
        "name": name,
        "rows": rows,
        "src": f"data:image/png;base64,{picture}" if picture else "",
        "coverage": [(label, inside, cases) for label, (inside, cases) in found.coverage().items()],
        "members": sorted({row["members"] for row in found.volumes}),
        "failures": sorted(found.failures.items()),
        "without": len(found.without),
    }


def _cell(estimate: Estimate | None) -> dict[str, str]:
    if estimate is None:
        return {"text": "—", "interval": ""}
    interval = "" if estimate.low is None else f"{estimate.low:.3f}–{estimate.high:.3f}"
    return {"text": f"{estimate.value:.3f}", "interval": interval}
