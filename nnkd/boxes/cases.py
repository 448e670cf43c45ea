"""Images to segment in boxes, in a folder or alone: which there are, and what their label maps are called."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnkd.data.listing import Listing, listing, shown
from nnkd.errors import DatasetError, FolderError
from nnkd.files import split_ending
from nnkd.types import FolderCount

NPZ = (".npz",)
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ENDINGS = (*NPZ, *VOLUMES, *PICTURES)
WRITTEN = {".jpg": ".png", ".jpeg": ".png", ".bmp": ".png", ".tiff": ".tif"}  # jpg would blur labels
NUMBER = re.compile(r"_(\d{4})$")  # nnU-Net's numbers of channels, but perhaps frames of a video

log = logging.getLogger("nnkd")


@dataclass(frozen=True)
class BoxCase:
    """An image to segment.

    Attributes:
        name: What it is called in files of boxes, and its label map: the file's name without ending and without
            nnU-Net's number of a channel.
        file: Where it is.
        ending: The file's, in small letters.
    """

    name: str
    file: Path
    ending: str

    @property
    def written(self) -> str:
        """The ending of its label map."""
        return WRITTEN.get(self.ending, self.ending)


def find_cases(source: Path, boxed: Collection[str] = ()) -> list[BoxCase]:
    """Images in a folder, sorted by name, or the one that a file is. Of several channels the first is taken.

    NAME_0000, NAME_0001 and so on, with no number missing, are channels of NAME, unless there are boxes for one of
    them; other numbers belong to the name. An npz holds all there is of an image.

    Args:
        source: The folder or file.
        boxed: What images are called in a file of boxes.

    Raises:
        FolderError: If there is no such file or folder, or no image in it.
        DatasetError: If two images have the same name, or their label maps would be of several kinds.
    """
    if source.is_file():
        if split_ending(source.name)[1].lower() not in ENDINGS:
            raise FolderError(f"'{source.name}' is no image that this command reads: {', '.join(ENDINGS)}.")
        found = _cases([source], boxed)
    elif source.is_dir():
        found = _cases([file for (file,) in _listing(source).cases.values()], boxed)
    else:
        raise FolderError(f"There is no file or folder '{source.name}' to segment. Correct -i.")
    if not found:
        raise FolderError(f"'{source.absolute().name}' holds no image; this command reads {', '.join(ENDINGS)}.")
    _check(found)
    return found


def count(
    source: Path, cases: Iterable[BoxCase], *named: Path | None, others: str = "further channel of an image"
) -> FolderCount:
    """Which files are taken.

    Args:
        source: The folder or file.
        cases: What `find_cases` found there, or some of it.
        named: Files and folders that the command line names beside it.
        others: What sets other images aside.
    """
    if source.is_file():
        return FolderCount(shown(source.name), 1)
    mine = {case.file.name for case in cases}
    return _listing(source).only(mine, rule=others).told(*named).count()


def _listing(folder: Path) -> Listing:
    return listing(folder, lambda name: name if split_ending(name)[1].lower() in ENDINGS else "")


def holds_images(source: Path) -> bool:
    """Whether a folder holds images that this command reads, so that it is none of DICOM series.

    Raises:
        FolderError: If it holds pictures and DICOM series: which of them are meant?
    """
    if not source.is_dir():
        return source.suffix.lower() != ".zip"
    endings = {split_ending(name)[1].lower() for name in _listing(source).cases}
    if endings and endings <= set(PICTURES):
        from nnkd.data.reading.dicom.series import scan

        if scan(source).series:
            raise FolderError(
                f"'{source.absolute().name}' holds pictures and DICOM series. Put those to segment into a folder of "
                f"their own."
            )
    return bool(endings)


def _cases(files: Sequence[Path], boxed: Collection[str]) -> list[BoxCase]:
    together: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        stem, ending = split_ending(file.name)
        together.setdefault((NUMBER.sub("", stem), ending), []).append(file)
    found: list[BoxCase] = []
    passed: list[str] = []
    for (name, ending), several in together.items():
        stems = [split_ending(file.name)[0] for file in several]
        numbered = [f"{name}_{number:04d}" for number in range(len(several))]
        if stems != numbered or set(stems) & set(boxed) or (ending.lower() in NPZ and len(several) > 1):
            found += [BoxCase(s, file, ending.lower()) for s, file in zip(stems, several, strict=True)]
        else:
            found.append(BoxCase(name, several[0], ending.lower()))
            passed += [file.name for file in several[1:]]
    if passed:
        log.warning(
            "%d further channels were passed over (%s): of several channels the first is segmented. If they are images "
            "of their own, give boxes for them by their whole names.",
            len(passed),
            f"{', '.join(passed[:3])}{' ...' if len(passed) > 3 else ''}",
        )
    return sorted(found, key=lambda case: case.file.name)


def _check(cases: Iterable[BoxCase]) -> None:
    first: dict[str, BoxCase] = {}
    kinds: dict[str, BoxCase] = {}
    for case in cases:
        other = first.setdefault(case.name, case)
        if other is not case:
            raise DatasetError(
                f"'{other.file.name}' and '{case.file.name}' would both be written as '{case.name}'. Rename one."
            )
        kinds.setdefault(case.written, case)
    if len(kinds) > 1:
        names = ", ".join(case.file.name for case in kinds.values())
        raise DatasetError(
            f"Label maps of these images would be of {len(kinds)} kinds ({', '.join(kinds)}), but a prediction folder "
            f"has one: {names}. Put each kind into a folder of its own and call the command once for each."
        )
