"""The teachers that vote together: their prediction folders, checked and in bit order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkd import consensus, votes
from nnkd.dataset import DatasetSpec, RawDataset
from nnkd.errors import PredictionError, UnknownNameError
from nnkd.files import sha256
from nnkd.geometry import Grid
from nnkd.predictions import Lineage, Manifest, PredictionFolder, portable_options, prediction_folders, versions


@dataclass(frozen=True)
class Panel:
    """The teachers that vote, in bit order.

    Attributes:
        spec: The dataset.
        folders: By name.
        manifests: By name, read once, so that a teacher at work does not change them under our hands.
    """

    spec: DatasetSpec
    folders: Mapping[str, PredictionFolder]
    manifests: Mapping[str, Manifest]

    @classmethod
    def open(cls, source: Path, dataset: RawDataset, chosen: Sequence[str]) -> Panel:
        """Find and check the teachers; see `aggregate`."""
        there = {folder.name: folder for folder in prediction_folders(source)}
        if not there:
            raise PredictionError(
                f"{source.parent.name}/{source.name} holds no teacher's prediction folder yet. "
                f"Run nnKD_predict_teachers -d {dataset.name} -t TEACHER ... first."
            )
        missing = [teacher for teacher in chosen if teacher not in there]
        if missing:
            raise UnknownNameError(
                f"There is no teacher '{missing[0]}' in {source.parent.name}/{source.name}; there are: "
                f"{', '.join(there)}. Run nnKD_predict_teachers for it, or correct -t."
            )
        folders = {teacher: there[teacher] for teacher in (dict.fromkeys(chosen) or there)}
        votes.bit_dtype(len(folders))
        manifests = {teacher: folder.manifest() for teacher, folder in folders.items()}
        for teacher, manifest in manifests.items():
            _check_labels(teacher, manifest, dataset.spec)
        return cls(dataset.spec, folders, manifests)

    @property
    def names(self) -> list[str]:
        """In bit order."""
        return list(self.folders)

    def inputs(self, case: str) -> dict[str, str]:
        """Hashes of what the case's votes are made from."""
        return consensus.inputs_of(self.manifests, case, self.spec.labels)

    def answers(self, case: str) -> np.ndarray:
        """(K, L) bool."""
        records = {teacher: manifest.cases.get(case) for teacher, manifest in self.manifests.items()}
        return votes.answers_matrix(records, self.spec.labels)

    def read(
        self, case: str, image: tuple[Grid, dict[str, Any]] | None
    ) -> tuple[list[np.ndarray], Grid, dict[str, Any]]:
        """Label maps of a case, on one grid; empty ones for teachers that did not segment it.

        Args:
            case: Its identifier.
            image: The image's grid and properties; None: the first teacher's.

        Raises:
            DatasetError: If a file is missing or unreadable.
            PredictionError: If a file is not the one its manifest lists, or the grids differ.
        """
        found: dict[str, np.ndarray] = {}
        for teacher, folder in self.folders.items():
            record = self.manifests[teacher].cases.get(case)
            if record is None:
                continue
            file = folder.file(case, self.spec.file_ending)
            label_map, grid, properties = self.spec.read_label_map(file)
            if sha256(file) != record.output:
                raise PredictionError(
                    f"'{file.name}' of teacher '{teacher}' is not the file its manifest lists: it was edited or "
                    f"damaged. Delete it and run that teacher again; corrections belong into labelsTr."
                )
            image = (grid, properties) if image is None else image
            difference = grid.difference(image[0])
            if difference:
                raise PredictionError(
                    f"'{file.name}' of teacher '{teacher}' lies on another grid than the case: {difference}. "
                    f"Run that teacher again with --overwrite."
                )
            found[teacher] = label_map.astype(np.uint8 if max(self.spec.values) < 256 else np.uint16)
        if image is None or not found:
            raise PredictionError(f"No teacher has segmented '{case}'.")
        empty = np.zeros(image[0].shape, dtype=np.uint8)
        return [found.get(teacher, empty) for teacher in self.folders], *image

    def header(self, name: str, made_by: str, options: Mapping[str, Any]) -> Manifest:
        """Manifest, without cases, of what these teachers vote for: with all their licences, and with ground truth if
        one of them was told of it.

        Args:
            name: The folder's name.
            made_by: The aggregator's name.
            options: The aggregator's options.
        """
        lineage: dict[str, Lineage] = {}
        for teacher, manifest in self.manifests.items():
            for model in manifest.lineage or [Lineage(name=teacher)]:
                lineage[model.model_dump_json()] = model
        return Manifest(
            kind="aggregation",
            name=name,
            made_by=made_by,
            versions=versions(),
            options={**portable_options(options), "teachers": self.names},
            labels={label: list(integers) for label, integers in self.spec.labels.items()},
            file_ending=self.spec.file_ending,
            lineage=list(lineage.values()),
            ground_truth=any(manifest.ground_truth for manifest in self.manifests.values()),
        )


def _check_labels(teacher: str, manifest: Manifest, spec: DatasetSpec) -> None:
    for label, integers in spec.labels.items():
        if label in manifest.labels and list(integers) != list(manifest.labels[label]):
            raise PredictionError(
                f"Teacher '{teacher}' wrote {label} as {manifest.labels[label]}, but dataset.json of {spec.name} has "
                f"{list(integers)}. Run that teacher again with --overwrite."
            )
    if manifest.file_ending != spec.file_ending:
        raise PredictionError(
            f"Teacher '{teacher}' wrote {manifest.file_ending} files, but dataset.json of {spec.name} has "
            f"{spec.file_ending}. Run that teacher again with --overwrite."
        )
