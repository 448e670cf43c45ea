"""The memory of a process, on Linux."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def peak_above(action: Callable[[], object]) -> float:
    """MiB by which the peak during an action lies above what was there before it. getrusage would count the parent's
    peak, too."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _kibibytes("VmRSS")
    action()
    return (_kibibytes("VmHWM") - before) / 1024


def peak() -> float:
    """MiB that the process took at most so far."""
    return _kibibytes("VmHWM") / 1024


def _kibibytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
