"""Trying teachers out on a few cases, without writing into their folders: for pictures and for forecasts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.data.overlays import draw_overlays
from nnkd.data.predictions import PredictionFolder
from nnkd.replacing import Written
from nnkd.teachers.box_sources import BoxesOfPredictions, BoxSource
from nnkd.teachers.runs import RunningTeacher, open_folder

FOLDER = "preview"


@contextmanager
def aside(ready: Sequence[RunningTeacher]) -> Iterator[list[RunningTeacher]]:
    """The same teachers, writing into a temporary folder that is removed afterwards. Boxes that one of them was to draw
    for another come from there too."""
    folder = Path(tempfile.mkdtemp(prefix="nnkd-"))
    try:
        moved = []
        for one in ready:
            elsewhere = one.elsewhere(folder / one.job.alias, _boxes(one.work.boxes, folder))
            open_folder(elsewhere.job, one.header, replace(elsewhere.work, cases=[]), overwrite=False)
            moved.append(elsewhere)
        yield moved
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _boxes(boxes: BoxSource | None, folder: Path) -> BoxSource | None:
    if not isinstance(boxes, BoxesOfPredictions) or not boxes.coming:
        return boxes
    moved = replace(boxes, folder=PredictionFolder(folder / boxes.folder.name))
    moved.coming, moved.lineage, moved.ground_truth = True, boxes.lineage, boxes.ground_truth
    return moved


def spread(cases: Sequence[str], number: int) -> list[str]:
    """So many cases, at equal distances in their order: neighbours are often scans of one person."""
    count = min(number, len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def draw(ready: Sequence[RunningTeacher], case: str, written: Written) -> list[str]:
    """Draw what teachers made of a case side by side, in the slice in which they differ most.

    Args:
        ready: Teachers that did the case, or failed at it.
        case: Its identifier.
        written: Where CASE.png goes.

    Returns:
        Aliases of those that have an answer; without any, nothing is drawn.
    """
    there = [one for one in ready if case in one.folder.manifest().cases]
    if not there:
        return []
    volume, orientation, _ = there[0].work.images.volume(case)
    maps = {one.job.alias: orientation.to_lps(one.folder.read(one.work.spec, case)) for one in there}
    with written.writing(f"{case}.png") as temporary:
        draw_overlays(
            np.asarray(volume.data), maps, temporary, label_names=names_by_integer(there[0].work.spec),
            spacing=volume.spacing,
        )  # fmt: skip
    return list(maps)


def names_by_integer(spec: DatasetSpec) -> dict[int, str]:
    """Label names as label maps have them; of regions, the integer that is painted for each."""
    if spec.has_regions:
        return dict(zip(spec.json["regions_class_order"], spec.labels, strict=True))
    return {integers[0]: label for label, integers in spec.labels.items()}
