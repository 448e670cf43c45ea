"""BraTS, brain tumours: t1, t1ce (t1c, t1n), t2, flair (t2f) and seg of each case, a folder a case or a visit.

The cases' names tell the release, and with it what the label maps' integers mean; a release that is not known here is
refused. Labels become nnU-Net's regions: whole tumor, tumor core, enhancing tumor, and a fourth where the release has
one (the resection cavity after treatment with --cavity, the cystic component in BraTS-PEDs). Several visits of one
person are several cases of one participant (cases.tsv).
Licence: see the data's own page. untried on the real releases since 2023.
Source: Baid et al. 2021, The RSNA-ASNR-MICCAI BraTS 2021 benchmark; de Verdier et al. 2024, BraTS: Glioma Segmentation
on Post-treatment MRI; Kazerooni et al. 2024, BraTS-PEDs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments
from nnkd_dataset_conversion.people import write_people
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.visits import Visit, visits
from nnkd_dataset_conversion.writer import DatasetWriter, Relabel, SourceCase

from nnkd.data.dataset import Split
from nnkd.errors import DatasetError, FolderError
from nnkd.types import Failure, StepReport

CHANNELS = ("T1", "T1ce", "T2", "Flair")
# BraTS 2012-2021: CASE_t1ce.nii.gz; BraTS 2023 on: CASE-t1c.nii.gz
SUFFIXES = (("t1", "t1n"), ("t1ce", "t1c", "t1gd"), ("t2", "t2w"), ("flair", "t2f"), ("seg", "segm"))


@dataclass(frozen=True)
class Numbering:
    """What the integers of a release's label maps mean.

    Attributes:
        said: In words.
        values: Ours by theirs. Ours: 1 oedema, 2 core that does not enhance, 3 enhancing, 4 the fourth region, so that
            regions_class_order paints the smaller later.
        regions: Ours by name.
    """

    said: str
    values: Mapping[int, int]
    regions: Mapping[str, Sequence[int]]


REGIONS = {"whole tumor": (1, 2, 3), "tumor core": (2, 3), "enhancing tumor": (3,)}
PEDS_REGIONS = {"whole tumor": (1, 2, 3, 4), "tumor core": (2, 3, 4), "enhancing tumor": (3,), "cystic component": (4,)}
NUMBERINGS = {
    "old": Numbering("1 necrosis, 2 oedema, 4 enhancing (until BraTS 2021)", {0: 0, 1: 2, 2: 1, 4: 3}, REGIONS),
    "new": Numbering("1 necrosis, 2 oedema, 3 enhancing (since BraTS 2023)", {0: 0, 1: 2, 2: 1, 3: 3}, REGIONS),
    "peds": Numbering(
        "1 enhancing, 2 non-enhancing, 3 cyst, 4 oedema (BraTS-PEDs since 2024)",
        {0: 0, 1: 3, 2: 2, 3: 4, 4: 1},
        PEDS_REGIONS,
    ),
}
# Numbering by how a release names its cases. BraTS 2012-2016 and BraTS-MEN-RT, among others, are none of these
RELEASES = (
    (re.compile(r"(?:brats(?:20)?(?:17|18|19|20|21)|fets(?:20)?(?:21|22))(?=_)", re.IGNORECASE), "old"),
    (re.compile(r"BraTS-(?:GLI|MEN|MET|SSA|GoAT)(?=-\d)", re.IGNORECASE), "new"),
    (re.compile(r"BraTS-PED(?=-\d)", re.IGNORECASE), "peds"),
)
OTHER_RELEASE = re.compile(r"(?:brats|fets)(?:\d+(?=_)|(?:-[a-z0-9]*[a-z][a-z0-9]*)+(?=-\d))", re.IGNORECASE)
WITH_CAVITY = {"brats-gli", "brats-met", ""}


def convert(
    source: Path, target: Target | str, *, test: Path | None = None, labels: str = "", cavity: bool = False
) -> StepReport:
    """Convert a tree of cases.

    Args:
        source: Training cases; those without seg stay unlabelled.
        target: Where it goes.
        test: Test cases.
        labels: A key of NUMBERINGS, where the cases' names do not tell it; it may not contradict them.
        cavity: BraTS 2024 (after treatment): label 4 is the resection cavity, a region of its own.

    Raises:
        FolderError: If a folder is missing or holds no case.
        DatasetError: If the release or its numbering is not known.
    """
    folders: dict[Split, Path | None] = {"Tr": source, "Ts": test}
    found = [(visit, split) for split, folder in folders.items() if folder is not None for visit in _visits(folder)]
    numbering, lines = _numbering([visit for visit, _ in found], source, labels, cavity)
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=CHANNELS,
        labels=numbering.regions,
        relabel=_relabel(numbering),
        options={"numbering": numbering.said},
        more_json={"regions_class_order": list(range(1, len(numbering.regions) + 1))},
    )
    cases: list[SourceCase] = []
    failures: list[Failure] = []
    for visit, split in found:
        try:
            cases.append(_case(visit, split))
        except DatasetError as error:
            failures.append(Failure(visit.name, str(error)))
    report = writer.write(cases, failures, [source, test])
    write_people(target, {visit.name: visit.person for visit, _ in found})
    report.lines = lines + report.lines
    return report


def _visits(folder: Path) -> list[Visit]:
    if not folder.is_dir():
        raise FolderError(f"There is no folder '{folder.name}'. Give the folder with one folder a case.")
    images = {suffix for suffixes in SUFFIXES[:4] for suffix in suffixes}
    found = visits(folder, images.__contains__, SUFFIXES[4].__contains__)
    if not found:
        raise FolderError(
            f"'{folder.name}' has no CASE_t1.nii.gz or CASE-t1n.nii.gz. Give the folder with one folder a case."
        )
    return found


def _case(visit: Visit, split: Split) -> SourceCase:
    files: list[Path | None] = []
    for name, suffixes in zip((*CHANNELS, "its label map"), SUFFIXES, strict=True):
        there = [path for suffix in suffixes for path in visit.files.get(suffix, [])]
        if len(there) > 1:
            raise DatasetError(f"It has {name} {len(there)} times ({', '.join(p.name for p in there)}). Keep one.")
        files.append(there[0] if there else None)
    missing = [channel for channel, file in zip(CHANNELS, files, strict=False) if file is None]
    if missing:
        raise DatasetError(f"It lacks {', '.join(missing)}. Download it again or take it out.")
    return SourceCase(visit.name, [file for file in files[:4] if file], files[4], split)


def _numbering(found: Sequence[Visit], source: Path, asked: str, cavity: bool) -> tuple[Numbering, list[str]]:
    """The numbering of all cases, and what is said on it."""
    releases: dict[str, list[str]] = {}  # cases by release; "" where the names do not tell
    keys: set[str] = set()
    for visit in found:
        release, key = _release(visit)
        if release.lower() == "brats-ped":
            key = _key_of_peds((source.resolve().name, *visit.path), asked)
        releases.setdefault(release, []).append(visit.name)
        keys.add(key or asked)
    names = ", ".join(f"{release} ({len(cases)})" for release, cases in releases.items() if release)
    if "" in keys:
        raise DatasetError(
            f"The name '{releases[''][0]}' tells no release of BraTS, so its labels are not known. Say which: "
            + "; ".join(f"--{key}_labels: {numbering.said}" for key, numbering in NUMBERINGS.items())
            + "."
        )
    if len(keys) > 1:
        raise DatasetError(f"The labels of {names} are numbered in different ways. Convert each release apart.")
    key = keys.pop()
    if asked not in ("", key):
        raise DatasetError(f"{names}: {NUMBERINGS[key].said}, which is not --{asked}_labels. Say --{key}_labels.")
    numbering = NUMBERINGS[key]
    if cavity:
        without = sorted(release for release in releases if release.lower() not in WITH_CAVITY)
        if key != "new" or without:
            raise DatasetError(f"{names or 'This numbering'} has no resection cavity. Leave --cavity out.")
        regions = {**numbering.regions, "resection cavity": (4,)}
        numbering = Numbering(f"{numbering.said}, 4 resection cavity", {**numbering.values, 4: 4}, regions)
    lines = [f"{names or 'No release is told by the names'}: labels read as {numbering.said}."]
    unclear = sorted(visit.name for visit in found if not visit.told)
    if unclear:
        lines.append(
            f"Folders of one name are told apart by the folders above ({', '.join(unclear[:3])}). Each is taken for a "
            f"person of its own; if some are visits of one person, give --cases."
        )
    return numbering, lines


def _release(visit: Visit) -> tuple[str, str]:
    """A case's release as its name spells it and the key of its numbering; both empty if the name does not tell."""
    for word in (visit.start, *reversed(visit.path)):
        for pattern, key in RELEASES:
            if match := pattern.match(word):
                return match[0], key
        if match := OTHER_RELEASE.match(word):
            raise DatasetError(
                f"'{visit.name}' is of the release {match[0]}, whose labels are not known here: known are BraTS 2017 "
                f"to 2021, FeTS, and BraTS-GLI, -MEN, -MET, -SSA, -GoAT and -PED. Convert it with images_folder."
            )
    return "", ""


def _key_of_peds(folders: Sequence[str], asked: str) -> str:
    """BraTS-PEDs changed its numbering in 2024, but not its cases' names: folders tell the year, or the user does."""
    years = {int(year) for folder in folders for year in re.findall(r"(?i)(?:BraTS|PEDs?)[-_]?(20[12]\d)", folder)}
    if years:
        return "new" if max(years) == 2023 else "peds"
    if asked != "peds":
        raise DatasetError(
            f"BraTS-PED cases were numbered in two ways: {NUMBERINGS['new'].said}, in 2023 alone, and "
            f"{NUMBERINGS['peds'].said}. Say --peds_labels, or give the folder of 2023 under its published name."
        )
    return asked


def _relabel(numbering: Numbering) -> Relabel:
    table = np.full(256, -1)
    table[list(numbering.values)] = list(numbering.values.values())

    def relabel(array: np.ndarray) -> np.ndarray:
        ours = np.where((array >= 0) & (array < 256), table[np.clip(array, 0, 255)], -1)
        strange = np.unique(array[ours < 0]).tolist()
        if strange:
            hint = " If 4 is the resection cavity, say --cavity." if strange == [4] else " Is it of another release?"
            raise DatasetError(f"Its label map holds {', '.join(map(str, strange[:8]))}, not {numbering.said}.{hint}")
        return ours

    return relabel


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("brats", __doc__, "BraTS2021_Training_Data -d 721 -n BraTS --old_labels")
    parser.add_argument("--test", type=Path, help="folder of the test cases")
    kinds = parser.add_mutually_exclusive_group()
    for key, numbering in NUMBERINGS.items():
        kinds.add_argument(f"--{key}_labels", dest="labels", action="store_const", const=key, help=numbering.said)
    parser.set_defaults(labels="")
    parser.add_argument("--cavity", action="store_true", help="BraTS 2024: 4 is the resection cavity, a region too")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
