"""Writing so that a killed process leaves nothing half-written, hashing, and JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnkd import limits
from nnkd.errors import FileError, NnkdError, SettingError, in_one_line

TEMPORARY_PREFIX = ".writing-"
DEEPEST = 100  # lists and objects of a JSON file within each other
DIGITS = 64  # of a JSON file's integers; states of random generators have 39
TOO_DEEP = f"more than {DEEPEST} lists and objects lie within each other"
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
    """Read JSON of nnkd's or nnU-Net's own, in which NaN may stand: nnU-Net's plans and summaries have it.

    Raises:
        FileError: If the file is missing or no JSON, or over a limit (see `load_json`).
    """
    try:
        return load_json(path, nan=True)
    except FileNotFoundError:
        raise FileError(f"'{path.name}' is missing in {path.parent.name}.") from None
    except OSError as error:
        raise FileError(f"'{path.name}' in {path.parent.name} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise FileError(f"'{path.name}' in {path.parent.name} is no valid JSON ({error}). Restore it.") from error


def read_object(file: Path, what: str, form: str) -> dict[str, Any]:
    """Read a JSON object that a user wrote.

    Args:
        file: Where it is.
        what: What it holds, in the plural, for messages.
        form: An example.

    Raises:
        SettingError: If it is missing, no JSON, over a limit (see `load_json`), or no object.
    """
    try:
        content = load_json(file)
    except OSError as error:
        raise SettingError(f"The file of {what} '{file.name}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise SettingError(f"'{file.name}' is no valid JSON ({error}); {what} have the form {form}.") from error
    if not isinstance(content, dict):
        raise SettingError(f"'{file.name}' holds a {type(content).__name__}; {what} have the form {form}.")
    return content


def load_json(file: Path, nan: bool = False) -> Any:
    """A JSON file's content, for who has a sentence of his own for what is wrong with it.

    Args:
        file: Where it is.
        nan: See `from_json`.

    Raises:
        ValueError: As `from_json`, or if it is larger than `limits.JSON`.
        OSError: If it cannot be read.
    """
    with open(file, "rb") as stream:
        most = int(limits.JSON.value * limits.MIB)
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(
            f"it is larger than {limits.JSON.value:g} MiB; the variable {limits.JSON.variable} allows more"
        )
    return from_json(content, nan)


def from_json(content: bytes | str, nan: bool = False) -> Any:
    """What a JSON text means: the one place of nnkd that reads JSON.

    Args:
        content: UTF-8, with or without a byte order mark.
        nan: Whether NaN may stand where a number is expected.

    Raises:
        ValueError: If it is no JSON, names a key twice, holds a number that is none (NaN, Infinity, 1e999) or has more
            than 64 digits, half a character (a surrogate that stands for no byte of a name, see `write_json`), or more
            than 100 lists and objects within each other. It says what, as half a sentence.
    """
    if isinstance(content, bytes):
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("it is UTF-16; save it as UTF-8")
        content = content.decode("utf-8-sig")
    if not content.strip():
        raise ValueError("it is empty")
    try:
        found = json.loads(
            content,
            object_pairs_hook=_once,
            parse_constant=_nan if nan else _no_number,
            parse_int=_integer,
            parse_float=_number,
        )
        if "\\u" in content:
            json.dumps(found, ensure_ascii=False).encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("it holds half a character, a surrogate without its other half") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise ValueError(in_one_line(error)) from error
    _check_depth(found)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it names {name[:40]!r} twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no number")


def _nan(text: str) -> float:
    return math.nan if text == "NaN" else _no_number(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"it holds {text[:40]}, which is too large a number")
    return value


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"it holds an integer of {len(text)} digits")
    return int(text)


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST + 1):
        level = [
            value
            for part in level
            if isinstance(part, dict | list)
            for value in (part.values() if isinstance(part, dict) else part)
        ]
    if level:
        raise ValueError(TOO_DEEP)


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
