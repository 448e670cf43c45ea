"""nnKD_weights: published checkpoints of teachers; list, fetch, verify and import them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnkd.cli import command
from nnkd.types import StepReport
from nnkd.weights.store import WeightStore, find, known

COLUMNS = ("name", "MB", "licence", "there", "teacher and options", "paper")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = command.parser(
        "Published checkpoints of teachers: list those that nnkd knows, fetch one, verify what is there, or import a\n"
        "file that you downloaded yourself. They are kept in $nnKD_cache/weights (by default in your cache folder),\n"
        "where the teachers find them. fetch is the only command of nnkd that opens a connection.",
        "nnKD_weights fetch medsam\n         nnKD_weights import ~/Downloads/sam_vit_b_01ec64.pth",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="list|fetch|verify|import", required=True)
    listing = verbs.add_parser("list", help="the table: names, sizes, licences, papers, and what is there")
    listing.add_argument("--json", action="store_true", help="print all columns as JSON")
    fetch = verbs.add_parser("fetch", help="download a checkpoint, or the rest of it, and check it")
    fetch.add_argument("name", metavar="NAME", help="its name (nnKD_weights list)")
    verbs.add_parser("verify", help="compare every file that is there with its size and sha256")
    taking = verbs.add_parser("import", help="recognise a file by its sha256 or name, check it and copy it")
    taking.add_argument("file", metavar="FILE", type=Path)
    taking.add_argument("--as", metavar="NAME", dest="name", help="which checkpoint it is, where no sha256 can tell")
    taking.add_argument("--replace", action="store_true", help="also where another file of that name is there")
    return command.run(_act, parser.parse_args(argv))


def _act(arguments: argparse.Namespace) -> StepReport | int:
    store = WeightStore()
    if arguments.verb == "fetch":
        return _fetch(arguments.name, store)
    if arguments.verb == "verify":
        return _verify(store)
    if arguments.verb == "import":
        taken = store.take_in(arguments.file.expanduser(), arguments.name, arguments.replace)
        checked = "checked by its sha256" if taken.sha256 else "taken at its word, since no sha256 of it is published"
        return StepReport(
            done=[taken.name],
            lines=[f"{taken.name} ({taken.title}), {checked}; licence: {taken.licence}. {taken.remark}".rstrip()],
        )
    print("\n".join(_json(store) if arguments.json else _table(store)))
    return command.DONE


def _table(store: WeightStore) -> Iterable[str]:
    rows = [COLUMNS]
    for checkpoint in known():
        options = " ".join(f"{checkpoint.teacher}.{key}={value}" for key, value in checkpoint.options.items())
        size = "?" if checkpoint.size is None else f"{checkpoint.size / 1e6:.0f}"
        used = options or checkpoint.teacher
        rows.append((checkpoint.name, size, checkpoint.licence, store.state(checkpoint), used, checkpoint.paper))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield f"kept in {store.folder}"


def _json(store: WeightStore) -> Iterable[str]:
    rows = [{**dataclasses.asdict(checkpoint), "there": store.state(checkpoint)} for checkpoint in known()]
    yield json.dumps(rows, indent=2, ensure_ascii=False)


def _verify(store: WeightStore) -> int:
    verdicts = store.verify()
    for verdict in verdicts:
        print(f"{'WRONG' if verdict.problem else 'ok   '}  {verdict.file}: {verdict.text}")
    if not verdicts:
        print(f"nothing is there yet ({store.folder})")
    return command.ERROR if any(verdict.problem for verdict in verdicts) else command.DONE


def _fetch(name: str, store: WeightStore) -> StepReport:
    from tqdm import tqdm

    from nnkd.steps.weights import fetch_weights

    checkpoint = find(name)
    with tqdm(desc=checkpoint.file, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def progress(there: int, whole: int | None) -> None:
            bar.total = whole
            bar.update(there - bar.n)

        return fetch_weights(checkpoint, store, announce=lambda line: print(line, file=sys.stderr), progress=progress)
