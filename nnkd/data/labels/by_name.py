"""What the integers in a folder of label maps mean, and its label maps in the integers of another dataset.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.numbering import meaning_of_labels
from nnkd.data.predictions import MANIFEST, PredictionFolder
from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def own_dataset_json(folder: Path) -> Path | None:
    """The dataset.json that a folder of label maps goes by: the one in it, as nnU-Net's predictions have; that of the
    dataset around labelsTr and its like; or that of the model around a fold's validation. None: there is none."""
    folder = folder.resolve()
    places = [folder]
    if folder.name.startswith(("labels", "gt_segmentations")):
        places.append(folder.parent)
    if folder.name.startswith("validation") and folder.parent.name.startswith("fold_"):
        places.append(folder.parent.parent)
    return next((file for place in places if (file := place / "dataset.json").is_file()), None)


@dataclass(frozen=True)
class FolderLabels:
    """A folder's labels beside those that are wanted, matched by name.

    Attributes:
        wanted: The labels and integers to answer in.
        own: What the folder's label maps hold; the same file format.
        source: "manifest.json" or "dataset.json"; empty where nothing says, so that its integers are taken for those
            of `wanted`.
        name: The folder's, for messages.
        dataset_json: The file that says so; None: the manifest does, or nothing.
    """

    wanted: DatasetSpec
    own: DatasetSpec
    source: str
    name: str
    dataset_json: Path | None = None

    @classmethod
    def of(cls, folder: Path, wanted: DatasetSpec) -> FolderLabels:
        """Look at the manifest, else at the folder's own dataset.json, else take the wanted integers.

        Args:
            folder: Of label maps.
            wanted: The dataset to answer for.

        Raises:
            PredictionError: If the manifest is not of its schema.
            DatasetError: If the folder's dataset.json is no dataset.json, or has no label of the names that are wanted.
        """
        found = PredictionFolder(folder)
        if found.exists():
            labels: dict[str, Any] = {
                name: list(values) if len(values) > 1 else values[0] for name, values in found.manifest().labels.items()
            }
            return cls._checked(folder, wanted, {"labels": {"background": 0, **labels}}, MANIFEST)
        file = own_dataset_json(folder)
        if file is None:
            return cls(wanted, wanted, "", folder.name)
        theirs = DatasetSpec.read(file)
        more = {key: theirs.json[key] for key in ("labels", "regions_class_order") if key in theirs.json}
        return replace(cls._checked(folder, wanted, more, file.name), dataset_json=file)

    @classmethod
    def _checked(cls, folder: Path, wanted: DatasetSpec, more: dict[str, Any], source: str) -> FolderLabels:
        own = DatasetSpec({**wanted.json, **more}, f"'{folder.resolve().name}'", wanted.folder)
        if not own.labels.keys() & wanted.labels.keys():
            raise DatasetError(
                f"The label maps in '{folder.name}' are of {', '.join(own.labels)} ({source}), and none of these is a "
                f"label of {wanted.name}, which has {', '.join(wanted.labels)}. Name the labels alike."
            )
        numbers = list(own.labels.values())
        if not own.has_regions and len({*numbers}) < len(numbers):
            raise DatasetError(f"{source} of '{folder.name}' gives two labels the same integer. Write it again.")
        same = meaning_of_labels(own) == meaning_of_labels(wanted) and own.ignore_label in (None, wanted.ignore_label)
        return cls(wanted, wanted if same else own, source, folder.resolve().name)

    @property
    def missing(self) -> list[str]:
        """Labels that are wanted and that the folder does not know."""
        return [label for label in self.wanted.labels if label not in self.own.labels]

    def matching(self) -> tuple[Any, ...] | None:
        """What decides a translation; None: there is none, the integers are the wanted ones."""
        if self.own is self.wanted:
            return None
        return sorted(self.own.labels.items()), self.own.ignore_label, sorted(self.wanted.labels.items())

    def line(self) -> str:
        """What is worth saying of how labels were matched; empty where all integers are the wanted ones."""
        if not self.source:
            numbers = ", ".join(f"{label} {'+'.join(map(str, v))}" for label, v in self.wanted.labels.items())
            return (
                f"{self.name}: nothing there says what its integers mean; taken as in dataset.json of "
                f"{self.wanted.name} ({numbers})"
            )
        other = [
            f"{label} {'+'.join(map(str, values))} for {'+'.join(map(str, self.wanted.labels[label]))}"
            for label, values in self.own.labels.items()
            if label in self.wanted.labels and values != self.wanted.labels[label]
        ]
        beyond = [label for label in self.own.labels if label not in self.wanted.labels]
        parts = [f"by name, {', '.join(other)}"] if other else []
        parts += [f"without {', '.join(self.missing)}"] if self.missing else []
        parts += [f"{', '.join(beyond)} passed over"] if beyond else []
        return f"{self.name}: labels as its {self.source} has them ({'; '.join(parts)})" if parts else ""

    def read(self, file: Path) -> tuple[NDArray[np.int32], Grid, dict[str, Any]]:
        """A label map in the wanted integers.

        Returns:
            (Z, Y, X) int32 in file order; its grid; the reader's properties. Labels that are not wanted are
            background; the folder's ignore label is the wanted one, or background where none is wanted.

        Raises:
            DatasetError: If the file is unreadable, or holds values that its folder does not name.
        """
        label_map, grid, properties = self.own.read_label_map(file)
        return self.translated(label_map), grid, properties

    def translated(self, label_map: NDArray[np.integer]) -> NDArray[np.int32]:
        """The same label map in the wanted integers."""
        if self.own is self.wanted:
            return label_map.astype(np.int32)
        shared = [label for label in self.wanted.labels if label in self.own.labels]
        masks = {label: self.own.mask(label_map, label) for label in shared}
        result = self.wanted.label_map(masks, label_map.shape).astype(np.int32)
        if self.own.ignore_label is not None and self.wanted.ignore_label is not None:
            result[label_map == self.own.ignore_label] = self.wanted.ignore_label
        return result
