"""How long a network takes and how much memory it needs, measured in a process of its own."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkd.devices import threads
from nnkd.errors import BrokenPluginError, NnkdError, in_one_line
from nnkd.networks.costs import random_inputs, ready_network
from nnkd.plugin.networks import Architecture
from nnkd.processes import workers

if TYPE_CHECKING:
    from torch import nn

ENOUGH_S = 30.0  # no further run is begun after this
MIB = 2**20
CLEAR_REFS = Path("/proc/self/clear_refs")
HOW = {
    "cuda": "torch's largest allocation on the GPU",
    "cpu": "largest resident size of the process, less what it had before the network was built",
    "mps": "not measured on Apple GPUs",
}
NO_SUCH_FIGURE = "not measured: this system does not tell a process its largest resident size"


@dataclass(frozen=True)
class Latency:
    """What was measured.

    Attributes:
        seconds: Median of the runs.
        runs: How many, after one that does not count.
        threads: torch's, on the CPU.
        device: "cuda", "cpu" or "mps".
        peak: Bytes for weights, inputs and what lies between; None where they cannot be told.
        peak_is: What that is, or why there is none.
    """

    seconds: float
    runs: int
    threads: int
    device: str
    peak: int | None
    peak_is: str


def measure(
    architecture: Callable[[], Architecture], *, device: str = "cpu", number_of_threads: int = 1, runs: int = 5
) -> Latency:
    """Time a network's run in a fresh process, so that nothing else counts as its memory.

    Args:
        architecture: Tells what to build; it must pickle.
        device: "cuda", "cpu" or "mps".
        number_of_threads: torch's, on the CPU.
        runs: Timed ones; fewer where these take longer than half a minute.

    Raises:
        BrokenPluginError: If the network cannot be built or run, or its process dies.
    """
    with workers(1) as pool:  # a forked process would begin with all that this one holds
        try:
            return pool.submit(measure_here, architecture, device, number_of_threads, runs).result()
        except NnkdError:
            raise
        except BrokenProcessPool:
            why = "its process was killed, probably because memory ran out. Try a smaller --size, or --no_latency"
        except Exception as error:  # noqa: BLE001 - a plugin's code
            why = f"{type(error).__name__}: {in_one_line(error)}"
    raise BrokenPluginError(f"It could not be timed: {why}.")


def measure_here(
    architecture: Callable[[], Architecture], device: str = "cpu", number_of_threads: int = 1, runs: int = 5
) -> Latency:
    """`measure`, in this process: its memory counts what was freed before, too."""
    import torch

    described = architecture()
    with threads(number_of_threads), torch.inference_mode():
        _import_what_it_needs(described)
        _forget_peak()
        before = _resident()
        network = ready_network(described, device)
        inputs = random_inputs(described, device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = _time(network, inputs, device, runs)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        after = _resident_peak()
    how = HOW[device]
    if device == "cpu":
        peak = after - before if before is not None and after is not None else None
        how = how if peak is not None else NO_SUCH_FIGURE
    return Latency(statistics.median(seconds), len(seconds), number_of_threads, device, peak, how)


def _import_what_it_needs(architecture: Architecture) -> None:
    """Build it once, without memory where that works: plugins import packages when they first build, and these are not
    what the network needs."""
    import torch

    known = _status("VmRSS") is not None  # else what a build on the CPU takes and frees would count as there before
    for device in ("meta", "cpu") if known else ("meta",):
        try:
            with torch.device(device):
                architecture.build()
        except Exception:  # noqa: BLE001 - a plugin's code; what is wrong shows when it is built to be run
            continue
        return


def _time(network: nn.Module, inputs: list[Any], device: str, runs: int) -> list[float]:
    """Seconds of each run but the first, or of the first if one takes that long."""
    seconds: list[float] = []
    while not seconds or (len(seconds) <= runs and sum(seconds) < ENOUGH_S):
        begun = time.perf_counter()
        network(*inputs)
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return seconds[1:] or seconds


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _resident() -> int | None:
    """Resident size of this process now, in bytes, or its largest so far where the system tells only that."""
    now = _status("VmRSS")
    return _resident_peak() if now is None else now


def _forget_peak() -> None:
    """Let the largest resident size begin anew at the present one, where Linux allows it: importing takes more memory
    than what is imported."""
    with suppress(OSError):
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")


def _status(name: str) -> int | None:
    """A figure of Linux about this process, in bytes; None elsewhere."""
    file = Path("/proc/self/status")
    found = re.search(rf"^{name}:\s*(\d+) kB", file.read_text(), flags=re.MULTILINE) if file.is_file() else None
    return int(found[1]) * 1024 if found else None


def _resident_peak() -> int | None:
    """Largest resident size of this process so far, in bytes; None where the system does not tell."""
    largest = _status("VmHWM")  # getrusage's figure on Linux still knows the parent's size
    if largest is not None:
        return largest
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
