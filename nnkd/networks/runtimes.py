"""Networks stored as files, run on the CPU without torch: by OpenVINO or ONNX Runtime, whichever is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnkd.errors import SettingError, WeightsError

RUNTIMES = ("openvino", "onnxruntime")  # the faster one first
READS = {"openvino": (".onnx", ".xml"), "onnxruntime": (".onnx",)}
QUIET = 3  # ONNX Runtime's level of errors


class Session(Protocol):
    """A network that is ready to run, one call at a time.

    Attributes:
        inputs, outputs: Their names, in the file's order.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, arrays: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Compute.

        Args:
            arrays: Each input by its name.

        Returns:
            The outputs in their order; the caller's own, no later call changes them.

        Raises:
            WeightsError: If the network cannot take these arrays.
        """


def installed() -> tuple[str, ...]:
    """The runtimes that this Python has, the faster one first. None of them is imported."""
    return tuple(name for name in RUNTIMES if find_spec(name) is not None)


def open_session(
    file: Path,
    runtime: str,
    threads: int,
    cache: Path | None = None,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Session:
    """Load a network for one image after another: in float32, or 8 bits where the file says so.

    Args:
        file: .onnx, or OpenVINO's .xml with its .bin beside it.
        runtime: "openvino" or "onnxruntime".
        threads: How many compute, 1 or more.
        cache: Folder in which OpenVINO keeps what it compiled, for a faster start next time; None: nowhere.
        inputs, outputs: Names that the network must have, in any order; empty: whatever it has.

    Raises:
        SettingError: If there is no such runtime, it is not installed, does not read such files, or threads is below 1.
        WeightsError: If the file is missing, broken, or has other inputs or outputs.
    """
    _check(file, runtime, threads)
    if runtime == "openvino":
        opened: Session = _OpenVino(file, threads, cache, (*inputs, *outputs))
    else:
        opened = _OnnxRuntime(file, threads)
    for what, wanted, has in (("inputs", inputs, opened.inputs), ("outputs", outputs, opened.outputs)):
        if wanted and sorted(wanted) != sorted(has):
            raise WeightsError(
                f"'{file.name}' has the {what} {', '.join(has) or 'none'}, but {', '.join(wanted)} are expected. It is "
                f"another network, or from another version of nnkd: export it again with nnKD_export."
            )
    return opened


def _check(file: Path, runtime: str, threads: int) -> None:
    if runtime not in RUNTIMES:
        raise SettingError(f"There is no runtime '{runtime}'; nnkd knows {' and '.join(RUNTIMES)}.")
    if runtime not in installed():
        others = f", or choose {' or '.join(installed())}, which is" if installed() else ""
        raise SettingError(f"{runtime} is not installed. Install it (pip install {runtime}){others}.")
    if threads < 1:
        raise SettingError(f"The number of threads is {threads}, but 1 or more is expected.")
    if not file.is_file():
        raise WeightsError(f"There is no '{file.name}' in {file.absolute().parent.name}. Export the model again.")
    if file.suffix not in READS[runtime]:
        raise SettingError(f"{runtime} reads {' and '.join(READS[runtime])} files, but was given '{file.name}'.")


def _broken(file: Path, error: Exception) -> WeightsError:
    reason = _reason(error, file)
    return WeightsError(f"'{file.name}' cannot be loaded{reason}. It is truncated or no network: export it again.")


def _refused(file: Path, error: Exception) -> WeightsError:
    return WeightsError(f"'{file.name}' cannot compute with what it was given{_reason(error, file)}.")


def _reason(error: Exception, file: Path) -> str:
    """The last line of what a runtime says, where both say what is wrong; nothing if it names folders."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or str(file.parent) in lines[-1]:
        return ""
    return f" ({lines[-1][:160].rstrip('.')})"


class _OpenVino:
    def __init__(self, file: Path, threads: int, cache: Path | None, names: Sequence[str]):
        import openvino

        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "PERFORMANCE_HINT_NUM_REQUESTS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # or CPUs that have bfloat16 would compute in it
        }
        if cache is not None:
            settings["CACHE_DIR"] = str(cache)
        self.file = file
        try:
            compiled = openvino.Core().compile_model(file, "CPU", settings)
        except RuntimeError as error:
            raise _broken(file, error) from error
        self.inputs = tuple(_name(port, names) for port in compiled.inputs)
        self.outputs = tuple(_name(port, names) for port in compiled.outputs)
        self._request = compiled.create_infer_request()

    def run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return _computed(self, lambda: list(self._request.infer(arrays, share_inputs=True).values()), arrays)


def _name(port: Any, wanted: Sequence[str]) -> str:
    """What an input or output is called. OpenVINO gives it several names where layers that do nothing fell away."""
    return next((name for name in wanted if name in port.get_names()), port.get_any_name())


class _OnnxRuntime:
    def __init__(self, file: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = QUIET
        self.file = file
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes, which have nothing else in common
            raise _broken(file, error) from error
        self.inputs = tuple(one.name for one in self._session.get_inputs())
        self.outputs = tuple(one.name for one in self._session.get_outputs())

    def run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return _computed(self, lambda: self._session.run(None, dict(arrays)), arrays)


def _computed(
    session: _OpenVino | _OnnxRuntime, compute: Callable[[], list[np.ndarray]], arrays: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    if sorted(arrays) != sorted(session.inputs):
        raise WeightsError(
            f"'{session.file.name}' takes {' and '.join(session.inputs)}, but was given {' and '.join(arrays)}."
        )
    try:
        return compute()
    except Exception as error:  # as above; OpenVINO raises RuntimeError and ValueError
        raise _refused(session.file, error) from error
