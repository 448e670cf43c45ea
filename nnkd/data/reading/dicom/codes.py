"""What the labels of a DICOM-SEG mean, as codes: a readable table in the package, and the user's own before it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from nnkd.errors import SettingError

COLUMNS = ("label", "category", "type", "modifier", "region")
PRIVATE = "99NNKD"  # DICOM: designators of private coding schemes begin with 99
LONGEST_CODE, LONGEST_MEANING = 16, 64  # characters of DICOM's SH and LO
_WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Code:
    """A code.

    Attributes:
        scheme: Its designator, such as "SCT".
        value: At most 16 characters.
        meaning: At most 64 characters.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Meaning:
    """What a label means.

    Attributes:
        category: Of what kind it is: an anatomical structure, a tissue, a morphologically abnormal structure ...
        type: What it is.
        modifier: Which of two: left, right; None: neither.
        region: Where it is; None: the type says it.
    """

    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None

    @property
    def is_private(self) -> bool:
        """Whether only nnkd knows its code."""
        return self.type.scheme == PRIVATE


TISSUE = Code("SCT", "85756007", "Tissue")


@dataclass(frozen=True)
class CodeTable:
    """Meanings by label.

    Attributes:
        meanings: By `key` of the label.
    """

    meanings: Mapping[str, Meaning]

    @classmethod
    def read(cls, file: Path | None = None) -> CodeTable:
        """The package's table.

        Args:
            file: A table of the user's own, whose lines come before.

        Raises:
            SettingError: If it is missing or not as it should be.
        """
        meanings = _own()
        if file is not None:
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is no UTF-8 text"
                raise SettingError(f"The table of codes '{file.name}' cannot be read ({why}). Correct it.") from error
            meanings = {**meanings, **_parsed(text, file.name)}
        return cls(meanings)

    def of(self, label: str) -> Meaning:
        """What a label means: the table's line with the same words, in any order; else a code that only nnkd knows."""
        found = self.meanings.get(key(label))
        if found is not None:
            return found
        value = hashlib.sha256(key(label).encode("utf-8")).hexdigest()[:12]
        return Meaning(TISSUE, Code(PRIVATE, value, label.replace("\\", "/")[:LONGEST_MEANING]))


def key(label: str) -> str:
    """A label's words, sorted, so that "Left Kidney", "kidney_left" and "left kidney" are one."""
    return " ".join(sorted(_WORDS.findall(label.lower()))) or label


@cache
def _own() -> Mapping[str, Meaning]:
    table = files("nnkd.data.reading.dicom").joinpath("codes.tsv")
    return _parsed(table.read_text(encoding="utf-8"), "codes.tsv")


def _parsed(text: str, name: str) -> dict[str, Meaning]:
    first, *lines = text.splitlines() or [""]
    if tuple(word.strip() for word in first.split("\t")) not in (COLUMNS, COLUMNS[:4], COLUMNS[:3]):
        raise SettingError(
            f"The first line of '{name}' is '{first[:80]}', but the columns {', '.join(COLUMNS)} are expected, with "
            f"tabs between (modifier and region may be left out)."
        )
    found: dict[str, Meaning] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip() or line.startswith("#"):
            continue
        label, *cells = (cell.strip() for cell in line.split("\t"))
        codes = [_code(cell, name, number) for cell in cells]
        codes += [None] * (4 - len(codes))
        category, kind, modifier, region = codes[:4]
        if not label or category is None or kind is None:
            raise SettingError(f"Line {number} of '{name}' lacks a label, a category or a type.")
        found[key(label)] = Meaning(category, kind, modifier, region)
    return found


def _code(cell: str, name: str, number: int) -> Code | None:
    if not cell:
        return None
    words = cell.split(maxsplit=2)
    if len(words) != 3 or len(words[0]) > LONGEST_CODE or len(words[1]) > LONGEST_CODE or "\\" in cell:
        raise SettingError(
            f"Line {number} of '{name}' has '{cell[:80]}', but a scheme, a code and its meaning are expected, such as "
            f"'SCT 64033007 Kidney'."
        )
    return Code(words[0], words[1], words[2][:LONGEST_MEANING])


def spoken(labels: Iterable[str]) -> str:
    """What is said of labels without a code in the table."""
    return (
        f"{', '.join(labels)}: no code is known, so one of nnkd's own ({PRIVATE}) was written; name it in a table of "
        f"your own (--segment_codes)"
    )
