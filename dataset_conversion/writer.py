"""What all conversions share: a conversion lists its cases, the writer turns them into an nnU-Net dataset."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from nnkd_dataset_conversion import sources
from nnkd_dataset_conversion.target import Target, copy_table, dataset_folder
from numpy.typing import NDArray
from tqdm import tqdm

from nnkd.data import case_names
from nnkd.data.archives import ARCHIVE_ENDINGS
from nnkd.data.dataset import DatasetSpec, Split, write_dataset_json
from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE, read_participants
from nnkd.data.predictions import label_map_files
from nnkd.data.reading.formats import read, write
from nnkd.data.reading.image import Image, check_finite, ending_of
from nnkd.data.reading.pictures import form_of
from nnkd.data.reading.scan_values import oddities
from nnkd.errors import DatasetError, NnkdError
from nnkd.files import atomic, is_visible, read_json, remove_leftovers, split_ending, write_json
from nnkd.replacing import Written
from nnkd.types import Failure, StepReport

RECORD = "conversion.json"  # how the dataset was made; written first, so that nothing else is mixed in later
Source = Path | Callable[[], Image]
Relabel = Callable[[NDArray[np.integer]], NDArray[np.integer]]


@dataclass(frozen=True)
class SourceCase:
    """One case of somebody's data set.

    Attributes:
        name: The identifier it gets.
        images: One file a channel, or one file with all channels (4D, RGB); or functions that make the image.
        label: Its label map; None: unlabelled.
        split: "Tr" or "Ts".
        more: Further label maps by folder within the dataset, such as "ratersTs/2nd_manual".
    """

    name: str
    images: Sequence[Source]
    label: Source | None = None
    split: Split = "Tr"
    more: Mapping[str, Source] = field(default_factory=dict)


class DatasetWriter:
    """Writes one nnUNet_raw/DatasetXXX_Name. Every file is written atomically and never again; dataset.json is last.

    Args:
        target: Where it goes; a name such as "Dataset701_Name" will do.
        source: The folder or file that is converted; its own name (not where it lies) is recorded.
        channel_names: In file order; "CT" switches on nnU-Net's CT normalisation.
        labels: Integer (or integers of a region) by name; the background may be left out.
        file_ending: ".nii.gz" or ".png".
        relabel: Takes the integers of a source's label map, any shape, to those of `labels`.
        options: Whatever else decides about the content; recorded.
        more_json: Further keys of dataset.json, such as regions_class_order.

    Raises:
        DatasetError: If the id belongs to another dataset, or the dataset there was made otherwise.
    """

    def __init__(
        self,
        target: Target | str,
        *,
        source: Path,
        channel_names: Sequence[str],
        labels: Mapping[str, Any],
        file_ending: str = ".nii.gz",
        relabel: Relabel | None = None,
        options: Mapping[str, Any] | None = None,
        more_json: Mapping[str, Any] | None = None,
    ):
        self.target = Target(target) if isinstance(target, str) else target
        self.folder = dataset_folder(str(self.target.dataset), self.target.name)
        self.source = split_ending(source.resolve().name, ARCHIVE_ENDINGS)[0]
        self.relabel = relabel
        more = {**(more_json or {})}
        more |= {k: v for k in ("licence", "reference") if (v := getattr(self.target, k) or more.pop(k, ""))}
        self.more_json = more
        self.labels = {"background": 0, **{k: _plain(v) for k, v in labels.items() if k != "background"}}
        channels = {str(i): channel for i, channel in enumerate(channel_names)}
        content = {"channel_names": channels, "labels": self.labels, "file_ending": file_ending}
        self.spec = DatasetSpec(content, self.folder.name)
        if not self.spec.labels:
            raise DatasetError(f"No label beside the background is named for {self.folder.name}. Name one.")
        self.record = json.loads(json.dumps({"source": self.source, **content, "options": dict(options or {})}))
        self._said: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._check_same()

    def write(
        self, cases: Iterable[SourceCase], failures: Iterable[Failure] = (), read: Sequence[Path | None] = ()
    ) -> StepReport:
        """Write what is missing.

        Args:
            cases: All cases.
            failures: Cases that the conversion could not even list; they are reported along.
            read: Folders of a published data set that the conversion read, whose files are counted.

        Returns:
            What was done. A case that cannot be read, or does not fit, leaves nothing behind.

        Raises:
            DatasetError: If there is no case, or a name comes twice.
            ParticipantsError: If the table of participants is not as nnkd.data.participants reads it.
        """
        todo = sorted(cases, key=lambda case: (case.split, case.name))
        report = StepReport(failures=list(failures))
        self._check_cases(todo, report.failures)
        meant = [source for case in todo for source in (*case.images, case.label, *case.more.values())]
        named = (self.target.participants, self.target.cases_table)
        report.folders = [sources.count(folder, meant, named) for folder in read if folder is not None]
        refused = case_names.problems(case.name for case in todo)
        report.failures += [Failure(name, sentence) for name, sentence in refused.items()]
        todo = [case for case in todo if case.name not in refused]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".conversion.lock", timeout=0):
                self._begin()
                self._write_all(todo, report)
                self._finish(report)
        except Timeout as error:
            raise DatasetError(f"Another conversion is writing to {self.folder.name} now. Wait for it.") from error
        return report

    def _check_same(self) -> None:
        """Refuse to mix two data sets in one folder; one that holds nothing yet may become any."""
        file, what = self.folder / RECORD, f"{self.folder.name} exists already"
        todo = "Choose another id, or remove that folder first."
        if not any(is_visible(p) for p in self.folder.glob("*T[rs]/*")) and not (self.folder / "dataset.json").exists():
            return
        if not file.is_file():
            raise DatasetError(f"{what} and was not made by nnKD_convert_dataset. {todo}")
        found = read_json(file)
        for key, value in self.record.items():
            if found.get(key) != value:
                raise DatasetError(f"{what}, made with other {key} ({found.get(key)}; now {value}). {todo}")

    def _check_cases(self, cases: Sequence[SourceCase], failures: Sequence[Failure]) -> None:
        if not cases and failures:
            raise DatasetError(
                f"None of {len(failures)} case(s) can be converted. The first: {failures[0].case}: {failures[0].reason}"
            )
        if not cases:
            raise DatasetError(f"No case was found in {self.source}. Check the folder against the command's --help.")
        twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
        if twice:
            raise DatasetError(
                f"{len(twice)} case name(s) come twice, such as '{twice[0]}'. Every case, in training and test "
                f"together, needs a name of its own: rename the files."
            )

    def _begin(self) -> None:
        for folder in (self.folder, *(f for f in self.folder.rglob("*") if f.is_dir())):
            remove_leftovers(folder)
        tables = ((self.target.participants, PARTICIPANTS_FILE), (self.target.cases_table, CASES_FILE))
        for table, name in tables:
            if table is not None:
                copy_table(table, Written(self.folder, self.target.replace), name)
        if self.target.participants is not None:
            read_participants(self.folder)
        if not (self.folder / RECORD).is_file() or read_json(self.folder / RECORD) != self.record:
            write_json(self.folder / RECORD, self.record)

    def _write_all(self, cases: Sequence[SourceCase], report: StepReport) -> None:
        missing = [case for case in cases if not self._is_done(case)]
        report.skipped += sorted({case.name for case in cases} - {case.name for case in missing})
        pool = ThreadPoolExecutor(max(1, self.target.workers))  # reading and packing release the interpreter's lock
        try:
            outcomes = pool.map(self._try, missing)
            pairs = zip(missing, outcomes, strict=True)
            for case, reason in tqdm(pairs, self.folder.name, len(missing), unit="case", disable=not missing):
                if reason:
                    report.failures.append(Failure(case.name, reason))
                else:
                    report.done.append(case.name)
        finally:
            pool.shutdown(cancel_futures=True)

    def _try(self, case: SourceCase) -> str:
        try:
            self._write_case(case)
        except NnkdError as error:
            return str(error)
        return ""

    def _targets(self, case: SourceCase) -> tuple[list[Path], dict[Path, Source]]:
        """Where a case's images and label maps go."""
        ending = self.spec.file_ending
        count = 1 if ending == ".png" else len(self.spec.channel_names)  # RGB stays one png
        images = [self.folder / f"images{case.split}" / f"{case.name}_{k:04d}{ending}" for k in range(count)]
        maps = {f"labels{case.split}": case.label} if case.label is not None else {}
        return images, {self.folder / to / f"{case.name}{ending}": s for to, s in {**maps, **case.more}.items()}

    def _is_done(self, case: SourceCase) -> bool:
        images, maps = self._targets(case)
        other = self.folder / f"images{'Ts' if case.split == 'Tr' else 'Tr'}"
        if (other / images[0].name).is_file():  # nnKD_split moved it to the test set: never bring it back
            return True
        return all(path.is_file() for path in (*images, *maps))

    def _write_case(self, case: SourceCase) -> None:
        targets, maps = self._targets(case)
        images = self._read_images(case)
        first = images[0][0]
        labels = {to: self._read_label(source, case.name, first) for to, source in maps.items() if not to.is_file()}
        for (image, original), to in zip(images, targets, strict=True):  # everything was read and checked before
            self._put(image, original, to)
        for to, (label_map, original) in labels.items():
            self._put(label_map, original, to)

    def _read_images(self, case: SourceCase) -> list[tuple[Image, Path | None]]:
        """The images to write, each with the file that may be copied instead."""
        names, one_file = self.spec.channel_names, self.spec.file_ending == ".png"
        found: list[tuple[Image, Path | None]] = []
        count = 0
        for source in case.images:
            image = self._read(source, case.name)
            check_finite(image.array, f"An image of '{case.name}'")
            parts = image.channels
            count += len(parts)
            kept = [image] if one_file else parts
            original = source if isinstance(source, Path) and len(kept) == 1 and image.as_is else None
            found += [(part if image.as_is else replace(part, header=None), original) for part in kept]
        if count != len(names) or (one_file and len(found) > 1):
            raise DatasetError(
                f"Case '{case.name}' has {count} channel{'s' if count != 1 else ''}, but {len(names)} "
                f"({', '.join(names)}) {'is' if len(names) == 1 else 'are'} expected. Name others or take it out."
            )
        first = found[0][0]
        for image, _ in found[1:]:
            difference = first.grid.difference(image.grid)
            if difference:
                raise DatasetError(f"The channels of '{case.name}' differ: {difference}. Resample them to one grid.")
        self._check_format(case.name, first)
        channels = [part.array for image, _ in found for part in image.channels]
        with self._lock:
            for sentence in oddities(channels, names):
                self._said.setdefault(sentence.rstrip("."), []).append(case.name)
        return found

    def _read(self, source: Source, case: str, label_map: bool = False) -> Image:
        image = read(source, label_map) if isinstance(source, Path) else source()
        with self._lock:
            for sentence in image.said:
                self._said.setdefault(sentence, []).append(case)
        return image

    def _check_format(self, name: str, image: Image) -> None:
        if self.spec.file_ending != ".png":
            return
        if not image.flat:
            raise DatasetError(
                f"Case '{name}' is a volume, but the dataset's other images are pictures. Convert it apart."
            )
        channels, kind = len(image.array), image.array.dtype
        if channels not in (1, 3) or (channels == 3 and kind == np.uint16):
            raise DatasetError(
                f"Case '{name}' has {channels} channels of {kind}, but nnU-Net reads pngs of one, in 8 or 16 bits, or "
                f"of three in 8. Scale colours to 8 bits, or save each channel as .nii.gz."
            )
        if kind not in (np.uint8, np.uint16):
            raise DatasetError(
                f"Case '{name}' holds {kind} values, but a png holds integers from 0 to 65535. "
                f"Scale it first, or save the images as .nii.gz."
            )

    def _read_label(self, source: Source, case: str, image: Image) -> tuple[Image, Path | None]:
        what = f"The label map of '{case}'"
        found = self._read(source, case, label_map=True)
        difference = found.grid.difference(image.grid)
        if difference:
            raise DatasetError(f"{what} does not lie on its image's grid: {difference}. Export it on the image's grid.")
        array = found.integers(what)
        changed = self.relabel(array) if self.relabel else array
        strange = sorted(set(np.unique(changed).tolist()) - self.spec.values)
        if strange:
            names = ", ".join(f"{value}" for value in sorted(self.spec.values))
            raise DatasetError(
                f"{what} holds the value{'s' if len(strange) > 1 else ''} {', '.join(map(str, strange[:8]))}"
                f"{' ...' if len(strange) > 8 else ''}, but the labels are {names}. Name it, correct the file, or "
                f"cut a lossy mask (jpg) with --threshold."
            )
        same = len(found.array) == 1 and found.header == image.header and found.flat == image.flat
        same = same and np.array_equal(changed, found.array[0])
        original = source if isinstance(source, Path) and same and found.as_is and image.as_is else None
        kind = np.uint8 if max(self.spec.values) < 255 else np.uint16
        return replace(image, array=changed.astype(kind)[None], colour=False, said=()), original

    def _put(self, image: Image, original: Path | None, to: Path) -> None:
        """Write a file unless it is there; one that nothing changes in is copied byte by byte."""
        if to.is_file():
            return
        with atomic(to) as temporary:
            if original is not None and _copies(original, to):
                shutil.copyfile(original, temporary)
            else:
                write(image, temporary)

    def _finish(self, report: StepReport) -> None:
        """Count, write dataset.json and sum up."""
        folders = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
        counts = {to: len(label_map_files(self.folder / to, self.spec.file_ending)) for to in folders}
        files = 1 if self.spec.file_ending == ".png" else len(self.spec.channel_names)
        counts |= {to: counts[to] // files for to in ("imagesTr", "imagesTs")}
        if counts["imagesTr"] or counts["imagesTs"]:
            self._write_json(counts["imagesTr"])
        report.data = counts
        for sentence, cases in self._said.items():
            others = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
            report.lines.append(f"{', '.join(sorted(cases)[:3])}{others}: {sentence}.")
        report.lines.append(
            f"{self.folder.name}: {counts['imagesTr']} training cases ({counts['labelsTr']} with a label map), "
            f"{counts['imagesTs']} test cases ({counts['labelsTs']} with a label map); {len(report.done)} written now, "
            f"{len(report.skipped)} were there."
        )

    def _write_json(self, num_training: int) -> None:
        file = self.folder / "dataset.json"
        if file.is_file():  # somebody may have added keys of his own
            there = read_json(file)
            if there.get("numTraining") != num_training:
                write_json(file, {**there, "numTraining": num_training})
            return
        write_dataset_json(
            self.folder, self.spec.channel_names, self.labels, self.spec.file_ending, num_training, **self.more_json
        )


def _plain(value: Any) -> Any:
    return [int(v) for v in value] if isinstance(value, list | tuple) else int(value)


def _copies(original: Path, to: Path) -> bool:
    """Whether a file can stand where it is to go without being encoded anew."""
    if ending_of(original) != ending_of(to):
        return False
    return ending_of(to) != ".png" or form_of(original).plain
