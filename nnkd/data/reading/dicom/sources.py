"""Which DICOM objects a case was made of: the private files of a dataset's folder, and the only place for this.

They say who is who, so they are never copied anywhere else: not to preprocessed data, manifests, reports or logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnkd.errors import DatasetError, FileError
from nnkd.files import read_json, write_json

FOLDER = "private"  # of the dataset's folder


@dataclass(frozen=True)
class ChannelSource:
    """The series that one channel of a case was made of.

    Attributes:
        study, series: Their UIDs.
        frame_of_reference: Its UID; empty: the series has none.
        modality: Such as "CT".
        instances: SOPInstanceUID of each slice, in the order of the array's first axis; a multi-frame object comes
            once a frame. Of a channel that was resampled they are the series' own slices, not the array's.
        frames: 1-based frame of each slice within its instance.
        folder: The folder's name below what was converted.
    """

    study: str
    series: str
    frame_of_reference: str
    modality: str
    instances: tuple[str, ...]
    frames: tuple[int, ...]
    folder: str = ""


def file_of(dataset: Path, case: str) -> Path:
    """Where a case's sources stand: nnUNet_raw/DATASET/private/dicom/CASE.json."""
    return dataset / FOLDER / "dicom" / f"{case}.json"


def write(dataset: Path, case: str, channels: Sequence[ChannelSource]) -> None:
    """Write what a case was made of.

    Args:
        dataset: nnUNet_raw/DATASET.
        case: Its identifier.
        channels: In the order of the case's channels.
    """
    write_json(file_of(dataset, case), {"channels": [asdict(channel) for channel in channels]})


def read(dataset: Path, case: str) -> tuple[ChannelSource, ...]:
    """What a case was made of, by channel.

    Args:
        dataset: nnUNet_raw/DATASET.
        case: Its identifier.

    Raises:
        DatasetError: If the case was not made of DICOM, or its file was changed.
    """
    try:
        content = read_json(file_of(dataset, case))
    except FileError as error:
        raise DatasetError(
            f"'{case}' of {dataset.name} has no sources in {FOLDER}/dicom ({error}). Convert the DICOM folder again."
        ) from error
    try:
        rows = [{**row, "instances": tuple(row["instances"]), "frames": tuple(row["frames"])}
                for row in content["channels"]]  # fmt: skip
        return tuple(ChannelSource(**row) for row in rows)
    except (KeyError, TypeError) as error:
        raise DatasetError(f"'{case}.json' in {FOLDER}/dicom of {dataset.name} was changed. Restore it.") from error
