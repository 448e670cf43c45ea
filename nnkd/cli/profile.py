"""nnKD_profile: what students' and teachers' networks cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.errors import BrokenPluginError, SettingError
from nnkd.plugin import options as settings
from nnkd.plugin import registry
from nnkd.types import Kind, StepReport

if TYPE_CHECKING:
    from nnkd.networks.profiles import Subject


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if len(arguments.size) not in (2, 3):
        parser.error(f"--size takes two numbers (2D) or three (3D), but got {len(arguments.size)}")
    if arguments.settings and arguments.tr is None:
        parser.error("--set sets options of a student: it goes with -tr")
    return command.run(_profile, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "Count the parameters and multiply-adds of networks, also as the papers counted them, and measure their "
        "latency\nand memory. Nothing is read or written, and no weights are needed.",
        "nnKD_profile -tr nnUNetTrainerUNet --size 512 512 --set norm=none -device cpu",
    )
    add = parser.add_argument
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("-tr", metavar="NAME", help="a student (see nnKD_plugins)")
    whose.add_argument("--teacher", metavar="NAME", help="a teacher; its images have the size it was made for")
    whose.add_argument("--all", action="store_true", help="all students and teachers; where there is nothing to count, "
                       "the reason")  # fmt: skip
    add("--size", type=_positive, nargs="+", default=[512, 512], metavar="N",
        help="of the students' images, two numbers or three (default: 512 512)")  # fmt: skip
    add("--channels", type=_positive, default=1, metavar="N", help="of the students' images (default: 1)")
    add("--labels", type=_positive, default=1, metavar="N", help="that students segment (default: 1)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="the student's options, as for nnKD_train (norm=none)")  # fmt: skip
    add("--variant", metavar="NAME", help="only this row (default, paper, vit_b ...)")
    add("--no_latency", action="store_true", help="count only: takes seconds and next to no memory")
    add("--threads", type=_positive, default=1, metavar="N", help="torch's, on the CPU (default: 1)")
    add("--runs", type=_positive, default=5, metavar="N", help="timed ones; fewer if these take longer than 30 s "
        "(default: 5)")  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of a table")
    command.add_device(parser)
    return parser


def _positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got '{text}', but expects a whole number from 1 on")
    return int(text)


def _profile(arguments: argparse.Namespace) -> StepReport | int:
    subjects = _subjects(arguments)

    from nnkd.steps.profile import profile

    report = profile(
        subjects,
        variant=arguments.variant,
        timed=not arguments.no_latency,
        device=arguments.device,
        number_of_threads=arguments.threads,
        runs=arguments.runs,
    )
    if not arguments.json:
        return report
    print(json.dumps(report.data, indent=2, ensure_ascii=False))
    return command.DONE


def _subjects(arguments: argparse.Namespace) -> list[Subject]:
    """Whose networks. An unknown name is answered before anything heavy is imported."""
    plugins = registry.installed()
    if arguments.all:
        chosen = [*plugins.of_kind("student"), *plugins.of_kind("teacher")]
    else:
        kind: Kind = "teacher" if arguments.tr is None else "student"
        chosen = [plugins.find(kind, arguments.teacher or arguments.tr)]
    options = settings.split_settings(arguments.settings)
    strange = next((owner for owner in options if owner not in ("", arguments.tr)), None)
    if strange is not None:
        raise SettingError(f"--set names '{strange}', but only options of {arguments.tr} change its network.")
    given = {**options.get("", {}), **options.get(arguments.tr, {})}
    return [_subject(registered, arguments, given) for registered in chosen]


def _subject(registered: registry.Registered, arguments: argparse.Namespace, options: dict[str, str]) -> Subject:
    from nnkd.networks.profiles import Subject

    target, problem = None, ""
    try:
        target = registry.load_class(registered.kind, registered.entry, registered.distribution)
    except BrokenPluginError as error:
        problem = str(error)
    return Subject(
        kind=registered.kind,
        name=registered.entry.name,
        target=target,
        problem=problem,
        size=tuple(arguments.size),
        channels=arguments.channels,
        labels=arguments.labels,
        options=options,
    )
