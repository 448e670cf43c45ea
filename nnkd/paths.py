"""Where things lie: nnU-Net's three folders and a dataset's name in them. Imports nothing of nnU-Net."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal

from nnkd.errors import DatasetError, FolderError, UnknownNameError

Room = Literal["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"]
LONGEST = 200  # bytes of a name, so that an ending fits
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d) *(?:\..*)?", re.IGNORECASE | re.DOTALL)  # devices of Windows
FORBIDDEN = frozenset('<>:"/\\|?*')
ROOMS: tuple[Room, ...] = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def room(name: Room) -> Path:
    """The folder an nnU-Net environment variable names.

    Raises:
        FolderError: If the variable is not set.
    """
    value = os.environ.get(name)
    if not value:
        raise FolderError(
            f"The environment variable {name} is not set, but this command reads or writes that folder. "
            f"Set it as nnU-Net's documentation says, e.g. export {name}=/data/{name}."
        )
    return Path(value)


def cache_folder() -> Path:
    """What can be had again, such as downloaded weights: $nnKD_cache, or nnkd in the user's cache folder."""
    given = os.environ.get("nnKD_cache")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("nnkd", appauthor=False)


def dataset_name(dataset: str | int) -> str:
    """Full name of a dataset, such as Dataset701_Name, from its name or id.

    Args:
        dataset: 701, "701" or "Dataset701_Name".

    Raises:
        UnknownNameError: If no folder of that id exists in any of nnU-Net's folders.
        DatasetError: If several names share the id, or the name has not nnU-Net's form.
    """
    text = str(dataset)
    if text.startswith("Dataset"):
        if not re.fullmatch(r"Dataset\d{3,}_\w[\w.-]*", text):
            raise DatasetError(f"'{text}' is no dataset name; nnU-Net's form is Dataset701_Name.")
        return text
    if not text.isdigit():
        raise DatasetError(f"'{text}' is neither a dataset id (701) nor a dataset name (Dataset701_Name).")
    prefix = f"Dataset{int(text):03d}_"
    folders = [Path(value) for name in ROOMS if (value := os.environ.get(name))]
    everything = {p.name for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_dir()}
    names = sorted(name for name in everything if name.startswith(prefix))
    if not names:
        known = sorted(name for name in everything if re.match(r"Dataset\d+_", name))
        there = f"There are: {', '.join(known)}." if known else "There are none yet: convert one first."
        raise UnknownNameError(f"No dataset has the id {int(text)} in nnUNet_raw, _preprocessed or _results. {there}")
    if len(names) > 1:
        raise DatasetError(f"The id {int(text)} belongs to several datasets: {', '.join(names)}. Rename all but one.")
    return names[0]


def raw_folder(dataset: str | int) -> Path:
    """nnUNet_raw/DatasetXXX_Name, which must exist.

    Raises:
        FolderError: If it does not exist.
    """
    return _existing("nnUNet_raw", dataset)


def preprocessed_folder(dataset: str | int) -> Path:
    """nnUNet_preprocessed/DatasetXXX_Name, which must exist.

    Raises:
        FolderError: If it does not exist.
    """
    return _existing("nnUNet_preprocessed", dataset)


def _existing(name: Room, dataset: str | int) -> Path:
    folder = room(name) / dataset_name(dataset)
    if not folder.is_dir():
        what = {"nnUNet_raw": "Convert it first (nnKD_convert_dataset)"}
        todo = what.get(name, "Run nnKD_plan_and_preprocess first")
        raise FolderError(f"{folder.name} is not in {name}. {todo}, or check the variable {name}.")
    return folder


def name_problem(name: str) -> str:
    """Why a name cannot be a file's or a folder's, as the rest of a sentence; empty if it can: what it names lies
    directly in its folder, on every system.

    Args:
        name: Of a case, a dataset, a teacher or a label; it may come from a file that somebody else wrote.
    """
    if not isinstance(name, str) or not name:
        return "is no name"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"has more than the {LONGEST} bytes that leave room for an ending"
    if set(name) & FORBIDDEN or any(ord(letter) < 32 for letter in name):
        return "holds characters that lead elsewhere, or that no file on other systems can have in its name"
    if name != name.rstrip(". "):  # ".." is among them
        return "ends with a space or a dot, which other systems cut off"
    if RESERVED.fullmatch(name):
        return "is the name of a device on Windows, where no file can be called so"
    return ""


def check_name(name: str, what: str) -> str:
    """A name that becomes a file's or a folder's.

    Args:
        name: See `name_problem`.
        what: What it names, for the message.

    Returns:
        The name.

    Raises:
        DatasetError: If it cannot be one.
    """
    if problem := name_problem(name):
        raise DatasetError(
            f"{str(name)[:80]!r} cannot be the name of {what}: it {problem}. Correct it where it is written."
        )
    return name


def without_folders(text: str) -> str:
    """A text (or JSON) with nnU-Net's folders called by their variables; relative ones give nothing away."""
    folders = {name: os.environ.get(name, "").rstrip("/\\") for name in ROOMS}
    for name, folder in sorted(folders.items(), key=lambda item: -len(item[1])):  # one may begin with another
        if folder and os.path.isabs(folder):
            text = text.replace(folder, f"${name}").replace(json.dumps(folder)[1:-1], f"${name}")
    return text


def trainer_path() -> str:
    """What nnUNet_extTrainer should be so that nnU-Net finds nnkd's students; an existing value is kept."""
    ours = str(Path(__file__).parent / "nnunet_ext")
    parts = [part for part in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if part.strip()]
    return os.pathsep.join(parts if ours in parts else [*parts, ours])
