"""Licences that forbid some uses, and how they are announced. What a student inherits stands in its lineage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

RESTRICTED = re.compile(
    r"\bNC\b|non-?\s?commercial|research[\w\s,-]*only|only[\w\s,]*research|academic[\w\s,-]*only|education[\w\s]*only",
    re.IGNORECASE,
)


def forbids_commerce(licence: str) -> bool:
    """Whether a licence's name or text says that commercial use is forbidden, such as CC-BY-NC-4.0."""
    return RESTRICTED.search(licence) is not None


def restricted(lineage: Iterable[Mapping[str, str]]) -> list[str]:
    """Models whose code or weights are not for commercial use, as "NAME (which licence)".

    Args:
        lineage: Models with the keys name, licence and weights_licence, as manifests and recipes have them.
    """
    found = []
    for model in lineage:
        licences = {model.get("licence") or "", model.get("weights_licence") or ""}
        words = sorted(licence for licence in licences if forbids_commerce(licence))
        if words:
            found.append(f"{model['name']} ({', '.join(words)})")
    return found


def announcement(lineage: Iterable[Mapping[str, str]], what: str) -> str:
    """One sentence about models that are not for commercial use; empty if there are none.

    Args:
        lineage: See `restricted`.
        what: What inherits it, such as "this student".
    """
    found = restricted(lineage)
    if not found:
        return ""
    return f"NOT FOR COMMERCIAL USE: {what} inherits the terms of {', '.join(found)}."
