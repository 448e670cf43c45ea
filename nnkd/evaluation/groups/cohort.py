"""The evaluated people, put into groups by participants.tsv. What cannot be done is said; the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE, participants_of_cases
from nnkd.errors import ParticipantsError
from nnkd.evaluation.groups.partitions import GroupOptions, Partition, intersection, partition
from nnkd.types import Participant

MOST_PROBLEMS = 5
COUNTED = 5  # smaller numbers of people without a value are not given


@dataclass(frozen=True)
class Cohort:
    """The evaluated people and their groups.

    Attributes:
        people: Each once.
        person_of: Identifier by case.
        partitions: One an attribute that can be compared, and their intersection.
        options: How they were made.
        problems: What could not be done and must be mended, a sentence each.
        notes: What a reader must know.
    """

    people: tuple[Participant, ...]
    person_of: Mapping[str, str]
    partitions: tuple[Partition, ...]
    options: GroupOptions
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluatedPeople:
    """The people behind the evaluated cases.

    Attributes:
        by_case: Whoever has no row is anonymous.
        problems: What is wrong with participants.tsv, a sentence each.
        has_attributes: Whether there is anything to make groups of.
    """

    by_case: Mapping[str, Participant]
    problems: tuple[str, ...] = ()
    has_attributes: bool = True


def read_people(place: Path | None, default: Path, cases: Sequence[str]) -> EvaluatedPeople:
    """The person behind each case, and what is wrong with participants.tsv.

    Args:
        place: participants.tsv, or a folder with it; None: the default.
        default: The dataset's folder.
        cases: Identifiers.

    Raises:
        ParticipantsError: If cases.tsv contradicts itself: the intervals depend on it.
    """
    problems: list[str] = []
    folder = default if place is None else place.parent if place.is_file() else place
    if place is not None and not place.exists():
        problems.append(f"There is no '{place.name}' (--participants). Give participants.tsv, or the folder it is in.")
        folder = default
    elif place is not None and place.is_file() and place.name not in (PARTICIPANTS_FILE, CASES_FILE):
        problems.append(f"'{place.name}' (--participants) is not named {PARTICIPANTS_FILE}. Rename it.")
    misnamed = bool(problems)
    people = participants_of_cases(folder, cases, problems=problems)
    if not (folder / PARTICIPANTS_FILE).is_file():
        problems.append(
            f"{folder.resolve().name} has no {PARTICIPANTS_FILE}, so there are no groups. Put one there "
            f"(tab-separated: participant_id, sex, age, bmi), or name it with --participants."
        )
        return EvaluatedPeople(people, tuple(problems[:1]), False)
    known = any(person.attributes or person.sex or person.age or person.bmi for person in people.values())
    usable = not misnamed and (known or not problems)
    more = len(problems) - MOST_PROBLEMS
    if more > 0:
        problems = [*problems[:MOST_PROBLEMS], f"{PARTICIPANTS_FILE} has {more} more problem(s) like these."]
    return EvaluatedPeople(people, tuple(problems), usable)


def divide(participants: Mapping[str, Participant], options: GroupOptions, problems: Sequence[str] = ()) -> Cohort:
    """Put the evaluated people into groups. What cannot be done is said, and the rest goes on.

    Args:
        participants: By case.
        options: Attributes, bins, smallest group.
        problems: Known already.
    """
    people = tuple({person.identifier: person for person in participants.values()}.values())
    found: list[Partition] = []
    said, notes = list(problems), list[str]()
    for attribute in options.attributes:
        try:
            some = partition(people, attribute, options)
        except ParticipantsError as error:
            said.append(str(error))
            continue
        notes += _missing(some, len(people))
        if reason := _incomparable(some, options.smallest):
            notes.append(reason)
            continue
        found.append(some)
    crossed = intersection(found, len(people))
    if crossed is not None and crossed.shown(crossed.sizes, options.smallest).sum() > 1:
        found.append(crossed)
    elif len(found) > 1:
        notes.append(
            f"The intersections of {', '.join(some.title for some in found)} are left out: fewer than two of them hold "
            f"{options.smallest} people, or there are too many."
        )
    notes += [note for some in found for note in _hidden(some, options.smallest)]
    person_of = {case: person.identifier for case, person in participants.items()}
    return Cohort(people, person_of, tuple(found), options, tuple(said), tuple(notes))


def _missing(some: Partition, number: int) -> Iterator[str]:
    without = number - int(some.sizes.sum())
    if without:
        counted = f"{without} participants have" if without >= COUNTED else f"Fewer than {COUNTED} participants have"
        yield f"{counted} no {some.title}; they are in none of its groups."


def _incomparable(some: Partition, smallest: int) -> str:
    if len(some.names) == 1:
        return f"All evaluated participants are in one group of '{some.title}', so there is nothing to compare."
    if some.shown(some.sizes, smallest).sum() < 2:
        return (
            f"Fewer than two groups of '{some.title}' can be shown with at least {smallest} people each, so there is "
            f"nothing to compare. Choose wider bins with --bins, or --smallest_group."
        )
    return ""


def _hidden(some: Partition, smallest: int) -> Iterator[str]:
    kept = some.shown(some.sizes, smallest)
    if not kept.all():
        names = [name for name, there in zip(some.names, kept, strict=True) if not there]
        named = f" ({', '.join(names)})" if some.spoken and not some.crossed else ""
        yield (
            f"{some.title}: {len(names)} of {len(names) + int(kept.sum())} groups{named} are not shown and not tested: "
            f"fewer than {smallest} people, or needed to keep these hidden."
        )
