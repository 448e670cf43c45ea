"""nnKD_predict_teachers: teachers segment imagesTr, imagesTs or any folder."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.errors import NnkdError, SettingError, UnknownNameError
from nnkd.plugin import options as settings
from nnkd.plugin import registry
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.data.dataset import Split
    from nnkd.teachers.jobs import TeacherJob


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = command.parser(
        "Let teachers segment a dataset's images: imagesTr -> teachersTr/ALIAS, with --test imagesTs -> "
        "teachersTs/ALIAS,\nor any folder with -i and -o. Finished cases are passed over, so a stopped run continues.",
        "nnKD_predict_teachers -d 701 -t atlas rigid=atlas --set atlas.number=5 rigid.registration=affine",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name; its labels are asked for")
    parser.add_argument(
        "-t", required=True, nargs="+", metavar="TEACHER",
        help="teachers (see nnKD_plugins); ALIAS=NAME runs one under another name, e.g. twice with other options",
    )  # fmt: skip
    parser.add_argument("--test", action="store_true", help="segment imagesTs instead of imagesTr")
    parser.add_argument("-i", metavar="FOLDER", type=Path, help="segment the images of this folder instead")
    parser.add_argument("-o", metavar="FOLDER", type=Path, help="where to write with -i: itself, or FOLDER/ALIAS with "
                        "several teachers")  # fmt: skip
    command.add_device(parser)
    command.add_parts(parser)
    parser.add_argument(
        "-np", type=int, default=int(os.environ.get("nnUNet_def_n_proc") or min(8, os.cpu_count() or 1)),
        help="processes or threads a teacher may use (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="TEACHER.OPTION=VALUE", dest="settings",
        help="options, by alias; every teacher of one channel also has channel=NAME or INDEX",
    )  # fmt: skip
    _add_boxes(parser)
    parser.add_argument("--dry_run", action="store_true", help="only say what would be done, how large it gets and "
                        "how long it takes, measured on each teacher's first case")  # fmt: skip
    parser.add_argument("--preview", type=int, default=0, metavar="N", help="only draw N cases, all teachers side by "
                        "side, into the dataset's folder preview (with -o into OUT/preview)")  # fmt: skip
    _add_resources(parser)
    parser.add_argument("--overwrite", action="store_true", help="start anew, also with other options than before")
    command.add_replace(parser)
    arguments = parser.parse_args(argv)
    if (arguments.i is None) != (arguments.o is None) or (arguments.test and arguments.i is not None):
        parser.error("-i and -o belong together, and --test goes without them")
    if arguments.np < 1:
        parser.error("-np must be at least 1")
    if arguments.preview < 0 or (arguments.max_memory is not None and not 0 < arguments.max_memory < float("inf")):
        parser.error("--preview and --max_memory must be above 0")
    if arguments.ray_address and arguments.executor != "ray":
        parser.error("--ray_address goes with --executor ray")
    return command.run(_predict, arguments)


def _add_resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max_memory", type=float, metavar="GIB", help="refuse cases that take more, and take no more "
                        "of a GPU's memory (default: no limit)")  # fmt: skip
    parser.add_argument("--executor", choices=("here", "ray"), default="here", help="do the cases in this process, or "
                        "on the nodes of a Ray cluster (default: here)")  # fmt: skip
    parser.add_argument("--ray_address", metavar="ADDRESS", help="of the Ray cluster, such as auto or 10.0.0.1:6379; "
                        "without it one is started on this machine")  # fmt: skip


def _add_boxes(parser: argparse.ArgumentParser) -> None:
    boxes = parser.add_argument_group("boxes, for teachers that are prompted by them")
    boxes.add_argument(
        "--boxes-from", metavar="TEACHER|FILE|labels",
        help="a teacher that needs no boxes (of the same call, or run before); a JSON file "
        "{case: {label: [[z0, y0, x0, z1, y1, x1], ...]}}, or [z, y0, x0, y1, x1] for one slice, or [y0, x0, y1, x1] "
        "in a picture: indices of the stored array, upper bounds excluded; or 'labels': reference labels, for "
        "measurements only, and marked as such",
    )  # fmt: skip
    boxes.add_argument("--box_margin", type=float, default=0.0, metavar="MM",
                       help="added around the mask on all sides (default: 0)")  # fmt: skip
    boxes.add_argument("--box_jitter", type=float, default=0.0, metavar="MM",
                       help="move each side in or out by up to this much (default: 0)")  # fmt: skip
    boxes.add_argument("--box_min_area", type=float, default=0.0, metavar="MM2",
                       help="no box around less than this in a slice (default: 0)")  # fmt: skip
    boxes.add_argument("--box_each", choices=("slice", "component"), default="slice",
                       help="one box around all of a label in a slice, or around each connected component "
                       "(default: slice)")  # fmt: skip


def _predict(arguments: argparse.Namespace) -> StepReport:
    classes = _classes(arguments.t)  # an unknown name is answered before anything heavy is imported
    given = _settings(arguments.settings, list(classes))

    from dataclasses import replace

    from nnkd.data.dataset import ImageFolder, RawDataset
    from nnkd.steps.predict_teachers import predict_teachers
    from nnkd.teachers.jobs import TeacherRequest
    from nnkd.teachers.prompts import BoxDrawing

    dataset = RawDataset.open(arguments.d)
    split: Split = "Ts" if arguments.test else "Tr"
    images = dataset.images(split) if arguments.i is None else ImageFolder(arguments.i, dataset.spec)
    jobs = []
    for alias, registered in classes.items():
        folder = dataset.teachers_folder(split) / alias
        if arguments.o is not None:
            folder = arguments.o if len(classes) == 1 else arguments.o / alias
        jobs.append(replace(_job(alias, registered, given.get(alias, {}), folder), replace=arguments.replace))
    request = TeacherRequest(
        jobs,
        dataset,
        images,
        cases=command.part_of(images.cases(), arguments),
        listing=images.listing.part(arguments.part_id, arguments.num_parts).told(arguments.o),
        device=arguments.device,
        workers=arguments.np,
        boxes_from=arguments.boxes_from,
        drawing=BoxDrawing(
            margin=arguments.box_margin,
            jitter=arguments.box_jitter,
            min_area=arguments.box_min_area,
            each=arguments.box_each,
        ),
        overwrite=arguments.overwrite,
        replace=arguments.replace,
        dry_run=arguments.dry_run,
        preview=arguments.preview,
        preview_folder=None if arguments.o is None else arguments.o / "preview",
        max_memory=arguments.max_memory,
        executor=arguments.executor,
        ray_address=arguments.ray_address,
    )
    return predict_teachers(request)


def _classes(items: Sequence[str]) -> dict[str, registry.Registered]:
    """Registered teachers by alias.

    Raises:
        UnknownPluginError: If a name is unknown.
        SettingError: If an alias is no folder name, or comes twice.
    """
    found: dict[str, registry.Registered] = {}
    for item in items:
        alias, equals, name = item.partition("=")
        if not re.fullmatch(r"\w[\w-]*", alias):
            raise SettingError(f"-t got '{item}', but '{alias}' is no name for a folder: use letters, digits, _ and -.")
        if alias in found:
            raise SettingError(f"-t got '{alias}' twice. Call one of them otherwise, e.g. {alias}2={name or alias}.")
        found[alias] = registry.installed().find("teacher", name if equals else alias)
    return found


def _settings(items: Sequence[str], aliases: Sequence[str]) -> dict[str, dict[str, str]]:
    """Options by alias.

    Raises:
        SettingError: If one belongs to no teacher.
        UnknownNameError: If one belongs to a teacher that is not chosen.
    """
    given = settings.split_settings(items)
    for owner, options in given.items():
        if not owner:
            option = next(iter(options))
            raise SettingError(f"--set got '{option}' without its teacher; write e.g. {aliases[0]}.{option}=...")
        if owner not in aliases:
            raise UnknownNameError(f"--set names the teacher '{owner}', but chosen with -t are {', '.join(aliases)}.")
    return given


def _job(alias: str, registered: registry.Registered, given: dict[str, str], folder: Path) -> TeacherJob:
    from nnkd.teachers.jobs import TeacherJob

    teacher = registry.load_class("teacher", registered.entry, registered.distribution)
    options = {name: value for name, value in given.items() if name != "channel"}
    if "channel" in settings.options_of(teacher):
        raise NnkdError(f"The teacher '{alias}' has an option 'channel' of its own, which is nnkd's. Rename it.")
    return TeacherJob(
        alias=alias,
        teacher=teacher,
        entry=registered.entry,
        folder=folder,
        options=settings.parse_options(teacher, options, alias),
        channel=given.get("channel"),
        distribution=registered.distribution,
    )
