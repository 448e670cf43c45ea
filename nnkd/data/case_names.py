"""What cases may be called: names that nnU-Net's files, other file systems and other spellings tell apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from nnkd.data.listing import shown
from nnkd.paths import name_problem

# nnU-Net keeps a case as CASE.b2nd, CASE_seg.b2nd and CASE.pkl, or as CASE.npz and CASE.npy
SEGMENTATION = "_seg"
ENDINGS = (".b2nd", ".pkl", ".npz", ".npy")


def problem(name: str) -> str:
    """Why a case cannot be called so, as the rest of a sentence; empty if it can.

    Args:
        name: The case's identifier.
    """
    if name.lower().endswith(SEGMENTATION):
        return f"ends with {SEGMENTATION}, as nnU-Net's files of label maps do, so it would overwrite another case's"
    if name.lower().endswith(ENDINGS):
        return "ends as the files do that nnU-Net keeps for a preprocessed case"
    if name != name.lstrip() or not name.isprintable():
        return "begins with a space, or holds characters that cannot be seen"
    return name_problem(name)


def problems(names: Iterable[str]) -> dict[str, str]:
    """What is wrong with a set of cases' names, as a sentence by name.

    Args:
        names: The cases' identifiers. Two of them that differ only in capitals, or in how accents are stored, are one
            file on macOS and Windows.
    """
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in sorted(names):
        if why := problem(name):
            found[name] = f"The case's name '{shown(name)}' {why}. Rename its files, or take out what is no image."
            continue
        other = first.setdefault(_folded(name), name)
        if other != name:
            how = "capitals" if _composed(other) != _composed(name) else "the way in which accents are stored"
            found[name] = (
                f"The names of the cases '{shown(other)}' and '{shown(name)}' differ only in {how}: on macOS and "
                f"Windows they are one file. Rename one."
            )
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())
