"""The cases of a folder of DICOM series: which are converted, what they are called, and how one is read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnkd_dataset_conversion import reading
from nnkd_dataset_conversion.numbering import WHERE, Numbering, digits
from nnkd_dataset_conversion.reading import Listed
from nnkd_dataset_conversion.writer import Source
from numpy.typing import NDArray

from nnkd.data.reading.dicom import segmentations, sources, volumes
from nnkd.data.reading.dicom.objects import shown
from nnkd.data.reading.dicom.series import Aside, Found, Series, scan, some
from nnkd.data.reading.dicom.sources import ChannelSource
from nnkd.data.reading.dicom.volumes import DicomImage
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.image import KNOWN, Image, ending_of
from nnkd.data.reading.itk import with_grid
from nnkd.errors import DatasetError, SettingError
from nnkd.types import Failure, FolderCount

MODALITIES = {"MR": "MRI", "PT": "PET"}  # DICOM's codes where nnU-Net's users write something else


IS_UID = re.compile(r"[0-9.]{16,}")  # it says who somebody is, so the record holds its hash
CODES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}  # and back


@dataclass(frozen=True)
class Wishes:
    """What the user says about DICOM.

    Attributes:
        channels: Channel names, or NAME=PATTERN: several series of one study become one case.
        series: UIDs, numbers or description patterns; empty: all series.
        modality: DICOM's code; empty: the only one there is.
        suv: Whether PET becomes standardised uptake values.
        keep_names: Whether cases are called as their folders.
        across_frames: Whether channels may have different frames of reference.
    """

    channels: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    modality: str = ""
    suv: bool = False
    keep_names: bool = False
    across_frames: bool = False

    @property
    def patterns(self) -> dict[str, str]:
        """Pattern by channel name; empty where channels are only named.

        Raises:
            SettingError: If some have a pattern and others none, or a name comes twice.
        """
        pairs = [word.partition("=") for word in self.channels]
        if not any(mark for _, mark, _ in pairs):
            return {}
        if not all(name and pattern for name, _, pattern in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
            raise SettingError("Give each channel a name of its own and a pattern: --channels T1='*mprage*' FLAIR=7.")
        return {name: pattern for name, _, pattern in pairs}

    @property
    def options(self) -> dict[str, object]:
        """What decides about the content of a case, for the record. Which series are taken does not, so that more can
        be added."""
        patterns = {name: digits(p) if IS_UID.fullmatch(p) else p for name, p in self.patterns.items()}
        given = {"patterns": patterns, "suv": self.suv, "numbered": not self.keep_names,
                 "across_frames": self.across_frames}  # fmt: skip
        return {key: value for key, value in given.items() if value}


class DicomStudies:
    """The cases that DICOM series become: one a series, or one a study where channels have patterns.

    Args:
        folder: What is converted.
        found: What it holds.
        wishes: What the user says.

    Attributes:
        channels, file_ending, options: As `DatasetWriter` takes them.
        failures: What could not be listed so far, files that were not understood among them.
        lines: What was set aside so far.

    Raises:
        DatasetError: If there is no series, or series of several modalities and no choice.
        SettingError: If a wish fits no series, or contradicts another.
    """

    file_ending = ".nii.gz"

    def __init__(self, folder: Path, found: Found, wishes: Wishes):
        self.wishes, self.patterns, self.options = wishes, wishes.patterns, wishes.options
        self.failures: list[Failure] = []
        self.lines: list[str] = []
        self._firsts: dict[str, Series] = {}
        self._counts: dict[Path, FolderCount] = {}
        self._segmentations: dict[Path, dict[str, list[Path]]] = {}
        self.found = {folder: self._chosen(folder, found)}
        codes = {series.modality for series in self.found[folder].series}
        code = next(iter(codes)) if len(codes) == 1 else ""
        self.channels = tuple(self.patterns) or wishes.channels or ((MODALITIES.get(code, code),) if code else ())
        if not self.channels:
            raise DatasetError(
                f"The series in '{folder.name}' do not say their modality. Give --channels CT (or MRI ...)."
            )
        if len(self.channels) > 1 and not self.patterns:
            raise SettingError("One series is one channel. Say which are which: --channels T1=PATTERN FLAIR=PATTERN.")
        said = CODES.get(self.channels[0].upper(), "")  # nnU-Net normalises "CT" in its own way
        if not self.patterns and said and code and said != code:
            raise SettingError(
                f"--channels says {self.channels[0]}, but the series in '{folder.name}' are {code}. Correct it, or "
                f"choose others with --dicom_modality."
            )
        if wishes.suv and "PT" not in codes:
            raise SettingError("--suv is for PET, and no series is one. Leave it out.")

    def listed(self, folder: Path, masks: Path | None, _: str, numbering: Numbering) -> list[Listed]:
        """The cases of a folder; what is not among them is added to `failures` and `lines`.

        Args:
            folder: What is converted, or holds the test cases.
            masks: Folder of the label maps; they are not counted as set aside.
            numbering: Knows which case is which.

        Raises:
            DatasetError, SettingError: As for the class.
        """
        found = self.found.get(folder) or self._chosen(folder, scan(folder))
        groups: dict[str, list[Series]] = {}
        others = []
        for series in found.series:
            if self.patterns and not any(series.fits(pattern) for pattern in self.patterns.values()):
                others.append(Aside("no pattern of --channels fits", series.files, series))
            else:
                groups.setdefault(series.study if self.patterns else series.uid, []).append(series)
        segs = self.segmentations(masks) if masks is not None else {}
        serving = {file for series in found.series for file in segs.get(series.uid, ())}
        aside = [
            (aside.rule, file) for aside in (*found.aside, *others) for file in aside.files
            if file not in serving and (file.parent != masks or ending_of(file) not in KNOWN)
        ]  # fmt: skip
        self.lines += _told(aside)
        used = [file for members in groups.values() for series in members for file in series.files]
        broken_names = {shown(one.file.name): f"it {one.reason}" for one in found.broken}
        by_rule = {rule: [shown(f.name) for other, f in aside if other == rule] for rule, _ in aside}
        self._counts[folder] = FolderCount("DICOM", len({*used, *serving}), by_rule, broken_names)
        self.failures += [
            Failure(shown(one.file.name), f"It {one.reason}; {WHERE} says where it lies.") for one in found.broken
        ]
        broken = [(f"not understood: it {one.reason}", one.file) for one in found.broken]
        numbering.aside += sorted((shown(file.relative_to(folder).as_posix()), why) for why, file in (*aside, *broken))
        groups = self._joined(folder, groups) if self.patterns else groups
        cases = []
        stems = _stems(folder, groups)
        for uid, members in groups.items():
            row = {"folder": _place(folder, members).as_posix(), "number": "+".join(s.number for s in members),
                   "modality": "+".join(dict.fromkeys(s.modality for s in members)),
                   "description": " + ".join(s.description for s in members)}  # fmt: skip
            case = numbering.name(uid, stems[uid][0] if self.wishes.keep_names else "", row)
            try:
                channels = self._channels(members)
            except DatasetError as error:
                self.failures.append(Failure(case, str(error)))
                continue
            read = partial(_read_case, numbering.dataset, case, channels, folder, self.wishes)
            self._firsts[case] = next(iter(channels.values()))
            cases.append(Listed(case, [read], (*stems[uid], *(series.uid for series in members))))
        return cases

    def mask(self, path: Path) -> Source:
        """Where a label map comes from: the file."""
        return path

    def segmentations(self, masks: Path) -> dict[str, list[Path]]:
        """DICOM-SEGs in the folder of the label maps, by the series that they refer to."""
        if masks not in self._segmentations:
            found: dict[str, list[Path]] = {}
            for aside in (self.found.get(masks) or scan(masks)).aside:
                if aside.series is not None and aside.series.sop_class in segmentations.CLASSES:
                    for file in aside.series.files:
                        for uid in segmentations.references(file):
                            found.setdefault(uid, []).append(file)
            self._segmentations[masks] = found
        return self._segmentations[masks]

    def segmentation(self, path: Path, case: str, labels: Mapping[str, int] | None) -> Source:
        """Where a label map that is a DICOM-SEG comes from.

        Args:
            path: The DICOM-SEG.
            case: Whose it is; it lies on the case's first channel.
            labels: Integers by name; None: the segments' own numbers.
        """
        return partial(_read_segmentation, path, self._firsts[case], labels)

    def counts(self, *_: Any) -> list[FolderCount]:
        """Which files are taken of the folders that were listed."""
        return list(self._counts.values())

    def _chosen(self, folder: Path, found: Found) -> Found:
        chosen = found.choose(self.wishes.series, self.wishes.modality)
        if not chosen.series:
            aside = [(aside.rule, file) for aside in chosen.aside for file in aside.files]
            raise DatasetError(
                f"'{folder.name}' holds no DICOM series to convert. {' '.join(_told(aside))} --series takes images "
                f"that a rule sets aside."
            )
        for name, pattern in self.patterns.items():
            if not any(series.fits(pattern) for series in chosen.series):
                raise SettingError(f"No series fits {name}={pattern} (--channels). {chosen.overview()}")
        counts = Counter(series.modality or "none" for series in chosen.series)
        if len(counts) > 1 and not self.patterns:
            listed = ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
            raise DatasetError(
                f"The series in '{folder.name}' are of several modalities ({listed}). Choose with --dicom_modality or "
                f"--series, or name channels with --channels NAME=PATTERN."
            )
        return chosen

    def _joined(self, folder: Path, studies: Mapping[str, list[Series]]) -> dict[str, list[Series]]:
        """Studies of one patient's folder that only together have every channel, as one: pseudonyms may have given each
        series a study of its own. What does not belong together has no common frame of reference, and fails later."""
        lacking: dict[str, dict[str, list[Series]]] = {}
        for uid, members in studies.items():
            top = _place(folder, members).parts[:1]
            if top and not self._complete(members):
                lacking.setdefault(top[0], {})[uid] = members
        found = dict(studies)
        for parts in lacking.values():
            together = [series for members in parts.values() for series in members]
            if len(parts) > 1 and self._complete(together):
                found = {uid: members for uid, members in found.items() if uid not in parts}
                found["+".join(sorted(parts))] = together
        return found

    def _complete(self, members: Sequence[Series]) -> bool:
        return all(sum(series.fits(pattern) for series in members) == 1 for pattern in self.patterns.values())

    def _channels(self, members: Sequence[Series]) -> dict[str, Series]:
        """The series of each channel."""
        if not self.patterns:
            return {self.channels[0]: members[0]}
        found = {}
        for name, pattern in self.patterns.items():
            fitting = [series for series in members if series.fits(pattern)]
            if len(fitting) != 1:
                titles = f" ({', '.join(series.title for series in fitting[:4])})" if fitting else ""
                todo = "Narrow the pattern or choose with --series." if fitting else "Widen it, or take the study out."
                raise DatasetError(f"{len(fitting)} series of the study fit {name}={pattern}{titles}. {todo}")
            found[name] = fitting[0]
        if len({series.uid for series in found.values()}) < len(found):
            raise DatasetError("One series fits the patterns of two channels. Narrow them.")
        return found


def _told(aside: Sequence[tuple[str, Path]]) -> list[str]:
    """A line a rule on what was set aside."""
    by_rule: dict[str, list[str]] = {}
    for rule, file in aside:
        by_rule.setdefault(rule, []).append(file.name)
    return [f"Set aside, {rule}: {len(names)} file{'s' if len(names) > 1 else ''} ({some(names)})."
            for rule, names in sorted(by_rule.items())]  # fmt: skip


def _place(folder: Path, members: Sequence[Series]) -> Path:
    return Path(shown(os.path.commonpath([series.folder for series in members]))).relative_to(shown(str(folder)))


def _stems(folder: Path, groups: Mapping[str, Sequence[Series]]) -> dict[str, list[str]]:
    """What only one case can mean, by UID: its folder's name, a folder of the way there, its UID."""
    places = {uid: _place(folder, members) for uid, members in groups.items()}
    names = {uid: reading.clean("_".join(place.parts) or folder.name) for uid, place in places.items()}
    whole = Counter(names.values())
    parts = Counter(part for place in places.values() for part in set(place.parts))
    found = {}
    for uid, name in names.items():
        own = name if whole[name] == 1 else f"{name}_{digits(uid)}"
        more = [reading.clean(part) for part in places[uid].parts if parts[part] == 1]
        found[uid] = [own, *(part for part in more if part not in whole), uid]
    return found


def _read_case(dataset: Path, case: str, channels: Mapping[str, Series], folder: Path, wishes: Wishes) -> Image:
    """The channels of a case on the first one's grid."""
    frames = {series.frame_of_reference for series in channels.values()}
    if len(channels) > 1 and (len(frames) > 1 or "" in frames) and not wishes.across_frames:
        raise DatasetError(
            f"The channels {', '.join(channels)} do not share a frame of reference, so their positions cannot be "
            f"compared. Register them first, or give --across_frames if you know that they fit."
        )
    images = {name: _read_series(series, case, wishes) for name, series in channels.items()}
    (first_name, first), *others = images.items()
    arrays, said = [first.array], list(first.said)
    if len({series.study for series in channels.values()}) > 1:
        said.append("the channels are of different studies, which lie in one folder")
    for name, image in others:
        said += [f"{name}: {sentence}" for sentence in image.said]
        array, sentence = _onto(first.grid, image, name, first_name)
        arrays.append(array)
        said += [sentence] if sentence else []
    # Written before the images, so that no case of a killed run lacks it
    sources.write(dataset, case, [_source(image, channels[name].folder, folder) for name, image in images.items()])
    return Image(np.concatenate(arrays), first.grid, said=tuple(said))


def _read_series(series: Series, case: str, wishes: Wishes) -> DicomImage:
    if series.problem:
        raise DatasetError(series.problem)
    try:
        image = volumes.read(series.files, wishes.suv and series.modality == "PT")
    except DatasetError as error:
        if wishes.keep_names:
            raise
        text = str(error)
        for name in {file.parent.name for file in series.files}:  # may be a patient's
            text = text.replace(f" in '{name}'", f" of {case}").replace(f" in {name}", f" of {case}")
        raise type(error)(text) from error
    used = {part.file for part in image.slices}
    if used != set(series.files):
        raise DatasetError(f"{len(series.files)} files are there, but {len(used)} became slices. Export it again.")
    if series.copies:
        return replace(image, said=(*image.said, f"{series.copies} files were copies of others and left out"))
    return image


def _read_segmentation(path: Path, series: Series, labels: Mapping[str, int] | None) -> Image:
    return segmentations.read(path, volumes.read(series.files), labels)


def _onto(grid: Grid, image: DicomImage, name: str, first: str) -> tuple[NDArray[np.generic], str]:
    """A channel on the first one's grid, and what to say of it."""
    if not grid.difference(image.grid):
        return image.array, ""
    import SimpleITK as sitk

    lowest = float(image.array.min())
    target = with_grid(np.zeros(grid.shape, np.uint8), grid)
    ones = with_grid(np.ones(image.grid.shape, np.uint8), image.grid)
    covered = sitk.GetArrayFromImage(sitk.Resample(ones, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0)).mean()
    if not covered:
        raise DatasetError(f"The channels {first} and {name} do not overlap in space. Choose other series.")
    moving = with_grid(image.array[0].astype(np.float32), image.grid)
    array = sitk.GetArrayFromImage(sitk.Resample(moving, target, sitk.Transform(), sitk.sitkLinear, lowest))
    rest = "" if covered == 1 else f"; it covers {100 * covered:.0f} % of it, and the rest has its lowest value"
    return array[None], f"{name} was resampled to the grid of {first} (linear){rest}"


def _source(image: DicomImage, place: Path, folder: Path) -> ChannelSource:
    return ChannelSource(
        study=image.study,
        series=image.series,
        frame_of_reference=image.frame_of_reference,
        modality=image.modality,
        instances=tuple(part.sop_instance for part in image.slices),
        frames=tuple(part.frame + 1 for part in image.slices),
        folder=shown(place.relative_to(folder).as_posix()),
    )
