"""Prediction folders: label maps CASE.ext and one manifest.json. Teachers, aggregations and students all write them;
evaluation, prompting, importing and voting all read them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from nnkd.data import listing
from nnkd.data.dataset import DatasetSpec
from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError, FileError, NnkdError, PredictionError
from nnkd.files import read_json, sha256, write_json
from nnkd.paths import check_name
from nnkd.replacing import Written
from nnkd.types import Entry, FolderCount

if TYPE_CHECKING:
    from numpy.typing import NDArray

Names = TypeVar("Names", bound=Iterable[str])
MANIFEST = "manifest.json"
NOT_STATED = "not stated"  # the licence of weights that came without one
# A path of two folders or more that begins at a root, and its last part; none are https://..., a/b/c, {folder}/a/b.
ABSOLUTE = re.compile(r"(?<![\w./}])(?:[A-Za-z]:)?[\\/](?:[^\s'\"\\/:]+[\\/])+([^\s'\":]*)")
WITH_SIDECAR = (".tif", ".tiff")  # nnU-Net keeps the spacing of their volumes in CASE.json
ADDITIONS = ("uncertainty",)  # options that add files beside the label maps and change none of these


class Weights(BaseModel):
    """One weights file in use."""

    name: str
    sha256: str
    licence: str = ""


class Lineage(BaseModel):
    """A model that took part, and the licences its predictions inherit."""

    name: str
    licence: str = ""
    weights_licence: str = ""


class CaseRecord(BaseModel):
    """One finished case.

    Attributes:
        inputs: sha256 by name of what it was made from (image files, or TEACHER/CASE files).
        output: sha256 of the label map.
        answers: Labels answered for; the others are abstentions.
        overlaps: Voxels that several labels claimed, by the label that lost them.
        seconds: Wall time.
        notes: Whatever else is worth keeping, such as the atlases used.
    """

    inputs: dict[str, str]
    output: str
    answers: list[str]
    overlaps: dict[str, int] = Field(default_factory=dict)
    seconds: float = 0.0
    notes: dict[str, Any] = Field(default_factory=dict)


def files_of_cases(found: Names) -> Names:
    """Names of cases in a file that anybody may have written; they become files.

    Args:
        found: The names, or something by name.

    Returns:
        The same.

    Raises:
        ValueError: If a file would lie elsewhere.
    """
    for case in found:
        try:
            check_name(case, "a case")
        except DatasetError as error:
            raise ValueError(str(error).rstrip(".")) from error
    return found


class Manifest(BaseModel):
    """What made a prediction folder. The one schema of all of them. Never a host name, an absolute path or a
    participant's attribute.

    Attributes:
        kind: Who wrote it.
        name: The folder's name in recipes and tables (a teacher's alias).
        made_by: The entry's name, such as "atlas" or "nnUNetTrainerUNet".
        versions: Version by distribution.
        options: As given and defaulted.
        labels: Integers by label name, as dataset.json had them.
        lineage: Models that took part, with licences.
        ground_truth: Whether reference labels were used anywhere (boxes drawn from them, say).
        cases: Finished cases.
        failures: One sentence by case.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    kind: Literal["teacher", "aggregation", "student"]
    name: str
    made_by: str
    made_on: str = Field(default_factory=lambda: date.today().isoformat())
    versions: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, list[int]]
    file_ending: str
    weights: list[Weights] = Field(default_factory=list)
    lineage: list[Lineage] = Field(default_factory=list)
    ground_truth: bool = False
    cases: Annotated[dict[str, CaseRecord], AfterValidator(files_of_cases)] = Field(default_factory=dict)
    failures: Annotated[dict[str, str], AfterValidator(files_of_cases)] = Field(default_factory=dict)

    @field_validator("file_ending")
    @classmethod
    def _ending(cls, found: str) -> str:
        if not re.fullmatch(r"(\.\w+)+", found):
            raise ValueError(f"{found[:40]!r} is no ending of files")
        return found

    def as_model(self) -> Lineage:
        """The whole folder as one model of its name, with all licences that it inherits."""
        found = {f: {getattr(m, f) for m in self.lineage} - {""} for f in ("licence", "weights_licence")}
        return Lineage(name=self.name, **{field: ", ".join(sorted(words)) for field, words in found.items()})


class PredictionFolder:
    """A prediction folder on disk. Several processes may write different cases of one folder at once."""

    def __init__(self, folder: Path, costs_only: Iterable[str] = (), replace: bool = False):
        """Nothing is read yet.

        Args:
            folder: Where it is.
            costs_only: Options that may be others when it is continued, since they change no label map.
            replace: Whether files that nnkd did not write may be replaced.
        """
        self.folder = folder
        self.written = Written(folder, replace)
        self._costs_only = {*costs_only, *ADDITIONS}

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def manifest_file(self) -> Path:
        """Where manifest.json lies."""
        return self.folder / MANIFEST

    def exists(self) -> bool:
        """Whether something has been written here."""
        return self.manifest_file.is_file()

    def is_readable(self) -> bool:
        """Whether there is a manifest of this version."""
        try:
            return bool(self.manifest())
        except PredictionError:
            return False

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            PredictionError: If it is missing or not of this schema.
        """
        if not self.exists():
            raise PredictionError(
                f"{self._say()} has no {MANIFEST}, so it is no prediction folder. Write it with "
                f"nnKD_predict_teachers, nnKD_aggregate or nnKD_predict, or import it with the teacher 'imported'."
            )
        try:
            return Manifest.model_validate(read_json(self.manifest_file))
        except FileError as error:
            raise PredictionError(str(error)) from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise PredictionError(
                f"{MANIFEST} of {self._say()} is not as expected: {where}: {problem['msg']}. "
                f"It may be from another version; write the folder again with --overwrite."
            ) from error

    def begin(self, header: Manifest, overwrite: bool = False) -> Manifest:
        """Open the folder for writing: a new manifest, or the existing one if it was made the same way.

        Args:
            header: A manifest without cases.
            overwrite: Start anew, forgetting (not yet deleting) what is there.

        Returns:
            The manifest to continue.

        Raises:
            PredictionError: If the folder was made by something else or with other options.
            ReplacingError: If its manifest is none of nnkd's.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self.written.adopt(self._outputs())  # so that they are known when the manifest has forgotten them
            if self.exists() and not overwrite:
                return self._take_over(self.check(header), header)
            write_json(self.manifest_file, header.model_dump())
            return header

    def check_replacing(self, cases: Iterable[str], file_ending: str, others: Iterable[str] = ()) -> None:
        """Make sure that what is to be written replaces nothing that nnkd did not write.

        Args:
            cases: Whose label maps are to be written.
            file_ending: Of the label maps.
            others: Names of further files.

        Raises:
            ReplacingError: If it would; nothing has been written then.
        """
        names = [name for case in cases for name in self._names(case, file_ending)]
        self.written.check([*names, *others], self._outputs())

    def _names(self, case: str, file_ending: str) -> list[str]:
        sidecar = [f"{case}.json"] if file_ending in WITH_SIDECAR else []
        return [f"{case}{file_ending}", *sidecar]

    def _outputs(self) -> dict[str, str]:
        """sha256 by name of the label maps that the manifest lists, also one of another version.

        Raises:
            ReplacingError: If there is a manifest that is none of nnkd's.
        """
        try:
            manifest = self.manifest()
        except PredictionError:
            if self.exists() and not _is_ours(self.manifest_file):
                self.written.check([MANIFEST])
            return {}
        return {f"{case}{manifest.file_ending}": record.output for case, record in manifest.cases.items()}

    def _take_over(self, found: Manifest, header: Manifest) -> Manifest:
        """Keep what was inherited before, and add what is inherited now: cases of both may lie here."""
        lineage = found.lineage + [model for model in header.lineage if model not in found.lineage]
        ground_truth = found.ground_truth or header.ground_truth
        changed = {
            key: value
            for key, value in header.options.items()
            if key in self._costs_only and (value or key not in ADDITIONS)
        }
        merged = found.model_copy(
            update={
                "lineage": lineage,
                "ground_truth": ground_truth,
                "options": {**found.options, **changed},
                "weights": [n if n.licence else o for o, n in zip(found.weights, header.weights, strict=True)],
            }
        )
        if merged == found:
            return found
        write_json(self.manifest_file, merged.model_dump())
        return merged

    def check(self, header: Manifest) -> Manifest:
        """The existing manifest, if it was made as `header` says; writes nothing.

        Raises:
            PredictionError: If it was made by something else or with other options.
        """
        found = self.manifest()
        difference = _difference(found, header, self._costs_only)
        if difference:
            raise PredictionError(
                f"{self._say()} was made otherwise ({difference}). Give the new one a name of its own, "
                f"or replace the old one with --overwrite."
            )
        return found

    def forget(self, cases: Iterable[str] | None = None) -> None:
        """Remove cases: their records and failures, and their label maps unless somebody changed them.

        Args:
            cases: Which; None: all that are listed.
        """
        with self._lock():
            manifest, outputs = self.manifest(), self._outputs()
            for case in list(manifest.cases) if cases is None else cases:
                self.written.remove(self._names(case, manifest.file_ending), outputs)
                manifest.cases.pop(case, None)
                manifest.failures.pop(case, None)
            write_json(self.manifest_file, manifest.model_dump())

    def cases(self) -> list[str]:
        """Finished cases whose label map is there, sorted."""
        manifest = self.manifest()
        return sorted(case for case in manifest.cases if self.file(case, manifest.file_ending).is_file())

    def file(self, case: str, file_ending: str) -> Path:
        """Where a case's label map lies."""
        return self.folder / f"{case}{file_ending}"

    def is_done(self, manifest: Manifest, case: str, inputs: Mapping[str, str]) -> bool:
        """Whether a case is finished, its label map is there, and it was made from the same inputs."""
        record = manifest.cases.get(case)
        return record is not None and record.inputs == dict(inputs) and self.file(case, manifest.file_ending).is_file()

    def write(
        self,
        spec: DatasetSpec,
        case: str,
        label_map: NDArray[np.integer],
        properties: Mapping[str, Any],
        *,
        inputs: Mapping[str, str],
        answers: Iterable[str],
        overlaps: Mapping[str, int] | None = None,
        seconds: float = 0.0,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a case's label map, then its record; both atomically.

        Args:
            spec: The dataset.
            case: Its identifier.
            label_map: (Z, Y, X) integers in file order.
            properties: The reader's properties of the image.
            inputs, answers, overlaps, seconds, notes: See CaseRecord.

        Raises:
            ReplacingError: If a file is there that nnkd did not write.
        """
        target = self.file(case, spec.file_ending)
        spec.write_label_map(label_map, target, properties, partial(self.announce, target.name))
        self.adopt_sidecar(case, spec.file_ending)
        self.record(
            case,
            CaseRecord(
                inputs=dict(inputs),
                output=sha256(target),
                answers=list(answers),
                overlaps=dict(overlaps or {}),
                seconds=round(seconds, 2),
                notes=dict(notes or {}),
            ),
        )

    def announce(self, name: str, finished: Path) -> None:
        """Take note of a finished label map before it is moved to its place.

        Raises:
            ReplacingError: If a file is there that nnkd did not write.
        """
        self.written.announce(name, finished, self._outputs() if (self.folder / name).exists() else {})

    def adopt_sidecar(self, case: str, file_ending: str) -> None:
        """Take note of what a tif's writer has put beside it."""
        sidecar = self.folder / f"{case}.json"
        if file_ending in WITH_SIDECAR and sidecar.is_file():
            self.written.adopt({sidecar.name: sha256(sidecar)})

    def record(self, case: str, record: CaseRecord) -> None:
        """Note that a case is finished."""
        with self._lock():
            manifest = self.manifest()
            manifest.cases[case] = record
            manifest.failures.pop(case, None)
            write_json(self.manifest_file, manifest.model_dump())

    def fail(self, case: str, reason: str) -> None:
        """Note that a case failed; an earlier result of it is forgotten."""
        with self._lock():
            manifest = self.manifest()
            earlier = manifest.cases.pop(case, None)
            if earlier is not None:
                self.written.adopt({f"{case}{manifest.file_ending}": earlier.output})
            manifest.failures[case] = reason
            write_json(self.manifest_file, manifest.model_dump())

    def read(self, spec: DatasetSpec, case: str, grid: Grid | None = None) -> NDArray[np.int32]:
        """Read a case's label map in file order.

        Args:
            spec: The dataset.
            case: Its identifier.
            grid: The image's grid, to check against; None: not checked.

        Returns:
            (Z, Y, X) int32.

        Raises:
            PredictionError: If the grids differ.
        """
        label_map, mine, _ = spec.read_label_map(self.file(case, spec.file_ending))
        difference = mine.difference(grid) if grid is not None else ""
        if difference:
            raise PredictionError(
                f"'{case}' in {self._say()} does not lie on its image's grid: {difference}. Write it again."
            )
        return label_map

    def _say(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def _lock(self) -> FileLock:
        return FileLock(self.folder / ".manifest.lock", timeout=60)


def _is_ours(manifest: Path) -> bool:
    """Whether it has the form of a manifest of nnkd's, of whatever version."""
    try:
        content = read_json(manifest)
    except FileError:
        return False
    return isinstance(content, dict) and {"schema_version", "kind", "made_by"} <= content.keys()


def prediction_folders(parent: Path) -> list[PredictionFolder]:
    """Prediction folders in a folder, sorted by name; `count_predictions` names what else is there."""
    names = listing.prediction_folders(parent).cases if parent.is_dir() else {}
    return [PredictionFolder(parent / name) for name in names]


def count_predictions(parent: Path, cases: Collection[str] | None, chosen: Collection[str] = ()) -> list[FolderCount]:
    """Which folders of teachers in a folder are taken, and which of their files.

    Args:
        parent: Such as teachersTr.
        cases: Those that are asked for; None: all.
        chosen: Names of the teachers that are taken; empty: all there are.
    """
    found = listing.prediction_folders(parent)
    found = found if not chosen else found.only(chosen, rule="not chosen with -t")
    counts = [found.count(what="folder")]
    for name in found.cases:
        manifest = PredictionFolder(parent / name).manifest()
        files = listing.label_maps(parent / name, manifest.file_ending)
        files = files.only({*files.cases} - manifest.failures.keys(), rule="earlier label map of a case that failed")
        files = files.only(manifest.cases, why=f"{MANIFEST} does not list it: nobody knows who made it")
        files = files if cases is None else files.only(cases, rule="of a case that is not asked for")
        counts.append(files.count(f"{parent.name}/{name}"))
    return counts


def label_map_files(folder: Path, file_ending: str) -> dict[str, Path]:
    """Label maps in any folder (with or without manifest) by case; none if there is no folder."""
    cases = listing.label_maps(folder, file_ending).cases if folder.is_dir() else {}
    return {case: file for case, (file,) in cases.items()}


def portable_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they may stand in a manifest: absolute paths cut to their last part, also those within a command."""

    def portable(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str) and os.path.isabs(value):
            return f".../{Path(value).name}"
        if isinstance(value, str):
            return ABSOLUTE.sub(r".../\1", value)
        if isinstance(value, Mapping):
            return {key: portable(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [portable(inner) for inner in value]
        return value

    return {key: portable(value) for key, value in options.items()}


def portable_error(error: BaseException, images: Path) -> str:
    """An error as one line without absolute paths, fit for a manifest.

    Args:
        error: What was raised.
        images: The folder of images it speaks of.
    """
    text = " ".join(str(error).split())
    for folder in (images, images.parent, Path.home()):
        text = text.replace(f"{folder}", f".../{folder.name}")
    text = ABSOLUTE.sub(r".../\1", text)
    return text if isinstance(error, NnkdError) else f"{type(error).__name__}: {text}"


def lineage_of(entry: Entry, weights: Iterable[Weights]) -> Lineage:
    """What predictions inherit from a teacher: the licences of the files it really uses. What its entry says is true
    of the published weights alone, so it counts only where the teacher names no files."""
    used = {file.licence or NOT_STATED for file in weights}
    weights_licence = ", ".join(sorted(used)) if used else entry.weights_licence
    return Lineage(name=entry.name, licence=entry.licence, weights_licence=weights_licence)


def versions(*distributions: str) -> dict[str, str]:
    """Versions of installed distributions, nnkd's included."""
    found = {}
    for name in ("nnkd", *distributions):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _difference(found: Manifest, header: Manifest, costs_only: Collection[str]) -> str:
    for field in ("kind", "made_by", "file_ending"):
        if getattr(found, field) != getattr(header, field):
            return f"{field} {getattr(found, field)}, now {getattr(header, field)}"
    for key in sorted({*found.options, *header.options} - set(costs_only)):
        if found.options.get(key) != header.options.get(key):
            return f"{key}={found.options.get(key)}, now {key}={header.options.get(key)}"
    if found.labels != header.labels:
        return f"labels {_say_labels(found)}, now {_say_labels(header)}"
    old, new = ([w.sha256 for w in m.weights] for m in (found, header))
    return "" if old == new else "other weights"


def _say_labels(manifest: Manifest) -> str:
    return ", ".join(f"{label} {'+'.join(map(str, integers))}" for label, integers in manifest.labels.items())
