"""How long a network takes and how much memory it needs, measured in a process of its own."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

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
NO_SUCH_FIGURE = "not measured: this system does not tell a process its largest resident size of late"


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
        forgotten = _forget_peak()
        before, highest = psutil.Process().memory_info().rss, _resident_peak()
        network = ready_network(described, device)
        inputs = random_inputs(described, device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = _time(network, inputs, device, runs)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        after = _resident_peak()
    how = HOW[device]
    if device == "cpu":
        told = after is not None and highest is not None and (forgotten or after > highest)
        peak = after - before if told else None  # else it may be what the process held before, and freed
        how = how if peak is not None else NO_SUCH_FIGURE
    return Latency(statistics.median(seconds), len(seconds), number_of_threads, device, peak, how)


def _import_what_it_needs(architecture: Architecture) -> None:
    """Build it once, without memory where that works: plugins import packages when they first build, and these are not
    what the network needs."""
    import torch

    for device in ("meta", "cpu"):
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


def _forget_peak() -> bool:
    """Let the largest resident size begin anew at the present one, where Linux allows it: importing takes more memory
    than what is imported. Returns whether it does."""
    try:
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")
            return True
    except OSError:
        pass
    return False


def _resident_peak() -> int | None:
    """Largest resident size of this process so far, in bytes, by the system's own counter; None where there is none.

    psutil has that counter on Windows alone, and looking at the size now and then misses what is there for a moment.
    """
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")  # on Linux: getrusage's figure there still knows the parent's size
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), flags=re.MULTILINE)):
        return int(found[1]) * 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
