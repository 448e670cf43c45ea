"""Medical Segmentation Decathlon tasks: a TaskXX_Name folder or its .tar; labels optional.

Reads imagesTr, imagesTs, labelsTr, labelsTs (those that are there) and dataset.json; 4D images become one file a
channel. Without dataset.json give --channels and --labels.
Source: Antonelli et al. 2022, The Medical Segmentation Decathlon.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkd_dataset_conversion import arguments, folders
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter

from nnkd.errors import DatasetError, FolderError
from nnkd.types import StepReport


def convert(
    source: Path, target: Target | str, *, channels: Sequence[str] = (), labels: Mapping[str, int] | None = None
) -> StepReport:
    """Convert a task.

    Args:
        source: TaskXX_Name, or an archive of it (unpacked beside itself, members checked).
        target: Where it goes.
        channels: Channel names; empty: as dataset.json says.
        labels: Integer by label name; None: as dataset.json says.

    Raises:
        FolderError: If there is no imagesTr.
        DatasetError: If dataset.json is missing or incomplete and nothing is given instead.
    """
    folder = folders.opened(source)
    if not (folder / "imagesTr").is_dir():
        raise FolderError(f"'{source.name}' has no folder imagesTr, so it is no MSD task. Give the TaskXX_Name folder.")
    said = folders.dataset_json(folder)
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=channels or said["channels"] or _missing("--channels MRI"),
        labels=labels or said["labels"] or _missing("--labels NAME=INTEGER ..."),
        more_json={key: said[key] for key in ("licence", "reference", "description") if said[key]},
    )
    places: list[folders.Place] = [("imagesTr", "labelsTr", "Tr"), ("imagesTs", "labelsTs", "Ts")]
    return writer.write(*folders.cases(folder, places, complete=False), [folder])


def _missing(option: str) -> Any:
    raise DatasetError(f"No dataset.json tells channels and labels of this task. Give {option}.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("msd", __doc__, "Task04_Hippocampus.tar -d 704 -n Hippocampus")
    parser.add_argument("--channels", nargs="+", default=(), help="channel names, where dataset.json is missing")
    parser.add_argument("--labels", nargs="+", action=arguments.Labels, help="NAME=INTEGER, where it is missing")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
