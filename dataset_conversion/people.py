"""Whose the cases are: participants.tsv and cases.tsv of a converted dataset, from what a publication says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnkd_dataset_conversion.target import Target, dataset_folder

from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE
from nnkd.files import atomic


def write_people(
    target: Target | str, people: Mapping[str, str], facts: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Write the tables that the user did not give. Rows that are there stay (somebody may have edited them).

    Args:
        target: Where the dataset went.
        people: Person by case. cases.tsv is written only if a person is named otherwise than the case.
        facts: Further columns of participants.tsv by person; what is missing or empty becomes n/a. None: no such file.
    """
    target = Target(target) if isinstance(target, str) else target
    folder = dataset_folder(str(target.dataset), target.name)
    if target.cases_table is None and any(case != person for case, person in people.items()):
        _add_rows(folder / CASES_FILE, ("case", "participant_id"), list(people.items()))
    if target.participants is None and facts:
        columns = list(dict.fromkeys(column for row in facts.values() for column in row))
        rows = [
            (person, *(facts.get(person, {}).get(column, "") for column in columns))
            for person in dict.fromkeys(people.values())
        ]
        _add_rows(folder / PARTICIPANTS_FILE, ("participant_id", *columns), rows)


def _add_rows(file: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Add the rows whose first cell is new; a file with another header is somebody's own and stays."""
    wanted = ["\t".join(" ".join(cell.split()) or "n/a" for cell in row) for row in (header, *rows)]
    there = file.read_text(encoding="utf-8").splitlines() if file.is_file() else wanted[:1]
    if there[:1] != wanted[:1]:
        return
    known = {line.partition("\t")[0] for line in there}
    new = [line for line in wanted[1:] if line.partition("\t")[0] not in known]
    if new:
        with atomic(file) as temporary:
            temporary.write_text("\n".join([*there, *new]) + "\n", encoding="utf-8")
