"""An exported box model's encoder in 8 bits: made with pictures that a user has, and let through only if it segments
them as well as before."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkd.boxes.calibration import CalibrationPicture
from nnkd.boxes.model import DESCRIPTION
from nnkd.boxes.pixels import masks_of_logits, prepare, scaled_boxes
from nnkd.errors import SettingError, WeightsError
from nnkd.files import atomic, read_json, sha256, write_json
from nnkd.networks import runtimes
from nnkd.networks.files import INSTALL

FILE = "encoder_int8.onnx"
OPERATIONS = ("Conv", "MatMul", "Gemm")
GROUPS = 8  # of consecutive layers, each tried alone
LARGEST = 0.1  # relative error of the embedding that a group may cause; others stay in float32
TRIED_ON = 3  # pictures
FEWEST = 4  # pictures: half of them calibrate, the others are segmented
TOLERANCE = 0.01  # by how much the mean DSC may fall
LEAST_AGREEMENT = 0.95  # mean DSC between masks in 8 bits and in float32: what draws other masks is another model

Embeddings = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Measured:
    """What an encoder in 8 bits segments on one runtime.

    Attributes:
        before, after: Mean DSC over boxes against the references, in float32 and in 8 bits; None: there are none.
        agreement: Mean DSC between both.
        boxes: How many.
    """

    before: float | None
    after: float | None
    agreement: float
    boxes: int

    def __str__(self) -> str:
        said = f"DSC with float32's masks {self.agreement:.3f} in {self.boxes} boxes"
        return said if self.before is None else f"{said}, with the references {self.before:.3f} -> {self.after:.3f}"

    def passes(self, tolerance: float) -> bool:
        """Whether it is good enough."""
        if self.before is None or self.after is None:
            return 1 - self.agreement <= tolerance
        return self.before - self.after <= tolerance and self.agreement >= LEAST_AGREEMENT


def add_int8(folder: Path, pictures: Sequence[CalibrationPicture], tolerance: float = TOLERANCE) -> list[str]:
    """Write an 8-bit encoder into an exported box model's folder.

    Every second picture calibrates; the others are segmented in float32 and in 8 bits on each installed runtime.
    Weights have a scale per channel. Layers whose 8 bits alone spoil the embedding stay in float32.

    Args:
        folder: What `nnkd.boxes.export.write_box_model` wrote.
        pictures: At least `FEWEST`, of the kinds that the model is to segment.
        tolerance: By how much the mean DSC may fall.

    Returns:
        What to tell the user.

    Raises:
        SettingError: If ONNX Runtime is missing, or there are too few pictures.
        WeightsError: If the DSC falls by more, or masks agree less than `LEAST_AGREEMENT`; the model stays as it was.
    """
    if "onnxruntime" not in runtimes.installed():
        raise SettingError(f"8 bits are made with onnxruntime. Install it: {INSTALL}.")
    if len(pictures) < FEWEST:
        raise SettingError(f"--calibration has {len(pictures)} usable picture(s), but at least {FEWEST} are expected.")
    description = read_json(folder / DESCRIPTION)
    encoder, decoder = folder / description["encoder"]["file"], folder / description["decoder"]["file"]
    calibrating, measured = pictures[::2], pictures[1::2]
    target, size = folder / FILE, description["size"]
    try:
        kept, layers = _quantize(encoder, target, [prepare(one.image, size)[None] for one in calibrating])
        found = {name: measure(encoder, target, decoder, size, measured, name) for name in runtimes.installed()}
        worst = next((item for item in found.items() if not item[1].passes(tolerance)), None)
        if worst is not None:
            raise WeightsError(
                f"8 bits are refused: on {worst[0]} {worst[1]}. A fall of at most {tolerance:g} and an agreement of at "
                f"least {LEAST_AGREEMENT:g} are let through. The model in float32 stays; calibrate on more pictures."
            )
    except WeightsError:
        target.unlink(missing_ok=True)
        raise
    description["encoder"]["int8"] = FILE
    description["files"][FILE] = sha256(target)
    description["int8"] = {
        "calibrated_on": len(calibrating),
        "measured_on": len(measured),
        "tolerance": tolerance,
        "layers": layers,
        "layers_in_float32": kept,
        **{name: vars(one) for name, one in found.items()},
    }
    write_json(folder / DESCRIPTION, description)
    lines = [f"8 bits on {name}: {one}" for name, one in found.items()]
    return [f"8 bits: {layers - kept} of {layers} layers, calibrated on {len(calibrating)} pictures", *lines]


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(
    encoder: Path, smaller: Path, decoder: Path, size: int, pictures: Sequence[CalibrationPicture], runtime: str
) -> Measured:
    """Segment pictures with two encoders and compare.

    Args:
        encoder, smaller: In float32 and in 8 bits.
        decoder: Of both.
        size: Pixels of a side of what they see.
        pictures: With boxes, and references or not.
        runtime: Which.
    """
    sessions = [runtimes.open_session(file, runtime, 1) for file in (encoder, smaller)]
    decoding = runtimes.open_session(decoder, runtime, 1)
    before: list[float] = []
    after: list[float] = []
    agreement: list[float] = []
    for one in pictures:
        image, shape = prepare(one.image, size)[None], one.image.shape[:2]
        masks = []
        for session in sessions:
            given = {"embedding": session.run({"image": image})[0][0], "boxes": scaled_boxes(one.boxes, shape, size)}
            masks.append(masks_of_logits(decoding.run(given)[0], shape))
        agreement += map(_dsc, *masks)
        if one.masks is not None:
            before += map(_dsc, masks[0], one.masks)
            after += map(_dsc, masks[1], one.masks)
    means = [round(float(np.mean(values)), 4) if values else None for values in (before, after, agreement)]
    return Measured(means[0], means[1], means[2] or 0.0, len(agreement))


def _dsc(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


# --- making it ------------------------------------------------------------------------------------------------------


def _quantize(encoder: Path, target: Path, images: Embeddings) -> tuple[int, int]:
    """Write it; returns how many layers stayed in float32, and how many there are."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name:
        plain, tried = Path(name) / "plain.onnx", Path(name) / "tried.onnx"
        quant_pre_process(str(encoder), str(plain), skip_symbolic_shape=True)
        ranges = _ranges(plain, Path(name) / "calibrating.onnx", images)
        layers = [node.name for node in onnx.load(plain).graph.node if node.op_type in OPERATIONS]
        expected = _embeddings(encoder, images[:TRIED_ON])
        chosen: list[str] = []
        for group in np.array_split(np.array(layers, dtype=object), min(GROUPS, len(layers))):
            _write(plain, tried, list(group), ranges)
            if _error(expected, _embeddings(tried, images[:TRIED_ON])) <= LARGEST:
                chosen += list(group)
        if not chosen:
            raise WeightsError(
                "8 bits are refused: every part of the encoder spoils the embedding. The model in float32 stays."
            )
        with atomic(target) as temporary:
            _write(plain, temporary, chosen, ranges)
    return len(layers) - len(chosen), len(layers)


def _ranges(plain: Path, working: Path, images: Embeddings) -> Any:
    """The lowest and highest value of each layer's inputs and outputs on the pictures."""
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image}

    calibrator = create_calibrator(
        plain, list(OPERATIONS), augmented_model_path=str(working), calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(Reader())
    return calibrator.compute_data()


def _write(plain: Path, target: Path, layers: Sequence[str], ranges: Any) -> None:
    """Some layers in 8 bits: weights signed with a scale per channel, what lies between unsigned."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        onnx.load(plain),
        True,  # per channel
        False,  # all 8 bits of weights
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        list(layers),
        [],
        list(OPERATIONS),
        {"WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target))


def _embeddings(file: Path, images: Embeddings) -> list[np.ndarray]:
    session = runtimes.open_session(file, "onnxruntime", 1)
    return [session.run({"image": image})[0] for image in images]


def _error(expected: Embeddings, found: Embeddings) -> float:
    return float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(expected, found, strict=True)]))
