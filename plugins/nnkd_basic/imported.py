"""The teacher that takes masks another program wrote, after checking that they lie where the image lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkd.data.listing import Listing
from nnkd.data.reading.formats import say
from nnkd.data.reading.image import ending_of, image_files
from nnkd.errors import DatasetError, SettingError
from nnkd.plugin.teachers import Teacher
from nnkd.teachers.foreign import ENDINGS, Map, MaskFile, Others, by_values, ignore_label, labels_of_folder, read_parts
from nnkd.types import FolderCount, Prompt, TeacherContext, Volume

TO_RESAMPLE = ", or, if its header says where it lies, set resample=true"
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
        others: Others | None = None,
    ):
        """Look at the folder and the map.

        Args:
            context: The labels.
            folder: Where the masks are; required.
            map: For one file with all labels: label -> value or list of values. For one file for each label: label ->
                name or list of names, which are joined. JSON text, or the path of a JSON file. None: labels of equal
                names in the folder's manifest.json or dataset.json, where it has one (it abstains from the others);
                else the dataset's own integers and names.
            pattern: Names of the files without ending, if other than {case}, {case}/{label} or {case}_{label}.
            resample: Bring masks of another grid onto the image's, by nearest neighbour in world space.
            others: What becomes of values in one file with all labels that no label is made of. refuse: the case
                fails. some: they are background if a label is there beside them, else the case fails. background:
                they are. None: some with a map, which chooses; refuse without.

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
        self.others: Others = others or ("refuse" if map is None else "some")
        self.map_file = map if isinstance(map, Path) else None
        self.parts = read_parts(map, context, "imported")
        self._known, self._labels_file = [ignore_label(context)], None
        if map is None and (labels := labels_of_folder(folder, context)) is not None and labels.source:
            self.parts = {name: list(labels.own.labels[name]) for name in self.parts if name in labels.own.labels}
            self._known = [*labels.own.values]
            self._labels_file = labels.dataset_json
        self._notes: dict[str, Any] = {}

    @cached_property
    def _listing(self) -> Listing:
        return image_files(self.folder)

    def _stem(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()[: -len(ending_of(file))]

    def folders(self, cases: Sequence[str]) -> Sequence[FolderCount]:
        """Which files are masks of these cases, and of labels that are asked for."""
        used: set[str] = set()
        for case in cases:
            one = self._one_file(case)
            files = [one] if one else [file for files in self._label_files(case).values() for file in files]
            used |= {self._stem(file) for file in files}
        names = "|".join(re.escape(case) for case in cases)
        patterns = PATTERNS_PER_LABEL if self.pattern is None else (self.pattern,)
        own = [re.escape(p).replace(r"\{case\}", f"(?:{names})").replace(r"\{label\}", ".+") for p in patterns]
        of_cases = re.compile("|".join(own))
        stems = {name: self._stem(path) for name, (path,) in self._listing.cases.items()}
        theirs = {name for name, stem in stems.items() if stem in used or of_cases.fullmatch(stem)}
        found = self._listing.only(
            theirs, why="no image's case is called so: CASE, CASE_LABEL or CASE/LABEL is looked for"
        )
        found = found.only({name for name in theirs if stems[name] in used}, rule="of a label that is not asked for")
        map_file = () if self.map_file is None else (self.map_file,)
        return [found.told(*map_file).count()]

    @cached_property
    def _stems(self) -> dict[str, Path]:
        """Mask files by their path without ending, relative to the folder."""
        found: dict[str, Path] = {}
        for stem, path in ((self._stem(path), path) for (path,) in self._listing.cases.values()):
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
        """The masks, and what says what their integers mean: the map, or the folder's dataset.json."""
        files = {f"imported {file.relative_to(self.folder).as_posix()}": file for file in self._files(case)}
        says = {"map": self.map_file, "dataset.json": self._labels_file}
        return {**files, **{name: file for name, file in says.items() if file is not None}}

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> dict[str, NDArray[np.bool_]]:
        """Read a case's masks. A label without a file of its own is left out; one without voxels is empty."""
        self._notes = {}
        one = self._one_file(volume.case)
        if one is not None:
            mask = MaskFile.read(one)
            values = self._onto(mask, volume)
            masks, ignored = by_values(mask, values, self.parts, self.others, self._known)
            if ignored:
                self._notes["ignored_voxels_by_value"] = ignored
            return masks
        self._files(volume.case)  # says what was looked for if there is nothing
        return {
            label: np.logical_or.reduce([self._one_label(file, volume) for file in files])
            for label, files in self._label_files(volume.case).items()
        }

    def notes(self) -> Mapping[str, object]:
        """Voxels whose values the map does not mention; whether masks were resampled."""
        return self._notes

    def _one_label(self, file: Path, volume: Volume) -> NDArray[np.bool_]:
        """Where the file of one label says yes; several values (parts, or a file with all labels) are told."""
        values = self._onto(MaskFile.read(file), volume)
        found = np.unique(values[values != 0]).tolist()
        if len(found) > 1:
            some = f"{', '.join(map(str, found[:8]))}{' ...' if len(found) > 8 else ''}"
            say(file, (f"it is the file of one label and holds the values {some}: all of them were taken for it",))
        return values != 0

    def _onto(self, mask: MaskFile, volume: Volume) -> np.ndarray:
        """Integers (Z, Y, X) of a mask on the volume's grid."""
        can = mask.in_world and not volume.is_2d and not self.resample
        todo = f"Export it on the image's grid{', with its header' if mask.in_world else ''}"
        values, resampled = mask.onto(volume, self.resample, f"{todo}{TO_RESAMPLE if can else ''}.")
        if resampled:
            self._notes.setdefault("resampled", []).append(mask.file.relative_to(self.folder).as_posix())
        return values


def _filled(pattern: str, case: str, label: str = "{label}") -> str:
    return pattern.replace("{case}", case).replace("{label}", label)
