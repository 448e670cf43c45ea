"""Students and teachers -> parameters, multiply-adds, latency and memory of their networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

from tqdm import tqdm

from nnkd.devices import check_device
from nnkd.errors import NnkdError, UnknownNameError
from nnkd.networks import students
from nnkd.networks.costs import COUNTED, Count, count
from nnkd.networks.latency import Latency, measure
from nnkd.networks.papers import FVCORE, FVCORES_RULES, PaperCount, paper_count
from nnkd.plugin.networks import Architecture
from nnkd.plugin.teachers import Teacher
from nnkd.types import StepReport

COLUMNS = ("name", "variant", "input", "parameters", "GMAC", "papers' way", "latency", "peak memory")
NUMBERS = COLUMNS[3:]


@dataclass(frozen=True)
class Subject:
    """A student or a teacher to profile.

    Attributes:
        kind: "student" or "teacher".
        name: How it is registered.
        target: Its class; None if that could not be imported.
        problem: Why not.
        size, channels, labels, options: Of a student, see `nnkd.networks.students.architectures`.
    """

    kind: str
    name: str
    target: type | None
    problem: str = ""
    size: tuple[int, ...] = (512, 512)
    channels: int = 1
    labels: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def architectures(self) -> Sequence[Architecture]:
        """Its networks.

        Raises:
            NnkdError: If there are none; the message says why.
        """
        if self.target is None:
            raise NnkdError(self.problem)
        if issubclass(self.target, Teacher):
            return self.target.architectures()
        return students.architectures(self.target, self.name, self.size, self.channels, self.labels, self.options)

    def architecture(self, index: int) -> Architecture:
        """One of them; with `functools.partial` this is what another process can be handed."""
        return self.architectures()[index]


@dataclass(frozen=True)
class _Row:
    """A line of the table; what is None was not found out, and `problems` say why. `index` is the architecture's."""

    subject: Subject
    index: int = 0
    architecture: Architecture | None = None
    counts: Count | None = None
    papers: PaperCount | None = None
    latency: Latency | None = None
    problems: tuple[str, ...] = ()


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
        rows = [_profiled(row, timing) for row in bar]
    if len(subjects) == 1 and all(row.counts is None for row in rows):
        raise NnkdError(rows[0].problems[0])
    return StepReport(lines=_lines(rows, timed), data=_data(rows))


def _found(subjects: Sequence[Subject], variant: str | None) -> list[_Row]:
    """What there is to count; nothing is counted yet."""
    rows = []
    for subject in subjects:
        try:
            rows += [_Row(subject, i, architecture) for i, architecture in enumerate(subject.architectures())]
        except NnkdError as error:
            if len(subjects) == 1:
                raise
            rows.append(_Row(subject, problems=(str(error),)))
    variants = sorted({row.architecture.variant for row in rows if row.architecture is not None})
    if variant is None or variant in variants:
        return [row for row in rows if variant is None or (row.architecture and row.architecture.variant == variant)]
    close = get_close_matches(variant, variants, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise UnknownNameError(f"There is no variant '{variant}'. There are: {', '.join(variants)}.{hint}")


def _profiled(row: _Row, timing: Callable[..., Latency] | None) -> _Row:
    if row.architecture is None:
        return row
    made: dict[str, Any] = {}
    problems: list[str] = []
    steps: dict[str, Callable[[], object]] = {
        "counts": partial(count, row.architecture),
        "papers": partial(paper_count, row.architecture),
    }
    if timing is not None:
        steps["latency"] = partial(timing, partial(row.subject.architecture, row.index))
    for name, step in steps.items():
        try:
            made[name] = step()
        except NnkdError as error:
            problems.append(str(error))
            if name == "counts":
                break  # what cannot be built cannot be timed either
    return dataclasses.replace(row, problems=tuple(problems), **made)


# --- as text ----------------------------------------------------------------------------------------------------


def _lines(rows: Sequence[_Row], timed: bool) -> list[str]:
    lines, notes = [], []
    for kind, flag in (("student", "-tr"), ("teacher", "--teacher")):
        counted = [row for row in rows if row.subject.kind == kind and row.counts is not None]
        if counted:
            lines += [f"{kind}s ({flag})", *_table(counted, timed), ""]
        notes += [f"  {_who(row)}: {note}" for row in rows if row.subject.kind == kind for note in _notes(row)]
    if notes:
        lines += ["notes", *notes, ""]
    lines.append(f"GMAC: 10^9 multiply-adds of one run, by torch's counter: {COUNTED}.")
    ways = {row.papers.by for row in rows if row.papers is not None and row.papers.macs is not None}
    for by in sorted(ways - {FVCORES_RULES}):
        lines.append(
            f"papers' way: parameters and multiply-adds by {by}, which papers used and call FLOPs: layers that are "
            f"modules, norms included, and no attention."
        )
    if FVCORES_RULES in ways:
        lines.append(
            f"papers' way of rows with a note on {FVCORE}: all parameters, in 2^20, and multiply-adds by its rules, in "
            f"2^30: what torch's counter counts, and norms."
        )
    measured = next((row.latency for row in rows if row.latency is not None), None)
    if measured is not None:
        threads = f", {measured.threads} thread(s)" if measured.device == "cpu" else ""
        lines.append(
            f"latency: median of up to {max(row.latency.runs for row in rows if row.latency)} runs on "
            f"{measured.device}{threads}, float32, random weights. Peak memory: {measured.peak_is}."
        )
    return lines


def _who(row: _Row) -> str:
    variant = row.architecture.variant if row.architecture is not None else ""
    return f"{row.subject.name} {variant}".strip()


def _table(rows: Sequence[_Row], timed: bool) -> list[str]:
    columns = COLUMNS if timed else COLUMNS[:-2]
    texts = [columns, *(_cells(row)[: len(columns)] for row in rows)]
    widths = [max(len(text[i]) for text in texts) for i in range(len(columns))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for cell, width, column in zip(text, widths, columns, strict=True)
        ).rstrip()
        for text in texts
    ]


def _cells(row: _Row) -> tuple[str, ...]:
    counts, architecture = row.counts, row.architecture
    papers, latency = row.papers, row.latency
    return (
        row.subject.name,
        architecture.variant,
        ", ".join("x".join(map(str, shape)) for shape in architecture.inputs),
        f"{counts.parameters:,}",
        f"{counts.macs / 1e9:.2f}",
        _as_printed(papers) if papers is not None else "-",
        f"{latency.seconds * 1e3:.0f} ms" if latency else "-",
        f"{latency.peak / 2**20:.0f} MiB" if latency and latency.peak is not None else "-",
    )


def _as_printed(papers: PaperCount) -> str:
    if papers.parameters is None or papers.macs is None:
        return "-"
    return f"{papers.parameters / papers.kilo**2:.2f} M / {papers.macs / papers.kilo**3:.2f} G"


def _notes(row: _Row) -> list[str]:
    notes = list(row.problems)
    architecture = row.architecture
    if architecture is None or row.counts is None:
        return notes
    if architecture.graph != "forward pass":
        notes.append(f"what is run: {architecture.graph}")
    if row.papers is not None and row.papers.problem:
        notes.append(f"the papers' way is {row.papers.problem}")
    paper = architecture.paper
    if paper is not None:
        printed = " / ".join(filter(None, (paper.parameters, paper.macs)))
        counted = "all parameters" if paper.counted_parameters == "all" else "parameters that thop meets"
        if paper.counter == FVCORE:
            counted = f"counted with {FVCORE}, all parameters, M is 2^20 and G is 2^30"
        at = f" for {paper.at}" if paper.at else ""
        notes.append(f"{paper.source} prints {printed}{at}; {counted}" + (f"; {paper.remark}" if paper.remark else ""))
    return notes


# --- as data ----------------------------------------------------------------------------------------------------


def _data(rows: Sequence[_Row]) -> dict[str, object]:
    import torch

    return {
        "counter": f"torch {torch.__version__.partition('+')[0]} flop_counter / 2: {COUNTED}",
        "rows": [_as_data(row) for row in rows],
    }


def _as_data(row: _Row) -> dict[str, object]:
    made: dict[str, object] = {"kind": row.subject.kind, "name": row.subject.name}
    architecture = row.architecture
    if architecture is not None:
        made["variant"] = architecture.variant
        made["input"] = [list(shape) for shape in architecture.inputs]
        made["run"] = architecture.graph
    if row.counts is not None:
        made |= dataclasses.asdict(row.counts)
    made["papers_way"] = dataclasses.asdict(row.papers) if row.papers is not None else None
    paper = architecture.paper if architecture is not None else None
    made["paper"] = dataclasses.asdict(paper) if paper is not None else None
    made["latency"] = dataclasses.asdict(row.latency) if row.latency is not None else None
    made["problems"] = list(row.problems)
    return made
