"""A trained student, or a model prompted by boxes -> networks that run without torch, or without nnkd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnkd.boxes.calibration import read_pictures
from nnkd.boxes.export import DECODER, ENCODER, write_box_model
from nnkd.boxes.int8 import TOLERANCE, add_int8
from nnkd.boxes.model import DESCRIPTION as BOX_MODEL
from nnkd.errors import SettingError
from nnkd.networks.stock_models import FOLDER, write_stock_model
from nnkd.networks.student_export import DESCRIPTION as STUDENT
from nnkd.networks.student_export import write_student
from nnkd.plugin.teachers import BoxTeacher
from nnkd.replacing import Written
from nnkd.types import StepReport
from nnkd.weights.checkpoints import TrainedModel

FORMATS = ("onnx", "openvino", "nnunet")


def export(
    source: TrainedModel | Callable[[], BoxTeacher],
    target: Path,
    formats: Sequence[str],
    calibration: Path | None = None,
    tolerance: float = TOLERANCE,
    replace: bool = False,
) -> StepReport:
    """Write a model in some formats and compare each with PyTorch.

    Args:
        source: A student's trained model, or what makes a teacher whose parts are exported.
        target: Folder.
        formats: Some of `FORMATS`; "openvino" writes "onnx" too.
        calibration: Folder of pictures with which a box model's encoder is written in 8 bits too; None: it is not.
        tolerance: By how much the mean DSC may fall by that.
        replace: Whether files that nnkd did not write may be replaced.

    Raises:
        NnkdError: If the model cannot be loaded, written in a format, or answers otherwise afterwards; what is in the
            folder stays as it was then.
    """
    written = Written(target, replace)
    written.check(_files(source, formats))
    with written.staged() as folder:
        report = _export(source, folder, formats, calibration, tolerance)
    return report


def _files(source: TrainedModel | Callable[[], BoxTeacher], formats: Sequence[str]) -> list[str]:
    """What will be written at least, whatever the model."""
    if not isinstance(source, TrainedModel):
        return [BOX_MODEL, ENCODER, DECODER]
    networks = [f"fold_{fold}{ending}" for fold in source.folds for ending in (".onnx", ".xml", ".bin")]
    return [STUDENT, *networks] if set(formats) - {"nnunet"} else []


def _export(
    source: TrainedModel | Callable[[], BoxTeacher],
    target: Path,
    formats: Sequence[str],
    calibration: Path | None,
    tolerance: float,
) -> StepReport:
    report = StepReport()
    if not isinstance(source, TrainedModel):
        if "nnunet" in formats:
            raise SettingError("nnU-Net has no models prompted by boxes. Leave the format nnunet out.")
        if calibration is not None:
            pictures, counted = read_pictures(calibration)
            report.folders.append(counted)
        report.lines += write_box_model(source().export_graphs(), target, openvino="openvino" in formats)
        if calibration is not None:
            report.lines += add_int8(target, pictures, tolerance)
        return report
    if calibration is not None:
        raise SettingError("8 bits are for models prompted by boxes. Leave --int8 out.")
    if "nnunet" in formats:  # first: it is refused sooner than networks are written
        report.lines += write_stock_model(source, target / FOLDER)
    if set(formats) - {"nnunet"}:
        report.lines += write_student(source, target, openvino="openvino" in formats)
    return report
