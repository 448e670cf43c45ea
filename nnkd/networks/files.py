"""Networks written as files that run without torch: ONNX, and OpenVINO's own; and how far their answers are torch's."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnkd.errors import BrokenPluginError, SettingError, WeightsError, in_one_line
from nnkd.files import atomic
from nnkd.networks import runtimes

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20  # the first with GELU as one operation
INSTALL = 'pip install "nnkd[export]"'
NO_RUNTIME = f"An export is compared with PyTorch on OpenVINO or ONNX Runtime. Install one of them: {INSTALL}."
TALKATIVE = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")  # loggers that tell what they do


@dataclass(frozen=True)
class Difference:
    """How far two answers lie apart.

    Attributes:
        logits: The largest absolute difference.
        pixels: Where masks, logits > 0 or the largest head, differ.
        of: All pixels that were compared.
    """

    logits: float
    pixels: int
    of: int

    def __add__(self, other: Difference) -> Difference:
        return Difference(max(self.logits, other.logits), self.pixels + other.pixels, self.of + other.of)

    def note(self) -> dict[str, float | int]:
        """For a description."""
        return {"logits": float(f"{self.logits:.3g}"), "pixels": self.pixels, "of": self.of}

    def __str__(self) -> str:
        return f"logits differ by at most {self.logits:.1e}, masks in {self.pixels} of {self.of} pixels"


def check_packages(openvino: bool = False) -> None:
    """Make sure that networks can be written and compared, before anything expensive. None of it is imported.

    Args:
        openvino: Whether OpenVINO's own files are wanted.

    Raises:
        SettingError: If a package is not installed.
    """
    wanted = ("onnx", "onnxscript", *(("openvino",) if openvino else ()))
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise SettingError(f"Exporting needs {' and '.join(missing)}, which is not installed. Install it: {INSTALL}.")
    if not runtimes.installed():
        raise SettingError(NO_RUNTIME)


def write_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    file: Path,
    dynamic: Mapping[str, str] | None = None,
) -> None:
    """Write a network in evaluation mode as ONNX, on the CPU and in float32.

    Args:
        network: Takes the inputs in their order and gives one tensor. Its own layers' short cuts for inference in
            torch are left out: it runs as in training, but for what evaluation mode changes.
        inputs: Examples by name; a dynamic axis should have a size other than 1.
        output: The output's name.
        file: .onnx.
        dynamic: By input, the name of its first axis, if that may have any size.

    Raises:
        BrokenPluginError: If the network cannot be written as ONNX.
    """
    import onnx
    import torch

    axes = {name: torch.export.Dim(axis, min=1) for name, axis in (dynamic or {}).items()}
    shapes = tuple({0: axes[name]} if name in axes else None for name in inputs)
    try:
        with _silent(), torch.enable_grad():  # with gradients no layer takes its short cut
            program = torch.onnx.export(
                network.eval().requires_grad_(False),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=shapes if axes else None,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # torch's exporter has several of its own
        unknown = _unknown_operation(error)
        why = f"ONNX has no operation {unknown}; the network runs in PyTorch alone" if unknown else in_one_line(error)
        raise BrokenPluginError(f"{type(network).__name__} cannot be written as ONNX ({why}).") from error
    if program is None:
        raise BrokenPluginError(f"{type(network).__name__} cannot be written as ONNX (torch's exporter gave nothing).")
    model = program.model_proto
    _forget_sources(model)
    with atomic(file) as temporary:
        onnx.save(model, temporary)


def write_openvino(onnx_file: Path, file: Path) -> None:
    """Write an ONNX file as OpenVINO's own, which opens faster, in the same precision.

    Args:
        onnx_file: What to read.
        file: .xml; a .bin of the same name comes to lie beside it.

    Raises:
        WeightsError: If OpenVINO cannot read the file.
    """
    import openvino

    try:
        model = openvino.Core().read_model(onnx_file)
    except RuntimeError as error:
        raise WeightsError(f"OpenVINO cannot read '{onnx_file.name}' ({in_one_line(error)}).") from error
    with atomic(file.with_suffix(".bin")) as weights, atomic(file) as description:
        openvino.serialize(model, description, weights)


def difference(first: NDArray[np.floating], second: NDArray[np.floating], heads: int | None = None) -> Difference:
    """How far two answers lie apart.

    Args:
        first, second: Logits of the same shape.
        heads: The axis of heads that share a softmax, whose largest is the mask; None: a mask is where logits are > 0.

    Raises:
        WeightsError: If they are not finite, or of different shapes.
    """
    if first.shape != second.shape:
        raise WeightsError(f"The written network answers with {second.shape} numbers, but torch with {first.shape}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise WeightsError("The network answers with numbers that are not finite. Its weights are broken.")
    masks = (first > 0, second > 0) if heads is None else (first.argmax(heads), second.argmax(heads))
    apart = masks[0] != masks[1]
    return Difference(float(np.abs(first - second).max()), int(apart.sum()), int(apart.size))


def _forget_sources(model: Any) -> None:
    """Take out where in which file each operation was written: folders of this machine."""
    graphs: list[Any] = [model.graph, *model.functions]
    for graph in graphs:
        _empty([graph])
        for node in graph.node:
            graphs += [a.g for a in node.attribute if a.HasField("g")]
        _empty(graph.node)
        _empty(graph.value_info)
        if hasattr(graph, "initializer"):
            _empty([*graph.initializer, *graph.input, *graph.output])
    _empty([model])


def _empty(parts: Sequence[Any]) -> None:
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The exporter's progress and its advice to its own authors stay unseen."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unknown_operation(error: BaseException | None) -> str:
    """The operation for which torch's exporter knows nothing in ONNX, such as nnkd.selective_scan; empty if that is
    not why it gave up. It says so in the innermost of its errors."""
    while error is not None:
        found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
        if found:
            return found[1]
        error = error.__cause__
    return ""
