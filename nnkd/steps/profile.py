"""Students and teachers -> parameters, multiply-adds, latency and memory of their networks."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial

from tqdm import tqdm

from nnkd.devices import check_device
from nnkd.errors import NnkdError, UnknownNameError
from nnkd.networks.costs import COUNTED
from nnkd.networks.latency import measure
from nnkd.networks.profile_lines import lines_of
from nnkd.networks.profiles import Row, Subject
from nnkd.types import StepReport


def profile(
    subjects: Sequence[Subject],
    *,
    variant: str | None = None,
    timed: bool = True,
    device: str = "cpu",
    number_of_threads: int = 1,
    runs: int = 5,
) -> StepReport:
    """Count and time networks.

    Args:
        subjects: Whose. With one subject its error is raised; with several, each one's stands in its row.
        variant: Only the network of that name; None: all.
        timed: Whether to measure latency and memory.
        device: Where: "cuda", "cpu" or "mps".
        number_of_threads: torch's, on the CPU.
        runs: Timed ones.

    Returns:
        A table as lines; in `data`, "rows" with one dictionary each.

    Raises:
        NnkdError: If the one subject has nothing to count, or there is no such variant or device.
    """
    rows = _found(subjects, variant)
    if timed:
        check_device(device)
    timing = partial(measure, device=device, number_of_threads=number_of_threads, runs=runs) if timed else None
    with tqdm(rows, unit="network", leave=False, disable=None) as bar:
        rows = [row.measured(timing) for row in bar]
    if len(subjects) == 1 and all(row.counts is None for row in rows):
        raise NnkdError(rows[0].problems[0])
    return StepReport(lines=lines_of(rows, timed), data=_data(rows))


def _found(subjects: Sequence[Subject], variant: str | None) -> list[Row]:
    """What there is to count; nothing is counted yet."""
    rows = []
    for subject in subjects:
        try:
            rows += [Row(subject, i, architecture) for i, architecture in enumerate(subject.architectures())]
        except NnkdError as error:
            if len(subjects) == 1:
                raise
            rows.append(Row(subject, problems=(str(error),)))
    variants = sorted({row.architecture.variant for row in rows if row.architecture is not None})
    if variant is None or variant in variants:
        return [row for row in rows if variant is None or (row.architecture and row.architecture.variant == variant)]
    close = get_close_matches(variant, variants, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise UnknownNameError(f"There is no variant '{variant}'. There are: {', '.join(variants)}.{hint}")


def _data(rows: Sequence[Row]) -> dict[str, object]:
    import torch

    return {
        "counter": f"torch {torch.__version__.partition('+')[0]} flop_counter / 2: {COUNTED}",
        "rows": [row.as_data() for row in rows],
    }
