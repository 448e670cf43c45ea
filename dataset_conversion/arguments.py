"""Command lines of conversions: the arguments all of them share, and words such as anterior=1."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from nnkd_dataset_conversion.target import Target

from nnkd.cli import command
from nnkd.errors import SettingError
from nnkd.types import StepReport


def parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser that knows what all conversions take.

    Args:
        name: The conversion's name.
        description: What it reads; the module's docstring.
        example: What follows the name in a whole command line.
    """
    made = command.parser(description, f"nnKD_convert_dataset {name} {example}")
    made.prog = f"nnKD_convert_dataset {name}"
    made.add_argument("source", type=Path, help="the folder (or file) to convert; it is only read")
    made.add_argument("-d", dest="dataset", required=True, help="id (701) or full name (Dataset701_Name) it gets")
    made.add_argument("-n", dest="name", default="", help="name, if -d is an id")
    made.add_argument("-np", dest="workers", type=int, default=2, help="threads (default: 2)")
    made.add_argument("--licence", default="", help="licence of the data, for dataset.json")
    made.add_argument("--reference", default="", help="where the data come from, for dataset.json")
    made.add_argument("--participants", type=Path, help=".tsv or .csv with participant_id, sex, age, bmi ...")
    made.add_argument("--cases", dest="cases_table", type=Path, help=".tsv or .csv with case, participant_id")
    command.add_replace(made)
    return made


def add_validation(to: argparse.ArgumentParser, folder: str) -> None:
    """--validation: where a published validation part goes."""
    to.add_argument(
        "--validation", choices=("train", "test"), default="train", help=f"what {folder} become (default: train)"
    )


def run(convert: Callable[..., StepReport], made: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, convert, print the report and return the exit code.

    Args:
        convert: Called as convert(source, target, **further), where `further` are the parser's other arguments.
        made: The parser.
        argv: The command line; None: that of the process.
    """
    further = vars(made.parse_args(argv))
    target = {field.name: further.pop(field.name) for field in fields(Target)}
    source = further.pop("source")
    return command.run(lambda _: convert(source, Target(**target), **further), argparse.Namespace())


def parse_labels(words: Sequence[str]) -> dict[str, int]:
    """Integers by label name from words such as anterior=1; a word without "=" gets the next integer, from 1.

    Raises:
        SettingError: If a word has another form, or a name or integer comes twice.
    """
    found: dict[str, int] = {}
    for word in words:
        name, _, number = word.partition("=")
        number = number or str(max(found.values(), default=0) + 1)
        if not name or not number.isdigit():
            raise SettingError(f"'{word}' is no label; write NAME=INTEGER, such as liver=1.")
        if name in found or int(number) in found.values():
            raise SettingError(f"'{word}' names a label or an integer that is taken. Give each its own.")
        found[name] = int(number)
    return found


def parse_values(words: Sequence[str]) -> dict[int, str]:
    """Label names by the value in a file from words such as 255=nucleus.

    Raises:
        SettingError: If a word has another form, or a value comes twice.
    """
    found: dict[int, str] = {}
    for word in words:
        value, _, name = word.partition("=")
        if not name or not value.isdigit() or int(value) in found:
            raise SettingError(f"'{word}' is no value of a mask, or the second of it; write VALUE=LABEL (255=nucleus).")
        found[int(value)] = name
    return found


class Labels(argparse.Action):
    """Turns the words after an option into integers by label name; a wrong one is a usage error (exit code 2)."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, *_: object):
        """Store `parse_labels(values)`."""
        try:
            setattr(namespace, self.dest, parse_labels(values))  # type: ignore[arg-type]  # nargs="+": a list of words
        except SettingError as error:
            parser.error(str(error))


class Values(argparse.Action):
    """Turns the words after an option into label names by value; a wrong one is a usage error (exit code 2)."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, *_: object):
        """Store `parse_values(values)`."""
        try:
            setattr(namespace, self.dest, parse_values(values))  # type: ignore[arg-type]  # nargs="+": a list of words
        except SettingError as error:
            parser.error(str(error))
