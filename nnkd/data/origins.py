"""What derived things were made from, and the one answer to whether they still hold.

Whatever is computed and kept (a preprocessed case, votes, a consensus, a prediction, an exported model) is recorded
with its origins: a digest of each file and of each group of settings, label meaning included. Later the same origins
are worked out anew, and `difference` compares.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnkd.errors import NnkdError
from nnkd.files import read_json, sha256, sha256_text, write_json
from nnkd.paths import cache_folder

log = logging.getLogger("nnkd")
# a file that was written so shortly before it was hashed may be written again within its time stamp's grain
GRAIN_S = 2.0
STAMP = 4  # numbers that say whether a file is the same


def difference(made: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """Why a derived thing no longer holds.

    Args:
        made: Digest by origin when it was made; None: nothing is on record.
        now: The same, as they are now.

    Returns:
        In words which origins came, went or changed; empty if it still holds.
    """
    if made is None:
        return "nothing says what it was made from"
    gone, new = sorted(made.keys() - now.keys()), sorted(now.keys() - made.keys())
    other = sorted(name for name in made.keys() & now.keys() if made[name] != now[name])
    parts = (("without", gone), ("new", new), ("changed", other))
    return "; ".join(f"{word} {_some(names)}" for word, names in parts if names)


def made_anew(reasons: Iterable[str]) -> str:
    """How many derived things no longer held, by reason, such as "3 made anew: changed label map"; empty without any.

    Args:
        reasons: What `difference` said, for each of them.
    """
    return "; ".join(f"{number} made anew: {reason}" for reason, number in Counter(reasons).most_common())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def of_settings(settings: Any) -> str:
    """Digest of settings: anything that JSON can say. The order of keys counts for nothing, that of lists does."""
    return sha256_text(json.dumps(settings, sort_keys=True, default=str))[:16]


class Hashes:
    """sha256 of the files of one folder, kept from run to run: a file is read again only if its size, a time of change
    or its place on the disk (inode) is another. Only for finding out what changed; weights are always read.

    The hashes are kept in nnkd's cache, under names that tell neither folder nor files; where nothing can be written
    there, every run reads every file.
    """

    def __init__(self, folder: Path):
        self._file = cache_folder() / "hashes" / f"{_place(folder)}.json"
        self._known: dict[str, list[Any]] = _read(self._file)
        self._new = False

    def of(self, file: Path) -> str:
        """Hexadecimal sha256 of a file.

        Raises:
            OSError: If it cannot be read.
        """
        found = file.stat()
        now, changed = time.time_ns(), max(found.st_mtime_ns, found.st_ctime_ns)
        # st_ctime_ns also tells of files whose old time of change was put back, by rsync or "cp -p", say
        stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        key = _place(file)
        known = self._known.get(key)
        if known is not None and known[:-1] == stamp:
            return str(known[-1])
        digest = sha256(file)
        if now - changed > GRAIN_S * 1e9:
            self._known[key], self._new = [*stamp, digest], True
        return digest

    def save(self) -> None:
        """Keep what was read."""
        if not self._new:
            return
        try:
            self._known = {**_read(self._file), **self._known}  # another process may have read other files
            write_json(self._file, self._known)
            self._new = False
        except (OSError, NnkdError) as error:
            log.debug("hashes are not kept: %s", error)


def _place(path: Path) -> str:
    """A name that does not tell the place; names of files need not be text."""
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        content = read_json(file)
    except (OSError, NnkdError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in entries if isinstance(value, list) and len(value) == STAMP + 1}
