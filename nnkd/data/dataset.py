"""Raw datasets in nnU-Net's layout: dataset.json, folders of images, label maps. Reads through nnU-Net's readers."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnkd import paths
from nnkd.data import listing
from nnkd.data.listing import Listing
from nnkd.data.reading import readers
from nnkd.data.reading.formats import cut_short
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.data.reading.scan_values import oddities
from nnkd.errors import DatasetError, UnknownNameError
from nnkd.files import atomic, load_json
from nnkd.types import Volume, some

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_LABEL = 2**16 - 1  # what label maps are written with
Split = Literal["Tr", "Ts"]
LONGEST_NAME = 200
TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # a text's direction


@dataclass(frozen=True)
class DatasetSpec:
    """What dataset.json says.

    Attributes:
        json: Its content.
        name: The dataset's full name, for messages.
        folder: Where it lies; None if it was not read from a file.
    """

    json: Mapping[str, Any]
    name: str
    folder: Path | None = None

    @classmethod
    def read(cls, file: Path) -> DatasetSpec:
        """Read and check a dataset.json.

        Raises:
            DatasetError: If it is missing, no JSON, or lacks channel_names, labels or file_ending.
        """
        name = file.parent.name
        try:
            content = load_json(file)
        except FileNotFoundError:
            raise DatasetError(f"{name} has no dataset.json. Every nnU-Net dataset needs one.") from None
        except OSError as error:
            raise DatasetError(f"dataset.json of {name} cannot be read ({error.strerror or error}).") from error
        except ValueError as error:
            raise DatasetError(f"dataset.json of {name} is no valid JSON ({error}). Correct it.") from error
        problem = _json_problem(content)
        if problem:
            raise DatasetError(f"dataset.json of {name} {problem}. See nnU-Net's dataset format.")
        spec = cls(content, name, file.parent)
        if not spec.labels:
            raise DatasetError(f"dataset.json of {name} names no label beside the background. Add one.")
        return spec

    @property
    def file_ending(self) -> str:
        """Such as ".nii.gz"."""
        ending: str = self.json["file_ending"]
        return ending

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        """In file order."""
        channels = self.json["channel_names"]
        return tuple(str(channels[key]) for key in sorted(channels, key=int))

    @cached_property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """Foreground labels (or regions), without background and ignore label, by name, in the order of nnU-Net's
        output heads; each as the integers it is made of."""
        found = {
            name: tuple(value) if isinstance(value, list | tuple) else (int(value),)
            for name, value in self.json["labels"].items()
            if name != "ignore"
        }
        foreground = {name: values for name, values in found.items() if values != (0,) and name != "background"}
        if self.has_regions:
            return foreground
        return dict(sorted(foreground.items(), key=lambda item: item[1]))

    @cached_property
    def has_regions(self) -> bool:
        """Whether a label is made of several integers (nnU-Net's region-based training)."""
        return any(isinstance(v, list | tuple) and len(v) > 1 for v in self.json["labels"].values())

    @property
    def ignore_label(self) -> int | None:
        """The integer of voxels to leave out of the loss, or None."""
        ignore: int | None = self.json["labels"].get("ignore")
        return ignore

    @cached_property
    def values(self) -> frozenset[int]:
        """Every integer a manual label map may contain."""
        numbers = {0, *(v for values in self.labels.values() for v in values)}
        return frozenset(numbers if self.ignore_label is None else {*numbers, self.ignore_label})

    def check_label(self, name: str) -> str:
        """The name itself.

        Raises:
            UnknownNameError: If dataset.json has no such label.
        """
        if name not in self.labels:
            raise UnknownNameError(f"{self.name} has no label '{name}'; it has {', '.join(self.labels)}.")
        return name

    def label_map(self, masks: Mapping[str, NDArray[np.bool_]], shape: tuple[int, ...]) -> NDArray[np.unsignedinteger]:
        """Non-overlapping masks -> label map. Regions are painted in the order of regions_class_order.

        Args:
            masks: bool (Z, Y, X) by label name.
            shape: (Z, Y, X).

        Returns:
            (Z, Y, X) uint8 (uint16 if a label's integer needs it).
        """
        result: NDArray[np.unsignedinteger] = np.zeros(shape, np.uint8 if max(self.values) < 255 else np.uint16)
        for name, integer in zip(self.labels, self._paint_integers(), strict=True):
            if name in masks:
                result[masks[name]] = integer
        return result

    def _paint_integers(self) -> list[int]:
        if self.has_regions:
            order = self.json.get("regions_class_order")
            if order is None or len(order) != len(self.labels):
                raise DatasetError(
                    f"dataset.json of {self.name} has {len(self.labels)} regions but regions_class_order={order}. "
                    f"nnU-Net needs one integer per region there."
                )
            return list(order)
        return [values[0] for values in self.labels.values()]

    def mask(self, label_map: NDArray[np.integer], name: str) -> NDArray[np.bool_]:
        """bool mask of a label (the OR of a region's integers)."""
        return np.isin(label_map, self.labels[name])

    @cached_property
    def reader(self) -> readers.Reader:
        """nnU-Net's reader and writer for this dataset's files.

        Raises:
            DatasetError: If nnU-Net reads no such ending.
        """
        return readers.reader_of(self.json, self.name, self.folder)

    def read_label_map(self, file: Path) -> tuple[NDArray[np.int32], Grid, dict[str, Any]]:
        """Read a label map in file order.

        Returns:
            (Z, Y, X) integer array, its grid, and the reader's properties (for writing on the same grid).

        Raises:
            DatasetError: If the file is missing, unreadable, or holds values that dataset.json does not name.
        """
        array, properties = self.reader.read_seg(file)
        integers: NDArray[np.int32] = array[0].astype(np.int32)
        if not np.array_equal(integers, array[0]):
            raise DatasetError(f"'{file.name}' holds fractions, but a label map holds integers. Re-export it.")
        strange = sorted(set(np.unique(integers).tolist()) - self.values)
        if strange:
            raise DatasetError(
                f"'{file.name}' holds the value{'s' if len(strange) > 1 else ''} {', '.join(map(str, strange[:8]))}, "
                f"but dataset.json of {self.name} names {', '.join(map(str, sorted(self.values)))}. "
                f"Correct the file or add the label."
            )
        return integers, Grid.from_properties(integers.shape, properties), properties

    def write_label_map(
        self,
        label_map: NDArray[np.integer],
        file: Path,
        properties: Mapping[str, Any],
        before_move: Callable[[Path], None] | None = None,
    ) -> None:
        """Write a label map atomically, on the grid of `properties`.

        Args:
            label_map: (Z, Y, X) integers in file order.
            file: Target, with this dataset's ending.
            properties: What the reader returned for the image.
            before_move: Called with the finished temporary file; if it raises, the old target stays.

        Raises:
            NnkdError: If it could not be written whole (disk full, no permission).
        """
        with atomic(file) as temporary:
            try:
                self.reader.write_seg(label_map, temporary, properties)
                written, _ = self.reader.read_seg(temporary)
            except RuntimeError as error:  # what SimpleITK raises, also on a full disk
                raise OSError(str(error).strip().splitlines()[-1]) from error
            except DatasetError as error:  # on a full disk ITK's NIfTI writer cuts the file short and says nothing
                raise OSError(cut_short(temporary)) from error
            if not np.array_equal(written[0], label_map):
                raise OSError("the labels do not fit the file format")
            if before_move is not None:
                before_move(temporary)
            sidecar = temporary.with_suffix(".json")  # nnU-Net's writer of 3D tif keeps the spacing there
            if sidecar.is_file():
                os.replace(sidecar, file.with_suffix(".json"))


class ImageFolder:
    """A folder of images named CASE_0000.ending, as nnU-Net names them."""

    def __init__(self, folder: Path, spec: DatasetSpec):
        self.folder = folder
        self.spec = spec

    @classmethod
    def of_case(cls, case: str, files: Iterable[Path], spec: DatasetSpec) -> ImageFolder:
        """A folder of which one case is known already, so that a worker need not list all others."""
        known = tuple(files)
        made = cls(known[0].parent, spec)
        made.listing = Listing(made.folder, {case: known})
        return made

    @cached_property
    def listing(self) -> Listing:
        """Which of its files are images.

        Raises:
            DatasetError: If there is no such folder.
        """
        if not self.folder.is_dir():
            raise DatasetError(f"{self.spec.name} has no folder {self.folder.name}. Put the images there.")
        return listing.images(self.folder, self.spec.file_ending)

    def cases(self) -> list[str]:
        """Identifiers, sorted.

        Raises:
            DatasetError: If there is no image, naming what is there instead.
        """
        if not self.listing.cases:
            others = sorted(name for name in self.listing.unknown)
            there = f"It holds {some(others)}." if others else "It is empty."
            raise DatasetError(
                f"No image named CASE_0000{self.spec.file_ending} is in {self.folder.name} of {self.spec.name}. {there}"
            )
        return sorted(self.listing.cases)

    def files(self, case: str) -> tuple[Path, ...]:
        """Image files of a case, one a channel.

        Raises:
            UnknownNameError: If there is no such case.
            DatasetError: If a channel is missing or there is one too many.
        """
        if case not in self.listing.cases:
            raise UnknownNameError(f"There is no case '{case}' in {self.folder.name} of {self.spec.name}.")
        have = {listing.channel_of(file, self.spec.file_ending): file for file in self.listing.cases[case]}
        names = self.spec.channel_names
        one_for_all = list(have) == [0] and (len(names) == 1 or readers.may_hold_channels(have[0]))
        if not one_for_all and sorted(have) != list(range(len(names))):
            what = "1 image" if len(have) == 1 else f"{len(have)} images"
            raise DatasetError(self._wrong_channels(case, what, [have[k] for k in sorted(have)]))
        return tuple(have[k] for k in sorted(have))

    def _wrong_channels(self, case: str, what: str, files: Iterable[Path]) -> str:
        names = self.spec.channel_names
        return (
            f"Case '{case}' has {what} ({', '.join(f.name for f in files)}), but dataset.json of {self.spec.name} "
            f"names {len(names)} channel{'s' if len(names) != 1 else ''} ({', '.join(names)}). "
            f"Convert the case again or take it out."
        )

    def read(self, case: str, reader: readers.Reader | None = None) -> tuple[NDArray[np.float32], Grid, dict[str, Any]]:
        """Read a case in file order.

        Args:
            case: Its identifier.
            reader: A model's own; None: the dataset's.

        Returns:
            (C, Z, Y, X) float32 array, its grid, and the reader's properties.

        Raises:
            DatasetError: If a file is empty, truncated or unreadable, or the channels' grids or number differ.
        """
        files = self.files(case)
        array, properties = (reader or self.spec.reader).read_images(files)
        grid = Grid.from_properties(array.shape[1:], properties)
        if array.shape[0] != len(self.spec.channel_names):
            channels = "1 channel" if array.shape[0] == 1 else f"{array.shape[0]} channels"
            raise DatasetError(self._wrong_channels(case, channels, files))
        readers.note(properties, [f"'{case}': {odd}" for odd in oddities(array, self.spec.channel_names)])
        return array, grid, properties

    def volume(self, case: str) -> tuple[Volume, Orientation, dict[str, Any]]:
        """Read a case as teachers see it.

        Returns:
            The volume in LPS order, the orientation that takes masks back (`to_file`), and the reader's properties.
        """
        array, grid, properties = self.read(case)
        orientation = Orientation(grid)
        turned = orientation.grid
        volume = Volume(
            case=case,
            data=orientation.to_lps(array),
            spacing=turned.spacing,
            origin=turned.origin,
            direction=turned.direction,
            channel_names=self.spec.channel_names,
            files=self.files(case),
        )
        return volume, orientation, properties


class RawDataset:
    """nnUNet_raw/DatasetXXX_Name.

    Attributes:
        folder: That folder.
        spec: Its dataset.json.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.spec = DatasetSpec.read(folder / "dataset.json")

    @classmethod
    def open(cls, dataset: str | int) -> RawDataset:
        """Open by id or name.

        Raises:
            FolderError: If it is not in nnUNet_raw.
        """
        return cls(paths.raw_folder(dataset))

    @property
    def name(self) -> str:
        """DatasetXXX_Name."""
        return self.folder.name

    def images(self, split: Split = "Tr") -> ImageFolder:
        """imagesTr or imagesTs."""
        return ImageFolder(self.folder / f"images{split}", self.spec)

    def label_file(self, case: str, split: Split = "Tr") -> Path:
        """Where the case's label map lies; it need not exist."""
        return self.folder / f"labels{split}" / f"{case}{self.spec.file_ending}"

    def label_maps(self, split: Split = "Tr") -> Listing:
        """Which files of labelsTr or labelsTs are label maps of the images beside it; nothing, without such a folder.

        Raises:
            DatasetError: If a folder cannot be read.
        """
        folder, images = self.folder / f"labels{split}", self.images(split)
        if not folder.is_dir():
            return Listing(folder, {})
        cases = images.listing.cases if images.folder.is_dir() else {}
        found = listing.label_maps(folder, self.spec.file_ending)
        return found.only(cases, why=f"images{split} has no image of its case")

    def teachers_folder(self, split: Split = "Tr") -> Path:
        """teachersTr or teachersTs; one prediction folder per teacher lies in it."""
        return self.folder / f"teachers{split}"

    def consensus_file(self) -> Path:
        """Lists which label maps of labelsTr are manual and which a consensus (`nnkd.votes.consensus`)."""
        return self.folder / "consensus.json"


def write_dataset_json(
    folder: Path,
    channel_names: Iterable[str],
    labels: Mapping[str, Any],
    file_ending: str,
    num_training: int,
    **more: Any,
) -> DatasetSpec:
    """Write a dataset.json that nnU-Net accepts.

    Args:
        folder: The dataset's folder.
        channel_names: In file order; "CT" switches on nnU-Net's CT normalisation.
        labels: name -> integer (or list of integers), "background": 0 included.
        file_ending: Such as ".nii.gz".
        num_training: Number of cases in imagesTr.
        more: Further keys, such as regions_class_order, licence, reference.

    Returns:
        What was written, read back.
    """
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channel_names)},
        "labels": dict(labels),
        "numTraining": num_training,
        "file_ending": file_ending,
        **more,
    }
    file = folder / "dataset.json"
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return DatasetSpec.read(file)


def _json_problem(content: Any) -> str:
    """What is wrong with a dataset.json, as the rest of a sentence; empty if nothing is."""
    if not isinstance(content, dict):
        return "is no dictionary"
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in content]
    if missing:
        return f"lacks {', '.join(missing)}"
    channels, labels = content["channel_names"], content["labels"]
    if not (isinstance(channels, dict) and isinstance(labels, dict)):
        return "has channel_names or labels that are no dictionary"
    if sorted(channels) != sorted(str(i) for i in range(len(channels))):
        return 'has channel_names that do not map "0", "1" ... to a name'
    for name in (*labels, *map(str, channels.values())):
        if why := _name_problem(name):
            return f"has a label or channel {name[:40]!a} that {why}"
    values = [v for value in labels.values() for v in (value if isinstance(value, list) else [value])]
    if [] in labels.values() or not all(type(v) is int for v in values):
        return 'has labels that do not map a name to an integer (or a list of them), such as "liver": 1'
    if not all(0 <= v <= LARGEST_LABEL for v in values):
        return f"has labels that are not from 0 to {LARGEST_LABEL}"
    if not all(isinstance(name, str | int) for name in channels.values()):
        return "has channel_names that are no text"
    ending = content["file_ending"]
    if not (isinstance(ending, str) and ending.startswith(".") and not set(ending) & set("/\\\0")):
        return 'has a file_ending that is none, such as ".nii.gz"'
    if isinstance(labels.get("ignore", 0), list):
        return "has an ignore label of several integers"
    order = content.get("regions_class_order", [])
    if not (isinstance(order, list) and all(type(v) is int and 0 <= v <= LARGEST_LABEL for v in order)):
        return "has a regions_class_order that is no list of integers"
    return ""


def _name_problem(name: str) -> str:
    """Why nothing can be called so, as the rest of a sentence; empty: it can. Whatever else a name holds is escaped
    where it is shown."""
    if not name.strip():
        return "is empty; give it a name"
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} characters; at most {LONGEST_NAME} are allowed"
    if any(unicodedata.category(letter) == "Cc" or letter in TURNING for letter in name):
        return "holds control characters; leave them out"
    return ""
