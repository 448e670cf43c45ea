"""Folders of images and folders of label maps of the same names, as most challenges publish them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkd_dataset_conversion import reading
from nnkd_dataset_conversion.writer import SourceCase

from nnkd.data.archives import is_archive, unpack
from nnkd.data.dataset import Split
from nnkd.data.reading.image import VOLUMES, ending_of
from nnkd.errors import DatasetError, FolderError
from nnkd.files import is_visible, load_json
from nnkd.types import Failure

LEVELS = ("", "*", "*/*")  # archives often hold their folder once more
Place = tuple[str, str, Split]  # folder of images, folder of their label maps, and where both go
Part = tuple[Mapping[str, Path], Mapping[str, Path], Split]  # the same as files by case
Name = Callable[[Path], str]


def opened(source: Path) -> Path:
    """The folder itself, or that of an archive, unpacked beside it.

    Raises:
        FolderError: If there is neither.
    """
    folder = unpack(source) if is_archive(source) else source
    if not folder.is_dir():
        raise FolderError(f"There is no folder '{source.name}'. Check the path.")
    return folder


def find(source: Path, needed: Sequence[str], what: str) -> Path:
    """The folder that holds all of `needed`: the source, or one up to two levels below.

    Args:
        source: The download: a folder or an archive.
        needed: Folders such as "imagesTr" or "Training/img".
        what: The data set's name, for messages.

    Raises:
        FolderError: If there is none, or several.
    """
    folder = opened(source)
    for level in LEVELS:
        candidates = sorted(folder.glob(level)) if level else [folder]
        found = [place for place in candidates if all((place / name).is_dir() for name in needed)]
        if len(found) > 1:
            names = ", ".join(place.name for place in found[:3])
            raise FolderError(f"'{source.name}' holds {what} {len(found)} times ({names}). Give one of them.")
        if found:
            return found[0]
    missing = " and no ".join(name for name in needed if not (folder / name).is_dir())
    raise FolderError(
        f"'{source.name}' has no {missing}, so it is not {what} as published. Give the folder that holds it."
    )


def volumes(files: Iterable[Path], name: Name = reading.case_name) -> dict[str, Path]:
    """The visible volumes among files by case.

    Raises:
        DatasetError: If two files are one case.
    """
    found: dict[str, Path] = {}
    for file in sorted(files):
        if not is_visible(file) or ending_of(file) not in VOLUMES:
            continue
        other = found.setdefault(name(file), file)
        if other != file:
            raise DatasetError(
                f"{'/'.join(other.parts[-2:])} and {'/'.join(file.parts[-2:])} are both the case '{name(file)}'. "
                f"Keep one."
            )
    return found


def in_three(middle: str, validation: str) -> list[Place]:
    """Places of imagesTr, images<middle>, imagesTs and their labels; `validation` says where the middle one goes."""
    split: Split = "Ts" if validation == "test" else "Tr"
    return [
        ("imagesTr", "labelsTr", "Tr"),
        (f"images{middle}", f"labels{middle}", split),
        ("imagesTs", "labelsTs", "Ts"),
    ]


def cases(
    folder: Path, places: Iterable[Place], name: Name = reading.case_name, complete: bool = True
) -> tuple[list[SourceCase], list[Failure]]:
    """`pairs` of the folders that are there.

    Args:
        folder: What holds them.
        places: Their names.
        name: Case of an image's or a label map's file.
        complete: See `pairs`.
    """
    parts = ((folder / images, folder / maps, split) for images, maps, split in places)
    return pairs([(volumes(a.glob("*"), name), volumes(b.glob("*"), name), split) for a, b, split in parts], complete)


def pairs(parts: Iterable[Part], complete: bool = True) -> tuple[list[SourceCase], list[Failure]]:
    """Cases of several parts of a data set, and what has no partner.

    Args:
        parts: Images and label maps by case, and the split.
        complete: In a part that has label maps every image has one; one without was not downloaded whole.
    """
    found, alone = [], []
    for images, maps, split in parts:
        for name, image in images.items():
            if complete and maps and name not in maps:
                alone.append(Failure(name, "It has no label map, but others have. Download it again or take it out."))
            else:
                found.append(SourceCase(name, [image], maps.get(name), split))
        alone += [Failure(name, "It has a label map, but no image.") for name in sorted(maps.keys() - images.keys())]
    return found, alone


def dataset_json(folder: Path) -> dict[str, Any]:
    """What dataset.json says, in the decathlon's or nnU-Net's spelling; empty values if it is not there.

    Raises:
        DatasetError: If it has another form.
    """
    file = folder / "dataset.json"
    try:
        content = load_json(file) if file.is_file() else {}
        channels = content.get("channel_names") or content.get("modality") or {}
        names = [str(channels[key]) for key in sorted(channels, key=int)]
        # The decathlon writes "1": "liver", nnU-Net "liver": 1
        words = [(v, k) if str(k).isdigit() else (k, v) for k, v in content.get("labels", {}).items()]
        labels = {str(name): int(value) for name, value in words if int(value) != 0}
    except (ValueError, AttributeError, TypeError) as error:
        raise DatasetError(
            f"dataset.json of '{folder.name}' is not as the decathlon's ({error}). Correct it."
        ) from error
    more = {key: str(content.get(key, "")) for key in ("reference", "description")}
    return {"channels": names, "labels": labels, "licence": str(content.get("licence", "")), **more}


def check_labels(folder: Path, labels: Mapping[str, int]) -> None:
    """Compare the labels as published with those in the download's dataset.json, where it has one.

    Raises:
        DatasetError: If they differ: the label maps were numbered anew.
    """
    there = {value: name for name, value in dataset_json(folder)["labels"].items()}
    published = {value: name for name, value in labels.items()}
    for value in sorted(there.keys() | published.keys()) if there else ():
        if _letters(there.get(value, "")) != _letters(published.get(value, "")):
            raise DatasetError(
                f"dataset.json of '{folder.name}' calls {value} {there.get(value, 'nothing')}, but it was published as "
                f"{published.get(value, 'nothing')}. Convert the original, or this one with msd or images_folder."
            )


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower()).replace("arota", "aorta")  # AMOS22's dataset.json spells it so
