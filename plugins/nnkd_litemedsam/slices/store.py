"""Training slices of a dataset: nnUNet_preprocessed/DATASET/litemedsam_256, one file a case and an index.

A file holds every axial slice at a longest side of 256 pixels in 8 bits, once for each grey scale that a label of the
dataset asks for (colour images: red, green and blue), and the label map beside them. `nnkd_litemedsam.slices.making`
writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnkd.data.predictions import Lineage
from nnkd.errors import DatasetError, in_one_line
from nnkd.files import atomic, load_json
from nnkd.weights import pickles

FOLDER = "litemedsam_256"
INDEX = "index.json"
SCHEMA = 1
SMALLEST = 20  # pixels of a target in its slice; Source: Yang et al. 2024, section 2.1


class StoredCase(BaseModel):
    """What the index says of a case.

    Attributes:
        participant: Whose case it is.
        shape: (H, W) of its slices.
        scaled: (h, w) of its stored slices.
        slices: How many there are.
        empty: Slices of one value only, from which nothing can be learned.
        pixels: By label, pairs of a slice and how many of its H x W pixels the label has.
        grey: How intensities became 8 bits, a note for each grey scale.
        origins: What it was made from: digest by origin, see `nnkd.data.origins`.
        input: Of an earlier version, one hash over image files, label map and settings.
        files: Of an earlier version; says nothing that counts.
    """

    model_config = ConfigDict(extra="forbid")

    participant: str
    shape: tuple[int, int]
    scaled: tuple[int, int]
    slices: int
    empty: list[int] = []
    pixels: dict[str, list[tuple[int, int]]] = {}
    grey: list[dict[str, Any]] = []
    origins: dict[str, str] = {}
    input: str = Field(default="", exclude=True)
    files: dict[str, tuple[int, int]] = Field(default={}, exclude=True)

    def content(self) -> list[int]:
        """Slices of more than one value."""
        left_out = set(self.empty)
        return [z for z in range(self.slices) if z not in left_out]

    def targets(self) -> dict[int, list[str]]:
        """By slice, the labels that are large enough to learn."""
        found: dict[int, list[str]] = {}
        for label, rows in self.pixels.items():
            for z, number in rows:
                if number >= SMALLEST:
                    found.setdefault(z, []).append(label)
        return dict(sorted(found.items()))


class SliceIndex(BaseModel):
    """index.json.

    Attributes:
        channels: Names of the channels that were taken: one, or red, green and blue.
        windows: CT windows, level and width in HU, one for each grey scale; one pair of any numbers where the channel
            is no CT.
        grey_of: By label, which of the grey scales it is seen in.
        values: The label map's integers; stored is an integer's place in this list.
        labels: By label, the integers it is made of.
        ignore: The integer of pixels to leave out, if there is one.
        lineage: The teachers, with licences, whose consensus is among the label maps.
        ground_truth: Whether one of them was told of reference labels.
        cases: By identifier.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    channels: list[str]
    windows: list[tuple[float, float]]
    grey_of: dict[str, int]
    values: list[int]
    labels: dict[str, list[int]]
    ignore: int | None = None
    lineage: list[Lineage] = []
    ground_truth: bool = False
    cases: dict[str, StoredCase] = {}

    def settings(self) -> str:
        """What cases are made with, as text: those that were made with other settings are made again."""
        return self.model_dump_json(exclude={"cases", "lineage", "ground_truth"})

    def write(self, folder: Path) -> None:
        """Write it, in one line: a cohort has millions of numbers."""
        with atomic(folder / INDEX) as temporary:
            temporary.write_text(self.model_dump_json(exclude_defaults=False) + "\n", encoding="utf-8")


def read_index(folder: Path, name: str) -> SliceIndex | None:
    """The index of a folder of slices; None if there is none of this version.

    Args:
        folder: litemedsam_256.
        name: The dataset's, for messages.

    Raises:
        DatasetError: If it is no valid JSON, or not of this schema.
    """
    file = folder / INDEX
    if not file.is_file():
        return None
    try:
        content = load_json(file)
        if content.get("schema_version") != SCHEMA:
            return None
        return SliceIndex.model_validate(content)
    except (ValueError, AttributeError, ValidationError) as error:
        raise DatasetError(
            f"{FOLDER}/{INDEX} of {name} is no index of slices ({in_one_line(error)}). Delete the folder "
            f"{FOLDER}: it is made again from nnUNet_raw."
        ) from error


@dataclass(frozen=True)
class Slices:
    """The slices of one dataset, to be read.

    Attributes:
        name: DatasetXXX_Name.
        folder: nnUNet_preprocessed/DATASET/litemedsam_256.
        index: What there is.
    """

    name: str
    folder: Path = field(repr=False)
    index: SliceIndex = field(repr=False)  # nnU-Net writes its trainer's attributes to a file

    @cached_property
    def colour(self) -> bool:
        """Whether slices are red, green and blue."""
        return len(self.index.channels) == 3

    def file(self, case: str) -> Path:
        """Where a case's slices lie."""
        return self.folder / f"{case}.b2nd"

    def read(self, case: str, z: int, grey: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One slice.

        Args:
            case: Its identifier.
            z: The slice.
            grey: Which grey scale.

        Returns:
            The picture (h, w, 3) uint8 and the stored label map (h, w) uint8, see `mask`.

        Raises:
            DatasetError: If the file is missing or cut off.
        """
        import blosc2

        try:
            pickles.check_array(self.file(case))
            stored = blosc2.open(str(self.file(case)), mode="r", dparams={"nthreads": 1})[z]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DatasetError(
                f"The slices of '{case}' in {FOLDER} of {self.name} cannot be read ({in_one_line(error)}). "
                f"Delete {case}.b2nd there: it is made again from nnUNet_raw."
            ) from error
        return _picture(stored, grey, self.colour), stored[-1]

    def mask(self, stored: NDArray[np.uint8], label: str) -> NDArray[np.bool_]:
        """bool mask of a label in a stored label map."""
        return np.isin(stored, [self.index.values.index(value) for value in self.index.labels[label]])


def _picture(stored: np.ndarray, grey: int, colour: bool) -> np.ndarray:
    """(h, w, 3) of a stored slice (planes and label map, h, w)."""
    if colour:
        return np.ascontiguousarray(np.moveaxis(stored[:3], 0, -1))
    return np.repeat(stored[grey][..., None], 3, axis=-1)
