"""Where the boxes of a box-prompted teacher come from: a file, another prediction folder, or reference labels."""

from __future__ import annotations

import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from nnkd.data.boxes import FORM, GivenBoxes, check_form, fingerprint
from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset, Split
from nnkd.data.labels.by_name import FolderLabels
from nnkd.data.predictions import Lineage, PredictionFolder, prediction_folders
from nnkd.data.reading.geometry import Box3D, Grid, Orientation
from nnkd.errors import DatasetError, PredictionError, SettingError, UnknownNameError
from nnkd.files import sha256, sha256_text
from nnkd.teachers.prompts import AROUND, BoxDrawing, boxes_of
from nnkd.types import SliceBoxes, Volume
from nnkd.votes import consensus

log = logging.getLogger("nnkd")
LABELS = "labels"
RE_ORIENT = "re-orient the image and draw the boxes anew: teachers work on axial slices"


class BoxSource(ABC):
    """Boxes by case.

    Attributes:
        ground_truth: Whether reference labels were used to draw them.
        coming: Whether the same call is still to make what they are drawn from.
        options: What the manifest keeps about them.
        lineage: Models that took part in drawing them.
    """

    ground_truth: bool = False
    coming: bool = False
    options: Mapping[str, object]
    lineage: Sequence[Lineage] = ()

    @abstractmethod
    def fingerprint(self, case: str) -> str:
        """Changes whenever the case's boxes do.

        Raises:
            NnkdError: If there are no boxes for the case.
        """

    @abstractmethod
    def prompts(self, volume: Volume, orientation: Orientation) -> dict[str, SliceBoxes]:
        """A case's boxes, by label, in the order teachers see (LPS).

        Raises:
            NnkdError: If they do not fit the image.
        """


@dataclass
class BoxesOfFile(BoxSource):
    """Boxes that somebody wrote into a JSON file. A label with an empty list was looked for and is not there; one
    without a list is not prompted."""

    given: GivenBoxes

    def __post_init__(self) -> None:
        self.options = {"boxes_from": "file"}

    @classmethod
    def read(cls, file: Path, spec: DatasetSpec, cases: Container[str]) -> BoxesOfFile:
        """Read a file, and check all of it that can be checked without the images.

        Args:
            file: Of the form `nnkd.data.boxes.FORM`.
            spec: The dataset.
            cases: Every case the file may name.

        Raises:
            SettingError: If it is missing or no JSON.
            PredictionError: If a box is malformed.
            UnknownNameError: If it names an unknown case or label.
        """
        given = GivenBoxes.read(file)
        for case, by_label in given.content.items():
            if case not in cases:
                raise UnknownNameError(
                    f"'{file.name}' has boxes for the case '{case}', but {spec.name} has no such image."
                )
            if not isinstance(by_label, dict):
                raise PredictionError(f"'{file.name}' has no labels under '{case}'; the form is {FORM}.")
            for label, boxes in given.of(case).items():
                spec.check_label(label)
                for box in boxes:
                    check_form(box, given.where(case, label))
        return cls(given)

    def fingerprint(self, case: str) -> str:
        return fingerprint(self.given.of(case))

    def prompts(self, volume: Volume, orientation: Orientation) -> dict[str, SliceBoxes]:
        shape = orientation.stored_shape
        found = self.given.seen(volume.case, orientation, shape, shape[0] == 1, RE_ORIENT)
        return {label: SliceBoxes(list(chain.from_iterable(map(_slices, boxes)))) for label, boxes in found.items()}


@dataclass
class BoxesOfPredictions(BoxSource):
    """Boxes around another teacher's masks. Labels it abstains from are not prompted; where it sees nothing, nothing
    is prompted, and the answer is "not here".

    Attributes:
        folder: The prediction folder; it may be written while boxes are asked for.
        spec: The dataset.
        drawing: How boxes are drawn.
    """

    folder: PredictionFolder
    spec: DatasetSpec
    drawing: BoxDrawing

    def __post_init__(self) -> None:
        self.options = {"boxes_from": self.folder.name, **_portable(self.drawing)}
        if self.folder.exists():
            manifest = self.folder.manifest()
            if line := FolderLabels.of(self.folder.folder, self.spec).line():
                log.info("boxes from %s", line)
            self.ground_truth, self.lineage = manifest.ground_truth, tuple(manifest.lineage)

    def fingerprint(self, case: str) -> str:
        manifest = self.folder.manifest()
        record = manifest.cases.get(case)
        if record is None:
            why = f": {manifest.failures[case]}" if case in manifest.failures else "."
            raise PredictionError(
                f"There are no boxes for '{case}', since '{self.folder.name}' has no answer for it{why} Run "
                f"nnKD_predict_teachers for that teacher first."
            )
        return sha256_text(" ".join((record.output, *sorted(record.answers))))

    def prompts(self, volume: Volume, orientation: Orientation) -> dict[str, SliceBoxes]:
        labels = FolderLabels.of(self.folder.folder, self.spec)
        label_map, grid = labels.read(self.folder.file(volume.case, self.spec.file_ending))[:2]
        label_map = _as_seen(label_map, grid, volume.case, orientation, self.folder.name)
        answered = self.folder.manifest().cases[volume.case].answers
        return _drawn(label_map, volume, self.spec, answered, self.drawing, self.ground_truth)


@dataclass
class BoxesOfLabels(BoxSource):
    """Boxes around reference labels: for measuring a teacher at its best, never for training without labels.

    Attributes:
        dataset: The dataset.
        split: "Tr" for its manual label maps, "Ts" for labelsTs.
        drawing: How boxes are drawn.
    """

    dataset: RawDataset
    split: Split
    drawing: BoxDrawing

    def __post_init__(self) -> None:
        self.ground_truth = True
        self.options = {"boxes_from": LABELS, **_portable(self.drawing)}
        self._manual = set(consensus.manual_cases(self.dataset)) if self.split == "Tr" else None

    def _file(self, case: str) -> Path:
        file = self.dataset.label_file(case, self.split)
        if self._manual is not None and case not in self._manual:
            there = "a consensus" if file.is_file() else "no label map"
            raise DatasetError(f"labelsTr has {there} for '{case}', but boxes from labels need a manual label map.")
        if not file.is_file():
            raise DatasetError(f"labelsTs has no label map for '{case}', from which its boxes were to come.")
        return file

    def fingerprint(self, case: str) -> str:
        return sha256(self._file(case))

    def prompts(self, volume: Volume, orientation: Orientation) -> dict[str, SliceBoxes]:
        spec = self.dataset.spec
        label_map, grid, _ = spec.read_label_map(self._file(volume.case))
        label_map = _as_seen(label_map, grid, volume.case, orientation, f"labels{self.split}")
        return _drawn(label_map, volume, spec, spec.labels, self.drawing, True)


def find(
    wanted: str,
    dataset: RawDataset,
    images: ImageFolder,
    beside: Path,
    coming: Container[str],
    drawing: BoxDrawing,
) -> BoxSource:
    """The source of boxes that --boxes-from names.

    Args:
        wanted: "labels", the name of a teacher (or a path of a prediction folder), or a JSON file.
        dataset: The dataset; a file may name cases of imagesTr and imagesTs.
        images: The images that are segmented.
        beside: Folder in which prediction folders are looked for.
        coming: Prediction folders that this very call writes there first; the caller adds their lineage.
        drawing: How boxes are drawn around masks.

    Raises:
        UnknownNameError: If there is nothing of that name.
        SettingError: If boxes of a file are to be drawn otherwise.
        NnkdError: If the file or folder is not what it should be.
    """
    if wanted == LABELS:
        return BoxesOfLabels(dataset, _split(dataset, images), drawing)
    if wanted in coming:
        source = BoxesOfPredictions(PredictionFolder(beside / wanted), dataset.spec, drawing)
        source.coming, source.lineage = True, ()
        return source
    if PredictionFolder(beside / wanted).exists():
        return BoxesOfPredictions(PredictionFolder(beside / wanted), dataset.spec, drawing)
    path = Path(wanted)
    if PredictionFolder(path).exists():
        return BoxesOfPredictions(PredictionFolder(path), dataset.spec, drawing)
    if path.is_file() or path.suffix == ".json":
        if drawing != AROUND:
            raise SettingError("Boxes from a file are taken as they are: leave out --box_margin and its like.")
        known = set(images.cases())
        for split in ("Tr", "Ts"):
            if (dataset.folder / f"images{split}").is_dir():
                known.update(dataset.images(split).cases())
        return BoxesOfFile.read(path, dataset.spec, known)
    there = [folder.name for folder in prediction_folders(beside)]
    raise UnknownNameError(
        f"--boxes-from got '{path.name}', but expected are a teacher of {beside.name} "
        f"({', '.join(there) if there else 'none is there yet'}), a JSON file, or '{LABELS}'."
    )


def _split(dataset: RawDataset, images: ImageFolder) -> Split:
    splits: tuple[Split, ...] = ("Tr", "Ts")
    for split in splits:
        if images.folder.resolve() == dataset.images(split).folder.resolve():
            return split
    raise SettingError("--boxes-from labels knows labelsTr and labelsTs only; for a folder given with -i name a file.")


def _drawn(
    label_map: np.ndarray,
    volume: Volume,
    spec: DatasetSpec,
    answered: Sequence[str] | Mapping[str, object],
    drawing: BoxDrawing,
    ground_truth: bool,
) -> dict[str, SliceBoxes]:
    found = {}
    for name in spec.labels:
        if name in answered:
            rng = np.random.default_rng([zlib.crc32(volume.case.encode()), zlib.crc32(name.encode())])
            boxes = boxes_of(spec.mask(label_map, name), volume.spacing, drawing, rng)
            found[name] = SliceBoxes(boxes, ground_truth)
    return found


def _as_seen(label_map: np.ndarray, grid: Grid, case: str, image: Orientation, where: str) -> np.ndarray:
    """A label map in the order teachers see.

    Raises:
        PredictionError: If it lies elsewhere than its image.
    """
    orientation = Orientation(grid)
    difference = orientation.grid.difference(image.grid)
    if difference:
        raise PredictionError(
            f"The label map of '{case}' in {where} does not lie on its image's grid: {difference}. Write it again."
        )
    return orientation.to_lps(label_map)


def _slices(box: Box3D) -> list[tuple[int, int, int, int, int]]:
    """A box in each of its slices."""
    z0, y0, x0, z1, y1, x1 = box
    return [(z, y0, x0, y1, x1) for z in range(z0, z1)]


def _portable(drawing: BoxDrawing) -> dict[str, object]:
    return {f"box_{name}": value for name, value in asdict(drawing).items()}
