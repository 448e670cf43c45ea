"""What other libraries and programs print: their warnings reach the user, their other talk does not."""

from __future__ import annotations

import logging
import re

WARNS = re.compile(r"\bwarn(ing)?s?\b|warning:|unsuccessful", re.IGNORECASE)
NOT_FOR_USERS = re.compile(r"(Future|Deprecation|Syntax|Resource|Import)Warning|\bwarn\(")
FOLDERS = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\",()]+[\\/])+|(?<![\w.])[\\/](?=\w)")
log = logging.getLogger("nnkd")
_told: set[str] = set()


def pass_on_warnings(who: str, text: str) -> None:
    """Log what another library or program warned of, each once, without folders; its other talk stays unsaid.

    Args:
        who: Said it.
        text: All it printed.
    """
    for line in text.splitlines():
        if not WARNS.search(line) or NOT_FOR_USERS.search(line):
            continue
        sentence = f"{who} warns: {FOLDERS.sub('', ' '.join(line.split()))[:300]}"
        if sentence not in _told:
            _told.add(sentence)
            log.warning("%s", sentence)
