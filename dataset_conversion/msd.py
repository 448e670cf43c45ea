"""Medical Segmentation Decathlon tasks: a TaskXX_Name folder or its .tar; labels optional.

Reads imagesTr, imagesTs, labelsTr, labelsTs (those that are there) and dataset.json; 4D images become one file a
channel. Without dataset.json give --channels and --labels.
Source: Antonelli et al. 2022, The Medical Segmentation Decathlon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkd_dataset_conversion import arguments
from nnkd_dataset_conversion.archives import is_archive, unpack
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, SourceCase

from nnkd.data.reading.image import VOLUMES, ending_of
from nnkd.errors import DatasetError, FolderError
from nnkd.files import is_visible
from nnkd.types import Failure, StepReport


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
    folder = unpack(source) if is_archive(source) else source
    if not folder.exists():
        raise FolderError(f"There is no '{source.name}'. Check the path.")
    if not (folder / "imagesTr").is_dir():
        raise FolderError(f"'{source.name}' has no folder imagesTr, so it is no MSD task. Give the TaskXX_Name folder.")
    said = _dataset_json(folder)
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=channels or said["channels"] or _missing("--channels MRI"),
        labels=labels or said["labels"] or _missing("--labels NAME=INTEGER ..."),
        more_json={key: said[key] for key in ("licence", "reference", "description") if said[key]},
    )
    cases, alone = [], []
    for split in ("Tr", "Ts"):
        images, maps = (_files(folder / f"{what}{split}") for what in ("images", "labels"))
        cases += [SourceCase(name, [path], maps.get(name), split) for name, path in images.items()]
        alone += [Failure(name, "It has a label map, but no image.") for name in sorted(maps.keys() - images.keys())]
    return writer.write(cases, failures=alone)


def _dataset_json(folder: Path) -> dict[str, Any]:
    """What dataset.json says, in the decathlon's or nnU-Net's spelling; empty values if it is not there."""
    file = folder / "dataset.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        channels = content.get("channel_names") or content.get("modality") or {}
        names = [str(channels[key]) for key in sorted(channels, key=int)]
        # The decathlon writes "1": "liver", nnU-Net "liver": 1
        pairs = [(v, k) if str(k).isdigit() else (k, v) for k, v in content.get("labels", {}).items()]
        labels = {str(name): int(value) for name, value in pairs if int(value) != 0}
    except (ValueError, AttributeError, TypeError) as error:
        raise DatasetError(
            f"dataset.json of '{folder.name}' is not as the decathlon's ({error}). Correct it."
        ) from error
    more = {key: str(content.get(key, "")) for key in ("reference", "description")}
    return {"channels": names, "labels": labels, "licence": str(content.get("licence", "")), **more}


def _missing(option: str) -> Any:
    raise DatasetError(f"No dataset.json tells channels and labels of this task. Give {option}.")


def _files(folder: Path) -> dict[str, Path]:
    """Images by case; files that begin with a dot (macOS' shadows) are passed over."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {p.name[: -len(ending_of(p))]: p for p in paths if is_visible(p) and ending_of(p) in VOLUMES}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("msd", __doc__, "Task04_Hippocampus.tar -d 704 -n Hippocampus")
    parser.add_argument("--channels", nargs="+", default=(), help="channel names, where dataset.json is missing")
    parser.add_argument("--labels", nargs="+", action=arguments.Labels, help="NAME=INTEGER, where it is missing")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
