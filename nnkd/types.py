"""The words of nnkd as types. Nothing here imports torch, nnunetv2 or another module of nnkd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["teacher", "aggregator", "student", "sampler", "auxiliary_scheduler"]
KINDS: tuple[Kind, ...] = ("teacher", "aggregator", "student", "sampler", "auxiliary_scheduler")


@dataclass(frozen=True)
class Entry:
    """One thing a plugin offers. Plain strings, so that listing plugins imports nothing heavy.

    Attributes:
        name: What the user types after -t, -a, -tr, -s or -as. For students: the trainer's class name.
        load: Where the class is, as "package.module:Class"; imported on first use.
        summary: One line for `nnKD_plugins`.
        source: The paper or project it comes from.
        licence: SPDX name of the code's licence.
        weights_licence: SPDX name of the weights' licence; empty if there are no weights.
    """

    name: str
    load: str
    summary: str
    source: str = ""
    licence: str = ""
    weights_licence: str = ""


@dataclass(frozen=True)
class Volume:
    """One case as a teacher sees it: axes (Z, Y, X), re-oriented to LPS, so that Z runs from feet to head,
    Y from front to back and X from the person's right to the left. 2D images have Z = 1 and are not re-oriented.

    Attributes:
        case: nnU-Net's identifier.
        data: (C, Z, Y, X) float32, raw intensities.
        spacing: (z, y, x) in mm; (1, 1, 1) where the file has none.
        origin: (x, y, z) in mm of the first voxel's centre, LPS world.
        direction: (3, 3) matrix whose columns are the world directions of the x, y and z axes (SimpleITK's order).
        channel_names: dataset.json's channel names, in file order.
        files: The case's image files, one a channel.
    """

    case: str
    data: NDArray[np.float32]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: NDArray[np.floating]
    channel_names: tuple[str, ...]
    files: tuple[Path, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return tuple(self.data.shape[1:])

    @property
    def is_2d(self) -> bool:
        """Whether the case is one slice."""
        return self.shape[0] == 1

    def modality(self, channel: int = 0) -> str:
        """The channel's name in capitals, such as "CT" or "MRI"."""
        return self.channel_names[channel].upper()

    def only(self, channel: int) -> Volume:
        """The same case with one of its channels."""
        return replace(
            self,
            data=self.data[channel : channel + 1],
            channel_names=(self.channel_names[channel],),
            files=(self.files[channel],) if len(self.files) > 1 else self.files,
        )


@dataclass(frozen=True)
class TextPrompt:
    """A label's name, as a text-prompted teacher is told it."""

    text: str


@dataclass(frozen=True)
class SliceBoxes:
    """Boxes of one label in one case, at most a few per axial slice of the re-oriented volume.

    Attributes:
        boxes: Rows (z, y0, x0, y1, x1) in voxels of `Volume.data`; upper bounds are excluded. A slice without a
            row means "not here".
        ground_truth: Whether reference labels were used to draw them.
    """

    boxes: Sequence[tuple[int, int, int, int, int]]
    ground_truth: bool = False


Prompt = TextPrompt | SliceBoxes


class DatasetWords(Protocol):
    """What dataset.json says, as far as teachers ask (`nnkd.data.dataset.DatasetSpec`)."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """In file order."""

    @property
    def labels(self) -> Mapping[str, tuple[int, ...]]:
        """The foreground labels' integers, by name."""

    @property
    def ignore_label(self) -> int | None:
        """The integer of voxels that are left out of the loss, or None."""


class TeacherDataset(Protocol):
    """A raw dataset, as far as teachers ask (`nnkd.data.dataset.RawDataset`)."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def spec(self) -> DatasetWords:
        """Its dataset.json."""


@dataclass(frozen=True)
class TeacherContext:
    """What a teacher may know beside the case: handed to its constructor.

    Attributes:
        labels: Names of the foreground labels the dataset asks for, in the order of their integers.
        device: "cuda", "cpu" or "mps".
        dataset: The raw dataset, or None where there is none.
        workers: How many processes or threads the teacher may use.
    """

    labels: tuple[str, ...]
    device: str = "cpu"
    dataset: TeacherDataset | None = None
    workers: int = 1


@dataclass(frozen=True)
class Failure:
    """A case that could not be done, and why, in one sentence."""

    case: str
    reason: str


@dataclass(frozen=True)
class FolderCount:
    """Which files of a folder a command took (`nnkd.data.listing`).

    Attributes:
        folder: What the folder is called.
        used: How many files were taken.
        aside: Names of those that a rule sets aside, by what the rule is called.
        unknown: What is wrong with those that were not understood, by name; not empty means exit code 3.
        what: What is counted.
    """

    folder: str
    used: int
    aside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    what: str = "file"

    @property
    def line(self) -> str:
        """The count in one line, long lists shortened."""
        aside = sum(len(names) for names in self.aside.values())
        came = self.used + aside + len(self.unknown)
        parts = [f"{self.used} used"]
        if aside:
            rules = "; ".join(f"{rule}: {some(sorted(names))}" for rule, names in sorted(self.aside.items()))
            parts.append(f"{aside} set aside ({rules})")
        if self.unknown:
            parts.append(f"{len(self.unknown)} not understood ({some(sorted(self.unknown))})")
        return f"{self.folder}: {came} {self.what}{'' if came == 1 else 's'} came in: {', '.join(parts)}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of a list of names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass
class StepReport:
    """What a step did; the command prints it and derives its exit code from it.

    Attributes:
        done: Cases written in this run.
        skipped: Cases that were already there.
        failures: Cases that could not be done; not empty means exit code 3.
        lines: Text to show, in order.
        folders: Which files of the folders that it read were taken; one that was not understood means exit code 3.
        data: Figures by name, for tests and callers.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    folders: list[FolderCount] = field(default_factory=list)
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Participant:
    """One person.

    Attributes:
        identifier: participant_id as the file spells it; the case's name where the file has no row.
        sex: "F", "M" or None where it is not known.
        age: In years, or None.
        bmi: Body mass index in kg/m2, or None.
        attributes: All further columns as text; missing values are left out.
    """

    identifier: str
    sex: Literal["F", "M"] | None = None
    age: float | None = None
    bmi: float | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def value(self, column: str) -> str | float | None:
        """What stands in a column: text, a number for age and bmi, or None where it is missing."""
        known: dict[str, str | float | None] = {"sex": self.sex, "age": self.age, "bmi": self.bmi}
        return known[column] if column in known else self.attributes.get(column)

    def __reduce__(self) -> tuple[object, ...]:  # a mapping proxy does not pickle, but data loaders' workers need it
        return Participant, (self.identifier, self.sex, self.age, self.bmi, dict(self.attributes))
