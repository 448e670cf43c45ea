"""Where a converted dataset goes: its folder in nnUNet_raw and the tables beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnkd import paths
from nnkd.errors import DatasetError, NnkdError, UnknownNameError
from nnkd.replacing import Written


@dataclass(frozen=True)
class Target:
    """Where a dataset goes, and what every conversion lets the user say about it.

    Attributes:
        dataset: "Dataset701_Name", or the id alone together with `name`.
        name: The name if `dataset` is an id.
        participants: A .tsv or .csv that becomes participants.tsv.
        cases_table: A .tsv or .csv that becomes cases.tsv.
        licence: Licence of the data, for dataset.json.
        reference: Where the data come from, for dataset.json.
        workers: Threads.
        replace: Whether a participants.tsv or cases.tsv that nnkd did not write may be replaced.
    """

    dataset: str | int
    name: str = ""
    participants: Path | None = None
    cases_table: Path | None = None
    licence: str = ""
    reference: str = ""
    workers: int = 2
    replace: bool = False


def dataset_folder(dataset: str, name: str) -> Path:
    """nnUNet_raw/DatasetXXX_Name for -d and -n; it need not exist.

    Raises:
        FolderError: If nnUNet_raw is not set.
        DatasetError: If the id belongs to another dataset, or is new and has no name.
    """
    if dataset.isdigit() and name:
        full = paths.dataset_name(f"Dataset{int(dataset):03d}_{name}")
    else:
        try:
            full = paths.dataset_name(dataset)
        except UnknownNameError:
            raise DatasetError(f"No dataset has the id {dataset} yet. Give the new one a name with -n.") from None
    same_id = full.split("_")[0] + "_"
    for room in paths.ROOMS:
        try:
            others = [p.name for p in paths.room(room).glob(f"{same_id}*") if p.name != full]
        except NnkdError:
            if room == "nnUNet_raw":
                raise
            continue
        if others:
            raise DatasetError(f"The id of {full} belongs to {others[0]} in {room}. Choose another id.")
    return paths.room("nnUNet_raw") / full


def copy_table(table: Path, written: Written, name: str) -> None:
    """Copy a .tsv, or a .csv (comma or semicolon) as .tsv, atomically.

    Args:
        table: The table.
        written: The dataset's folder.
        name: What it is called there.

    Raises:
        DatasetError: If it is missing or no table.
        ReplacingError: If somebody's own table is there.
    """
    import pandas as pd

    try:
        header = table.read_text(encoding="utf-8-sig").partition("\n")[0]
        separator = next((mark for mark in ("\t", ";") if mark in header), ",")
        content = pd.read_csv(table, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"'{table.name}' is no table ({error}). Give a .tsv or .csv with a header line.") from error
    with written.writing(name) as temporary:
        content.to_csv(temporary, sep="\t", index=False, lineterminator="\n")
