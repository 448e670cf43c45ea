"""Which of TotalSegmentator's structures a dataset's label is made of: by its name, a table, and what the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnkd.errors import SettingError
from nnkd.files import read_json

TABLE = Path(__file__).parent / "tables" / "labels.json"


def read_table() -> dict[str, list[str]]:
    """labels.json: label -> structures, or other labels of the table, that are joined."""
    return read_json(TABLE)


def key(name: str) -> tuple[str, ...]:
    """What a name is found by: its words, in any order and case: "Left kidney" is "kidney_left"."""
    return tuple(sorted(word for word in re.split(r"[^a-z0-9]+", name.casefold()) if word))


def structures_of(
    labels: Sequence[str], classes: Mapping[int, str], given: Mapping[str, Sequence[int | str]] | None = None
) -> dict[str, list[int]]:
    """Find each label's structures.

    Args:
        labels: The dataset's.
        classes: Name by number of the task's structures.
        given: What the user says of some labels: names or numbers of structures, or labels of the table.

    Returns:
        Numbers by label, without the labels that the task does not know.

    Raises:
        SettingError: If the user names what does not exist.
    """
    numbers = {key(name): number for number, name in classes.items()}
    table = {key(name): parts for name, parts in read_table().items()}
    found: dict[str, list[int]] = {}
    for label in labels:
        asked = None if given is None else given.get(label)
        parts = [label] if asked is None else asked
        resolved = _all(parts, numbers, table, classes)
        if resolved:
            found[label] = resolved
        elif asked is not None:
            raise SettingError(
                f"The totalsegmentator teacher's map has {', '.join(map(str, asked))} for '{label}', but this task "
                f"knows {', '.join(classes.values())}. Correct the map."
            )
    return found


def _all(
    parts: Sequence[int | str],
    numbers: Mapping[tuple[str, ...], int],
    table: Mapping[tuple[str, ...], Sequence[str]],
    classes: Mapping[int, str],
) -> list[int]:
    """Numbers of all parts; empty if one of them is unknown, so that no label is answered by half of it."""
    found: set[int] = set()
    for part in parts:
        if isinstance(part, int):
            inner = [part] if part in classes else []
        elif key(part) in numbers:
            inner = [numbers[key(part)]]
        else:
            inner = _all(table.get(key(part), ()), numbers, table, classes)
        if not inner:
            return []
        found.update(inner)
    return sorted(found)
