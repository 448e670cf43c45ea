"""Who is in which group, and which groups are too small to be shown.

Figures of few people would tell what these people are like. So groups below a smallest size are hidden, and where the
hidden ones together are still below it, the next smallest group is hidden too: otherwise they would follow from the
mean over all people and the groups that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nnkd.data.groups import (
    ATTRIBUTES,
    OUTSIDE,
    PAPERS_BINS,
    QUARTILES,
    SMALLEST,
    are_edges,
    as_numbers,
    as_text,
    bin_names,
    binned,
    known_columns,
    quartered,
)
from nnkd.errors import ParticipantsError, SettingError
from nnkd.types import Participant

FEW = 20  # people; below, a warning
MOST_CELLS = 200  # of the intersections; beyond, nearly all are hidden anyway


@dataclass(frozen=True)
class GroupOptions:
    """How people are put into groups.

    Attributes:
        attributes: Columns of participants.tsv.
        bins: Edges of half-open bins by column, as the samplers have them: [20, 30, 40] makes 20-30 and 30-40; None at
            an end leaves it open. Columns without are taken as they are, numbers of more than four kinds in quarters.
        smallest: People in the smallest group that is shown.

    Raises:
        SettingError: If a column is doubled, edges do not rise or are for no attribute, or `smallest` is below 2.
    """

    attributes: tuple[str, ...] = ATTRIBUTES
    bins: Mapping[str, Sequence[float | None]] = field(default_factory=lambda: PAPERS_BINS)
    smallest: int = SMALLEST

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise SettingError(
                f"--attributes is '{' '.join(self.attributes)}', but columns of participants.tsv are expected, each "
                f"once, such as sex age bmi."
            )
        if self.smallest < 2:
            raise SettingError(
                f"--smallest_group is {self.smallest}, but a number of 2 or more is expected: the mean of one person "
                f"would say what that person is like."
            )
        for column, edges in self.bins.items():
            if self.bins is not PAPERS_BINS and column not in self.attributes:
                raise SettingError(
                    f"--bins has edges for '{column}', but --attributes has {' '.join(self.attributes)}. Add the "
                    f"column there, or leave its edges out."
                )
            if not are_edges(edges):
                raise SettingError(
                    f"--bins has {list(edges)} for '{column}', but three or more rising edges are expected, such as "
                    f"[20, 30, 40]; null at the ends leaves these open."
                )


@dataclass(frozen=True)
class Partition:
    """People by the groups of one attribute, or of several at once.

    Attributes:
        title: "age", or "sex x age x bmi".
        names: Of the groups, in order.
        members: (n,) int each: indices of the people in every group.
        slices: Sets of groups whose total somebody may know from another table: all of them, and in an intersection
            those that share a group of one attribute.
        spoken: Whether a group's name is no cell of participants.tsv, so that it may be named though it is hidden.
        crossed: Whether it is an intersection.
    """

    title: str
    names: tuple[str, ...]
    members: tuple[NDArray[np.intp], ...]
    slices: tuple[tuple[int, ...], ...]
    spoken: bool
    crossed: bool = False

    @property
    def sizes(self) -> NDArray[np.int_]:
        """(G,) int, people by group."""
        return np.array([len(some) for some in self.members], dtype=int)

    def shown(self, numbers: NDArray[np.integer], smallest: int) -> NDArray[np.bool_]:
        """Which groups may be shown.

        Args:
            numbers: (G,) int, people counted by group; groups of 0 are not shown.
            smallest: See `GroupOptions`.

        Returns:
            (G,) bool.
        """
        kept = numbers >= smallest
        changed = True
        while changed:
            changed = False
            for some in (list(s) for s in self.slices):
                hidden = numbers[some][~kept[some]].sum()
                left = [group for group in some if kept[group]]
                if 0 < hidden < smallest and left:
                    kept[min(left, key=lambda group: (numbers[group], group))] = False
                    changed = True
        return kept


def bins_of(given: object) -> Mapping[str, Sequence[float | None]]:
    """Bins as a user writes them in JSON; None: paper 1's.

    Raises:
        SettingError: If it is no mapping of columns to edges.
    """
    if given is None:
        return PAPERS_BINS
    if not isinstance(given, dict) or not all(
        isinstance(edges, list)
        and all(e is None or (isinstance(e, int | float) and not isinstance(e, bool)) for e in edges)
        for edges in given.values()
    ):
        raise SettingError(
            f"--bins is {given!r}, but edges by column are expected, such as "
            '{"age": [20, 30, 40], "bmi": [null, 21, 24, null]}.'
        )
    return given


def partition(people: Sequence[Participant], attribute: str, options: GroupOptions) -> Partition:
    """Groups of one attribute. People without a value are in none.

    Args:
        people: Each once.
        attribute: A column.
        options: Bins.

    Raises:
        ParticipantsError: If nobody has a value in that column, or it has bins but holds text.
    """
    values = [person.value(attribute) for person in people]
    present = [value for value in values if value is not None]
    if not present:
        columns = ", ".join(known_columns(people)) or "none"
        raise ParticipantsError(
            f"No evaluated participant has a value in the column '{attribute}'; the columns with values are {columns}. "
            f"Complete participants.tsv, or choose other columns with --attributes."
        )
    edges = options.bins.get(attribute)
    numbers = as_numbers(values)
    if edges is not None:
        if numbers is None:
            raise ParticipantsError(
                f"--bins has edges for the column '{attribute}', but it holds text. Leave them out, or correct the "
                f"column."
            )
        found, order = binned(numbers, edges), [*bin_names(edges), OUTSIDE]
    elif numbers is not None and len(set(present)) > len(QUARTILES):
        found, order = quartered(numbers), list(QUARTILES)
    else:
        found = [None if value is None else as_text(value) for value in values]
        order = sorted({group for group in found if group is not None})
    names = tuple(name for name in order if name in found)
    members = tuple(np.flatnonzero([group == name for group in found]) for name in names)
    spoken = edges is not None or attribute == "sex"
    return Partition(attribute, names, members, (tuple(range(len(names))),), spoken)


def intersection(partitions: Sequence[Partition], number: int) -> Partition | None:
    """Every combination of the groups of several attributes that somebody is in.

    Args:
        partitions: One an attribute.
        number: Of people.

    Returns:
        None if fewer than two attributes are given, or there are more than MOST_CELLS combinations.
    """
    if len(partitions) < 2:
        return None
    index = np.full((number, len(partitions)), -1)
    for column, some in enumerate(partitions):
        for group, inside in enumerate(some.members):
            index[inside, column] = group
    complete = (index >= 0).all(axis=1)
    cells = sorted({tuple(int(g) for g in row) for row in index[complete]})
    if not cells or len(cells) > MOST_CELLS:
        return None
    members = tuple(np.flatnonzero((index == cell).all(axis=1)) for cell in cells)
    slices = [tuple(range(len(cells)))]
    for column, some in enumerate(partitions):
        slices += [tuple(c for c, cell in enumerate(cells) if cell[column] == g) for g in range(len(some.names))]
    return Partition(
        title=" x ".join(some.title for some in partitions),
        names=tuple(" ".join(s.names[g] for s, g in zip(partitions, cell, strict=True)) for cell in cells),
        members=members,
        slices=tuple(some for some in slices if some),
        spoken=all(some.spoken for some in partitions),
        crossed=True,
    )
