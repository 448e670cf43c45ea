"""Names of cases, and what a conversion lists before anything is read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnkd_dataset_conversion.writer import Source

from nnkd.files import split_ending


@dataclass(frozen=True)
class Listed:
    """One case of a folder of images.

    Attributes:
        case: Its identifier.
        images: As `SourceCase` has them.
        stems: What its mask may be called, without ending.
    """

    case: str
    images: Sequence[Source]
    stems: tuple[str, ...]


def case_name(path: Path) -> str:
    """The file's name without its ending, with what file systems or nnU-Net dislike replaced."""
    return clean(split_ending(path.name)[0])


def clean(name: str) -> str:
    """A name with everything but letters, digits, "-", "_" and "." replaced by "_"."""
    one = unicodedata.normalize("NFC", name)  # macOS stores accents apart from their letters
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in one)
