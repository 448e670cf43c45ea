"""Writing so that a killed process leaves nothing half-written, hashing, and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnkd.errors import FileError, NnkdError, SettingError

TEMPORARY_PREFIX = ".writing-"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets take for the beginning of a formula


def split_ending(name: str, endings: Iterable[str] = (".nii.gz",)) -> tuple[str, str]:
    """A file name as stem and ending, with two-part endings kept whole."""
    for ending in endings:
        if name.lower().endswith(ending):
            return name[: -len(ending)], name[-len(ending) :]
    path = Path(name)
    return path.stem, path.suffix


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside its target and move it there when all went well.

    The temporary name begins with a dot and keeps the ending, so that writers that look at endings work and no
    lister takes it for a case. On any error it is removed and the old target stays.

    Yields:
        The temporary path to write to.

    Raises:
        NnkdError: If the file cannot be written (disk full, no permission).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{target.name}"
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise NnkdError(
            f"'{target.name}' could not be written ({error.strerror or error}). Nothing half-written remains; "
            f"make room or change the permissions and run the command again: it continues where it stopped."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, older_than_s: float = 0.0, of: str = "") -> None:
    """Remove temporary files that killed processes left in a folder.

    Args:
        folder: Where to look.
        older_than_s: Age in seconds since the last change. 0 only for folders that no other process of ours writes
            to at the moment.
        of: Only those of the file with this name, whatever its ending; empty: all.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if of and not path.name.removeprefix(TEMPORARY_PREFIX).partition("-")[2].startswith(f"{of}."):
            continue
        try:
            if time.time() - path.stat().st_mtime >= older_than_s:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        except FileNotFoundError:  # its writer was alive and has just moved it
            continue


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names that are no UTF-8: as \udcfc


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FileError: If the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"'{path.name}' is missing in {path.parent.name}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"'{path.name}' in {path.parent.name} is no valid JSON ({error}). Restore it.") from error


def read_object(file: Path, what: str, form: str) -> dict[str, Any]:
    """Read a JSON object that a user wrote.

    Args:
        file: Where it is.
        what: What it holds, in the plural, for messages.
        form: An example.

    Raises:
        SettingError: If it is missing, no JSON, or no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"The file of {what} '{file.name}' cannot be read ({error.strerror}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"'{file.name}' is no valid JSON ({error}); {what} have the form {form}.") from error
    if not isinstance(content, dict):
        raise SettingError(f"'{file.name}' holds a {type(content).__name__}; {what} have the form {form}.")
    return content


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def is_visible(path: Path) -> bool:
    """Whether a file is data, not a temporary or hidden one."""
    return path.is_file() and not path.name.startswith(".")


def for_spreadsheet(text: str) -> str:
    """A cell of a CSV that a spreadsheet shows and does not compute: an apostrophe stands before what would be a
    formula, such as a label called =1+1."""
    if not text.startswith(FORMULA) or text == "-":
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def from_spreadsheet(cell: str) -> str:
    """What `for_spreadsheet` made the cell of."""
    return cell[1:] if cell[:1] == "'" and for_spreadsheet(cell[1:]) == cell else cell
