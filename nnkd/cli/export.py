"""nnKD_export: trained models for programs without torch, or without nnkd."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.errors import NnkdError, SettingError, UnknownNameError, WeightsError
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.plugin.teachers import BoxTeacher
    from nnkd.weights.checkpoints import TrainedModel

FORMATS = ("onnx", "openvino", "nnunet")
OF_FILES = "litemedsam"  # the teacher that reads a checkpoint given with --model


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if sum((arguments.m is not None, arguments.model is not None, arguments.d is not None)) != 1:
        parser.error("name one model: -d DATASET -c CONFIGURATION (with -tr and -p), or -m FOLDER, or --model")
    if arguments.d is not None and arguments.c is None:
        parser.error("-d goes with -c CONFIGURATION")
    if not 0 <= arguments.tolerance <= 1:
        parser.error(f"--tolerance is {arguments.tolerance:g}, but a DSC from 0 to 1 is expected")
    return command.run(_export, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "Write a trained student, or a model prompted by boxes, as ONNX, as OpenVINO's files, or as a model of nnU-Net "
        "without nnkd;\nwith a JSON that says what to do before and after. Every written network is compared with "
        "PyTorch.",
        "nnKD_export -d 701 -tr nnUNetTrainerUNet -p nnUNetPlans_mean_1a2b3c -c 2d -f 0 -o exported --format onnx",
    )
    add = parser.add_argument
    add("-d", help="dataset id or name; with -tr -p -c it names a student")
    add("-tr", default="nnUNetTrainerKD", help="trainer (default: nnUNetTrainerKD)")
    add("-p", default="nnUNetPlans", help="plans or recipe (default: nnUNetPlans)")
    add("-c", help="configuration")
    add("-m", type=Path, metavar="FOLDER", help="the trained model's folder, instead of -d -tr -p -c")
    add("-f", nargs="+", metavar="FOLD", help="folds (default: all that are trained)")
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: checkpoint_final.pth)")
    add("--model", metavar="NAME|FILE", help="instead of a student: a teacher prompted by boxes, or a checkpoint of "
        "LiteMedSAM or a student of it")  # fmt: skip
    add("-o", type=Path, required=True, metavar="OUT", help="folder to write to")
    add("--format", nargs="+", choices=FORMATS, default=["onnx"], metavar="FORMAT", help="some of onnx, openvino "
        "(ONNX beside it) and nnunet, for students with the network that nnU-Net plans (default: onnx)")  # fmt: skip
    add("--int8", action="store_true", help="also write a box model's encoder in 8 bits; needs --calibration")
    add("--calibration", type=Path, metavar="FOLDER", help="four images or more of the kinds to be segmented: MedSAM's "
        "npz with gts, a raw dataset with imagesTr and labelsTr, or images alone")  # fmt: skip
    add("--tolerance", type=float, default=0.01, metavar="DSC", help="refuse 8 bits if the mean DSC of the calibration "
        "images falls by more (default: 0.01)")  # fmt: skip
    command.add_replace(parser)
    command.add_allow_architecture(parser)
    return parser


def _export(arguments: argparse.Namespace) -> StepReport:
    if arguments.int8 != (arguments.calibration is not None):
        raise SettingError("--int8 and --calibration FOLDER go together: 8 bits are chosen and checked with images.")
    source = _teacher_of(arguments) if arguments.model is not None else _trained(arguments)

    from nnkd.steps.export import export

    how = (arguments.calibration, arguments.tolerance, arguments.replace)
    report = export(source, arguments.o, arguments.format, *how)
    report.lines.append(f"written to {arguments.o.name or '.'}: {', '.join(arguments.format)}")
    return report


def _trained(arguments: argparse.Namespace) -> TrainedModel | partial[BoxTeacher]:
    from nnkd import paths
    from nnkd.weights.checkpoints import TrainedModel

    folder = arguments.m
    if folder is None:
        name = f"{arguments.tr}__{arguments.p}__{arguments.c}"
        folder = paths.room("nnUNet_results") / paths.dataset_name(arguments.d) / name
    folds = arguments.f or TrainedModel.trained_folds(folder, arguments.chk) or ["0"]
    model = TrainedModel.open(folder, folds, arguments.chk)
    if len(folder.absolute().name.split("__")) < 3:
        raise NnkdError(
            f"'{folder.absolute().name}' is not called TRAINER__PLANS__CONFIGURATION, as nnU-Net calls trained models. "
            f"Give it the name back that it had."
        )
    teacher = _box_teacher(folder.absolute().name.partition("__")[0])
    if not teacher:
        return model
    if len(model.folds) > 1:
        raise NnkdError(
            f"{folder.absolute().name} is prompted by boxes, of which one fold is exported. Choose one with -f."
        )
    return _teacher(teacher, model.files()[0])


def _box_teacher(trainer: str) -> str:
    """The teacher that a trainer's checkpoints are weights of; empty for ordinary students."""
    from nnkd.plugin import registry
    from nnkd.plugin.students import Student

    plugins = registry.installed()
    if trainer not in plugins.names("student"):
        return ""
    student = plugins.load("student", trainer)
    return student.box_teacher if issubclass(student, Student) else ""


def _teacher_of(arguments: argparse.Namespace) -> partial[BoxTeacher]:
    """--model: a checkpoint, or a teacher's name."""
    given = Path(arguments.model)
    if given.is_dir():
        raise WeightsError(f"--model takes a teacher or a checkpoint, but '{given.name}' is a folder: name it with -m.")
    if given.is_file():
        return _teacher(OF_FILES, given)
    if given.name != arguments.model or given.suffix:
        raise WeightsError(f"There is no checkpoint '{given.name}' where --model says.")
    return _teacher(arguments.model, None)


def _teacher(name: str, weights: Path | None) -> partial[BoxTeacher]:
    from nnkd.plugin import registry

    registered = registry.installed().find("teacher", name)

    from nnkd.plugin.teachers import BoxTeacher
    from nnkd.types import TeacherContext

    found = registry.load_class("teacher", registered.entry, registered.distribution)
    if not issubclass(found, BoxTeacher):
        raise UnknownNameError(
            f"The teacher '{name}' is not prompted by boxes, so it cannot be exported. {OF_FILES} is, for example."
        )
    return partial(found, TeacherContext(()), **({} if weights is None else {"weights": weights}))
