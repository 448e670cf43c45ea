"""The teacher that is any program which reads and writes NIfTI, called by a command line that the user gives."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnkd.errors import GeometryError, ProgramError, SettingError, WeightsError
from nnkd.files import from_json, sha256
from nnkd.teachers.external import ExternalTeacher, Program, find_program, write_nifti
from nnkd.teachers.foreign import Map, MaskFile, Others, by_values, ignore_label, read_parts
from nnkd.types import Prompt, TeacherContext, Volume

PLACEHOLDERS = ("{image}", "{output}", "{folder}", "{case}", "{device}", "{threads}")
NIFTI = (".nii.gz", ".nii")
READ = (*NIFTI, ".nrrd", ".mha")
EXAMPLE = "command='prog -i {image} -o {output}'"


class ExternalProgramTeacher(ExternalTeacher):
    """Runs a command line for each case."""

    devices = ("cuda", "cpu", "mps")
    costs_only = frozenset({"timeout", "licence", "inherit"})

    def __init__(
        self,
        context: TeacherContext,
        *,
        command: str = "",
        map: Map | Path | None = None,
        image: str = "image.nii.gz",
        pattern: str = "output.nii.gz",
        geometry: Literal["world", "voxels"] = "world",
        others: Others | None = None,
        timeout: float | None = 3600.0,
        environment: dict[str, str] | None = None,
        inherit: tuple[str, ...] = (),
        weights: tuple[Path, ...] = (),
        licence: str = "",
    ):
        """Look at the command and the map.

        Args:
            context: The labels, the device and how many threads.
            command: The program and its arguments, with {image}, {output}, {folder}, {case}, {device}, {threads};
                required. Split as a shell would, but never run by one; or a JSON list of arguments.
            map: For one file with all labels: label -> value or list of values. For one file for each label: label ->
                name or list of names, which are joined. JSON text, or the path of a JSON file. None: the dataset's
                own integers and names.
            image: What the image is to be called, in the private folder; {case} may stand in it.
            pattern: Where the masks will be, in the private folder: a file with all labels, or with {label} one file
                for each. {output} in the command is that file, or the folder of those files. {case} may stand in it.
            geometry: "world": masks lie where their headers say, and are brought onto the image's grid by nearest
                neighbour where they were resampled, cropped or turned. "voxels": headers are not looked at; a mask is
                the written image, voxel by voxel.
            others: What becomes of values in one file with all labels that no label is made of. refuse: the case
                fails. some: they are background if a label is there beside them, else the case fails. background:
                they are. None: some with a map, which chooses; refuse without.
            timeout: Seconds a case may take; none: without end.
            environment: Variables to set, {"NAME": "value"}. They stand in the manifest.
            inherit: Names of variables of this process that the program sees beside the usual ones; * for all.
            weights: Files whose sha256 the manifest is to have.
            licence: Of the weights.

        Raises:
            NnkdError: If the command is missing or its program is not there, or map, image, pattern or weights cannot
                be.
        """
        self.arguments = _arguments(command)
        self.arguments[0] = find_program(self.arguments[0], "external")
        name = "The external program " + Path(self.arguments[0]).name
        super().__init__(context, Program(name, _positive(timeout), environment or {}, inherit))
        self.image, self.pattern = _inside(image, NIFTI, "image"), _inside(pattern, READ, "pattern")
        self.geometry = geometry
        self.parts = _parts(map, context, by_label="{label}" in pattern)
        self.others: Others = others or ("refuse" if map is None else "some")
        self._map_file = map if isinstance(map, Path) else None
        self._weights = _hashed(weights, licence)
        self._notes: dict[str, Any] = {}

    def weights(self) -> Sequence[Mapping[str, str]]:
        """The files that the user named."""
        return self._weights

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The map, if it is a file."""
        return {} if self._map_file is None else {"map": self._map_file}

    def notes(self) -> Mapping[str, object]:
        """Files that were resampled; voxels whose values the map does not mention."""
        return self._notes

    def prepare(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> list[str]:
        """Write the image, and fill in the command."""
        image, output = folder / _named(self.image, volume.case), self._output(volume.case, folder)
        write_nifti(volume, image)
        output.parent.mkdir(parents=True, exist_ok=True)
        if "{label}" in self.pattern:
            output.mkdir(exist_ok=True)
        values = (image, output, folder, volume.case, self.context.device, self.context.workers)
        filled = dict(zip(PLACEHOLDERS, map(str, values), strict=True))
        whole = re.compile("|".join(map(re.escape, PLACEHOLDERS)))
        return [whole.sub(lambda found: filled[found[0]], argument) for argument in self.arguments]

    def collect(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> dict[str, NDArray[np.bool_]]:
        """Read the masks onto the volume's grid."""
        self._notes = {}
        if "{label}" not in self.pattern:
            file = self._output(volume.case, folder)
            if not file.is_file():
                raise self._nothing(folder)
            mask = MaskFile.read(file)
            values = self._onto(mask, volume, folder)
            masks, ignored = by_values(mask, values, self.parts, self.others, [ignore_label(self.context)])
            if ignored:
                self._notes["ignored_voxels_by_value"] = ignored
            return masks
        found: dict[str, list[Path]] = {}
        for label, names in self.parts.items():
            files = [folder / _named(self.pattern, volume.case, str(name)) for name in names]
            there = [file for file in files if file.is_file()]
            if there:
                found[label] = there
        if not found:
            raise self._nothing(folder)
        return {
            label: np.logical_or.reduce([self._onto(MaskFile.read(file), volume, folder) != 0 for file in files])
            for label, files in found.items()
        }

    def _output(self, case: str, folder: Path) -> Path:
        """What {output} is: the file with all labels, or the folder with one file for each."""
        before = self.pattern.partition("{label}")[0]
        if before == self.pattern:
            return folder / _named(self.pattern, case)
        return folder / _named(before.rpartition("/")[0], case)

    def _nothing(self, folder: Path) -> ProgramError:
        there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        wrote = [name for name in there if name.endswith(READ) and name != self.image]
        hint = f"It wrote {', '.join(wrote[:5])}. " if wrote else ""
        return ProgramError(
            f"{self.program.name} ended without an error, but wrote no mask '{self.pattern}'. {hint}"
            f"Set pattern to what it writes, and {{output}} in the command to where."
        )

    def _onto(self, mask: MaskFile, volume: Volume, folder: Path) -> np.ndarray:
        """Integers (Z, Y, X) of a mask on the volume's grid."""
        if self.geometry == "voxels":
            if mask.grid.shape != volume.shape:
                raise GeometryError(
                    f"The mask '{mask.file.name}' has {_size(mask.grid.shape)} voxels (z, y, x), but its image "
                    f"'{volume.case}' {_size(volume.shape)}. With geometry=voxels they must be equal."
                )
            return mask.values
        todo = "Let the program keep the image's header, or set geometry=voxels if it answers voxel by voxel."
        values, resampled = mask.onto(volume, True, todo)
        if resampled:
            self._notes.setdefault("resampled", []).append(mask.file.relative_to(folder).as_posix())
        return values


def _arguments(command: str) -> list[str]:
    """The command as a list."""
    try:
        split = from_json(command) if command.lstrip().startswith("[") else shlex.split(command)
    except ValueError as error:
        raise SettingError(f"The external teacher's command cannot be split ({error}). Example: {EXAMPLE}.") from error
    if not split or not all(isinstance(argument, str) for argument in split):
        raise SettingError(f"The external teacher has no command. Set its option, such as {EXAMPLE}.")
    strange = [p for a in split for p in re.findall(r"\{[a-z]+\}", a) if p not in PLACEHOLDERS]
    if strange:
        raise SettingError(
            f"The external teacher's command has {', '.join(strange)}, but knows {', '.join(PLACEHOLDERS)}."
        )
    if not any("{image}" in a or "{folder}" in a for a in split):
        raise SettingError(
            f"The external teacher's command has no {{image}}, so it would read none. Example: {EXAMPLE}."
        )
    return split


def _positive(timeout: float | None) -> float | None:
    if timeout is not None and not timeout > 0:
        raise SettingError(
            f"The external teacher's timeout is {timeout:g}, but seconds above 0, or none, are expected."
        )
    return timeout


def _inside(name: str, endings: Sequence[str], option: str) -> str:
    """A path below the private folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts or not name.endswith(tuple(endings)):
        raise SettingError(
            f"The external teacher's {option} is '{name}', but a path below its private folder is expected, with one "
            f"of the endings {', '.join(endings)}."
        )
    return name


def _parts(given: Map | Path | None, context: TeacherContext, by_label: bool) -> dict[str, list[Any]]:
    """Values (or names) by label."""
    if given is None and by_label:
        return {label: [label] for label in context.labels}
    parts = read_parts(given, context, "external")
    if any(isinstance(part, str) for values in parts.values() for part in values) and not by_label:
        raise SettingError(
            "The external teacher's labels are names of files, but its pattern has no {label}. Map labels to the "
            "values in its file, or set a pattern such as masks/{label}.nii.gz."
        )
    return parts


def _named(pattern: str, case: str, label: str = "") -> str:
    return pattern.replace("{case}", case).replace("{label}", label)


def _hashed(files: Sequence[Path], licence: str) -> list[dict[str, str]]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(f"The external teacher's weights '{missing[0]}' are not there. Correct its option weights.")
    return [{"name": file.name, "sha256": sha256(file), "licence": licence} for file in files]


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
