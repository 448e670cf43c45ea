"""nnKD_segment_boxes: images and boxes -> label maps, without torch where OpenVINO or ONNX Runtime is installed."""

from __future__ import annotations

import argparse
import logging
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.errors import NnkdError, SettingError, UnknownNameError, WeightsError
from nnkd.processes import python
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.boxes.model import OpenedBoxModel

DEFAULT = "litemedsam"
EXPORT = "import sys; from nnkd.cli.export import main; sys.exit(main(sys.argv[1:]))"
GIB = 2**30
log = logging.getLogger("nnkd")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = command.parser(
        "Segment what lies in boxes: MedSAM's npz (imgs, boxes), NIfTI, NRRD, MHA, PNG, JPG, BMP and TIF -> label maps "
        "of the same kind and\na manifest. A volume's box is followed from its middle slice outwards. Finished images "
        "are passed over, so a stopped run\ncontinues.",
        "nnKD_segment_boxes -i scans -o masks --boxes boxes.json --modality CT",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="IN", help="an image, or a folder of them, of one "
                        "kind; or a folder or zip of DICOM series")  # fmt: skip
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="a folder for the label maps")
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE",
        help="JSON {case: {label: [[z0, y0, x0, z1, y1, x1], ...]}}, or [z, y0, x0, y1, x1] for one slice, or "
        "[y0, x0, y1, x1] in a picture: indices of the stored array, upper bounds excluded (default: the npz's own)",
    )  # fmt: skip
    parser.add_argument("--boxes_from_gts", action="store_true", help="boxes around an npz's own gts, for measurements "
                        "only, and marked as such")  # fmt: skip
    parser.add_argument(
        "--model", default=DEFAULT, metavar="NAME|FILE|FOLDER",
        help="a teacher prompted by boxes, a checkpoint of LiteMedSAM or a student of it, or what nnKD_export wrote "
        "(default: %(default)s)",
    )  # fmt: skip
    _add_computing(parser)
    _add_intensities(parser)
    command.add_dicom(parser)
    parser.add_argument("--overwrite", action="store_true", help="start anew, also with other options than before")
    command.add_replace(parser)
    arguments = parser.parse_args(argv)
    if arguments.threads is not None and arguments.threads < 1:
        parser.error("--threads must be at least 1")
    if not 0 < arguments.max_memory < float("inf"):
        parser.error("--max_memory must be a number above 0")
    return command.run(_segment, arguments)


def _add_computing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime", choices=("auto", "onnxruntime", "openvino", "torch"), default="auto",
        help="what computes (default: auto: openvino, else onnxruntime, else torch, whichever is installed)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="of the image encoder; int8: of "
                        "a model that was exported with it (default: fp32)")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="how many compute (default: all cores)")
    parser.add_argument("--max_memory", type=float, default=2.0, metavar="GIB", help="for embeddings of slices that "
                        "are needed again, 4 MiB each (default: 2)")  # fmt: skip
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), help="where torch computes (default: cpu); another "
                        "one than the CPU means --runtime torch")  # fmt: skip


def _add_intensities(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("volumes")
    group.add_argument("--modality", default="", help="such as CT or MRI (default: the first channel of a dataset.json "
                       "beside the images, else guessed and said)")  # fmt: skip
    group.add_argument(
        "--window", metavar="NAME|LEVEL,WIDTH|FILE",
        help="CT window: soft_tissue, lung, bone, two numbers in HU, or a JSON file by label (default: as labels' "
        "names suggest)",
    )  # fmt: skip
    group.add_argument("--slices", choices=("axial", "stored"), default="axial", help="which slices are segmented: "
                       "axial ones, or those along the stored array's first axis (default: axial)")  # fmt: skip


def _segment(arguments: argparse.Namespace) -> StepReport:
    from nnkd.boxes.runs import BoxJob
    from nnkd.steps.segment_boxes import segment_boxes

    job = BoxJob(
        source=arguments.i,
        target=arguments.o,
        boxes=arguments.boxes,
        from_reference=arguments.boxes_from_gts,
        modality=arguments.modality,
        window=arguments.window,
        slices=arguments.slices,
        memory=int(arguments.max_memory * GIB),
        wanted=command.dicom_of(arguments),
        replace=arguments.replace,
    )
    return segment_boxes(job, partial(_open_model, arguments), arguments.overwrite)


def _open_model(arguments: argparse.Namespace) -> OpenedBoxModel:
    """The model, on the runtime that was asked for or is there."""
    from nnkd.boxes.cache import is_exported, kept, weights_of

    model, runtime = arguments.model, _runtime(arguments)
    if Path(model).is_dir() and (model != DEFAULT or is_exported(model)):  # a folder may be called as the default is
        if not is_exported(model):
            raise WeightsError(
                f"The folder '{Path(model).absolute().name}' has no box_model.json, so nnKD_export has not written it. "
                f"Name a checkpoint in it, or export that first."
            )
        if runtime == "torch":
            raise SettingError("--runtime torch computes checkpoints, but --model names an exported folder.")
        return _exported(arguments, runtime, "")
    if runtime == "torch":
        return _on_torch(arguments)
    digest = weights_of(model)
    if not digest or not is_exported(str(kept(digest))):
        _check_model(model)  # before anything heavy
    if digest:
        try:
            return _exported(arguments, runtime, digest)
        except NnkdError as error:
            if arguments.runtime != "auto" or arguments.precision != "fp32":
                raise
            log.warning("%s torch computes instead.", error)
    elif arguments.runtime != "auto":
        raise SettingError(f"The model '{model}' has no published weights that could be exported: say --runtime torch.")
    return _on_torch(arguments)


def _runtime(arguments: argparse.Namespace) -> str:
    from nnkd.networks import runtimes

    if arguments.device not in (None, "cpu"):
        if arguments.runtime not in ("auto", "torch"):
            raise SettingError(
                f"--runtime {arguments.runtime} computes on the CPU, but -device says {arguments.device}."
            )
        return "torch"
    return next(iter(runtimes.installed()), "torch") if arguments.runtime == "auto" else arguments.runtime


def _threads(arguments: argparse.Namespace) -> int:
    from nnkd.devices import cores

    return arguments.threads or cores()


def _check_model(model: str) -> None:
    """Make sure that there is such a file or teacher.

    Raises:
        WeightsError: If it looks like a file and is none.
        UnknownPluginError: If it is no teacher's name; the message names the closest one.
    """
    from nnkd.plugin import registry

    if Path(model).is_file():
        return
    if Path(model).name != model or Path(model).suffix:
        raise WeightsError(f"There is no checkpoint '{Path(model).name}' where --model says.")
    registry.installed().find("teacher", model)


def _exported(arguments: argparse.Namespace, runtime: str, digest: str) -> OpenedBoxModel:
    """Without torch; exported first if need be. An empty digest: --model is the folder."""
    from nnkd.boxes.cache import exported
    from nnkd.boxes.model import BoxModelFolder, ExportedBoxModel, OpenedBoxModel
    from nnkd.paths import cache_folder

    described = exported(arguments.model, digest, _export) if digest else BoxModelFolder.read(Path(arguments.model))
    cache = cache_folder() / "openvino"
    model = ExportedBoxModel(described, runtime, _threads(arguments), arguments.precision, cache)
    return OpenedBoxModel(
        model=model,
        name=described.name,
        runtime=runtime,
        precision=arguments.precision,
        weights=(described.weights,),
    )


def _export(model: str, folder: Path) -> None:
    """nnKD_export in a process of its own, so that torch is never imported in this one."""
    words = python(EXPORT, "--model", model, "--format", "onnx", "-o", str(folder))
    run = subprocess.run(words, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        said = (run.stderr.strip() or run.stdout.strip()).splitlines()
        reason = said[-1].removeprefix("error: ") if said else f"exit code {run.returncode}"
        raise WeightsError(f"{Path(model).name} could not be exported: {reason.rstrip('.')}.")


def _on_torch(arguments: argparse.Namespace) -> OpenedBoxModel:
    from nnkd.boxes.model import OpenedBoxModel, TeacherBoxModel
    from nnkd.devices import check_device
    from nnkd.plugin import registry
    from nnkd.plugin.teachers import BoxTeacher
    from nnkd.types import TeacherContext

    _check_model(arguments.model)
    if arguments.precision != "fp32":
        raise SettingError(f"--precision {arguments.precision} is for exported models; torch computes in fp32.")
    device, file = arguments.device or "cpu", Path(arguments.model)
    check_device(device)
    registered = registry.installed().find("teacher", DEFAULT if file.is_file() else arguments.model)
    found = registry.load_class("teacher", registered.entry, registered.distribution)
    if not issubclass(found, BoxTeacher):
        raise UnknownNameError(f"The teacher '{arguments.model}' is not prompted by boxes. {DEFAULT} is, for example.")
    context = TeacherContext((), device, None, _threads(arguments))
    teacher = found(context, **({"weights": file} if file.is_file() else {}))
    return OpenedBoxModel(
        model=TeacherBoxModel(teacher),
        name=registered.entry.name,
        runtime="torch",
        weights=teacher.weights(),
        licence=registered.entry.licence,
        distribution=registered.distribution,
    )
