"""Checkpoints of published models: read with weights_only=True, checked name by name, then loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnkd.errors import WeightsError
from nnkd.weights import torch_files
from nnkd.weights.checkpoints import check_numbers

PREFIXES = ("module.",)  # what training in parallel puts in front of names
WRAPPERS = ("state_dict", "model", "network_weights")  # what trainings put around tensors by name


def read(
    file: Path, model: str, prefixes: Sequence[str] = PREFIXES, wrappers: Sequence[str] = WRAPPERS
) -> dict[str, Tensor]:
    """Tensors by name, from a file of torch (with weights_only=True) or safetensors.

    Args:
        file: The checkpoint.
        model, prefixes, wrappers: See `tensors`.

    Raises:
        WeightsError: If the file is missing, truncated, or holds more than tensors, or none.
    """
    return tensors(everything(file, model), file, model, prefixes, wrappers)


def tensors(
    content: Any,
    file: Path,
    model: str,
    prefixes: Sequence[str] = PREFIXES,
    wrappers: Sequence[str] = WRAPPERS,
) -> dict[str, Tensor]:
    """Tensors by name, from what a file holds.

    Args:
        content: What `everything` found.
        file: Where it comes from, for messages.
        model: Its name, for messages.
        prefixes: What to leave out at the beginning of names.
        wrappers: What trainings put around tensors by name.

    Raises:
        WeightsError: If there are none.
    """
    for wrapper in wrappers:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    values = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    if not values or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"'{file.name}' holds no tensors by name, so it is no checkpoint of {model}.")
    found: dict[str, Tensor] = content
    for prefix in prefixes:
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def everything(file: Path, model: str) -> Any:
    """What a file of torch (with weights_only=True, see `torch_files`) or safetensors holds.

    Args:
        file: The checkpoint.
        model: Its name, for messages.

    Raises:
        WeightsError: If the file is missing, truncated or holds more than tensors.
    """
    if not file.is_file():
        raise WeightsError(f"There is no file '{file.name}' with weights of {model}. Correct the option weights.")
    try:
        return _of_safetensors(file) if file.suffix == ".safetensors" else torch_files.load(file)
    except torch_files.NotLoadedError as error:
        raise torch_files.sentence(error, f"'{file.name}'") from error


def _of_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise torch_files.NotLoadedError("it is truncated or no file of safetensors") from error


def fill(
    network: nn.Module,
    state: Mapping[str, Tensor],
    file: Path,
    model: str,
    *,
    option: str = "weights",
    looks_like: Callable[[Mapping[str, Tensor]], str] = lambda _: "",
) -> None:
    """Load tensors by name into a network; all of them, and no others.

    Args:
        network: Takes the weights.
        state: Tensors by the network's names.
        file: Where they come from, for messages.
        model: Its name, for messages.
        option: What names the file, for messages.
        looks_like: Says of another model's tensors whose they are, as a sentence's end; empty if it cannot tell.

    Raises:
        WeightsError: If they are other tensors, or hold what is no number.
    """
    problem = _difference(network.state_dict(), state, model)
    if problem:
        other = looks_like(state)
        raise WeightsError(
            f"'{file.name}' is no checkpoint of {model}: {problem}. "
            + (f"It looks like {other}." if other else f"Correct the option {option}.")
        )
    check_numbers(state, f"'{file.name}'")
    network.load_state_dict(state)


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
