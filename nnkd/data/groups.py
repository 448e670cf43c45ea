"""People put into groups by what is known of them: one way to bin numbers, for splits, samplers and evaluation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf, isfinite

import numpy as np

from nnkd.errors import ParticipantsError
from nnkd.types import Participant

ATTRIBUTES = ("sex", "age", "bmi")
PAPERS_BINS: Mapping[str, tuple[float | None, ...]] = {"age": (20, 30, 40, 50, 60), "bmi": (None, 21, 24, None)}
OUTSIDE = "outside"
NO_VALUE = "missing"
SMALLEST = 5  # people in a group that is shown
QUARTILES = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


def groups(
    participants: Iterable[Participant], column: str, edges: Sequence[float] | None = None, quantiles: int = 4
) -> dict[str, str]:
    """Name of the group each participant falls into by one column.

    Args:
        participants: Any; doubles count once.
        column: sex, age, bmi or any other column. It is numeric if all its values are numbers and there are more
            different ones than `quantiles`, or if `edges` are given.
        edges: Inner bounds of the bins of a numeric column: 30, 40 makes "<30", "30-40", ">=40" (half-open).
        quantiles: Number of bins of equal size where no edges are given.

    Returns:
        Group by participant identifier; "missing" where there is no value.

    Raises:
        ParticipantsError: If nobody has a value in that column, or edges are given for a column of text.
    """
    people = {participant.identifier: participant for participant in participants}
    values = [person.value(column) for person in people.values()]
    if all(value is None for value in values):
        columns = known_columns(people.values())
        there = f"The columns with values are {', '.join(columns)}" if columns else "No column has any"
        raise ParticipantsError(f"No participant has a value in the column '{column}'. {there}.")
    numbers = as_numbers(values)
    if numbers is None and edges is not None:
        raise ParticipantsError(f"Bins were given for the column '{column}', but it holds text.")
    present = [number for number in numbers or () if number is not None]
    if numbers is None or (edges is None and len(set(present)) <= quantiles):
        found = [None if value is None else as_text(value) for value in values]
    else:
        if edges is None:
            edges = np.unique(np.quantile(present, np.arange(1, quantiles) / quantiles)).tolist()
        found = binned(numbers, (None, *sorted(edges), None))
    return {name: NO_VALUE if group is None else group for name, group in zip(people, found, strict=True)}


def known_columns(participants: Iterable[Participant]) -> list[str]:
    """Columns in which somebody has a value: sex, age, bmi first, then the others by name."""
    people = list(participants)
    first = [column for column in ATTRIBUTES if any(p.value(column) is not None for p in people)]
    return first + sorted({column for person in people for column in person.attributes})


def as_numbers(values: Iterable[str | float | None]) -> list[float | None] | None:
    """Values as numbers, None where there is none; None altogether if one of them is text or not finite."""
    try:
        numbers = [None if value is None else float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(number is None or isfinite(number) for number in numbers) else None


def as_text(value: str | float) -> str:
    """A value as the name of a group."""
    return f"{value:g}" if isinstance(value, float) else value


# --- bins -------------------------------------------------------------------------------------------------------


def binned(numbers: Sequence[float | None], edges: Sequence[float | None]) -> list[str | None]:
    """Name of the half-open bin that each number falls into.

    Args:
        numbers: None where there is none.
        edges: Rising; None at an end leaves it open.

    Returns:
        Names as `bin_names` has them, OUTSIDE beyond an end that is not open, None for None.
    """
    below, beyond = ([] if edge is None else [OUTSIDE] for edge in (edges[0], edges[-1]))
    names, inner = [*below, *bin_names(edges), *beyond], [edge for edge in edges if edge is not None]
    return [None if number is None else names[bisect_right(inner, number)] for number in numbers]


def quartered(numbers: Sequence[float | None]) -> list[str | None]:
    """Name of the quarter that each number falls into. Quarters have names and no edges, as an edge would be
    somebody's value."""
    edges = np.unique(np.quantile([number for number in numbers if number is not None], (0.25, 0.5, 0.75)))
    return [None if n is None else QUARTILES[int(np.searchsorted(edges, n, side="right"))] for n in numbers]


def bin_names(edges: Sequence[float | None]) -> list[str]:
    """ "<21", "21-24", ">=24" of (None, 21, 24, None)."""
    pairs = pairwise(edges)
    return [
        f"<{high:g}" if low is None else f">={low:g}" if high is None else f"{low:g}-{high:g}" for low, high in pairs
    ]


def are_edges(edges: Sequence[float | None]) -> bool:
    """Whether these are three or more rising numbers, the outer ones perhaps open."""
    ends = {0: -inf, len(edges) - 1: inf}
    numbers = [ends.get(i, 0.0) if edge is None else edge for i, edge in enumerate(edges)]
    return len(edges) >= 3 and None not in edges[1:-1] and all(low < high for low, high in pairwise(numbers))
