"""The folder `uncertainty` in a prediction folder: maps as NIfTI files and intervals of volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray

from nnkd.data.reading import formats
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.image import Image
from nnkd.errors import DatasetError, PredictionError
from nnkd.files import for_spreadsheet, from_spreadsheet, remove_leftovers
from nnkd.replacing import Written

MAPS: Mapping[str, str] = {
    "entropy": "entropy of the mean probabilities",
    "mutual_information": "entropy of the mean less the members' mean entropy",
    "standard_deviation": "standard deviation of the probabilities, the largest over labels",
}
FOLDER = "uncertainty"
ENDING = ".nii.gz"  # whatever the dataset's: png and 8-bit tif hold no fractions
VOLUMES = "volumes.csv"
COLUMNS = ("case", "label", "members", "median", "low", "high", "unit")
NAMES = frozenset({"case", "label"})
PERCENTILES = (50.0, 2.5, 97.5)


class UncertaintyFolder:
    """`uncertainty` in a prediction folder. Several processes may write different cases at once.

    Args:
        predictions: The prediction folder.
        replace: Whether files that nnkd did not write may be replaced.
    """

    def __init__(self, predictions: Path, replace: bool = False):
        self.folder = predictions / FOLDER
        self._written = Written(predictions, replace)

    def names(self, case: str) -> list[str]:
        """What is written of a case, by names within the prediction folder."""
        return [*(f"{FOLDER}/{name}/{case}{ENDING}" for name in MAPS), f"{FOLDER}/{VOLUMES}"]

    def file(self, name: str, case: str) -> Path:
        """Where a map of a case lies.

        Args:
            name: One of MAPS.
            case: Its identifier.
        """
        return self.folder / name / f"{case}{ENDING}"

    def maps(self, case: str) -> dict[str, Path]:
        """Maps of a case that are there."""
        return {name: file for name in MAPS if (file := self.file(name, case)).is_file()}

    def is_complete(self, case: str) -> bool:
        """Whether all maps and the volumes of a case are there."""
        return len(self.maps(case)) == len(MAPS) and case in set(self.volumes()["case"])

    def write(
        self, case: str, maps: Mapping[str, NDArray[np.float32]], voxels: NDArray[np.floating], labels: Sequence[str],
        grid: Grid, voxel_mm3: float, header: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write a case: each map, then its rows of volumes.csv; each of them atomically.

        Args:
            case: Its identifier.
            maps: (Z, Y, X) float32 by name, in file order.
            voxels: (members, labels): voxels of each label in each member.
            labels: Their names.
            grid: The image's.
            voxel_mm3: Volume of one of these voxels in mm3; of an image without spacing, its size in pixels.
            header: The image's (`nnkd.data.reading.nifti`), where the maps lie in its file's order.
        """
        for name, array in maps.items():
            with self._written.writing(f"{FOLDER}/{name}/{case}{ENDING}") as temporary:
                formats.write(Image(array[None], grid, header=header), temporary)
        scale, unit = (1e-3, "ml") if grid.in_world else (1.0, "pixels")
        volumes = np.percentile(voxels * voxel_mm3 * scale, PERCENTILES, axis=0)
        rows = [(case, label, len(voxels), *volumes[:, k], unit) for k, label in enumerate(labels)]
        self._replace(case, pd.DataFrame(rows, columns=list(COLUMNS)))

    def remove_leftovers(self) -> None:
        """Remove what a killed process left; only while no other process writes here."""
        for folder in (self.folder, *(self.folder / name for name in MAPS)):
            remove_leftovers(folder)

    def forget(self, case: str) -> None:
        """Remove what nnkd wrote here of a case, whose label map is about to be another one."""
        if not self.folder.is_dir():
            return
        self._written.remove(f"{FOLDER}/{name}/{case}{ENDING}" for name in MAPS)
        if case in set(self.volumes()["case"]):
            self._replace(case, None)

    def volumes(self) -> pd.DataFrame:
        """volumes.csv: median and 95 % interval over members by case and label; without rows if there is none.

        Raises:
            PredictionError: If the file is not as it was written.
        """
        file = self.folder / VOLUMES
        if not file.is_file():
            return pd.DataFrame(columns=list(COLUMNS))
        try:
            found = pd.read_csv(file, dtype={"case": str, "label": str}, keep_default_na=False)
        except (ValueError, UnicodeDecodeError) as error:
            raise PredictionError(f"{self._say(VOLUMES)} cannot be read ({error}). Predict again.") from error
        for column in NAMES.intersection(found.columns):
            found[column] = found[column].map(from_spreadsheet)
        if tuple(found.columns) != COLUMNS:
            raise PredictionError(
                f"{self._say(VOLUMES)} has the columns {', '.join(found.columns)}, but {', '.join(COLUMNS)} are "
                f"expected. Predict again."
            )
        return found

    def read(self, name: str, case: str, grid: Grid) -> NDArray[np.float32]:
        """Read a map.

        Args:
            name: One of MAPS.
            case: Its identifier.
            grid: The label map's.

        Returns:
            (Z, Y, X) float32 in the label map's order.

        Raises:
            PredictionError: If the file cannot be read, or does not lie on that grid.
        """
        file = self.file(name, case)
        try:
            image = formats.read(file)
        except DatasetError as error:
            raise PredictionError(
                f"{self._say(f'{name}/{file.name}')} cannot be read. Predict the case again."
            ) from error
        mine = replace(image.grid, in_world=grid.in_world)
        difference = mine.difference(grid)
        if difference:
            raise PredictionError(
                f"{self._say(f'{name}/{file.name}')} does not lie on its label map's grid: {difference}. Predict the "
                f"case again."
            )
        return image.array[0].astype(np.float32, copy=False)

    def _replace(self, case: str, rows: pd.DataFrame | None) -> None:
        """Put rows in the place of a case's. Others' stay, also those of processes that write at the same time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{VOLUMES}.lock", timeout=60):
            found = self.volumes()
            found = found[found["case"] != case]
            if rows is not None:
                found = rows if found.empty else pd.concat([found, rows], ignore_index=True)
            found = found.sort_values("case", kind="stable")
            found = found.assign(**{name: found[name].map(for_spreadsheet) for name in sorted(NAMES)})
            with self._written.writing(f"{FOLDER}/{VOLUMES}") as temporary:
                found.to_csv(temporary, index=False, float_format="%.7g")

    def _say(self, name: str) -> str:
        return f"'{name}' in {self.folder.parent.name}/{self.folder.name}"
