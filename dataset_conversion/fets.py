"""FeTS 2021 and 2022, brain tumours by institution: BraTS' cases and partitioning_1.csv.

Layout: FeTS2022_00001/FeTS2022_00001_t1.nii.gz, _t1ce, _t2, _flair, _seg (2021: FeTS21_Training_001), and
partitioning_1.csv (Partition_ID, Subject_ID) beside them. Cases are converted as brats does it; the number of a case's
institution goes to participants.tsv, column institution.
Licence: see the data's own page (Synapse). untried on the real set.
Source: Pati et al. 2021, The Federated Tumor Segmentation (FeTS) Challenge.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, brats, folders
from nnkd_dataset_conversion.people import write_people
from nnkd_dataset_conversion.target import Target

from nnkd.errors import DatasetError
from nnkd.types import StepReport

TABLE = "partitioning_1.csv"
SUBJECT, INSTITUTION = "Subject_ID", "Partition_ID"


def convert(source: Path, target: Target | str, *, test: Path | None = None) -> StepReport:
    """Convert FeTS' training data.

    Args:
        source: MICCAI_FeTS2022_TrainingData, or its archive.
        target: Where it goes.
        test: Test cases (MICCAI_FeTS2022_ValidationData).

    Raises:
        FolderError: If a folder is missing or holds no case.
        DatasetError: If partitioning_1.csv is missing or lacks a column, or the cases are of another release.
    """
    root = folders.opened(source)
    institutions = _institutions(root)
    report = brats.convert(root, target, test=test)
    cases = [*report.done, *report.skipped]
    write_people(target, {case: case for case in cases}, {c: {"institution": institutions.get(c, "")} for c in cases})
    without = len([case for case in cases if case not in institutions])
    report.lines.append(
        f"{len({institutions[c] for c in cases if c in institutions})} institutions; {without} cases without one."
    )
    return report


def _institutions(folder: Path) -> dict[str, str]:
    """Institution by subject."""
    file = folder / TABLE
    if not file.is_file():
        raise DatasetError(f"'{folder.name}' has no {TABLE}, which tells the institutions. Restore it, or use brats.")
    with open(file, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    missing = [column for column in (SUBJECT, INSTITUTION) if not rows or column not in rows[0]]
    if missing:
        raise DatasetError(f"{TABLE} of '{folder.name}' lacks the column {', '.join(missing)}. Download it again.")
    return {row[SUBJECT].strip(): row[INSTITUTION].strip() for row in rows}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("fets", __doc__, "MICCAI_FeTS2022_TrainingData -d 729 -n FeTS")
    parser.add_argument("--test", type=Path, help="folder of the test cases")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
