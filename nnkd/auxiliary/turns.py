"""The record of a few-shot training: which auxiliary dataset trained along in which turn, and why.

One line of JSON a turn, what `AuxiliaryScheduler.trace` returns.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnkd import limits
from nnkd.errors import FolderError, RecipeError
from nnkd.files import from_json

MOST_EXPLAINED = 3  # datasets; the others are in the table
MOST_NAMED = 10
REMEDY = "Predict again, or train anew if the training's own record is damaged."


@dataclass(frozen=True)
class PlayedTurns:
    """All turns of a training, in order.

    Attributes:
        rows: What `AuxiliaryScheduler.trace` returned after each.
    """

    rows: tuple[Mapping[str, Any], ...]

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """All that could be chosen, the most often chosen first."""
        counts = self.rows[-1]["counts"]
        return tuple(sorted(counts, key=lambda name: -counts[name]))

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        """The dataset of every turn."""
        return tuple(row["dataset"] for row in self.rows)

    def of(self, dataset: str) -> list[Mapping[str, Any]]:
        """The turns in which it trained along."""
        return [row for row in self.rows if row["dataset"] == dataset]

    def mean(self, dataset: str, quantity: str) -> float | None:
        """Mean of "loss", "cosine" or "reward" over its turns; None where there is none."""
        values = [row[quantity] for row in self.of(dataset) if row.get(quantity) is not None]
        return sum(values) / len(values) if values else None

    def for_its_estimate(self, dataset: str) -> float | None:
        """Share of its turns in which no other dataset had a higher estimate, so that it was chosen for what it had
        brought and not for having been tried little; None where the scheduler has no estimates, or it had no turn."""
        turns = [row["estimates"] for row in self.of(dataset) if row.get("estimates")]
        return sum(now[dataset] == max(now.values()) for now in turns) / len(turns) if turns else None


def read_turns(file: Path) -> PlayedTurns:
    """Read the record of a training, or a prediction folder's copy. Of turns that a continued training went through
    again the later lines count; a last line that was cut off is passed over.

    Raises:
        FolderError: If there is no such file.
        RecipeError: If it cannot be read, or holds no turn, something else, or turns in which nothing was chosen.
    """
    if not file.is_file():
        raise FolderError(
            f"There is no '{file.name}' in {file.parent.name}, the record of a training with auxiliary datasets. "
            f"Train with nnKD_train -as, or leave the section out."
        )
    lines = _lines(file)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            if "dataset" not in row and {"turn", "cosine"} <= row.keys():
                raise RecipeError("All auxiliary datasets trained along in every turn, so that nothing was chosen.")
            turn = row["turn"], row["dataset"], row["counts"][row["dataset"]]
            if type(turn[0]) is not int or not all(isinstance(n, int | float) for n in row["counts"].values()):
                raise TypeError("turn and counts are numbers")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if number == len(lines):
                continue
            raise RecipeError(
                f"Line {number} of '{file.name}' is no turn of an auxiliary scheduler ({type(error).__name__}: "
                f"{error}). {REMEDY}"
            ) from error
        while rows and rows[-1]["turn"] >= turn[0]:
            rows.pop()
        rows.append(row)
    if not rows:
        raise RecipeError(f"'{file.name}' holds no finished turn. Train on with --c.")
    return PlayedTurns(tuple(rows))


def _lines(file: Path) -> list[str]:
    """Of a record, packed or not."""
    most = int(limits.JSON.value * limits.MIB)
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise RecipeError(f"'{file.name}' holds more than {limits.JSON.value:g} MiB. {limits.JSON.raised}")
        return content.decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RecipeError(f"'{file.name}' cannot be read: it is cut off or damaged ({why}). {REMEDY}") from error


def reasons(turns: PlayedTurns) -> list[str]:
    """In words, why datasets were preferred: the most often chosen ones, those that never were, and the last turn."""
    said = [_reason(turns, name) for name in turns.datasets[:MOST_EXPLAINED] if turns.of(name)]
    never = [name for name in turns.datasets if not turns.of(name)]
    if never:
        more = f" and {len(never) - MOST_NAMED} more" if len(never) > MOST_NAMED else ""
        said.append(f"Never chosen: {', '.join(never[:MOST_NAMED])}{more}.")
    return [*said, *_last(turns.rows[-1])]


def _reason(turns: PlayedTurns, name: str) -> str:
    number, every = len(turns.of(name)), len(turns.rows)
    text = f"{name} trained along in {number} of {every} turns ({number / every:.0%})"
    if number > 1 and len(turns.datasets) > 1:
        text += f", half of them by turn {turns.of(name)[(number - 1) // 2]['turn']}"
    return f"{text}{_why(turns, name)}.{_means(turns, name)}"


def _why(turns: PlayedTurns, name: str) -> str:
    share = turns.for_its_estimate(name)
    if len(turns.datasets) == 1:
        return ": there was no other"
    if share is None:
        return f"; it was drawn by chance{_chances(turns, name)}"
    if not any(row.get("bounds") for row in turns.of(name)):
        return ": it was chosen once, before training"
    if share == 1:
        return ": always because its estimate was the highest"
    if share == 0:
        return ": never for its estimate, which others exceeded, but as it had been tried little"
    return f": in {share:.0%} of these because its estimate was the highest, otherwise as it had been tried little"


def _chances(turns: PlayedTurns, name: str) -> str:
    chances = [row["probabilities"][name] for row in turns.rows if row.get("probabilities")]
    return f", which was {chances[0]:.1%} in the first turn and {chances[-1]:.1%} in the last" if chances else ""


def _means(turns: PlayedTurns, name: str) -> str:
    parts = []
    for quantity in ("cosine", "loss"):
        mine = turns.mean(name, quantity)
        others = [row[quantity] for row in turns.rows if row["dataset"] != name and row.get(quantity) is not None]
        if mine is not None:
            than = f" (turns of others: {sum(others) / len(others):.2f})" if others else ""
            parts.append(f"mean {quantity} {mine:.2f}{than}")
    return f" Its {', '.join(parts)}." if parts else ""


def _last(row: Mapping[str, Any]) -> list[str]:
    """What decided the last turn."""
    bounds, estimates = row.get("bounds"), row.get("estimates")
    if not bounds or not estimates or len(bounds) < 2:
        return []
    names = [row["dataset"], max((n for n in bounds if n != row["dataset"]), key=bounds.__getitem__)]
    parts = [
        f"{name} had the bound {bounds[name]:.3f} (estimate {estimates[name]:.3f}, bonus "
        f"{bounds[name] - estimates[name]:.3f})"
        for name in names
    ]
    return [f"In turn {row['turn']}, the last, {parts[0]}; next came {parts[1].replace(' had the bound', ' with')}."]


def table(turns: PlayedTurns) -> Sequence[tuple[str, int, list[str]]]:
    """By dataset: its turns, and as text mean loss, mean cosine, mean reward, share of turns for its estimate."""
    rows = []
    for name in turns.datasets:
        numbers = [turns.mean(name, quantity) for quantity in ("loss", "cosine", "reward")]
        share = turns.for_its_estimate(name)
        cells = ["—" if number is None else f"{number:.3f}" for number in numbers]
        rows.append((name, len(turns.of(name)), [*cells, "—" if share is None else f"{share:.0%}"]))
    return rows
