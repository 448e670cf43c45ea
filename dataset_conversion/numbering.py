"""Which case is which folder: private/dicom.tsv of a dataset, so that cases are numbered and stay what they are."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nnkd.data.reading.dicom.sources import FOLDER
from nnkd.errors import DatasetError
from nnkd.files import atomic

TABLE, ASIDE = "dicom.tsv", "set_aside.tsv"
WHERE = f"{FOLDER}/{ASIDE}"
COLUMNS = ("case", "uid", "folder", "number", "modality", "description")


def digits(uid: str) -> str:
    """Eight digits of a UID's hash, not a count: what is added later must not rename what is there."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


class Numbering:
    """The table of a dataset, in memory until it is saved.

    Args:
        dataset: nnUNet_raw/DATASET; it need not exist.

    Attributes:
        aside: Files that are not converted, below what is converted, and why.

    Raises:
        DatasetError: If the table was changed.
    """

    def __init__(self, dataset: Path):
        self.dataset, self.folder = dataset, dataset / FOLDER
        self.aside: list[tuple[str, str]] = []
        file = self.folder / TABLE
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
        if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
            raise DatasetError(
                f"{FOLDER}/{TABLE} of {dataset.name} was changed. It has the columns {', '.join(COLUMNS)}."
            )
        self.rows = {row["uid"]: row for row in rows}

    def name(self, uid: str, wanted: str, row: Mapping[str, str]) -> str:
        """The case of a series (or study): the one it has had, else a new one.

        Args:
            uid: Of the series or study.
            wanted: What a new one is called; empty: the next number.
            row: What else the table says of it.

        Raises:
            DatasetError: If the table is gone while numbered cases are there: numbers would begin anew.
        """
        if uid not in self.rows:
            if not (wanted or self.rows) and any(self.dataset.glob("imagesT[rs]/case_*")):
                raise DatasetError(
                    f"{self.dataset.name} has numbered cases, but {FOLDER}/{TABLE}, which says who is who, is gone. "
                    f"Put it back, or convert under another id."
                )
            numbers = [int(r["case"][5:]) for r in self.rows.values() if r["case"][5:].isdigit()]
            case = wanted or f"case_{max(numbers, default=0) + 1:04d}"
            if any(r["case"] == case for r in self.rows.values()):  # a folder of that name was converted before
                case = f"{case}_{digits(uid)}"
            self.rows[uid] = {"case": case, "uid": uid, **row}
        return self.rows[uid]["case"]

    def save(self) -> None:
        """Write the table, and beside it which files were not converted; nothing where no case is from DICOM."""
        if self.rows:
            self._write(TABLE, COLUMNS, [[row[column] for column in COLUMNS] for row in self.rows.values()])
            self._write(ASIDE, ("file", "why"), self.aside)

    def _write(self, name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        with atomic(self.folder / name) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(header)
            table.writerows([" ".join(cell.split()) for cell in row] for row in rows)  # no tab or line of its own
