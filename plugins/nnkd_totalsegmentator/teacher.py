"""TotalSegmentator through its Python API, in a process of its own for each case.

The API reads the weights anew at every call and leaves its traces in the process (`nnkd_totalsegmentator.child`), so
one process that lives on would gain the imports alone: some seconds a case.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnkd.data.intensities import kind_of_image
from nnkd.data.reading.scan_values import not_hounsfield
from nnkd.errors import DatasetError, GeometryError, ProgramError, SettingError
from nnkd.files import read_json
from nnkd.teachers.external import ExternalTeacher, Program, write_nifti
from nnkd.teachers.foreign import Map, MaskFile, read_map
from nnkd.types import Prompt, TeacherContext, Volume
from nnkd.weights import architectures
from nnkd_totalsegmentator.names import structures_of
from nnkd_totalsegmentator.weights import Task, command, hashed, weights_folder

TASKS = {"ct": "total", "mri": "total_mr"}
DEVICES = {"cuda": "gpu", "cpu": "cpu", "mps": "mps"}
FEWEST_STEPS = 20.0  # a narrower range of intensities, cut to whole numbers, is no image any more
log = logging.getLogger("nnkd")


class TotalSegmentatorTeacher(ExternalTeacher):
    """Asks TotalSegmentator, the same as its Python API answers in every voxel.

    Source: Wasserthal et al., Radiology: AI 2023 (CT); D'Antonoli et al., Radiology 2025 (MR).
    """

    devices = ("cuda", "cpu", "mps")
    costs_only = frozenset({"timeout"})
    no_network = "TotalSegmentator's networks are nnU-Net's, in its model folders: nnkd does not build them."

    def __init__(
        self,
        context: TeacherContext,
        *,
        task: str = "auto",
        speed: Literal["normal", "fast", "fastest"] = "normal",
        map: Map | Path | None = None,
        roi_subset: bool = False,
        timeout: float | None = 7200.0,
    ):
        """Find the task, the labels' structures and the weights; missing ones are downloaded by TotalSegmentator.

        Args:
            context: The labels, the device and how many threads.
            task: total (CT), total_mr, or another of its whole-body tasks. auto: by the channel's name in dataset.json.
            speed: normal (1.5 mm; five models for CT, two for MR), fast (3 mm, one model) or fastest (6 mm, one model).
            map: Label -> structure(s) of TotalSegmentator, by name or number, which are joined: more than, or other
                than, what its own table says. JSON text, or the path of a JSON file.
            roi_subset: Look for the labels at low resolution first, and compute only around them, with only the models
                they need: quicker for a few labels at normal speed. Needs one more model, and may miss what that one
                misses.
            timeout: Seconds a case may take; none: without end.

        Raises:
            NnkdError: If TotalSegmentator or its weights are not there, the task cannot be, or it knows no label.
        """
        super().__init__(context, Program("TotalSegmentator", timeout, inherit=("PYTHONPATH",)))
        channels = () if context.dataset is None else context.dataset.spec.channel_names
        self.task = Task.find(_task(channels) if task == "auto" else task, speed, roi_subset)
        self.kind = {name: kind for kind, name in TASKS.items()}.get(self.task.name, "") if task == "auto" else ""
        self.structures = structures_of(
            context.labels, self.task.classes, read_map(map, context.labels, "totalsegmentator")
        )
        if not self.structures:
            raise SettingError(
                f"TotalSegmentator's task {self.task.name} knows none of the labels {', '.join(context.labels)}. Set "
                f'map, such as {{"{context.labels[0]}": "liver"}}; totalseg_info lists its structures.'
            )
        silent = [label for label in context.labels if label not in self.structures]
        if silent:
            log.info("TotalSegmentator (%s) does not answer for %s", self.task.name, ", ".join(silent))
        self._map_file = map if isinstance(map, Path) else None
        self.speed, self.roi_subset = speed, roi_subset
        self.folder = weights_folder()
        if self.task.missing(self.folder):
            log.info("TotalSegmentator fetches its weights (Apache-2.0) into '%s'", self.folder.name)
            self.task.fetch(self.folder)
        for model in {file.parent.parent for file in self.task.files(self.folder)}:
            if (model / "plans.json").is_file():
                architectures.check(read_json(model / "plans.json"), model.parent.name)

    def weights(self) -> Sequence[Mapping[str, str]]:
        """The checkpoints of its models; each is hashed once in a process."""
        return hashed(self.task.files(self.folder), self.folder)

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The map, if it is a file."""
        return {} if self._map_file is None else {"map": self._map_file}

    def notes(self) -> Mapping[str, object]:
        """TotalSegmentator's version, and which structures each label was joined from."""
        return {
            "version": metadata.version("TotalSegmentator"),
            "task": self.task.name,
            "structures": {label: [self.task.classes[n] for n in ns] for label, ns in self.structures.items()},
        }

    def options(self) -> dict[str, object]:
        """What its Python API is called with; `nr_thr_saving` is nnU-Net's number of exporting processes there."""
        return {
            "task": self.task.name,
            "fast": self.speed == "fast",
            "fastest": self.speed == "fastest",
            "roi_subset": self._wanted() if self.roi_subset else None,
            "device": DEVICES[self.context.device],
            "nr_thr_resamp": 1,
            "nr_thr_saving": 1,
        }

    def _wanted(self) -> list[str]:
        numbers = sorted({number for several in self.structures.values() for number in several})
        return [self.task.classes[number] for number in numbers]

    def prepare(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> list[str]:
        """Write the image."""
        self._check(volume)
        write_nifti(volume, folder / "image.nii.gz")
        asked = {
            "home": str(folder / "home"),
            "weights": str(self.folder.absolute()),
            "image": str(folder / "image.nii.gz"),
            "output": str(folder / "output.nii.gz"),
            "threads": self.context.workers,
            "options": self.options(),
        }
        return command(asked)

    def _check(self, volume: Volume) -> None:
        """What TotalSegmentator would answer nonsense to."""
        if volume.is_2d:
            raise DatasetError(f"'{volume.case}' is a 2D image, but TotalSegmentator wants volumes. Leave it out.")
        if self.kind and kind_of_image(volume.modality()) != self.kind:
            raise DatasetError(
                f"'{volume.case}' is seen through the channel {volume.channel_names[0]}, but the task is "
                f"{self.task.name}. Choose the channel (NAME.channel=...) or set task."
            )
        data = volume.data[0]
        if not np.isfinite(data).all():
            raise DatasetError(
                f"'{volume.case}' has voxels without a number (NaN or infinite), which TotalSegmentator cannot take. "
                f"Convert it again."
            )
        if not (self.kind or self.task.name.endswith("_mr")) and (odd := not_hounsfield(data)):
            log.warning("'%s': The image %s", volume.case, odd)  # by a channel's name it was looked at before
        if float(np.ptp(data)) < FEWEST_STEPS:
            raise DatasetError(
                f"'{volume.case}' has intensities from {data.min():g} to {data.max():g}, and TotalSegmentator cuts "
                f"them to whole numbers: hardly anything is left. Give it the scan with the scanner's own values."
            )

    def collect(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> dict[str, NDArray[np.bool_]]:
        """Read the label map and join the structures of each label."""
        file = folder / "output.nii.gz"
        if not file.is_file():
            raise ProgramError(f"TotalSegmentator wrote nothing for '{volume.case}'. Run it by hand to see why.")
        mask = MaskFile.read(file)
        difference = mask.difference(volume)
        if difference:
            raise GeometryError(f"TotalSegmentator answered for '{volume.case}' on another grid: {difference}.")
        values = mask.turned()
        return {label: np.isin(values, numbers) for label, numbers in self.structures.items()}


def _task(channel_names: Sequence[str]) -> str:
    """By the names of the dataset's channels."""
    kinds = {kind_of_image(name) for name in channel_names} - {""}
    found = {TASKS[kind] for kind in kinds if kind in TASKS}
    if len(found) == 1:
        return found.pop()
    named = f"the channels are called {', '.join(channel_names)}" if channel_names else "there is no dataset.json"
    raise SettingError(
        f"Whether TotalSegmentator is to look for a CT or an MR scan cannot be told: {named}. Set task=total or "
        f"task=total_mr."
    )
