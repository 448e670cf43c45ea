"""nnKD_aggregate: teachers' votes -> labelsTr, or a prediction folder with any aggregator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnkd.cli import command
from nnkd.types import StepReport

DEFAULT = "majority"


def main(argv: Sequence[str] | None = None) -> int:
    """Aggregate and return the exit code."""
    parser = command.parser(
        "Turn the teachers' votes into one label map a case. With -d alone: teachersTr -> labelsTr and consensus.json, "
        "always the majority of the teachers (ties by agreement weights), whatever a recipe trains on; manual label "
        "maps in labelsTr stay, and a consensus that somebody edits counts as manual from then on. With -i and -o: any "
        "aggregator, for any other set of cases, into a prediction folder. Cases that are up to date are skipped.",
        "nnKD_aggregate -d 701 --review 5",
    )
    parser.add_argument(
        "-d", required=True, metavar="DATASET", help="dataset id or name; its dataset.json names the labels"
    )
    parser.add_argument(
        "-i", type=Path, metavar="TEACHERS", help="folder of the teachers' prediction folders; needs -o"
    )
    parser.add_argument("-o", type=Path, metavar="OUT", help="prediction folder to write; needs -i")
    parser.add_argument(
        "-a", metavar="AGGREGATOR", help=f"the rule, with -o only (default: {DEFAULT}; see nnKD_plugins)"
    )
    parser.add_argument(
        "-t", nargs="+", default=[], metavar="TEACHER", help="only these teachers (default: all there are)"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME.option=value",
        help=f"options of the aggregator, with -o only, such as {DEFAULT}.ties=no",
    )  # fmt: skip
    parser.add_argument(
        "--review", type=int, default=0, metavar="N", help="draw the N cases in which teachers differ most (without -o)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="also make cases that are up to date; never manual ones"
    )
    command.add_replace(parser)
    parser.add_argument("-np", type=int, default=1, metavar="N", help="number of cases at once (default: 1)")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return command.run(_run, arguments)


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if (arguments.i is None) != (arguments.o is None):
        parser.error("-i and -o go together: -i TEACHERS -o OUT")
    if arguments.o is None and (arguments.a or arguments.set):
        parser.error(
            "-a and --set go with -i TEACHERS -o OUT; labelsTr always holds the majority, so that recipes stay "
            "comparable"
        )
    if arguments.np < 1:
        parser.error("-np N is 1 or more")
    if arguments.review < 0 or (arguments.review and arguments.o is not None):
        parser.error("--review N goes without -o, and N is 0 or more")


def _run(arguments: argparse.Namespace) -> StepReport:
    from nnkd.data.dataset import RawDataset
    from nnkd.plugin.options import parse_options, split_settings
    from nnkd.plugin.registry import installed
    from nnkd.steps.aggregate import aggregate

    name = arguments.a or DEFAULT
    kind = installed().load("aggregator", name)
    options = parse_options(kind, _mine(split_settings(arguments.set), name), name)
    return aggregate(
        RawDataset.open(arguments.d),
        kind(**options),
        name=name,
        options=options,
        teachers=list(dict.fromkeys(arguments.t)),
        source=arguments.i,
        output=arguments.o,
        review=arguments.review,
        overwrite=arguments.overwrite,
        replace=arguments.replace,
        processes=arguments.np,
    )


def _mine(settings: dict[str, dict[str, str]], name: str) -> dict[str, str]:
    from nnkd.errors import SettingError

    others = [owner for owner in settings if owner not in ("", name)]
    if others:
        raise SettingError(f"--set names '{others[0]}', but this command has only the aggregator '{name}' to set.")
    return {**settings.get("", {}), **settings.get(name, {})}
