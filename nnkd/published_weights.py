"""Checkpoints of published models: read with weights_only=True, checked name by name, then loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from nnkd.errors import WeightsError

PREFIXES = ("module.",)  # what training in parallel puts in front of names


def load(
    network: nn.Module,
    file: Path,
    model: str,
    *,
    prefixes: Sequence[str] = PREFIXES,
    looks_like: Callable[[Mapping[str, Tensor]], str] = lambda _: "",
) -> None:
    """Load tensors by name, or those under "model" as training writes them; all of them, and no others.

    Args:
        network: Takes the weights.
        file: The checkpoint.
        model: Its name, for messages.
        prefixes: What to leave out at the beginning of names.
        looks_like: Says of another model's tensors whose they are, as a sentence's end; empty if it cannot tell.

    Raises:
        WeightsError: If the file is missing, truncated, holds more than tensors, or other tensors.
    """
    state = read(file, model, prefixes)
    problem = _difference(network.state_dict(), state, model)
    if problem:
        other = looks_like(state)
        raise WeightsError(
            f"'{file.name}' is no checkpoint of {model}: {problem}. "
            + (f"It looks like {other}." if other else "Correct the option weights.")
        )
    network.load_state_dict(state)


def read(file: Path, model: str, prefixes: Sequence[str] = PREFIXES) -> dict[str, Tensor]:
    """Tensors by name; arguments and errors as for `load`."""
    if not file.is_file():
        raise WeightsError(f"There is no file '{file.name}' with weights of {model}. Correct the option weights.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"'{file.name}' cannot be loaded as weights: it is truncated, no checkpoint of torch, or holds more than "
            f"tensors. Copy it again."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"'{file.name}' holds no tensors by name, so it is no checkpoint of {model}.")
    for prefix in prefixes:
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _difference(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], model: str) -> str:
    """What does not fit, as half a sentence; empty if all does."""
    missing, strange = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing:
        return f"{len(missing)} of its {len(expected)} tensors are missing, such as {missing[0]}"
    if strange:
        return f"{len(strange)} tensors are not {model}'s, such as {strange[0]}"
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            return f"{name} has the shape {tuple(given[name].shape)}, but {tuple(tensor.shape)} is expected"
    return ""
