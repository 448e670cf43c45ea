"""What another program calls the labels: an option `map`, label -> its value(s) or name(s)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nnkd.errors import SettingError
from nnkd.types import TeacherContext

Part = int | str
Map = dict[str, Part | list[Part]]


def read_map(given: Map | Path | None, labels: Sequence[str], owner: str) -> dict[str, list[Part]] | None:
    """Look at a teacher's option `map`.

    Args:
        given: The map itself, or a JSON file that holds it.
        labels: The dataset's labels.
        owner: The teacher's name, for messages.

    Returns:
        Values or names by label, as lists; None if there is no map.

    Raises:
        SettingError: If the file is no such JSON, or the map is empty, names unknown labels, or holds the background.
    """
    if given is None:
        return None
    found = _read(given) if isinstance(given, Path) else given
    strange = sorted(set(found) - set(labels))
    if strange:
        raise SettingError(
            f"The {owner} teacher's map has {', '.join(strange)}, but the dataset's labels are "
            f'{", ".join(labels)}. Write label -> value, such as {{"{labels[0]}": 1}}.'
        )
    if not found:
        raise SettingError(f"The {owner} teacher's map is empty. Name at least one label in it, or leave it out.")
    parts = {label: list(value) if isinstance(value, list) else [value] for label, value in found.items()}
    if any(not values for values in parts.values()) or any(part == 0 for v in parts.values() for part in v):
        raise SettingError(f"The {owner} teacher's map has an empty list or the value 0, which is the background.")
    return parts


def read_parts(given: Map | Path | None, context: TeacherContext, owner: str) -> dict[str, list[Part]]:
    """A teacher's option `map`, or what stands for it: the dataset's own integers (names, where there is no dataset).

    Args:
        given, owner: As for `read_map`.
        context: The labels, and the dataset.

    Raises:
        SettingError: As `read_map`, and if values and names are mixed.
    """
    parts = read_map(given, context.labels, owner)
    if parts is None:
        spec = getattr(context.dataset, "spec", None)
        return {label: list(spec.labels[label]) if spec else [label] for label in context.labels}
    if {type(part) for values in parts.values() for part in values} == {int, str}:
        raise SettingError(f"The {owner} teacher's map mixes values and names of files; use one kind throughout.")
    return parts


def _read(file: Path) -> Map:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Map).validate_python(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingError(f"The map '{file.name}' cannot be read ({error.strerror}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise SettingError(
            f'The map \'{file.name}\' must be JSON such as {{"liver": 5, "kidney": [2, 3]}}. Correct it.'
        ) from error
