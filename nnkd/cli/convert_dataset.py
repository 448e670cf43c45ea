"""nnKD_convert_dataset: somebody's download -> nnUNet_raw."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from nnkd.cli import command
from nnkd.errors import UnknownNameError

PACKAGE = "nnkd_dataset_conversion"


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to a conversion; returns the exit code."""
    found = conversions()
    parser = command.parser(
        "Convert a data set to nnU-Net's layout (nnUNet_raw). Conversions:\n" + _listing(found),
        "nnKD_convert_dataset msd Task04_Hippocampus.tar -d 704 -n Hippocampus",
    )
    parser.add_argument("conversion", nargs="?", metavar="NAME", help="see above; NAME --help tells its arguments")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of that conversion")
    arguments = parser.parse_args(argv)
    if arguments.conversion is None:
        parser.print_help()
        return command.DONE
    return command.run(lambda known: _run(known, found), arguments)


def conversions() -> dict[str, str]:
    """The first line of each conversion's docstring by name; a conversion is a module with convert() and main().

    None is imported: most need SimpleITK.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations or [] if spec else []
    files = sorted(file for place in places for file in Path(place).glob("*.py"))
    found = {}
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if {"convert", "main"} <= functions:
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _run(arguments: argparse.Namespace, found: dict[str, str]) -> int:
    name = arguments.conversion.lower().replace("-", "_")
    if name not in found:
        close = get_close_matches(name, found, n=1)
        raise UnknownNameError(
            f"There is no conversion '{arguments.conversion}'{f'; is it {close[0]}?' if close else '.'} "
            f"There are {', '.join(found)}."
        )
    return importlib.import_module(f"{PACKAGE}.{name}").main(arguments.arguments)


def _listing(found: dict[str, str]) -> str:
    width = max(map(len, found), default=0)
    return "\n".join(f"  {name:{width}}  {line}" for name, line in found.items())
