"""One mask file per label, as in TotalSegmentator's data set: CASE/ct.nii.gz and CASE/segmentations/liver.nii.gz ...

Labels can be chosen and joined (lung=lung_upper_lobe_left+lung_lower_lobe_left); meta.csv gives participants and split.
Source: Wasserthal et al. 2023, TotalSegmentator.
"""

from __future__ import annotations

import csv
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments, reading
from nnkd_dataset_conversion.people import write_people
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, SourceCase

from nnkd.data.reading.formats import read
from nnkd.data.reading.image import VOLUMES, Image, ending_of
from nnkd.errors import DatasetError, FolderError, UnknownNameError
from nnkd.files import is_visible
from nnkd.types import StepReport

META = "meta.csv"
SEX = {"m": "M", "male": "M", "f": "F", "female": "F"}


def convert(
    source: Path,
    target: Target | str,
    *,
    labels: Sequence[str] = (),
    channels: Sequence[str] = ("CT",),
    images: Sequence[str] = ("ct.nii.gz",),
    masks: str = "segmentations",
    absent: bool = False,
    ignore_split: bool = False,
) -> StepReport:
    """Convert case folders.

    Args:
        source: The folder with one folder a case.
        target: Where it goes.
        labels: NAME, or NAME=MASK+MASK to join; integers count from 1. Empty: every mask there is, by alphabet.
        channels: Channel names.
        images: The images' names in each case folder, one a channel.
        masks: The folder of the masks in each case folder; "." for the case folder itself.
        absent: A mask that is missing means that there is nothing of it; otherwise such a case fails.
        ignore_split: Test cases by meta.csv become training cases too.

    Raises:
        FolderError: If there is no case.
        UnknownNameError: If no case has a mask that is asked for.
    """
    folders = sorted(p.parent for p in source.glob(f"*/{images[0]}") if is_visible(p))
    if not folders:
        raise FolderError(
            f"'{source.name}' has no CASE/{images[0]}. Give the folder with one folder a case, or --images."
        )
    there = {folder: _masks(folder / masks, set(images)) for folder in folders}
    parts = _parts(labels, sorted(set().union(*there.values())))
    meta = _meta(source)
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=channels,
        labels={name: k for k, name in enumerate(parts, start=1)},
        options={
            "parts": parts,
            "images": list(images),
            "masks": masks,
            "absent": absent,
            "ignore_split": ignore_split,
        },
    )
    overlaps = _Overlaps()
    cases = []
    for folder in folders:
        is_test = meta.get(folder.name, {}).get("split") == "test" and not ignore_split
        label = partial(_join, folder, there[folder], parts, absent, overlaps) if there[folder] else None
        case = reading.clean(folder.name)
        cases.append(SourceCase(case, [folder / i for i in images], label, "Ts" if is_test else "Tr"))
    report = writer.write(cases, read=[source])
    names = {folder.name: reading.clean(folder.name) for folder in folders}
    facts = {name: _facts(meta.get(folder, {})) for folder, name in names.items()} if meta else None
    write_people(target, {name: name for name in names.values()}, facts)
    report.lines += overlaps.lines()
    bare = [folder.name for folder in folders if not there[folder]]
    if 0 < len(bare) < len(folders):
        report.lines.append(f"{len(bare)} cases have no mask and stay unlabelled, such as {bare[0]}.")
    return report


class _Overlaps:
    """Counts voxels that two labels claim; threads share it."""

    def __init__(self):
        self.voxels: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, label: str, voxels: int) -> None:
        with self._lock:
            self.voxels[label] += voxels

    def lines(self) -> list[str]:
        lost = [f"{label} {voxels}" for label, voxels in self.voxels.most_common() if voxels]
        return [f"Voxels lost to a label named earlier: {', '.join(lost)}."] if lost else []


def _masks(folder: Path, images: set[str]) -> dict[str, Path]:
    """Mask files by name."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    wanted = (p for p in paths if is_visible(p) and ending_of(p) in VOLUMES and p.name not in images)
    return {p.name[: -len(ending_of(p))]: p for p in wanted}


def _parts(words: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """Masks that each label is made of."""
    found: dict[str, list[str]] = {}
    for word in words or known:
        name, _, joined = word.partition("=")
        found[name] = joined.split("+") if joined else [name]
    if not found:
        raise DatasetError("No case has a mask, so the labels are not known. Name them with --labels.")
    for mask in (m for masks in found.values() for m in masks if known and m not in known):
        close = get_close_matches(mask, known, n=1)
        raise UnknownNameError(f"No case has a mask '{mask}'{f'; is it {close[0]}?' if close else '.'} "
                               f"There are {', '.join(known[:20])}{' ...' if len(known) > 20 else ''}.")  # fmt: skip
    return found


def _join(
    folder: Path, there: Mapping[str, Path], parts: Mapping[str, Sequence[str]], absent: bool, overlaps: _Overlaps
) -> Image:
    """One label map of a case's masks; where masks overlap the label named first wins."""
    missing = [mask for masks in parts.values() for mask in masks if mask not in there]
    if missing and not absent:
        raise DatasetError(
            f"It lacks the mask{'s' if len(missing) > 1 else ''} {', '.join(missing[:5])}. Download it again, or say "
            f"by --absent that a missing mask means there is nothing of it."
        )
    result: np.ndarray | None = None
    reference: Image | None = None
    for integer, (name, masks) in enumerate(parts.items(), start=1):
        for mask in (m for m in masks if m in there):
            image = read(there[mask], label_map=True)
            array = image.integers(f"The mask '{mask}'") > 0
            if result is None or reference is None:
                result, reference = np.zeros(array.shape, np.uint16), image
            difference = image.grid.difference(reference.grid)
            if difference:
                raise DatasetError(
                    f"The mask '{mask}' does not lie on the others' grid: {difference}. Export it again."
                )
            overlaps.add(name, int((array & (result > 0) & (result != integer)).sum()))
            result[array & (result == 0)] = integer
    if result is None or reference is None:
        raise DatasetError(f"'{folder.name}' has none of the masks that are asked for. Take it out or name others.")
    return replace(reference, array=result[None])


def _meta(source: Path) -> dict[str, dict[str, str]]:
    """Rows of meta.csv by case; empty without it."""
    file = source / META
    if not file.is_file():
        return {}
    with open(file, encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        stream.seek(0)
        rows = list(csv.DictReader(stream, delimiter=";" if ";" in first else ","))
    if rows and "image_id" not in rows[0]:
        raise DatasetError(f"{META} has no column image_id. Restore it, or move it away to go on without.")
    return {row["image_id"]: row for row in rows}


def _facts(row: Mapping[str, str]) -> dict[str, str]:
    """Sex, age [years] and, where it is told, the institute."""
    told = {key: (row.get(key) or "").strip() for key in ("gender", "age", "institute")}
    facts = {"sex": SEX.get(told["gender"].lower(), ""), "age": told["age"]}
    return {**facts, **({"institute": told["institute"]} if "institute" in row else {})}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser(
        "one_file_per_label", __doc__, "Totalsegmentator_dataset_v201 -d 722 -n Organs --labels liver spleen"
    )
    parser.add_argument("--labels", nargs="+", default=(), help="NAME or NAME=MASK+MASK (default: all masks)")
    parser.add_argument("--channels", nargs="+", default=("CT",), help="channel names (default: CT)")
    parser.add_argument("--images", nargs="+", default=("ct.nii.gz",), help="the images' names (default: ct.nii.gz)")
    parser.add_argument("--masks", default="segmentations", help="the masks' folder (default: segmentations)")
    parser.add_argument("--absent", action="store_true", help="a missing mask means that there is nothing of it")
    parser.add_argument("--ignore_split", action="store_true", help="test cases of meta.csv become training cases too")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
