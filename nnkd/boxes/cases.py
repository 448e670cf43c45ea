"""Images to segment in boxes, in a folder or alone: which there are, and what their label maps are called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnkd.errors import DatasetError, FolderError
from nnkd.files import is_visible, split_ending

NPZ = (".npz",)
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ENDINGS = (*NPZ, *VOLUMES, *PICTURES)
WRITTEN = {".jpg": ".png", ".jpeg": ".png", ".bmp": ".png", ".tiff": ".tif"}  # jpg would blur labels
FIRST, OTHERS = "_0000", tuple(f"_{channel:04d}" for channel in range(1, 10))


@dataclass(frozen=True)
class BoxCase:
    """An image to segment.

    Attributes:
        name: What it is called in files of boxes, and its label map: the file's name without ending and without
            nnU-Net's _0000.
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


def find_cases(source: Path) -> list[BoxCase]:
    """Images in a folder, sorted by name, or the one that a file is. Of several channels the first is taken.

    Raises:
        FolderError: If there is no such file or folder, or no image in it.
        DatasetError: If two images have the same name, or their label maps would be of several kinds.
    """
    if source.is_file():
        found = [_case(source)]
        if found[0].ending not in ENDINGS:
            raise FolderError(f"'{source.name}' is no image that this command reads: {', '.join(ENDINGS)}.")
    elif source.is_dir():
        cases = (_case(file) for file in sorted(source.iterdir()) if is_visible(file))
        found = [case for case in cases if case.ending in ENDINGS and not case.name.endswith(OTHERS)]
    else:
        raise FolderError(f"There is no file or folder '{source.name}' to segment. Correct -i.")
    if not found:
        raise FolderError(f"'{source.absolute().name}' holds no image; this command reads {', '.join(ENDINGS)}.")
    _check(found)
    return found


def holds_images(source: Path) -> bool:
    """Whether a folder holds images that this command reads, so that it is none of DICOM series.

    Raises:
        FolderError: If it holds pictures and DICOM series: which of them are meant?
    """
    if not source.is_dir():
        return source.suffix.lower() != ".zip"
    endings = {_case(file).ending for file in source.iterdir() if is_visible(file)} & set(ENDINGS)
    if endings and endings <= set(PICTURES):
        from nnkd.data.reading.dicom.series import scan

        if scan(source).series:
            raise FolderError(
                f"'{source.absolute().name}' holds pictures and DICOM series. Put those to segment into a folder of "
                f"their own."
            )
    return bool(endings)


def _case(file: Path) -> BoxCase:
    name, ending = split_ending(file.name)
    return BoxCase(name.removesuffix(FIRST), file, ending.lower())


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
