"""The report's section on auxiliary datasets: which one trained along when, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnkd.auxiliary.plots import MOST_COLUMNS, bounds_plot, choice_plot, cumulative_plot
from nnkd.auxiliary.record import carried
from nnkd.auxiliary.turns import REMEDY, PlayedTurns, read_turns, reasons, table
from nnkd.errors import RecipeError
from nnkd.figures import embedded
from nnkd.files import sha256

log = logging.getLogger("nnkd")
NOT_AS_WRITTEN = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)
HEADS = ("turns", "mean loss", "mean cosine", "mean reward", "for its estimate")


def section_of_folders(folders: Mapping[str, Path]) -> dict[str, Any] | None:
    """For the template auxiliaries.html, of the records that prediction folders carry (`nnkd.auxiliary.record.carry`),
    each fold a training. What cannot be shown is said in a sentence; None where no folder has a record.

    Args:
        folders: By name.
    """
    trainings, notes = [], []
    for name, file in _records(folders):
        try:
            trainings.append(training_section(name, read_turns(file)))
        except RecipeError as error:
            notes.append(f"{name}: {error}")
        except NOT_AS_WRITTEN as error:
            notes.append(f"{name}: '{file.name}' is not as it was written ({type(error).__name__}: {error}). {REMEDY}")
    for note in notes:
        log.warning("Auxiliary datasets of %s", note)
    return {"heads": HEADS, "trainings": trainings, "notes": notes} if trainings or notes else None


def _records(folders: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Every training once, though several folders may be one student's."""
    found: dict[str, tuple[list[str], Path]] = {}
    for name, folder in folders.items():
        for fold, file in carried(folder).items():
            names, _ = found.setdefault(_identity(file), ([], file))
            names.append(f"{name}, {fold}")
    for names, file in found.values():
        yield "; ".join(names), file


def _identity(file: Path) -> str:
    try:
        return sha256(file)
    except OSError:  # reading it will say why
        return str(file)


def training_section(name: str, turns: PlayedTurns) -> dict[str, Any]:
    """What is told of one training."""
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
        "plots": [{"src": embedded(picture), "alt": alt} for alt, picture in plots if picture],
    }
