"""The teacher that takes masks another program wrote, after checking that they lie where the image lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnkd.errors import DatasetError, GeometryError, SettingError
from nnkd.files import is_visible
from nnkd.foreign_labels import Map, Part, read_map
from nnkd.geometry import Grid, Orientation
from nnkd.interfaces import Teacher
from nnkd.nifti import check_whole
from nnkd.types import Prompt, TeacherContext, Volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".gif", ".bmp")
WITHOUT_WORLD = (".png", ".tif", ".tiff", ".gif", ".bmp")
PATTERNS_ONE_FILE = ("{case}",)
PATTERNS_PER_LABEL = ("{case}/{label}", "{case}_{label}")


class ImportedTeacher(Teacher):
    """Takes masks from files: one with all labels for a case, or one for each label."""

    devices = ("cpu",)
    channels = "all"
    no_network = "The imported teacher takes masks that another program wrote: there is no network to count."

    def __init__(
        self,
        context: TeacherContext,
        *,
        folder: Path | None = None,
        map: Map | Path | None = None,
        pattern: str | None = None,
        resample: bool = False,
    ):
        """Look at the folder and the map.

        Args:
            context: The labels.
            folder: Where the masks are; required.
            map: For one file with all labels: label -> value or list of values. For one file for each label: label ->
                name or list of names, which are joined. JSON text, or the path of a JSON file. None: the dataset's
                own integers and names.
            pattern: Names of the files without ending, if other than {case}, {case}/{label} or {case}_{label}.
            resample: Bring masks of another grid onto the image's, by nearest neighbour in world space.

        Raises:
            SettingError: If the folder is missing, the map names unknown labels, or mixes values and names.
        """
        super().__init__(context)
        if folder is None:
            raise SettingError("The imported teacher has no folder. Set its option folder=PATH to where the masks are.")
        if not folder.is_dir():
            raise SettingError(
                f"The imported teacher's folder '{folder.name}' does not exist. Correct its option folder."
            )
        if pattern is not None and "{case}" not in pattern:
            raise SettingError(
                f"The imported teacher's pattern '{pattern}' lacks {{case}}. Example: seg_{{case}}_{{label}}."
            )
        self.folder, self.resample, self.pattern = folder, resample, pattern
        self.map_file = map if isinstance(map, Path) else None
        self.parts = _parts(map, context)
        self._notes: dict[str, Any] = {}

    @cached_property
    def _stems(self) -> dict[str, Path]:
        """Mask files by their path without ending, relative to the folder."""
        found: dict[str, Path] = {}
        for path in sorted(self.folder.rglob("*")):
            ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), "")
            if not ending or not is_visible(path):
                continue
            stem = path.relative_to(self.folder).as_posix()[: -len(ending)]
            if stem in found:
                raise DatasetError(
                    f"'{found[stem].name}' and '{path.name}' could both be the masks of '{stem}'. Take one away."
                )
            found[stem] = path
        return found

    def _one_file(self, case: str) -> Path | None:
        """The file with all labels of a case."""
        if any(isinstance(part, str) for parts in self.parts.values() for part in parts):
            return None
        patterns = PATTERNS_ONE_FILE if self.pattern is None else (self.pattern,)
        stems = [_filled(p, case) for p in patterns if "{label}" not in p]
        return next((self._stems[stem] for stem in stems if stem in self._stems), None)

    def _label_files(self, case: str) -> dict[str, list[Path]]:
        """Files of single labels; a label without any is left out."""
        patterns = PATTERNS_PER_LABEL if self.pattern is None else (self.pattern,)
        found: dict[str, list[Path]] = {}
        for label, parts in self.parts.items():
            names = [part for part in parts if isinstance(part, str)] or [label]
            for name in names:
                stems = [_filled(p, case, name) for p in patterns if "{label}" in p]
                found.setdefault(label, []).extend(self._stems[stem] for stem in stems if stem in self._stems)
        return {label: files for label, files in found.items() if files}

    def _files(self, case: str) -> list[Path]:
        one = self._one_file(case)
        files = [one] if one else [file for files in self._label_files(case).values() for file in files]
        if not files:
            patterns = (*PATTERNS_ONE_FILE, *PATTERNS_PER_LABEL) if self.pattern is None else (self.pattern,)
            looked = " or ".join(_filled(p, case) for p in patterns)
            raise DatasetError(
                f"No mask of '{case}' is in '{self.folder.name}': looked for {looked} with an ending of "
                f"{', '.join(e[1:] for e in ENDINGS)}. Add it, or set pattern= to how the files are called."
            )
        return files

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The masks, and the map."""
        files = {f"imported {file.relative_to(self.folder).as_posix()}": file for file in self._files(case)}
        return files if self.map_file is None else {**files, "map": self.map_file}

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> dict[str, np.ndarray]:
        """Read a case's masks. A label without a file of its own is left out; one without voxels is empty."""
        self._notes = {}
        one = self._one_file(volume.case)
        if one is not None:
            return self._from_one(self._read(one, volume))
        self._files(volume.case)  # says what was looked for if there is nothing
        return {
            label: np.logical_or.reduce([self._read(file, volume) != 0 for file in files])
            for label, files in self._label_files(volume.case).items()
        }

    def notes(self) -> Mapping[str, object]:
        """Voxels whose values the map does not mention; whether masks were resampled."""
        return self._notes

    def _from_one(self, values: np.ndarray) -> dict[str, np.ndarray]:
        mapped = {part for parts in self.parts.values() for part in parts}
        found, counts = np.unique(values, return_counts=True)
        ignored = {str(int(v)): int(n) for v, n in zip(found, counts, strict=True) if v != 0 and int(v) not in mapped}
        if ignored:
            self._notes["ignored_voxels_by_value"] = ignored
        return {label: np.isin(values, parts) for label, parts in self.parts.items()}

    def _read(self, file: Path, volume: Volume) -> np.ndarray:
        """Integers (Z, Y, X) of a mask file on the volume's grid."""
        image = _read_image(file)
        array = _integers(sitk.GetArrayFromImage(image), file)
        array = array[None] if array.ndim == 2 else array
        if array.ndim != 3:
            raise DatasetError(f"The mask '{file.name}' has {array.ndim} axes, but 2 or 3 are expected. Split it.")
        world = not file.name.lower().endswith(WITHOUT_WORLD)
        grid = _grid(array.shape, image, world)
        target = _volume_grid(volume, world)
        orientation = Orientation(grid)
        difference = orientation.grid.difference(target)
        if not difference:
            return orientation.to_lps(array)
        if self.resample and world and not volume.is_2d:
            self._notes.setdefault("resampled", []).append(file.relative_to(self.folder).as_posix())
            return _resampled(image, target)
        hint = " or set resample=true" if world and not volume.is_2d and not self.resample else ""
        raise GeometryError(
            f"The mask '{file.name}' does not lie on the grid of its image '{volume.case}': {difference}. "
            f"Export it on the image's grid{hint}."
        )


def _filled(pattern: str, case: str, label: str = "{label}") -> str:
    return pattern.replace("{case}", case).replace("{label}", label)


def _parts(given: Map | Path | None, context: TeacherContext) -> dict[str, list[Part]]:
    """Values or names by label, as lists."""
    parts = read_map(given, context.labels, "imported")
    if parts is None:
        spec = getattr(context.dataset, "spec", None)
        return {label: list(spec.labels[label]) if spec else [label] for label in context.labels}
    if {type(part) for values in parts.values() for part in values} == {int, str}:
        raise SettingError("The imported teacher's map mixes values and names of files; use one kind throughout.")
    return parts


def _read_image(file: Path) -> sitk.Image:
    if file.stat().st_size == 0:
        raise DatasetError(f"The mask '{file.name}' is empty (0 bytes). Copy it again.")
    check_whole(file)
    try:
        if file.suffix.lower() == ".gif":  # ITK has no reader for it
            return sitk.GetImageFromArray(_picture(file))
        image = sitk.ReadImage(str(file))
    except (RuntimeError, OSError) as error:
        raise DatasetError(
            f"The mask '{file.name}' cannot be read; it may be truncated or of another format."
        ) from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = _grey(image, file)
    return image


def _picture(file: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))


def _grey(image: sitk.Image, file: Path) -> sitk.Image:
    """A colour picture whose channels agree, as one channel."""
    channels = np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)
    if any(not np.array_equal(channels[0], other) for other in channels[1:3]):
        raise DatasetError(
            f"The mask '{file.name}' is a coloured picture, but one value a voxel is expected. Convert it."
        )
    grey = sitk.GetImageFromArray(channels[0])
    grey.CopyInformation(image)
    return grey


def _integers(array: np.ndarray, file: Path) -> np.ndarray:
    if np.issubdtype(array.dtype, np.floating):
        rounded = np.rint(array)
        if not np.isfinite(array).all() or np.abs(array - rounded).max(initial=0) > 1e-3:
            raise DatasetError(
                f"The mask '{file.name}' holds fractions, but label values are expected. Threshold probabilities first."
            )
        array = rounded
    return array.astype(np.int32)


def _grid(shape: Iterable[int], image: sitk.Image, world: bool) -> Grid:
    z, y, x = shape
    if image.GetDimension() == 2:
        spacing = image.GetSpacing()
        return Grid((z, y, x), (1.0, spacing[1], spacing[0]), (*image.GetOrigin(), 0.0), np.eye(3), in_world=False)
    direction = np.asarray(image.GetDirection(), dtype=float).reshape(3, 3)
    return Grid((z, y, x), tuple(image.GetSpacing()[::-1]), tuple(image.GetOrigin()), direction, in_world=world)


def _volume_grid(volume: Volume, world: bool) -> Grid:
    return Grid(volume.shape, volume.spacing, volume.origin, np.asarray(volume.direction), in_world=world)


def _resampled(image: sitk.Image, target: Grid) -> np.ndarray:
    """Nearest neighbour in world space; outside is background."""
    resampled = sitk.Resample(
        image, list(target.shape[::-1]), sitk.Transform(), sitk.sitkNearestNeighbor, list(target.origin),
        list(target.spacing[::-1]), target.direction.ravel().tolist(), 0.0, image.GetPixelID(),
    )  # fmt: skip
    return np.rint(sitk.GetArrayFromImage(resampled)).astype(np.int32)
