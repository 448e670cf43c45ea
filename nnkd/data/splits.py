"""Training, validation and test sets by participant: all cases of one person on one side, groups spread evenly.

Strata are the groups that several columns form together. Each is dealt so evenly that no fold has more than one
participant more of it than another; which folds get the odd ones is chosen so that every single column stays near its
share too, even where most strata hold one person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.data.groups import groups
from nnkd.errors import DatasetError, ParticipantsError, SettingError
from nnkd.files import read_json
from nnkd.paths import check_name
from nnkd.replacing import Written
from nnkd.types import Participant

SPLITS = "splits_final.json"
DEFAULT_FOLDS, DEFAULT_SEED = 5, 12345  # nnU-Net's own
TRIES = 1000  # of an order in which nobody's companions were all drawn together before
PARTS = ("train", "val")
Fold = dict[str, list[str]]
Bins = Mapping[str, Sequence[float]]
Stratum = tuple[str, ...]


def participant_folds(
    participants: Mapping[str, Participant],
    folds: int,
    stratify: Sequence[str],
    rng: np.random.Generator,
    bins: Bins | None = None,
) -> list[Fold]:
    """Cross-validation by participant, jointly stratified.

    Args:
        participants: By case.
        folds: Their number, at least 2.
        stratify: Columns whose groups are spread evenly; may be empty.
        rng: Decides everything that is left open.
        bins: Inner bounds of numeric columns; quartiles where none are given.

    Returns:
        For each fold {"train": cases, "val": cases}, both sorted, as in nnU-Net's splits_final.json.

    Raises:
        SettingError: If folds is below 2.
        ParticipantsError: If there are fewer participants than folds, or a column has no values.
    """
    cases = _cases_of_people(participants)
    _check_folds(folds, len(cases))
    strata = _strata(participants, stratify, rng, bins or {})
    taken = np.zeros(folds, dtype=int)
    marginal: dict[tuple[int, str], np.ndarray] = defaultdict(lambda: np.zeros(folds, dtype=int))
    fold_of = {}
    for stratum, people in strata.items():
        columns = [marginal[key] for key in enumerate(stratum)]
        odd = _folds_of_the_odd(len(people) % folds, taken, columns, rng)
        seats = [*np.repeat(np.arange(folds), len(people) // folds), *odd]
        for person, fold in zip(people, seats, strict=True):
            fold_of[person] = int(fold)
            for count in (taken, *columns):
                count[fold] += 1
    return [_fold(cases, {person for person, its in fold_of.items() if its == fold}) for fold in range(folds)]


def hold_out(
    participants: Mapping[str, Participant],
    number_or_share: float,
    stratify: Sequence[str],
    rng: np.random.Generator,
    bins: Bins | None = None,
) -> tuple[list[str], list[str]]:
    """Set participants aside, jointly stratified: each stratum gives its share, rounded up or down.

    Args:
        participants: By case.
        number_or_share: Participants to set aside: a whole number from 1, or a share below 1.
        stratify: Columns whose groups keep their shares; may be empty.
        rng: Decides everything that is left open.
        bins: Inner bounds of numeric columns; quartiles where none are given.

    Returns:
        The cases of the rest and the cases set aside, both sorted.

    Raises:
        SettingError: If the number is not positive, or neither a share nor whole.
        ParticipantsError: If nobody would be left on one of the sides, or a column has no values.
    """
    cases = _cases_of_people(participants)
    number = _head_count(number_or_share, len(cases))
    strata = _strata(participants, stratify, rng, bins or {})
    quotas = {stratum: len(people) * number / len(cases) for stratum, people in strata.items()}
    seats = {stratum: len(people) * number // len(cases) for stratum, people in strata.items()}
    open_strata = [stratum for stratum, people in strata.items() if len(people) * number % len(cases)]
    lack: dict[tuple[int, str], float] = defaultdict(float)  # participants each column's group still misses
    for stratum in strata:
        for key in enumerate(stratum):
            lack[key] += quotas[stratum] - seats[stratum]
    for _ in range(number - sum(seats.values())):
        best = max(open_strata, key=lambda s: (sum(lack[key] for key in enumerate(s)), quotas[s] - seats[s]))
        open_strata.remove(best)
        seats[best] += 1
        for key in enumerate(best):
            lack[key] -= 1
    away = {person for stratum, people in strata.items() for person in people[: seats[stratum]]}
    fold = _fold(cases, away)
    return fold["train"], fold["val"]


def training_cases(preprocessed: Path, fold: str, there: Sequence[str]) -> Sequence[str]:
    """Those of a fold; all that are there in fold "all", and where no folds were made yet.

    Args:
        preprocessed: nnUNet_preprocessed/DATASET.
        fold: A number or "all".
        there: Preprocessed cases.
    """
    file = preprocessed / SPLITS
    return there if fold == "all" or not file.is_file() else read_folds(file)[int(fold)]["train"]


def read_folds(file: Path) -> list[Fold]:
    """A splits_final.json, which anybody may have written.

    Raises:
        DatasetError: If it is not of nnU-Net's form, or names a case twice in one part of a fold.
        FileError: If it is missing or no JSON.
    """
    folds = read_json(file)
    problem = _problem(folds)
    if problem:
        raise DatasetError(
            f"{file.name} of {file.parent.name} {problem}. nnU-Net's form is a list of folds, each "
            f'{{"train": [cases], "val": [cases]}}; correct it, or make another with nnKD_split --overwrite.'
        )
    return [{part: fold[part] for part in PARTS} for fold in folds]


def _problem(folds: Any) -> str:
    if not isinstance(folds, list) or not folds:
        return f"holds {'no fold' if folds == [] else f'a {type(folds).__name__}'}"
    for number, fold in enumerate(folds):
        if not isinstance(fold, dict):
            return f"has a {type(fold).__name__} as fold {number}"
        for part in PARTS:
            cases = fold.get(part)
            if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
                return f"has no list of names of cases as '{part}' of fold {number}"
            try:
                for case in cases:
                    check_name(case, f"a case of '{part}' of fold {number}")
            except DatasetError as error:
                return f"is of somebody else: {str(error).rstrip('.')}"
            twice = [case for case, times in Counter(cases).items() if times > 1]
            if twice:
                return f"names case '{twice[0]}' twice as '{part}' of fold {number}"
    return ""


def write(file: Path, folds: Sequence[Fold], replace: bool = False) -> None:
    """Write splits_final.json.

    Args:
        file: Where to.
        folds: What it holds.
        replace: Whether one that nnkd did not write may be replaced.

    Raises:
        ReplacingError: If there is another one that nnkd did not write.
    """
    Written(file.parent, replace).write_json(file.name, folds)


def default_folds(participants: Mapping[str, Participant]) -> list[Fold]:
    """The five folds used where there is no splits_final.json: nnU-Net's own wherever every case is another person.

    Args:
        participants: By training case.

    Returns:
        As `participant_folds`.

    Raises:
        ParticipantsError: If there are fewer than five participants.
    """
    from sklearn.model_selection import KFold

    cases = _cases_of_people(participants)  # in the order of their first cases, so that nnU-Net's split results
    _check_folds(DEFAULT_FOLDS, len(cases))
    people = list(cases)
    dealt = KFold(DEFAULT_FOLDS, shuffle=True, random_state=DEFAULT_SEED).split(people)
    return [_fold(cases, {people[i] for i in validation}) for _, validation in dealt]


def few_shot_folds(
    participants: Mapping[str, Participant],
    shots: int,
    folds: int,
    rng: np.random.Generator,
    eligible: Container[str] | None = None,
) -> list[Fold]:
    """Folds in each of which a few participants train and all others validate. Nobody trains in two folds as long as
    there are enough people, beyond that nobody much more often than others; and no two folds are the same, if there
    are so many different ones.

    Source: Yang et al., ASAP, section 3.1: three shots, five folds.

    Args:
        participants: By case.
        shots: Participants who train in each fold, at least 1.
        folds: Their number, at least 1.
        rng: Decides who.
        eligible: Cases that can train, because they have a manual label map; None: all. A participant with one such
            case can be drawn, and trains with all their cases.

    Returns:
        As `participant_folds`.

    Raises:
        SettingError: If shots or folds is below 1.
        ParticipantsError: If there are too few people.
    """
    if shots < 1 or folds < 1:
        what, number = ("shots", shots) if shots < 1 else ("folds", folds)
        raise SettingError(f"{number} {what} were asked for, but at least 1 is needed: a training needs labels.")
    cases = _cases_of_people(participants)
    people = [p for p, its in cases.items() if eligible is None or any(case in eligible for case in its)]
    if shots > len(people) or shots == len(cases):
        raise ParticipantsError(
            f"{shots} shots need {shots} labelled participants in each fold and another one to validate, but of "
            f"{len(cases)} participants {len(people)} are labelled. Ask for fewer."
        )
    drawn: list[frozenset[str]] = []
    rest: list[str] = []
    while len(drawn) < folds:
        more, rest = _next_draws(people, rest, drawn, shots, rng)
        drawn += more
    everybody = set(cases)
    return [_fold(cases, everybody - training) for training in drawn[:folds]]


def _next_draws(
    people: Sequence[str], rest: Sequence[str], drawn: Sequence[frozenset[str]], shots: int, rng: np.random.Generator
) -> tuple[list[frozenset[str]], list[str]]:
    """Everybody once more, behind those who are left over, in sets that were not drawn before if such an order is
    found; and who is left over now."""
    for _ in range(TRIES):
        order = [people[index] for index in rng.permutation(len(people))]
        queue = [*rest, *(p for p in order if p not in rest), *(p for p in order if p in rest)]
        whole = len(queue) // shots * shots
        more = [frozenset(queue[i : i + shots]) for i in range(0, whole, shots)]
        if len({*drawn, *more}) == len(drawn) + len(more):
            break
    return more, queue[whole:]


def group_counts(
    participants: Mapping[str, Participant],
    subsets: Sequence[Sequence[str]],
    column: str,
    edges: Sequence[float] | None,
) -> dict[str, list[int]]:
    """How many participants of each group are in each subset of the cases.

    Args:
        participants: By case; the groups are cut over all of them.
        subsets: Lists of cases.
        column: See `nnkd.data.groups.groups`.
        edges: See there.

    Returns:
        Counts by group, one per subset.
    """
    group_of = groups(participants.values(), column, edges)
    people = [{participants[case].identifier for case in subset} for subset in subsets]
    names = sorted(set(group_of.values()), key=_group_order)
    return {name: [sum(group_of[person] == name for person in some) for some in people] for name in names}


def share_lines(
    participants: Mapping[str, Participant],
    subsets: Mapping[str, Sequence[str]],
    stratify: Sequence[str],
    bins: Bins,
) -> list[str]:
    """Shares of each group among the participants of each subset, as lines of a table; none without columns.

    Args:
        participants: By case.
        subsets: Cases by what the subset is called.
        stratify: Columns.
        bins: Inner bounds of numeric columns.
    """
    lines = ["share of participants [%]: " + ", ".join(subsets)] if stratify else []
    totals = [len({participants[case].identifier for case in cases}) for cases in subsets.values()]
    for column in stratify:
        for group, counts in group_counts(participants, [*subsets.values()], column, bins.get(column)).items():
            shares = (f"{100 * count / total:.0f}" for count, total in zip(counts, totals, strict=True))
            lines.append(f"  {column} {group}: " + ", ".join(shares))
    return lines


def _group_order(name: str) -> tuple[bool, float, str]:
    number = name.lstrip("<>=").split("-")[0]
    try:
        return False, float(number) - (name[0] == "<"), name
    except ValueError:
        return True, 0.0, name


def _cases_of_people(participants: Mapping[str, Participant]) -> dict[str, list[str]]:
    people: dict[str, list[str]] = {}
    for case in sorted(participants):
        people.setdefault(participants[case].identifier, []).append(case)
    return people


def _strata(
    participants: Mapping[str, Participant], stratify: Sequence[str], rng: np.random.Generator, bins: Bins
) -> dict[Stratum, list[str]]:
    """Participants by joint group; strata in random order, people in random order in each."""
    stray = sorted(set(bins) - set(stratify))
    if stray:
        raise SettingError(f"Bins were given for {', '.join(stray)}, which is not stratified by. Add it there too.")
    columns = [groups(participants.values(), column, bins.get(column)) for column in stratify]
    people = list(_cases_of_people(participants))
    strata: dict[Stratum, list[str]] = {}
    for index in rng.permutation(len(people)):
        person = people[index]
        strata.setdefault(tuple(column[person] for column in columns), []).append(person)
    return strata


def _folds_of_the_odd(
    number: int, taken: np.ndarray, columns: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The folds that get one more: the smallest ones, then those with fewest of the same groups, then any."""
    same = np.sum(columns, axis=0) if columns else np.zeros(len(taken))
    return np.lexsort((rng.random(len(taken)), same, taken))[:number]


def _fold(cases: Mapping[str, Sequence[str]], validation: set[str]) -> Fold:
    return {
        "train": sorted(case for person, its in cases.items() if person not in validation for case in its),
        "val": sorted(case for person, its in cases.items() if person in validation for case in its),
    }


def _check_folds(folds: int, people: int) -> None:
    if folds < 2:
        raise SettingError(f"{folds} folds were asked for, but cross-validation needs at least 2.")
    if people < folds:
        raise ParticipantsError(
            f"{folds} folds need at least {folds} participants, but there are {people}. "
            f"Ask nnKD_split for fewer folds, or train with fold 'all'."
        )


def _head_count(number_or_share: float, people: int) -> int:
    if not number_or_share > 0 or (number_or_share >= 1 and number_or_share != int(number_or_share)):
        raise SettingError(
            f"{number_or_share:g} participants were asked for, but it must be a whole number or a share below 1."
        )
    number = round(number_or_share * people) if number_or_share < 1 else int(number_or_share)
    if not 0 < number < people:
        raise ParticipantsError(
            f"{number_or_share:g} of {people} participants means {number} on one side and {people - number} on the "
            f"other, but both need at least one. Choose another number."
        )
    return number
