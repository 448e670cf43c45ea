"""Box models as nnKD_export writes them: a folder of networks that segments what lies in boxes, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from nnkd.boxes.pixels import masks_of_logits, prepare, scaled_boxes
from nnkd.boxes.propagation import BoxModel
from nnkd.errors import FileError, SettingError, WeightsError
from nnkd.files import read_json, sha256
from nnkd.networks import runtimes

if TYPE_CHECKING:
    from nnkd.plugin.teachers import BoxTeacher

DESCRIPTION = "box_model.json"
KIND, VERSION = "box_model", 1
AT_ONCE = 8  # boxes; more take memory and no less time
CUT = 0.5  # a probability above it is a yes
Precision = Literal["fp32", "int8"]


def _own(name: str) -> str:
    """The name of a file in the folder itself, and of none elsewhere."""
    if Path(name).name != name:
        raise PydanticCustomError("elsewhere", "names a file elsewhere")
    return name


File = Annotated[str, AfterValidator(_own)]


class _Encoder(BaseModel):
    file: File
    int8: File | None = None
    input_shape: list[int] = Field(default_factory=list)


class _Decoder(BaseModel):
    file: File


class _Description(BaseModel):
    """What must be in box_model.json; what else is there is for other programs."""

    kind: Literal["box_model"]
    version: Literal[1]
    name: str
    size: PositiveInt
    weights: dict[str, Any]
    files: dict[str, str]
    encoder: _Encoder
    decoder: _Decoder

    @model_validator(mode="after")
    def _one_size(self) -> _Description:
        expected = self.encoder.input_shape[-1:] or [self.size]
        if expected != [self.size]:
            raise PydanticCustomError(
                "size", f"is of a model that sees {self.size} pixels, but {expected[0]} are expected"
            )
        return self


@dataclass(frozen=True)
class BoxModelFolder:
    """What lies in an exported box model's folder.

    Attributes:
        folder: Where it is.
        name: What it is called, such as "litemedsam".
        size: Pixels of a side of what it sees.
        weights: "name", "sha256" and "licence" of the checkpoint that it was made from.
        encoders: File of the image encoder by precision.
        decoder: File of the decoder.
        digests: sha256 by file.
    """

    folder: Path
    name: str
    size: int
    weights: Mapping[str, str]
    encoders: Mapping[str, str]
    decoder: str
    digests: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> BoxModelFolder:
        """Read and check a folder's description; the networks are read when they are used.

        Raises:
            WeightsError: If there is none, it describes something else, or it lacks what must be there.
        """
        try:
            content = read_json(folder / DESCRIPTION)
        except FileError as error:
            raise WeightsError(f"{error} A box model's folder is what nnKD_export writes of one.") from error
        try:
            found = _Description.model_validate(content)
        except ValidationError as error:
            raise WeightsError(
                f"{DESCRIPTION} in {folder.absolute().name} {_problem(content, error)}. Export the model again with "
                f"nnKD_export."
            ) from error
        encoders = {"fp32": found.encoder.file, "int8": found.encoder.int8}
        return cls(
            folder=folder,
            name=found.name,
            size=found.size,
            weights={key: str(found.weights.get(key, "")) for key in ("name", "sha256", "licence")},
            encoders={precision: file for precision, file in encoders.items() if file},
            decoder=found.decoder.file,
            digests=found.files,
        )

    def encoder(self, precision: str) -> str:
        """The encoder's file of that precision.

        Raises:
            SettingError: If there is none.
        """
        if precision not in self.encoders:
            raise SettingError(
                f"The box model '{self.name}' was exported without {precision}, only as {', '.join(self.encoders)}. "
                f"Leave --precision out, or export it with calibration cases (nnKD_export --help)."
            )
        return self.encoders[precision]

    def checked(self, name: str) -> Path:
        """Where a network lies, once its content is what the description says.

        Raises:
            WeightsError: If it is missing, or another one.
        """
        file = self.folder / name
        if not file.is_file():
            raise WeightsError(f"There is no '{name}' in {self.folder.absolute().name}. Export the model again.")
        if sha256(file) != self.digests.get(name):
            raise WeightsError(
                f"'{name}' in {self.folder.absolute().name} is not the file that {DESCRIPTION} describes: it was "
                f"changed or copied badly. Export the model again."
            )
        return file


@dataclass(frozen=True)
class OpenedBoxModel:
    """A box model that is ready, and what a manifest says about it.

    Attributes:
        model: Encodes and decodes.
        name: What it is called.
        runtime: What computes it: "openvino", "onnxruntime" or "torch".
        precision: Of the encoder.
        weights: "name", "sha256" and "licence" of each file.
        licence: SPDX name of the code's licence.
        distribution: The distribution that offers it; empty: nnkd alone.
    """

    model: BoxModel
    name: str
    runtime: str
    precision: str = "fp32"
    weights: Sequence[Mapping[str, str]] = ()
    licence: str = ""
    distribution: str = ""


class ExportedBoxModel:
    """A box model that OpenVINO or ONNX Runtime computes: a `nnkd.boxes.propagation.BoxModel`."""

    def __init__(
        self,
        described: BoxModelFolder,
        runtime: str,
        threads: int = 1,
        precision: Precision = "fp32",
        cache: Path | None = None,
    ):
        """Load the networks.

        Args:
            described: Its folder.
            runtime: "openvino" or "onnxruntime".
            threads: How many compute.
            precision: Of the encoder.
            cache: Folder in which OpenVINO keeps what it compiled; None: nowhere.

        Raises:
            SettingError: If there is no such precision, or the runtime is not installed.
            WeightsError: If a file is missing, changed or broken.
        """
        encoder = described.checked(described.encoder(precision))
        decoder = described.checked(described.decoder)
        self._size = described.size
        self._encoder = runtimes.open_session(
            encoder, runtime, threads, cache, inputs=("image",), outputs=("embedding",)
        )
        self._decoder = runtimes.open_session(
            decoder, runtime, threads, cache, inputs=("embedding", "boxes"), outputs=("logits",)
        )

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one slice, (H, W, 3) uint8 -> (channels, grid, grid) float32, the caller's own."""
        image = image[..., 0] if image.strides[-1] == 0 else image  # three times the same grey
        return self._encoder.run({"image": prepare(image, self._size)[None]})[0][0]

    def masks(
        self, embedding: NDArray[np.float32], boxes: NDArray[np.integer], shape: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Segment boxes (n, 4) in an embedded slice of `shape` (H, W) -> (n, H, W) bool."""
        corners = scaled_boxes(boxes, shape, self._size)
        found = np.empty((len(boxes), *shape), dtype=bool)
        for first in range(0, len(boxes), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            logits = self._decoder.run({"embedding": embedding, "boxes": corners[some]})[0]
            found[some] = masks_of_logits(logits, shape)
        return found


class TeacherBoxModel:
    """A teacher that boxes prompt, which torch computes: a `nnkd.boxes.propagation.BoxModel`."""

    def __init__(self, teacher: BoxTeacher):
        self._teacher = teacher

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one slice, (H, W, 3) uint8."""
        return self._teacher.encode(np.ascontiguousarray(image))

    def masks(
        self, embedding: NDArray[np.float32], boxes: NDArray[np.integer], shape: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Segment boxes (n, 4) in an embedded slice of `shape` (H, W) -> (n, H, W) bool."""
        found = np.empty((len(boxes), *shape), dtype=bool)
        for first in range(0, len(boxes), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            found[some] = self._teacher.decode(embedding, boxes[some], shape) > CUT
        return found


def _problem(content: Any, error: ValidationError) -> str:
    """What is wrong with a description, as half a sentence."""
    wrong = {".".join(map(str, one["loc"])): one for one in error.errors()}
    if not isinstance(content, dict) or "kind" in wrong:
        return "describes no box model"
    if "version" in wrong:
        return f"is of version {content.get('version')}, but this nnkd reads version {VERSION}"
    return f"lacks {', '.join(wrong)}" if "" not in wrong else wrong[""]["msg"]
