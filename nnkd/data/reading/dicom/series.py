"""What a folder holds of DICOM: series, what is set aside by a rule, and files that were not understood."""

from __future__ import annotations

import filecmp
import fnmatch
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nnkd.data.reading.dicom.objects import ARCHIVES, Header, Other, kind_of_name, look, quiet, shown
from nnkd.errors import FolderError, SettingError

DIGITS = re.compile(r"\d+")
THREADS = 4  # they wait for network drives; on a local disk one would do


@dataclass(frozen=True)
class Series:
    """The files of one series, wherever below the folder they lie.

    Attributes:
        uid, study, frame_of_reference, sop_class: UIDs; `frame_of_reference` may be empty.
        number: Text; empty: none.
        description: Text; empty: none.
        modality: Such as "CT".
        folder: The nearest folder that holds all files.
        files: In the order of their names, not of their slices; copies are left out.
        copies: How many files were left out as copies of another one.
        problem: Why it cannot be converted, in one sentence; empty: nothing was found.
    """

    uid: str
    study: str
    frame_of_reference: str
    sop_class: str
    number: str
    description: str
    modality: str
    folder: Path
    files: tuple[Path, ...]
    copies: int = 0
    problem: str = ""

    def fits(self, pattern: str) -> bool:
        """Whether a pattern is its UID, its number, or fits its description (* and ?, capitals count as small)."""
        described = fnmatch.fnmatchcase(self.description.lower(), pattern.lower())
        return pattern in (self.uid, self.number) or described

    @property
    def title(self) -> str:
        """Number, modality and description, to choose by."""
        return f"{self.number or '-'} {self.modality or '-'} '{self.description}'"


@dataclass(frozen=True)
class Aside:
    """Files that are no images to convert, by a rule with a name; `series` if they are of one."""

    rule: str
    files: tuple[Path, ...]
    series: Series | None = None


@dataclass(frozen=True)
class Broken:
    """A file that was not understood, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """All files below a folder but hidden ones: each is in one of the three, or a copy."""

    series: tuple[Series, ...]
    aside: tuple[Aside, ...]
    broken: tuple[Broken, ...]

    def choose(self, patterns: Sequence[str] = (), modality: str = "") -> Found:
        """The same with fewer series: the others are set aside.

        Args:
            patterns: UID, number or description pattern; a series that fits one is taken, also a localizer or
                screenshot that a rule had set aside. Empty: all that no rule sets aside.
            modality: DICOM's code, such as "CT"; empty: any.

        Raises:
            SettingError: If nothing fits a pattern, or the modality.
        """
        series, aside = list(self.series), list(self.aside)
        for pattern in patterns:
            if not any(s.fits(pattern) for s in (*series, *(a.series for a in aside if a.series))):
                raise SettingError(f"No series has the UID, number or description '{pattern}'. {self.overview()}")
        if patterns:
            back = [a for a in aside if a.series and any(a.series.fits(pattern) for pattern in patterns)]
            aside = [a for a in aside if a not in back]
            there = [*series, *(a.series for a in back if a.series)]
            series = [s for s in there if any(s.fits(pattern) for pattern in patterns)]
            aside += [Aside("not chosen by --series", s.files, s) for s in there if s not in series]
        if modality:
            fitting = [s for s in series if s.modality.upper() == modality.upper()]
            if not fitting:
                raise SettingError(f"No series has the modality '{modality}'. {self.overview()}")
            aside += [Aside("another modality than --dicom_modality", s.files, s) for s in series if s not in fitting]
            series = fitting
        return Found(tuple(sorted(series, key=lambda s: s.files)), tuple(aside), self.broken)

    def overview(self, most: int = 12) -> str:
        """Which series there are, to choose by."""
        counts = Counter(s.title for s in self.series)
        titles = [title if count == 1 else f"{title} ({count}x)" for title, count in sorted(counts.items())]
        return f"There is {', '.join(titles[:most]) or 'none'}{' ...' if len(titles) > most else ''}."


def scan(folder: Path) -> Found:
    """Look at every file below a folder once; hidden files and folders are no data.

    A file that cannot be read makes the series fail that it belongs to, or else those whose slices lie beside it.

    Args:
        folder: Of any depth; links to folders are followed.

    Raises:
        FolderError: If it is missing.
    """
    if not folder.is_dir():
        raise FolderError(f"There is no folder '{folder.name}'. Give the folder the images lie in.")
    with quiet(), ThreadPoolExecutor(THREADS) as pool:
        looked = list(pool.map(look, _files(folder)))
        headers = [one for one in looked if isinstance(one, Header)]
        aside, broken = _others([one for one in looked if isinstance(one, Other)], headers)
        lost: dict[Path | str, list[str]] = {}  # by the series it belongs to, or else by the folder it lies in
        for one in broken:
            if kind_of_name(one.file) not in ARCHIVES:
                lost.setdefault(one.file.parent, []).append(one.file.name)
        groups: dict[tuple[str, str], list[Header]] = {}
        for header in headers:
            if header.flaw:
                broken.append(Broken(header.file, header.flaw))
                lost.setdefault(header.series, []).append(header.file.name)
            else:
                groups.setdefault((header.rule, header.series), []).append(header)
        made = [(rule, _series(members, lost)) for (rule, _), members in groups.items()]
    aside += [Aside(rule, series.files, series) for rule, series in made if rule]
    return Found(tuple(series for rule, series in made if not rule), tuple(aside), tuple(broken))


def _others(others: Sequence[Other], headers: Sequence[Header]) -> tuple[list[Aside], list[Broken]]:
    """Files that are no DICOM: what lies beside it, and what is named as the slices in its folder and must be one."""
    slices: dict[Path, list[Path]] = {}
    for header in headers:
        slices.setdefault(header.file.parent, []).append(header.file)
    aside: dict[str, list[Path]] = {}
    broken = []
    for other in others:
        like_slices = _is_named_as(other.file, slices.get(other.file.parent, []))
        if other.understood and not like_slices:
            aside.setdefault(other.reason, []).append(other.file)
        else:
            broken.append(Broken(other.file, "is no DICOM object" if other.understood else other.reason))
    return [Aside(rule, tuple(files)) for rule, files in aside.items()], broken


def _is_named_as(file: Path, slices: Sequence[Path]) -> bool:
    """Whether a file has the ending of the slices, or the next number of their names: IM0007.txt behind IM0006. One
    that is called as a slice but for its ending only tells of it."""
    if kind_of_name(file) in {kind_of_name(one) for one in slices} - {""}:
        return True
    stems = {_stem(one) for one in slices}
    form = DIGITS.sub("#", _stem(file))
    return "#" in form and _stem(file) not in stems and form in {DIGITS.sub("#", stem) for stem in stems}


def _stem(file: Path) -> str:
    return file.stem.lower() if kind_of_name(file) else file.name.lower()


def _files(folder: Path) -> list[Path]:
    """All visible files, folder by folder, each in the order of names."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        seen.add(real)
    return found


def _series(headers: Sequence[Header], lost: dict[Path | str, list[str]]) -> Series:
    first = headers[0]
    kept: dict[str, Header] = {}
    problem = ""
    for header in headers:
        twin = kept.setdefault(header.instance or str(header.file), header)
        if twin is not header and not problem and not _same(twin.file, header.file):
            problem = (f"'{shown(twin.file.name)}' and '{shown(header.file.name)}' are the same instance with "
                       f"different content. Take the wrong one out.")  # fmt: skip
    for what in ("study", "patient", "sop_class", "frame_of_reference", "modality"):
        count = len({getattr(header, what) for header in kept.values()})
        if count > 1 and not problem:
            words = {"sop_class": "class of object", "frame_of_reference": "frame of reference"}.get(what, what)
            problem = f"Its files are of more than one {words} ({count}). Export the series again."
    files = tuple(header.file for header in kept.values())
    keys: list[Path | str] = [first.series, *dict.fromkeys(file.parent for file in files)]
    missing = [name for key in keys for name in lost.get(key, [])]
    if missing and not problem:
        problem = (f"{len(files)} files are read, but {len(missing)} of the series or beside it cannot be "
                   f"({some(missing)}): the volume may lack slices. Copy them again, or take them out.")  # fmt: skip
    folder = Path(os.path.commonpath([file.parent for file in files]))
    return Series(first.series, first.study, first.frame_of_reference, first.sop_class, first.number,
                  first.description, first.modality, folder, files, len(headers) - len(files), problem)  # fmt: skip


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same object: bytes, or all but what the exporting program says of itself."""
    from pydicom import dcmread

    if filecmp.cmp(one, other, shallow=False):
        return True
    try:
        return bool(dcmread(one) == dcmread(other))
    except Exception:  # noqa: BLE001 - one is broken: then they are not known to be the same
        return False


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{shown(name)}'" for name in names[:most]) + more
