"""ImageNet weights of PVTv2-b2: a file that the user has, found without an absolute path, checked, then loaded."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Final

from pydantic_core import PydanticCustomError
from torch import nn

from nnkd import paths
from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.weights import published

# By sha256, as written down by several who downloaded the first file, and by the page that offers the second one. Other
# files load too.
KNOWN = {
    "80711cd1b37ffba12bec6c7a2a7c54efe2315ed635e6d2055fd51c3e909ede4d": "the authors' pvt_v2_b2.pth",
    "0bff520d64b91bdbb35f2b5bff2b62d35a9d9c6d6a5056e683f1e7ce556d0e5e": "timm/pvt_v2_b2.in1k, model.safetensors",
}
MODEL = "PVTv2-b2"
ROOM: Final = "nnUNet_preprocessed"


def portable(name: str | None) -> str | None:
    """A file's name as a recipe may hold it: relative to nnUNet_preprocessed where it lies there.

    Raises:
        ValueError: If it is an absolute path elsewhere.
    """
    room = os.environ.get(ROOM)
    if name is None or not PurePath(name).is_absolute():
        return name
    if room and PurePath(name).is_relative_to(Path(room).absolute()):
        return PurePath(name).relative_to(Path(room).absolute()).as_posix()
    raise PydanticCustomError(  # a ValueError whose sentence stands as it is
        "absolute_path",
        f"recipes are handed on with models and hold no absolute path; copy or link the file into {ROOM} and give its "
        f"name there, or a path relative to the current folder",
    )


def find(name: str) -> Path:
    """The file, from the current folder on or else from nnUNet_preprocessed on.

    Raises:
        WeightsError: If there is none.
    """
    for folder in (Path(), paths.room(ROOM)):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"pretrained names '{name}', but neither the current folder nor {ROOM} has such a file. Put it there, or leave "
        f"the option out: no weights are needed."
    )


def checked(file: Path, expected: str | None) -> str:
    """The file's sha256.

    Raises:
        WeightsError: If it is not the expected one.
    """
    digest = sha256(file)
    if expected is not None and digest != expected.lower():
        raise WeightsError(
            f"'{file.name}' has the sha256 {digest}, but pretrained_sha256 expects {expected}. Get the file again, or "
            f"correct the option."
        )
    return digest


def load(backbone: nn.Module, file: Path) -> None:
    """Load a checkpoint with the authors' names of tensors or timm's, without its classifier.

    Args:
        backbone: See `nnkd_hsnet.network.pvt_v2_b2`.
        file: What torch (with weights_only=True) or safetensors reads.

    Raises:
        WeightsError: If it is truncated, holds more than tensors, or other tensors.
    """
    from timm.models.pvt_v2 import checkpoint_filter_fn

    state = checkpoint_filter_fn(published.read(file, MODEL), backbone)
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    published.fill(backbone, state, file, MODEL, option="pretrained")
