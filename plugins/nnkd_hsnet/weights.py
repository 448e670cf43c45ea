"""ImageNet weights of PVTv2-b2: a file that the user has, found without an absolute path, checked, then loaded."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from pickle import UnpicklingError

import torch
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from nnkd import paths
from nnkd.errors import WeightsError
from nnkd.files import sha256

# By sha256, as written down by several who downloaded the first file, and by the page that offers the second one. Other
# files load too.
KNOWN = {
    "80711cd1b37ffba12bec6c7a2a7c54efe2315ed635e6d2055fd51c3e909ede4d": "the authors' pvt_v2_b2.pth",
    "0bff520d64b91bdbb35f2b5bff2b62d35a9d9c6d6a5056e683f1e7ce556d0e5e": "timm/pvt_v2_b2.in1k, model.safetensors",
}
WRAPPERS = ("state_dict", "model")  # what trainings put around tensors by name
BROKEN = (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, KeyError, AttributeError)
ROOM = "nnUNet_preprocessed"


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

    state = checkpoint_filter_fn(_read(file), backbone)
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    problem = _difference(backbone.state_dict(), state)
    if problem:
        raise WeightsError(f"'{file.name}' is no checkpoint of PVTv2-b2: {problem}. Correct the option pretrained.")
    backbone.load_state_dict(state)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (*BROKEN, SafetensorError) as error:
        raise WeightsError(
            f"'{file.name}' cannot be loaded as weights: it is truncated, no file of torch or safetensors, or holds "
            f"more than tensors. Copy it again."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"'{file.name}' holds no tensors by name, so it is no checkpoint of PVTv2-b2.")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _difference(expected: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """What does not fit, as half a sentence; empty if all does."""
    missing, strange = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing:
        return f"{len(missing)} of its {len(expected)} tensors are missing, such as {missing[0]}"
    if strange:
        return f"{len(strange)} tensors are not PVTv2-b2's, such as {strange[0]}"
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            return f"{name} has the shape {tuple(given[name].shape)}, but {tuple(tensor.shape)} is expected"
    return ""
