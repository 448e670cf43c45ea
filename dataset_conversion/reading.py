"""Names of cases, and what conversions read beside single files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnkd.data.reading.dicom import volumes
from nnkd.data.reading.image import Image
from nnkd.files import split_ending


def case_name(path: Path) -> str:
    """The file's name without its ending, with what file systems or nnU-Net dislike replaced."""
    return clean(split_ending(path.name)[0])


def clean(name: str) -> str:
    """A name with everything but letters, digits, "-", "_" and "." replaced by "_"."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def read_series(files: Sequence[str]) -> Image:
    """Read one DICOM series.

    Raises:
        DatasetError: If a file is unreadable or no image, or the slices do not fill a box.
    """
    return volumes.read([Path(file) for file in files])
