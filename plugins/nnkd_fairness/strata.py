"""Participants by joint stratum: what all samplers of this plugin draw from."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import inf
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nnkd.data.groups import (
    NO_VALUE,
    OUTSIDE,
    PAPERS_BINS,
    SMALLEST,
    are_edges,
    as_numbers,
    bin_names,
    binned,
    groups,
    known_columns,
)
from nnkd.errors import ParticipantsError, SettingError
from nnkd.plugin.samplers import Sampler
from nnkd.types import Participant

Bins = dict[str, list[float | None]]
Missing = Literal["exclude", "stratum", "match"]
Outside = Literal["stratum", "exclude"]

LARGEST = 1e6  # tolerance; beyond, products of counts overflow


@dataclass(frozen=True)
class Strata:
    """A cohort by joint stratum.

    Attributes:
        attributes: A columns.
        groups: Names of the groups that somebody is in, by attribute; they may be cells of participants.tsv.
        shown: The same for logs and files: numbers where names would be cells, or quartiles of them.
        index: (C, A) int, group of each stratum by attribute; strata without participants are left out.
        people: Identifiers by stratum, sorted.
        cases: By participant, sorted.
        stratum_of: By participant; those who are left out are missing.
        notes: Sentences for the log: who was left out, which groups are empty.
    """

    attributes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    shown: tuple[tuple[str, ...], ...]
    index: NDArray[np.integer]
    people: tuple[tuple[str, ...], ...]
    cases: Mapping[str, Sequence[str]]
    stratum_of: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def sizes(self) -> NDArray[np.integer]:
        """(C,) int, participants by stratum."""
        return np.array([len(some) for some in self.people])

    @property
    def hint(self) -> str:
        """Who has no value or one outside the bins, for errors; empty if nobody."""
        said = [note for note in self.notes if not note.startswith("Warning")]
        if any(OUTSIDE in names for names in self.groups):
            said.append("To leave these out, set outside=exclude.")
        return "".join(f" {sentence}" for sentence in said)

    @property
    def number(self) -> int:
        """Participants that can be drawn."""
        return len(self.stratum_of)

    def name(self, stratum: int) -> str:
        """Such as "F 20-30 <21", or "F age group 3" where age has no bins: nobody's values."""
        return " ".join(names[g] for names, g in zip(self.shown, self.index[stratum], strict=True))

    @cached_property
    def digest(self) -> str:
        """Of what the strata are; nobody's values go into it."""
        return sha256(json.dumps([self.attributes, self.shown, self.index.tolist()]).encode()).hexdigest()[:16]

    def case(self, person: str, rng: np.random.Generator) -> str:
        """One of a participant's cases."""
        cases = self.cases[person]
        return cases[0] if len(cases) == 1 else cases[int(rng.integers(len(cases)))]


@dataclass(frozen=True)
class Grouping:
    """How participants fall into groups.

    Attributes:
        attributes: Columns of participants.tsv.
        bins: Edges of half-open bins by column: [20, 30, 40] makes 20-30 and 30-40; None at an end leaves it open.
            Columns without are taken as they are, numbers with more than four values in quartiles.
        missing: What becomes of participants without a value: left out, a group of their own, or put into a group at
            random, as often as others are in it.
        outside: What becomes of values outside all bins: a group of their own, or left out.
    """

    attributes: tuple[str, ...]
    bins: Mapping[str, Sequence[float | None]]
    missing: Missing = "exclude"
    outside: Outside = "stratum"

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise SettingError(
                f"The option attributes got '{','.join(self.attributes)}', but expects one or more columns of "
                f"participants.tsv, each once, such as sex,age,bmi."
            )
        for column, edges in self.bins.items():
            if not are_edges(edges):
                raise SettingError(
                    f"The option bins got {list(edges)} for '{column}', but expects three or more rising edges, such "
                    f"as [20, 30, 40]; null at the ends leaves these open."
                )

    @classmethod
    def of(cls, attributes: Sequence[str], bins: Bins | None, missing: Missing, outside: Outside) -> Grouping:
        """As samplers' options say it; without bins, paper 1's."""
        unknown = sorted(set(bins or ()) - set(attributes))
        if unknown:
            raise SettingError(
                f"The option bins got edges for {', '.join(unknown)}, but expects columns that are balanced: "
                f"{', '.join(attributes)}. Correct the name, or add the column to the attributes."
            )
        return cls(tuple(attributes), PAPERS_BINS if bins is None else bins, missing, outside)

    def strata(self, participants: Mapping[str, Participant]) -> Strata:
        """Sort a cohort.

        Args:
            participants: By case.

        Raises:
            ParticipantsError: If a column is unknown or empty, or leaves one group or nobody.
        """
        people = {person.identifier: person for person in participants.values()}
        people = {name: people[name] for name in sorted(people)}
        notes: list[str] = []
        columns = [self._column(people, attribute, notes) for attribute in self.attributes]
        kept = [name for name in people if all(column[name] is not None for column in columns)]
        if not kept:
            raise ParticipantsError(
                f"Not one of {len(people)} participants has a value in all of {', '.join(self.attributes)}. Complete "
                f"participants.tsv, name fewer columns in the option attributes, or set missing=stratum."
            )
        pairs = list(zip(self.attributes, columns, strict=True))
        names = tuple(self._groups(column, kept, attribute) for attribute, column in pairs)
        for attribute, there in zip(self.attributes, names, strict=True):
            empty = [name for name in self._bin_names(attribute) if name not in there]
            if empty:
                notes.append(f"Warning: nobody is in {attribute} {', '.join(empty)}; no longer part of the rule.")
        return self._joint(participants, kept, columns, names, notes)

    def _joint(
        self,
        participants: Mapping[str, Participant],
        kept: Sequence[str],
        columns: Sequence[Mapping[str, str | None]],
        names: tuple[tuple[str, ...], ...],
        notes: Sequence[str],
    ) -> Strata:
        positions = [{name: position for position, name in enumerate(some)} for some in names]
        found = defaultdict(list)
        for person in kept:
            found[tuple(p[str(c[person])] for p, c in zip(positions, columns, strict=True))].append(person)
        order = sorted(found)
        cases = defaultdict(list)
        for case in sorted(participants):
            cases[participants[case].identifier].append(case)
        return Strata(
            attributes=self.attributes,
            groups=names,
            shown=tuple(self._shown(a, some) for a, some in zip(self.attributes, names, strict=True)),
            index=np.array(order),
            people=tuple(tuple(found[key]) for key in order),
            cases=dict(cases),
            stratum_of={person: stratum for stratum, key in enumerate(order) for person in found[key]},
            notes=tuple(notes),
        )

    def _column(self, people: Mapping[str, Participant], column: str, notes: list[str]) -> dict[str, str | None]:
        """Group by participant; None for those who are left out."""
        found: dict[str, str | None] = (
            self._binned(people, column) if column in self.bins else dict(groups(people.values(), column))
        )
        without = [name for name, group in found.items() if group == NO_VALUE]
        if without:
            found.update(dict.fromkeys(without, None) if self.missing == "exclude" else {})
            if self.missing == "match":
                found.update(_at_random(found, without, column))
            become = {"exclude": "are left out", "stratum": "are a group", "match": "are put into a group at random"}
            number = counted(len(without))
            notes.append(f"{number} participants without {column} {become[self.missing]} (missing={self.missing}).")
        beyond = [name for name, group in found.items() if group == OUTSIDE]
        if beyond:
            found.update(dict.fromkeys(beyond, None) if self.outside == "exclude" else {})
            end = "are left out" if self.outside == "exclude" else f"are the group '{OUTSIDE}'"
            notes.append(
                f"{counted(len(beyond))} participants with {column} outside all bins {end} (outside={self.outside})."
            )
        return found

    def _binned(self, people: Mapping[str, Participant], column: str) -> dict[str, str | None]:
        values = [person.value(column) for person in people.values()]
        if all(value is None for value in values):
            columns = ", ".join(known_columns(people.values())) or "none"
            raise ParticipantsError(
                f"No participant has a value in the column '{column}'. The columns of participants.tsv with values are "
                f"{columns}: choose among them with the option attributes."
            )
        numbers = as_numbers(values)
        if numbers is None:
            raise ParticipantsError(
                f"The option bins has edges for the column '{column}', but it holds text. Leave them out."
            )
        found = zip(people, binned(numbers, self.bins[column]), strict=True)
        return {name: NO_VALUE if group is None else group for name, group in found}

    def _bin_names(self, column: str) -> list[str]:
        return bin_names(self.bins.get(column, ()))

    def _shown(self, column: str, names: Sequence[str]) -> tuple[str, ...]:
        """Bins are the user's own, and sexes are two words; other names come from people's cells."""
        spoken = column in self.bins or column == "sex"
        words = (OUTSIDE, NO_VALUE)
        return tuple(n if spoken or n in words else f"{column} group {i}" for i, n in enumerate(names, start=1))

    def _groups(self, column: Mapping[str, str | None], kept: Iterable[str], attribute: str) -> tuple[str, ...]:
        there = {str(column[name]) for name in kept}
        if len(there) == 1:
            raise ParticipantsError(
                f"All participants fall into one group of '{attribute}' ({self._shown(attribute, list(there))[0]}), so "
                f"there is nothing to balance. Leave '{attribute}' out of the option attributes, or choose other bins."
            )
        first = [name for name in self._bin_names(attribute) if name in there]
        return (*first, *sorted(there - set(first)))


def counted(number: int) -> str:
    """A number of people as logs may say it."""
    return f"<{SMALLEST}" if 0 < number < SMALLEST else f"{number}"


def _at_random(found: Mapping[str, str | None], without: Sequence[str], column: str) -> dict[str, str]:
    """A group for each of those without, the same in every epoch."""
    there = [group for group in found.values() if group not in (NO_VALUE, OUTSIDE, None)]
    if not there:
        raise ParticipantsError(
            f"missing=match puts participants without {column} into others' groups, but nobody's {column} is in the "
            f"bins. Choose other bins, or missing=exclude."
        )
    drawn = np.random.default_rng(0).choice(len(there), len(without))
    return {name: str(there[i]) for name, i in zip(without, drawn, strict=True)}


class StrataSampler(Sampler):
    """A sampler that draws by stratum; by participant, then one of the participant's cases.

    Args:
        grouping: How participants fall into groups.
    """

    needs_participants: ClassVar[bool] = True

    def __init__(self, grouping: Grouping):
        self.grouping = grouping
        self._last: tuple[Mapping[str, Participant], Strata] | None = None

    def strata(self, participants: Mapping[str, Participant]) -> Strata:
        """The cohort by stratum; made once for a mapping of participants, which must not change."""
        if self._last is None or self._last[0] is not participants:
            self._last = participants, self.grouping.strata(participants)
        return self._last[1]

    def enough(self, participants: Mapping[str, Participant], batch_size: int) -> Strata:
        """The same, after a look at whether a batch of different participants can be filled.

        Raises:
            ParticipantsError: If not.
        """
        strata = self.strata(participants)
        if strata.number < batch_size:
            raise ParticipantsError(
                f"A batch of {batch_size} different participants was asked for, but there are {strata.number} that "
                f"can be drawn. Set a smaller batch_size, or train on more participants."
            )
        return strata

    def tolerances(self) -> tuple[float, ...] | None:
        """The largest allowed ratio by attribute; None where there is no rule."""
        return None

    def units(self, batches: Iterator[list[str]]) -> Iterator[list[str]]:
        """What the rule speaks of: by default single batches."""
        yield from batches

    def report(self, participants: Mapping[str, Participant], batch_size: int, seed: int) -> list[str]:
        """What the first epoch looks like: participants used, ratios between groups, draws by stratum."""
        strata = self.enough(participants, batch_size)
        length = 0
        used: set[str] = set()
        draws: Counter[int] = Counter()
        ratios: list[list[float]] = []
        for unit in self.units(self.epoch(participants, batch_size, seed, 0)):
            people = [participants[case].identifier for case in unit]
            counts = Counter(strata.stratum_of[person] for person in people)
            used.update(people)
            draws.update(counts)
            ratios.append(_ratios(strata, counts))
            length += len(unit) // batch_size
        shown = [f"{attribute} {_spelled([r[a] for r in ratios])}" for a, attribute in enumerate(strata.attributes)]
        limits = self.tolerances()
        if limits is not None:
            good = sum(all(r <= t + 1e-9 for r, t in zip(ratio, limits, strict=True)) for ratio in ratios)
            shown.append(f"within the rule {good} of {len(ratios)}")
        by_name = [
            f"{strata.name(c)}: {counted(draws[c])} by {counted(len(people))}" for c, people in enumerate(strata.people)
        ]
        share = len(used) / strata.number
        return [
            f"attributes={','.join(strata.attributes)} missing={self.grouping.missing} outside={self.grouping.outside}",
            *strata.notes,
            f"the first epoch has {length} batches of {batch_size} and draws {len(used)} of {strata.number} "
            f"participants ({share:.1%}); most to least represented group, median (largest): {'; '.join(shown)}",
            f"draws by participants, by stratum: {'; '.join(by_name)}",
        ]


def _ratios(strata: Strata, counts: Mapping[int, int]) -> list[float]:
    found = []
    for attribute, names in enumerate(strata.groups):
        sums = [0] * len(names)
        for stratum, number in counts.items():
            sums[strata.index[stratum, attribute]] += number
        found.append(max(sums) / min(sums) if min(sums) else inf)
    return found


def _spelled(ratios: Sequence[float]) -> str:
    return f"{np.median(ratios):.2f} ({max(ratios):.2f})"
