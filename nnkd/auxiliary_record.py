"""auxiliaries.jsonl: a line for every turn of a training with auxiliary tasks, and the plots made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from nnkd.errors import RecipeError
from nnkd.files import atomic

RECORD = "auxiliaries.jsonl"


def append(file: Path, turn: Mapping[str, Any]) -> None:
    """Add a turn. Numbers that are not finite become null."""
    with file.open("a", encoding="utf-8") as record:
        record.write(json.dumps(_plain(turn), ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def cut(file: Path, turns: int) -> None:
    """Keep the first turns, those that a checkpoint knows; later ones, and a line cut short, go."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            number = json.loads(line)["turn"]
        except (ValueError, KeyError, TypeError):
            continue
        if number <= turns:
            kept.append(line + "\n")
    with atomic(file) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def draw(file: Path) -> list[Path]:
    """Draw the record: which task was chosen when (auxiliaries_chosen.png), how often (auxiliaries_turns.png), and
    estimates and bounds where there are any (auxiliaries_bounds.png).

    Returns:
        The files written; none where nothing was chosen in any turn.
    """
    from nnkd.auxiliary_plots import bounds_plot, choice_plot, cumulative_plot
    from nnkd.auxiliary_turns import read_turns

    if not file.is_file():
        return []
    try:
        turns = read_turns(file)
    except RecipeError:  # all tasks in every turn, or none finished yet
        return []
    plots = {"chosen": choice_plot(turns), "turns": cumulative_plot(turns), "bounds": bounds_plot(turns)}
    written = []
    for name, picture in plots.items():
        if picture is not None:
            written.append(file.with_name(f"{file.stem}_{name}.png"))
            with atomic(written[-1]) as temporary:
                temporary.write_bytes(picture)
    return written
