"""Which files of a download a conversion takes: for the count at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nnkd.data.reading.image import image_files
from nnkd.types import FolderCount

STACKS = (".npz",)
# Published data sets come with tables and texts of many names; none of them is an image
TEXTS = (".json", ".txt", ".cfg", ".ini", ".xml", ".md", ".pdf", ".docx", ".bib",
         ".html", ".log", ".py", ".m", ".mat", ".yaml", ".yml")  # fmt: skip


def count(folder: Path, sources: Iterable[Any], named: Sequence[Path | None] = ()) -> FolderCount:
    """The count of a published data set: its other images are left out on purpose, as its conversion's --help says.

    Args:
        folder: It.
        sources: What its cases are made of (`SourceCase`).
        named: Files and folders that the command line names beside it.
    """
    found = image_files(folder).only(_names(folder, sources), rule="not taken by this conversion")
    texts = tuple(name for name in found.unknown if name.lower().endswith(TEXTS))
    unknown = {name: why for name, why in found.unknown.items() if name not in texts}
    aside = {**found.aside, "text": texts} if texts else found.aside
    return replace(found, aside=aside, unknown=unknown).told(*named).count()


def count_own(
    folder: Path, sources: Iterable[Any], pattern: str = "*", named: Sequence[Path | None] = ()
) -> FolderCount:
    """The count of a folder of somebody's own, where each image is meant.

    Args:
        folder: It.
        sources: What its cases are made of.
        pattern: Which files are images.
        named: Files and folders that the command line names beside it.
    """
    found, mine = image_files(folder, deep="/" in pattern, more=STACKS), _names(folder, sources)
    if pattern != "*":
        return found.only(mine, rule=f"not named {pattern}").told(*named).count()
    return found.only(mine, why="no case is made of it").told(*named).count()


def _names(folder: Path, sources: Iterable[Any]) -> set[str]:
    files = {file for source in sources for file in _files(source)}
    return {file.relative_to(folder).as_posix() for file in files if file.is_relative_to(folder)}


def _files(source: Any) -> list[Path]:
    """Files that an image is made of: the file itself, or those that a function was given."""
    if isinstance(source, Path):
        return [source]
    if isinstance(source, partial):
        return [file for part in (*source.args, *source.keywords.values()) for file in _files(part)]
    if isinstance(source, Mapping):
        return [file for part in source.values() for file in _files(part)]
    return [file for part in source for file in _files(part)] if isinstance(source, list | tuple) else []
