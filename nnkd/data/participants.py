"""The people behind the cases: BIDS' participants.tsv, and cases.tsv where a case's name is not its participant's."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from nnkd import limits
from nnkd.errors import ParticipantsError
from nnkd.types import Participant

PARTICIPANTS_FILE = "participants.tsv"
CASES_FILE = "cases.tsv"
PREFIX = "sub-"  # BIDS writes it before every participant_id; case names rarely have it
MISSING = frozenset({"", "n/a", "na", "nan"})
LIMITS = {"age": (0.0, 120.0, "years"), "bmi": (8.0, 100.0, "kg/m2")}
SEX_WORDS: Mapping[str, Literal["F", "M"]] = {"f": "F", "female": "F", "m": "M", "male": "M"}
SEX_DIGITS: Mapping[str, Literal["F", "M"]] = {"0": "F", "1": "M"}
log = logging.getLogger("nnkd")


def read_participants(folder: Path, problems: list[str] | None = None) -> dict[str, Participant]:
    """Read participants.tsv of a dataset's folder.

    Columns participant_id (required), sex, age [years], bmi [kg/m2] and any others; "n/a" or an empty cell is a missing
    value. Sex is M/F or male/female in any case, or 0/1 throughout: 0 = female, 1 = male (BIDS has no rule for
    digits, so the log says that they were read in this way).

    Args:
        folder: nnUNet_raw/DATASET or nnUNet_preprocessed/DATASET.
        problems: Where given, values that cannot be read count as missing, and a sentence on each is added here.

    Returns:
        By participant_id, in file order.

    Raises:
        ParticipantsError: If the file is missing, or a column, an identifier or a value is not as above. Values of
            single people never stand in the message; their line does.
    """
    rows = _read_table(folder, PARTICIPANTS_FILE, ("participant_id",))
    _check_unique([row["participant_id"] for row in rows], folder, PARTICIPANTS_FILE)
    sexes = _sex_coding(rows, folder)
    found = (_participant(row, line, sexes, folder, problems) for line, row in enumerate(rows, start=2))
    return {participant.identifier: participant for participant in found}


def participants_of_cases(
    folder: Path, cases: Sequence[str], required: bool = False, problems: list[str] | None = None
) -> dict[str, Participant]:
    """The person behind each case.

    A case's person is named in cases.tsv (columns case, participant_id) or else is the one whose participant_id is the
    case's name, with or without "sub-". Without participants.tsv, cases.tsv still says which cases share a person.

    Args:
        folder: nnUNet_raw/DATASET or nnUNet_preprocessed/DATASET.
        cases: Identifiers.
        required: Whether every case needs a row; otherwise those without one get an anonymous participant named as
            the case.
        problems: Where given, a participants.tsv that cannot be read counts as none, its unreadable values as missing,
            and cases without a row are anonymous; a sentence on each is added here.

    Returns:
        By case, in the order of `cases`.

    Raises:
        ParticipantsError: If a file contradicts itself, cases.tsv names an unknown participant, or a row is missing
            although required.
    """
    has_file = (folder / PARTICIPANTS_FILE).is_file()
    known: dict[str, Participant] = {}
    if has_file or required:
        try:
            known = read_participants(folder, problems)
        except ParticipantsError as error:
            if problems is None:
                raise
            problems.append(str(error))
            has_file = required = False
    by_name = {_bare(identifier): participant for identifier, participant in known.items()}
    names = _read_cases(folder)
    if has_file:
        _check_known(names, by_name, folder)
    missing = [case for case in cases if _bare(names.get(case, case)) not in by_name]
    if missing and (required or (has_file and problems is not None)):
        _refuse(
            f"{PARTICIPANTS_FILE} of {folder.name} has no row for {len(missing)} of {len(cases)} cases "
            f"({_some(missing)}). Add the rows, or name their participants in {CASES_FILE}.",
            problems,
        )
    return {
        case: by_name.get(_bare(names.get(case, case))) or Participant(names.get(case, case).strip()) for case in cases
    }


def _read_table(folder: Path, name: str, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a TSV as text by column."""
    import pandas as pd

    file = folder / name
    if file.is_file() and file.stat().st_size > limits.JSON.value * limits.MIB:
        raise ParticipantsError(
            f"{name} of {folder.name} has more than {limits.JSON.value:g} MiB, which no table of participants has. "
            f"{limits.JSON.raised}"
        )
    try:
        # without a header, a row that is too long is an error instead of an unnamed first column
        table = pd.read_csv(
            file, sep="\t", header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False
        )
    except FileNotFoundError:
        raise ParticipantsError(
            f"{folder.name} has no {name}. Put one beside dataset.json (tab-separated: participant_id, sex, age, bmi)."
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ParticipantsError(
            f"{name} of {folder.name} is no tab-separated UTF-8 table ({str(error).strip()}). Export it again."
        ) from error
    cells = [[str(cell).strip() for cell in row] for row in table.fillna("").to_numpy()]
    header = [_column_name(cell) for cell in cells[0]]
    _check_header(header, needed, folder, name)
    while len(cells) > 1 and not any(cells[-1]):  # empty lines at the end; elsewhere they are rows without a name
        cells.pop()
    return [dict(zip(header, row, strict=True)) for row in cells[1:]]


def _column_name(text: str) -> str:
    return text.lower() if text.lower() in ("participant_id", "sex", "age", "bmi", "case") else text


def _check_header(header: Sequence[str], needed: Sequence[str], folder: Path, name: str) -> None:
    missing = [column for column in needed if column not in header]
    if missing:
        separator = " Its columns must be separated by tabs." if len(header) == 1 else ""
        raise ParticipantsError(
            f"{name} of {folder.name} lacks the column {', '.join(missing)}; it has {', '.join(header)}.{separator} "
            f"Add the column or correct its name."
        )
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise ParticipantsError(f"{name} of {folder.name} has the column {', '.join(doubled)} twice. Remove one.")


def _check_unique(identifiers: Sequence[str], folder: Path, name: str) -> None:
    bare = [_bare(identifier) for identifier in identifiers]
    if "" in bare:
        raise ParticipantsError(f"Line {bare.index('') + 2} of {name} of {folder.name} names nobody. Complete it.")
    doubled = sorted(identifier for identifier, count in Counter(bare).items() if count > 1)
    if doubled:
        raise ParticipantsError(
            f"{name} of {folder.name} names {_some(doubled)} more than once (with or without '{PREFIX}'). "
            f"Keep one row each."
        )


def _sex_coding(rows: Sequence[Mapping[str, str]], folder: Path) -> Mapping[str, Literal["F", "M"]]:
    """Words or digits, never both: a file that mixes them was merged from two codings."""
    spellings = {row.get("sex", "").lower() for row in rows} - MISSING
    digits = spellings & set(SEX_DIGITS)
    if digits and spellings & set(SEX_WORDS):
        raise ParticipantsError(
            f"{PARTICIPANTS_FILE} of {folder.name} mixes 0/1 and words in the column sex. Write M and F throughout."
        )
    if digits:
        log.info("%s: sex is coded by digits; read as 0 = female, 1 = male", PARTICIPANTS_FILE)
    return SEX_DIGITS if digits else SEX_WORDS


def _participant(
    row: Mapping[str, str],
    line: int,
    sexes: Mapping[str, Literal["F", "M"]],
    folder: Path,
    problems: list[str] | None,
) -> Participant:
    where = f"Line {line} of {PARTICIPANTS_FILE} of {folder.name}"
    sex = row.get("sex", "").lower()
    if sex not in MISSING and sex not in sexes:
        _refuse(
            f"{where} spells sex in a way that is not known. Write M or F, male or female, "
            f"0 (female) or 1 (male) throughout, or n/a.",
            problems,
        )
    others = {
        column: text
        for column, text in row.items()
        if column not in ("participant_id", "sex", "age", "bmi") and text.lower() not in MISSING
    }
    return Participant(
        identifier=row["participant_id"],
        sex=sexes.get(sex),
        age=_number(row.get("age", ""), "age", where, problems),
        bmi=_number(row.get("bmi", ""), "bmi", where, problems),
        attributes=MappingProxyType(others),
    )


def _number(text: str, column: str, where: str, problems: list[str] | None) -> float | None:
    if text.lower() in MISSING:
        return None
    low, high, unit = LIMITS[column]
    try:
        value = float(text)
    except ValueError:
        sentence = f"{where} has a {column} that is no number. Write it in {unit} with a decimal point, or n/a."
    else:
        if low <= value <= high:
            return value
        sentence = f"{where} has a {column} outside {low:g} to {high:g} {unit}. Correct it, or write n/a."
    _refuse(sentence, problems)
    return None


def _refuse(sentence: str, problems: list[str] | None) -> None:
    if problems is None:
        raise ParticipantsError(sentence)
    problems.append(sentence)


def _read_cases(folder: Path) -> dict[str, str]:
    if not (folder / CASES_FILE).is_file():
        return {}
    rows = _read_table(folder, CASES_FILE, ("case", "participant_id"))
    _check_unique([row["case"] for row in rows], folder, CASES_FILE)
    nameless = [row["case"] for row in rows if row["participant_id"].lower() in MISSING]
    if nameless:
        raise ParticipantsError(
            f"{CASES_FILE} of {folder.name} names no participant for {_some(nameless)}. Complete it."
        )
    return {row["case"]: row["participant_id"] for row in rows}


def _check_known(names: Mapping[str, str], by_name: Mapping[str, Participant], folder: Path) -> None:
    unknown = sorted({name for name in names.values() if _bare(name) not in by_name})
    if unknown:
        raise ParticipantsError(
            f"{CASES_FILE} of {folder.name} names {_some(unknown)}, but {PARTICIPANTS_FILE} has no such participant. "
            f"Add the row or correct the name."
        )


def _bare(identifier: str) -> str:
    return identifier.strip().removeprefix(PREFIX)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(f"'{name}'" for name in names[:most]) + (", ..." if len(names) > most else "")
