"""What SAT is told for a dataset's label: its name in SAT's manner, by a table of synonyms, or what the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnkd.errors import SettingError
from nnkd.files import read_json, read_object

TABLE = Path(__file__).parent / "tables" / "names.json"
FORM = '{"ivc": "inferior vena cava"}'
SIDES = ("left", "right")


def read_table() -> dict[str, str]:
    """names.json: a label's plain name -> SAT's name. SAT was trained on the latter."""
    return read_json(TABLE)


def plain(label: str) -> str:
    """Words in lower case, the side in front, as SAT has them: "Kidney_left" -> "left kidney"."""
    words = [word for word in re.split(r"[\W_]+", label.casefold()) if word]
    sides = [word for word in words if word in SIDES]
    return " ".join(sides + [word for word in words if word not in SIDES] if len(sides) == 1 else words)


def prompts_of(labels: Sequence[str], given: Mapping[str, str] | Path | None = None) -> dict[str, str]:
    """Find each label's text.

    Args:
        labels: The dataset's.
        given: Texts of some labels; or a JSON file with them.

    Returns:
        Lower-case text by label.

    Raises:
        SettingError: If the file is no such JSON, a label is unknown, or a text is empty, could be no file's name, or
            belongs to two labels.
    """
    said = read_object(given, "SAT's prompts", FORM) if isinstance(given, Path) else dict(given or {})
    strange = sorted(set(said) - set(labels))
    if strange:
        raise SettingError(
            f"The sat teacher's prompts have {', '.join(strange)}, but the dataset's labels are {', '.join(labels)}. "
            f"Write label -> text, such as {FORM}."
        )
    table = read_table()
    found = {label: str(said.get(label) or table.get(plain(label), plain(label))).lower().strip() for label in labels}
    for label, text in found.items():
        if not text or re.search(r'[\\/:*?"<>|\x00-\x1f]', text) or text.startswith("."):
            raise SettingError(
                f"The sat teacher's prompt for '{label}' is '{text}', but SAT names files by it. Use words."
            )
    double = sorted({text for text in found.values() if list(found.values()).count(text) > 1})
    if double:
        raise SettingError(
            f"Several labels have the same prompt for the sat teacher: {', '.join(double)}. Set its option prompts, "
            f"such as {FORM}."
        )
    return found
