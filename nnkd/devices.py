"""Where torch computes, and whether that is here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nnkd.errors import FolderError


def check_device(device: str) -> None:
    """Make sure that torch can compute there. Imports torch unless it is the CPU.

    Args:
        device: "cuda", "cpu" or "mps".

    Raises:
        FolderError: If there is no such device.
    """
    if device == "cpu":
        return
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise FolderError("-device cuda is the default, but torch sees no GPU here. Say -device cpu, or mps on a Mac.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise FolderError("-device mps was asked for, but torch sees no Apple GPU here. Say -device cpu, or cuda.")


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; others only imitate it, slowly. Imports torch."""
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def cores() -> int:
    """CPU cores this process may use: on a cluster, or under taskset, often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch computes with that many threads, and afterwards with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limit_memory(device: str, limit: float) -> None:
    """Let torch take at most so much of a GPU's memory in this process; more is an out-of-memory error.

    Args:
        device: "cuda", "cpu" or "mps"; only the first has such a limit.
        limit: Bytes.
    """
    if device != "cuda":
        return
    import torch

    whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole))
