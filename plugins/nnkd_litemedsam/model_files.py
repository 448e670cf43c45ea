"""Files of models that a recipe names: found without an absolute path, because recipes are handed on with models."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from pydantic_core import PydanticCustomError

from nnkd import paths
from nnkd.errors import WeightsError

ROOMS: tuple[paths.Room, ...] = ("nnUNet_results", "nnUNet_preprocessed")


def portable(name: str | None) -> str | None:
    """A file's name as a recipe may hold it: relative to nnUNet_results or nnUNet_preprocessed where it lies there.

    Raises:
        ValueError: If it is an absolute path elsewhere.
    """
    if name is None or not PurePath(name).is_absolute():
        return name
    for room in ROOMS:
        folder = os.environ.get(room)
        if folder and PurePath(name).is_relative_to(Path(folder).absolute()):
            return PurePath(name).relative_to(Path(folder).absolute()).as_posix()
    raise PydanticCustomError(  # a ValueError whose sentence stands as it is
        "absolute_path",
        f"recipes are handed on with models and hold no absolute path; copy or link the file into {ROOMS[1]} and give "
        f"its name there, or a path relative to the current folder",
    )


def is_file_name(name: str) -> bool:
    """Whether a name is meant to be a file, not a plugin's."""
    return "/" in name or os.sep in name or PurePath(name).suffix in (".pth", ".pt", ".safetensors")


def find(name: str, option: str) -> Path:
    """The file, from the current folder on or else from nnUNet_results or nnUNet_preprocessed on.

    Args:
        name: See `portable`.
        option: What names it, for the message.

    Raises:
        WeightsError: If there is none.
    """
    folders = [Path(), *(Path(os.environ[room]) for room in ROOMS if os.environ.get(room))]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{option} names '{name}', but neither the current folder nor {' nor '.join(ROOMS)} has such a file. Correct "
        f"the name."
    )
