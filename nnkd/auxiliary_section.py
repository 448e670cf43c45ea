"""The report's section on auxiliary datasets: which one trained along when, and why."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from nnkd.auxiliary_plots import MOST_COLUMNS, bounds_plot, choice_plot, cumulative_plot
from nnkd.auxiliary_turns import Turns, reasons, table

HEADS = ("turns", "mean loss", "mean cosine", "mean reward", "for its estimate")


def auxiliary_section(trainings: Mapping[str, Turns]) -> dict[str, Any] | None:
    """For the template auxiliaries.html; None if there is no training.

    Args:
        trainings: The record of each, by what to call it.
    """
    if not trainings:
        return None
    return {"heads": HEADS, "trainings": [_training(name, turns) for name, turns in trainings.items()]}


def _training(name: str, turns: Turns) -> dict[str, Any]:
    plots = [
        ("Dataset chosen in each turn", choice_plot(turns)),
        ("Number of turns of each dataset", cumulative_plot(turns)),
        ("Estimates and bounds", bounds_plot(turns)),
    ]
    return {
        "name": name,
        "turns": len(turns.rows),
        "joined": len(turns.rows) > MOST_COLUMNS,
        "reasons": reasons(turns),
        "rows": table(turns),
        "plots": [{"src": _embedded(picture), "alt": alt} for alt, picture in plots if picture],
    }


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
