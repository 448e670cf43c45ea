"""nnUNet_raw -> training slices, see `nnkd_litemedsam.slices.store`. Killed at any moment and run again, it makes what
is missing; a case is made anew when its image, its label map, the meaning of a label or a setting changed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from nnkd.boxes.pixels import resize, scaled_shape
from nnkd.data.dataset import ImageFolder, RawDataset
from nnkd.data.intensities import GreyScale, Windows, grey_scale, is_colour, is_ct, to_uint8, windows_of
from nnkd.data.origins import Hashes, difference, made_anew, of_settings
from nnkd.data.participants import participants_of_cases
from nnkd.data.reading.geometry import Orientation
from nnkd.devices import cores
from nnkd.errors import DatasetError, NnkdError, UnknownNameError
from nnkd.files import atomic, remove_leftovers, sha256, sha256_text
from nnkd.preprocessing.case_origins import LABEL_MEANING, label_meaning, of_files
from nnkd.processes import run_all
from nnkd.votes import consensus
from nnkd_litemedsam.sizes import SIZE
from nnkd_litemedsam.slices.store import SliceIndex, Slices, StoredCase, read_index

SECONDS_BETWEEN_RECORDS = 10.0  # the index grows with the cohort; what a kill loses is made again
MOST_VALUES = 256
KILLED = (
    "A process was killed while making slices, most likely for want of memory. Set nnUNet_def_n_proc to fewer than "
    "{number} and run the command again: it continues where it stopped."
)
log = logging.getLogger("nnkd")


@dataclass(frozen=True)
class Job:
    """What a worker process needs for one case.

    Attributes:
        dataset: nnUNet_raw/DATASET.
        case: Its identifier.
        target: The file to write.
        channels: Indices of the channels to take: one, or three colours.
        index: The settings, without cases.
        origins: What it is made from.
    """

    dataset: Path
    case: str
    target: Path
    channels: tuple[int, ...]
    index: SliceIndex
    origins: Mapping[str, str]


def new_index(dataset: RawDataset, channel: str | None = None, windows: Windows | None = None) -> SliceIndex:
    """What slices of a dataset are to be like; without cases.

    Args:
        dataset: In nnUNet_raw.
        channel: Name of the channel to take, where there are several; None: the first, or all three of colour images.
        windows: CT windows by label, see `nnkd.data.intensities.windows_of`; labels that this dataset has not are
            passed over.

    Raises:
        SettingError: If a window is wrong.
        UnknownNameError: If there is no such channel.
        DatasetError: If the dataset has too many labels.
    """
    spec = dataset.spec
    names = spec.channel_names
    if len(spec.values) > MOST_VALUES:
        raise DatasetError(
            f"dataset.json of {dataset.name} names {len(spec.values)} integers, but label maps of slices have 8 bits, "
            f"{MOST_VALUES} integers. Train on fewer labels."
        )
    if channel is not None and channel not in names:
        raise UnknownNameError(f"channel got '{channel}', but {dataset.name} has {', '.join(names)}.")
    channels = list(names) if is_colour(names) and channel is None else [channel or names[0]]
    windows = {label: window for label, window in (windows or {}).items() if label in spec.labels}
    chosen = windows_of(list(spec.labels), windows)
    if len(channels) > 1 or not is_ct(channels[0]):  # windows are for CT alone
        chosen = dict.fromkeys(chosen, next(iter(chosen.values())))
    different = list(dict.fromkeys(chosen.values()))
    return SliceIndex(
        channels=channels,
        windows=different,
        grey_of={label: different.index(window) for label, window in chosen.items()},
        values=sorted(spec.values),
        labels={label: list(values) for label, values in spec.labels.items()},
        ignore=spec.ignore_label,
    )


def update(dataset: RawDataset, folder: Path, wanted: SliceIndex) -> Slices:
    """Make the slices that are missing or older than their inputs; forget those whose image is gone.

    Args:
        dataset: In nnUNet_raw.
        folder: litemedsam_256.
        wanted: From `new_index`.

    Raises:
        DatasetError: If a case cannot be read; the others are made first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # two trainings that start together: the second one finds all done
        remove_leftovers(folder)
        before = read_index(folder, dataset.name)
        same = before is not None and before.settings() == wanted.settings()
        known = before.cases if before is not None else {}
        hashes, for_all = Hashes(dataset.folder), origins_of_settings(wanted, dataset)
        images = dataset.images()
        cases = images.cases()
        people = participants_of_cases(dataset.folder, cases)
        jobs: list[Job] = []
        reasons: list[str] = []
        for case in cases:
            now = {**for_all, **of_files(images.files(case), dataset.label_file(case), hashes)}
            record, why = _kept(known.get(case), now, dataset, images, case, folder, wanted if same else None)
            if record is None:
                jobs.append(_job(dataset, case, folder, wanted, now))
                reasons += [why] if why else []
            else:
                wanted.cases[case] = record
        hashes.save()
        if reasons:
            log.info("Slices of %s: %s", dataset.name, made_anew(reasons))
        failures = _make(jobs, wanted, folder)
        for case, record in wanted.cases.items():
            record.participant = people[case].identifier
        wanted.cases = dict(sorted(wanted.cases.items()))
        wanted.lineage, wanted.ground_truth = consensus.inherited(dataset)
        if before is None or before != wanted:
            wanted.write(folder)
        _remove_others(folder, wanted.cases)
    if failures:
        case, reason = next(iter(failures.items()))
        raise DatasetError(
            f"{len(failures)} case(s) of {dataset.name} could not be made into slices, such as '{case}': {reason} "
            f"Correct them, or move them out of imagesTr."
        )
    return Slices(dataset.name, folder, wanted)


def origins_of_settings(wanted: SliceIndex, dataset: RawDataset) -> dict[str, str]:
    """Origins of every case: all but its files."""
    return {LABEL_MEANING: label_meaning(dataset.spec), "settings": of_settings(wanted.settings())}


def _kept(
    known: StoredCase | None,
    now: Mapping[str, str],
    dataset: RawDataset,
    images: ImageFolder,
    case: str,
    folder: Path,
    same: SliceIndex | None,
) -> tuple[StoredCase | None, str]:
    """A case's record if its slices hold, else why not; of an earlier version only if the settings are the same."""
    if known is None or not (folder / f"{case}.b2nd").is_file():
        return None, ""
    if known.input and not known.origins:
        if same is not None and known.input == _old_hash(_inputs(dataset, images, case), same.settings()):
            return known.model_copy(update={"origins": dict(now), "input": "", "files": {}}), ""
        return None, "an earlier version made it from something else"
    why = difference(known.origins, now)
    return (None, why) if why else (known, "")


def _inputs(dataset: RawDataset, images: ImageFolder, case: str) -> list[Path]:
    label = dataset.label_file(case)
    return [*images.files(case), *([label] if label.is_file() else [])]


def _old_hash(files: Sequence[Path], settings: str) -> str:
    return sha256_text("".join(f"{file.parent.name} {sha256(file)}\n" for file in files) + settings)


def _remove_others(folder: Path, cases: Mapping[str, StoredCase]) -> None:
    for file in folder.glob("*.b2nd"):
        if file.stem not in cases and not file.name.startswith("."):
            file.unlink()


# --- many cases -------------------------------------------------------------------------------------------------


def _job(dataset: RawDataset, case: str, folder: Path, wanted: SliceIndex, origins: Mapping[str, str]) -> Job:
    names = dataset.spec.channel_names
    channels = range(3) if len(wanted.channels) == 3 else [names.index(wanted.channels[0])]
    index = wanted.model_copy(update={"cases": {}})
    return Job(dataset.folder, case, folder / f"{case}.b2nd", tuple(channels), index, origins)


def _make(jobs: Sequence[Job], wanted: SliceIndex, folder: Path) -> dict[str, str]:
    """Run the jobs, noting in the index what is done; returns the failures, by case."""
    failures: dict[str, str] = {}
    written = time.monotonic()
    number = min(cores(), int(os.environ.get("nnUNet_def_n_proc") or 8))
    for job, outcome in run_all(attempt, jobs, number, title="Slices", killed=KILLED):
        if isinstance(outcome, StoredCase):
            wanted.cases[job.case] = outcome
        else:
            failures[job.case] = str(outcome)
        if time.monotonic() - written > SECONDS_BETWEEN_RECORDS:
            wanted.write(folder)
            written = time.monotonic()
    return failures


# --- one case ---------------------------------------------------------------------------------------------------


def attempt(job: Job) -> StoredCase | NnkdError:
    """Make one case; what is wrong with it is returned, not raised."""
    try:
        return _write(job)
    except NnkdError as error:
        return error


@lru_cache(maxsize=2)
def _opened(folder: Path) -> tuple[RawDataset, ImageFolder]:
    """A worker lists a dataset's images once."""
    dataset = RawDataset(folder)
    return dataset, dataset.images()


def _write(job: Job) -> StoredCase:
    import blosc2

    dataset, images = _opened(job.dataset)
    volume, orientation, _ = images.volume(job.case)
    data = volume.data[list(job.channels)]
    scales = [grey_scale(data, volume.modality(job.channels[0]), window) for window in job.index.windows]
    label_map = _label_map(dataset, job.case, orientation, volume.shape)
    ranks = np.searchsorted(job.index.values, label_map).astype(np.uint8)
    stored = np.stack([_one(data[:, z], scales, ranks[z]) for z in range(volume.shape[0])])
    with atomic(job.target) as temporary:
        blosc2.asarray(
            stored,
            urlpath=str(temporary),
            chunks=(1, *stored.shape[1:]),
            blocks=(1, 1, *stored.shape[2:]),
            cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1},
        )
    planes = stored[:, :-1]
    flat = planes.min(axis=(1, 2, 3)) == planes.max(axis=(1, 2, 3))
    return StoredCase(
        participant=job.case,
        shape=volume.shape[1:],
        scaled=stored.shape[2:],
        slices=len(stored),
        empty=np.flatnonzero(flat).tolist(),
        pixels=_pixels(label_map, stored[:, -1], job.index),
        grey=[scale.note() for scale in scales],
        origins=dict(job.origins),
    )


def _label_map(dataset: RawDataset, case: str, orientation: Orientation, shape: tuple[int, int, int]) -> np.ndarray:
    """(Z, Y, X) integers in the order of the volume; zeros where there is no label map."""
    file = dataset.label_file(case)
    if not file.is_file():
        return np.zeros(shape, dtype=np.int32)
    stored, grid, _ = dataset.spec.read_label_map(file)
    own = Orientation(grid)
    difference = own.grid.difference(orientation.grid)
    if difference:
        raise DatasetError(f"The label map '{file.name}' does not lie on its image's grid: {difference}.")
    return own.to_lps(stored)


def _one(data: np.ndarray, scales: Sequence[GreyScale], ranks: np.ndarray) -> np.ndarray:
    """A slice (c, H, W) and its label map (H, W) -> all its grey scales and the label map, (planes + 1, h, w) uint8."""
    shape = scaled_shape(ranks.shape, SIZE)
    planes = np.concatenate([to_uint8(data, scale) for scale in scales])
    scaled = np.moveaxis(resize(np.moveaxis(planes, 0, -1), shape), -1, 0)
    return np.concatenate([scaled, nearest(ranks, shape)[None]])


def nearest(array: NDArray[np.generic], shape: tuple[int, int]) -> NDArray[np.generic]:
    """Resize (H, W) by taking, for each new pixel, the old one that its centre lies in."""
    rows, columns = (
        np.minimum(((np.arange(after) + 0.5) * before / after).astype(int), before - 1)
        for before, after in zip(array.shape, shape, strict=True)
    )
    return array[np.ix_(rows, columns)]


def _pixels(label_map: np.ndarray, stored: np.ndarray, index: SliceIndex) -> dict[str, list[tuple[int, int]]]:
    """By label, slices and its pixels there; slices where nothing of it is left at 256 pixels are left out."""
    found = {}
    for label, values in index.labels.items():
        before = np.isin(label_map, values).sum(axis=(1, 2))
        after = np.isin(stored, [index.values.index(value) for value in values]).any(axis=(1, 2))
        rows = [(int(z), int(before[z])) for z in np.flatnonzero(after)]
        if rows:
            found[label] = rows
    return found
