"""Rows of what networks cost, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from nnkd.networks.costs import COUNTED, Count
from nnkd.networks.papers import FVCORE, FVCORES_RULES, PaperCount
from nnkd.networks.profiles import Row
from nnkd.plugin.networks import Architecture

COLUMNS = ("name", "variant", "input", "parameters", "GMAC", "papers' way", "latency", "peak memory")
NUMBERS = COLUMNS[3:]


def lines_of(rows: Sequence[Row], timed: bool) -> list[str]:
    """A table of students, a table of teachers, notes, and how was counted.

    Args:
        rows: One a network.
        timed: Whether latency and memory were measured.
    """
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


def _who(row: Row) -> str:
    variant = row.architecture.variant if row.architecture is not None else ""
    return f"{row.subject.name} {variant}".strip()


def _table(rows: Sequence[Row], timed: bool) -> list[str]:
    columns = COLUMNS if timed else COLUMNS[:-2]
    cells = (_cells(row, row.architecture, row.counts) for row in rows if row.architecture and row.counts)
    texts = [columns, *(one[: len(columns)] for one in cells)]
    widths = [max(len(text[i]) for text in texts) for i in range(len(columns))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for cell, width, column in zip(text, widths, columns, strict=True)
        ).rstrip()
        for text in texts
    ]


def _cells(row: Row, architecture: Architecture, counts: Count) -> tuple[str, ...]:
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


def _notes(row: Row) -> list[str]:
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
