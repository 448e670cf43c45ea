"""What a teacher's run will cost: cases, slices, megabytes and time, measured on its first case."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnkd.data.predictions import Manifest, portable_error
from nnkd.errors import DatasetError, NnkdError
from nnkd.teachers.runs import RunningTeacher
from nnkd.types import Failure, SliceBoxes

COMPRESSED = 0.02  # bytes a voxel of a compressed label map, roughly; before anything is written
PACKED = (".gz", ".png", ".nrrd", ".tif", ".tiff")


@dataclass
class Forecast:
    """What is to come of one teacher.

    Attributes:
        todo, done: Cases.
        failures: Cases that cannot be done.
        slices: Slices with boxes in each case to do, where known already; empty for teachers without boxes.
        size: Bytes of label maps to write.
        weights: Bytes of weights in memory.
        seconds: Of all cases to do; None: not known.
        basis: What `seconds` rests on, or why there is no estimate.
    """

    todo: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    slices: dict[str, int] = field(default_factory=dict)
    size: float = 0.0
    weights: int = 0
    seconds: float | None = None
    basis: str = ""

    def line(self, one: RunningTeacher) -> str:
        """As one line of a report."""
        parts = [f"{len(self.todo)} to do, {len(self.done)} already there, {len(self.failures)} cannot be done"]
        if self.slices:
            known = (
                "" if len(self.slices) == len(self.todo) else f" in the {len(self.slices)} case(s) that have boxes yet"
            )
            parts.append(f"{sum(self.slices.values())} slices with boxes{known}")
        if self.weights:
            parts.append(f"{self.weights / 1e6:.1f} MB of weights")
        parts.append(f"about {self.size / 1e6:.1f} MB to write to {one.job.folder.parent.name}/{one.job.folder.name}")
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)} ({self.basis})")
        elif self.basis:
            parts.append(f"time unknown: {self.basis}")
        return f"{one.job.alias}: {'; '.join(parts)} (dry run)"

    def figures(self) -> dict[str, object]:
        """As numbers by name."""
        return {
            "todo": len(self.todo),
            "done": len(self.done),
            "failed": len(self.failures),
            "bytes": self.size,
            "weights_bytes": self.weights,
            "slices": sum(self.slices.values()),
            "seconds": self.seconds,
        }


def foresee(one: RunningTeacher, overwrite: bool) -> Forecast:
    """Count what is to do; nothing is segmented or written.

    Args:
        one: The teacher.
        overwrite: Whether it would start anew.
    """
    there = not overwrite and one.folder.exists()
    manifest = one.folder.manifest() if there else one.header
    found = Forecast(failures=list(one.work.broken), weights=weights_bytes(one.teacher))
    coming = one.job.teacher.prompt == "box" and one.work.boxes is not None and one.work.boxes.coming
    for case in one.work.readable:
        try:
            inputs = one.inputs(case)
            (found.done if one.folder.is_done(manifest, case, inputs) else found.todo).append(case)
        except (NnkdError, OSError) as error:
            if coming:
                found.todo.append(case)
                continue
            found.failures.append(Failure(case, portable_error(error, one.work.images.folder)))
    found.size = _bytes_per_case(one, manifest) * len(found.todo)
    if one.job.teacher.prompt == "box":
        found.slices = _slices(one, found.todo)
    if manifest.cases and found.todo:
        spent = [record.seconds for record in manifest.cases.values()]
        found.seconds = sum(spent) / len(spent) * len(found.todo)
        found.basis = f"the {len(spent)} case(s) that are there took {sum(spent) / len(spent):.2f} s each"
    return found


def measure(one: RunningTeacher, case: str, forecast: Forecast) -> None:
    """Segment one case and extrapolate: by slices with boxes where they are known, else by cases.

    Args:
        one: The teacher, with an open folder elsewhere that nobody needs afterwards.
        case: Its identifier.
        forecast: Where seconds and basis go; left as they are if they are known already.
    """
    begun = time.monotonic()
    outcome = one.do(case)
    spent = time.monotonic() - begun
    if forecast.seconds is not None:
        return
    if outcome.kind != "done":
        forecast.basis = f"{case} failed ({outcome.reason})"
        return
    share: float = len(forecast.todo)
    if forecast.slices.get(case) and len(forecast.slices) == len(forecast.todo):
        share = sum(forecast.slices.values()) / forecast.slices[case]
    forecast.seconds = spent * share
    forecast.basis = f"{case} took {spent:.2f} s"


def weights_bytes(teacher: object) -> int:
    """Bytes of the parameters of all torch modules that a teacher keeps as attributes; torch is not imported."""
    modules = [value for value in vars(teacher).values() if callable(getattr(value, "parameters", None))]
    return sum(parameter.nbytes for module in modules for parameter in module.parameters())


def duration(seconds: float) -> str:
    """Seconds as people say it: "40 s", "12 min", "3 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _slices(one: RunningTeacher, cases: Sequence[str]) -> dict[str, int]:
    """Slices that have at least one box, by case; cases whose boxes are still to come are left out."""
    found: dict[str, int] = {}
    for case in cases:
        try:
            volume, orientation, _ = one.work.images.volume(case)
            asked = one.prompts(volume, orientation)
        except (NnkdError, KeyError):
            continue
        found[case] = len(boxed(asked))
    return found


def boxed(prompts: Mapping[str, object]) -> set[int]:
    """Slices with at least one box."""
    return {int(box[0]) for prompt in prompts.values() if isinstance(prompt, SliceBoxes) for box in prompt.boxes}


def _bytes_per_case(one: RunningTeacher, manifest: Manifest) -> float:
    """Mean size of the label maps that are there; before the first, a guess from the first image's size."""
    files = [one.folder.file(case, manifest.file_ending) for case in manifest.cases]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    if sizes:
        return sum(sizes) / len(sizes)
    for case in one.work.readable:
        try:
            array, _, _ = one.work.images.read(case)
        except DatasetError:
            continue
        packed = one.work.spec.file_ending.endswith(PACKED)
        return float(array[0].size) * (COMPRESSED if packed else 1.0)
    return 0.0
