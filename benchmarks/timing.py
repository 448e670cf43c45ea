"""Times of several ways to do the same, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def measure(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each repeat of each way, interleaved; the first round, which warms up, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds
