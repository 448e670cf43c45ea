"""Which files of a folder a command takes: each is used, set aside by a rule that has a name, or not understood."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnkd.errors import DatasetError
from nnkd.files import TEMPORARY_PREFIX, split_ending
from nnkd.replacing import RECORD
from nnkd.types import FolderCount

SYSTEM = (
    ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".directory", ".localized",
    "@eadir", "#recycle", "__macosx", "lost+found", "$recycle.bin", "system volume information",
)  # fmt: skip
DOCUMENTS = re.compile(
    r"(?:readme|licen[cs]e|copying|notice|authors|citation|cite|changelog|changes|terms|(?:md5|sha\d*|check)sums?|md5)"
    r"(?:[-_. ].*)?",
    re.IGNORECASE,
)
OF_DATASETS = ("dataset.json", "participants.tsv", "participants.json", "cases.tsv", "consensus.json",
               "conversion.json", "splits_final.json", "split.json", "dataset_description.json")  # fmt: skip
OF_RESULTS = (
    "manifest.json", "plans.json", "dataset.json", "dataset_fingerprint.json", "predict_from_raw_data_args.json",
    "summary.json", "postprocessing.pkl", "postprocessing.json", "postprocessing_metrics.json", "agreement.json",
    "report.html", "ensemble_config.json", "metrics.csv", "means.csv", "comparison.csv", "segment_codes.tsv",
)  # fmt: skip
FOLDERS = ("uncertainty", "auxiliaries", "preview", "private", "postprocessed", "evaluation")  # nnkd's and nnU-Net's
OWN_FILE, OWN_FOLDER, MANIFEST = "file of nnkd or nnU-Net", "folder of nnkd or nnU-Net", "manifest.json"
PROBABILITIES = (".npz", ".pkl")
SIDECARS = (".json", ".bval", ".bvec", ".txt", ".xml")
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".svg", ".pdf")
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".hdr", ".b2nd")
IMAGES = (*VOLUMES, ".img", ".tif", ".tiff", ".npz", ".dcm", ".png", ".jpg", ".jpeg", ".bmp", ".gif")
CHANNEL = r"_(\d{4})"  # nnU-Net's number of a channel


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        folder: It.
        cases: Files to use by case, sorted; one a channel, or one alone.
        aside: Names of files that a rule sets aside, by what the rule is called.
        unknown: What is wrong with files that were not understood, by name.
    """

    folder: Path
    cases: Mapping[str, tuple[Path, ...]]
    aside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's."""
        return shown(self.folder.absolute().name)

    def only(self, cases: Collection[str], rule: str = "", why: str = "") -> Listing:
        """The same without the files of other cases.

        Args:
            cases: Those to keep.
            rule: What sets the others aside; or
            why: what is wrong with them.
        """
        others = {case: self._names(case) for case in self.cases if case not in cases}
        kept = {case: files for case, files in self.cases.items() if case in cases}
        if not others:
            return self
        names = tuple(name for found in others.values() for name in found)
        if rule:
            return replace(self, cases=kept, aside={**self.aside, rule: (*self.aside.get(rule, ()), *names)})
        return replace(self, cases=kept, unknown={**self.unknown, **dict.fromkeys(names, why)})

    def told(self, *places: Path | None, rule: str = "named on the command line") -> Listing:
        """The same with files and folders that are known otherwise set aside.

        Args:
            places: They; None is nowhere.
            rule: What sets them aside.
        """
        named = {os.path.realpath(place) for place in places if place is not None}
        there = tuple(name for name in self.unknown if os.path.realpath(self.folder / name) in named)
        if not there:
            return self
        unknown = {name: why for name, why in self.unknown.items() if name not in there}
        return replace(self, aside={**self.aside, rule: (*self.aside.get(rule, ()), *there)}, unknown=unknown)

    def part(self, number: int, of: int) -> Listing:
        """What one of several calls that share the work takes; files that belong to no case are the first one's."""
        mine = replace(self, cases={case: self.cases[case] for case in sorted(self.cases)[number::of]})
        return mine if number == 0 else replace(mine, aside={}, unknown={})

    def count(self, name: str = "", what: str = "file") -> FolderCount:
        """The count for a report.

        Args:
            name: What the folder is called there; empty: its name.
            what: What is counted.
        """
        used = sum(len(files) for files in self.cases.values())
        return FolderCount(name or self.name, used, self.aside, self.unknown, what)

    def _names(self, case: str) -> list[str]:
        return [_name(file, self.folder) for file in self.cases[case]]


def images(folder: Path, file_ending: str) -> Listing:
    """Images as nnU-Net names them: CASE_0000.ending, one file a channel.

    Raises:
        DatasetError: If the folder cannot be read.
    """
    pattern = re.compile(rf"(.+){CHANNEL}{re.escape(file_ending)}", re.DOTALL)
    found = listing(folder, lambda name: match[1] if (match := pattern.fullmatch(name)) else "", file_ending, CHANNEL)
    written = {f"{case}{file_ending}" for case in found.cases}
    if (folder / MANIFEST).is_file() and (there := written & found.unknown.keys()):  # -o was the same folder
        unknown = {name: why for name, why in found.unknown.items() if name not in there}
        return replace(found, aside={**found.aside, "label map of nnkd": tuple(sorted(there))}, unknown=unknown)
    return found


def channel_of(image: Path, file_ending: str) -> int:
    """The number of an image's channel, which is in its name."""
    return int(image.name.removesuffix(file_ending)[-4:])


def label_maps(folder: Path, file_ending: str) -> Listing:
    """Label maps: CASE.ending.

    Raises:
        DatasetError: If the folder cannot be read.
    """
    return listing(folder, lambda name: name.removesuffix(file_ending) if name.endswith(file_ending) else "",
                   file_ending)  # fmt: skip


def prediction_folders(folder: Path) -> Listing:
    """Folders with a manifest.json in a folder, such as teachersTr.

    Raises:
        DatasetError: If the folder cannot be read.
    """
    cases: dict[str, tuple[Path, ...]] = {}
    aside: dict[str, tuple[str, ...]] = {}
    unknown: dict[str, str] = {}
    for path in _entries(folder, deep=False):
        name = _name(path, folder)
        rule = rule_of(path) or (_rule_beside(path, (), "") if path.is_file() or path.name in FOLDERS else "")
        if rule:
            aside[rule] = (*aside.get(rule, ()), name)
        elif (path / MANIFEST).is_file():
            cases[path.name] = (path,)
        elif path.is_dir():
            unknown[name] = f"it has no {MANIFEST}. Import label maps of others with the teacher 'imported'"
        else:
            unknown[name] = "a folder of each teacher was expected"
    return Listing(folder, cases, aside, unknown)


def preprocessed(folder: Path) -> Listing:
    """Cases as nnU-Net keeps them preprocessed: CASE.b2nd, CASE_seg.b2nd and CASE.pkl.

    Raises:
        DatasetError: If the folder cannot be read.
    """
    files = {path.name for path in _entries(folder, deep=False) if path.is_file()}

    def case_of(name: str) -> str:
        case = name.removesuffix(".pkl").removesuffix(".b2nd").removesuffix("_seg")
        whole = {f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"}
        return case if name in whole and whole <= files else ""

    found = listing(folder, case_of, ".b2nd")
    why = "CASE.b2nd, CASE_seg.b2nd and CASE.pkl were expected together"
    return replace(found, unknown=dict.fromkeys(found.unknown, why))


def listing(
    folder: Path, case_of: Callable[[str], str], file_ending: str = "", channel: str = "", deep: bool = False
) -> Listing:
    """What lies in a folder.

    Args:
        folder: It.
        case_of: The case of a file by its name (with `deep`, its path below the folder, "/" between its parts); empty:
            it is none that is looked for.
        file_ending: What files that are looked for end with, for what is said of others; empty: various.
        channel: CHANNEL if they have numbers of channels.
        deep: Whether the files of folders below are looked for, too.

    Raises:
        DatasetError: If the folder cannot be read.
    """
    cases: dict[str, list[Path]] = {}
    aside: dict[str, list[str]] = {}
    others: dict[str, Path] = {}
    for path in _entries(folder, deep):
        name = _name(path, folder)
        rule = rule_of(path)
        if rule:
            aside.setdefault(rule, []).append(name)
        elif path.is_file() and (case := case_of(path.relative_to(folder).as_posix())):
            cases.setdefault(case, []).append(path)
        else:
            others[name] = path
    unknown: dict[str, str] = {}
    stems = {_stem(file, file_ending) for files in cases.values() for file in files}
    for name, path in others.items():
        rule = _rule_beside(path, stems, file_ending)
        if rule:
            aside.setdefault(rule, []).append(name)
        else:
            unknown[name] = _why(path, file_ending, channel)
    return Listing(
        folder,
        {case: tuple(sorted(cases[case])) for case in sorted(cases)},
        {rule: tuple(names) for rule, names in aside.items()},
        unknown,
    )


def rule_of(path: Path) -> str:
    """The rule that sets a file or folder aside wherever it lies; empty: there is none."""
    name, small = path.name, path.name.lower()
    if name.startswith("._"):
        return "shadow file of macOS"
    if small in SYSTEM or small.startswith((".trash", ".spotlight", ".fseventsd", ".apple", ".nfs", ".snapshot")):
        return "system file"
    if name.startswith(TEMPORARY_PREFIX):
        return "temporary file of nnkd"
    if name in (".claims", ".cache", RECORD) or re.fullmatch(r"\..*lock", name):
        return OWN_FILE
    if name.startswith(("~$", ".~", ".#")) or small.endswith(("~", ".swp", ".swo", ".bak", ".tmp", ".orig")):
        return "backup of an editor"
    if re.fullmatch(r"#.*#", name):
        return "backup of an editor"
    return "hidden file" if name.startswith(".") else ""


def _rule_beside(path: Path, used: Collection[Path], file_ending: str) -> str:
    """The rule that sets aside what lies beside the files that are looked for; empty: there is none."""
    name, small = path.name, path.name.lower()
    if path.is_dir():
        results = any((path / inner).is_file() for inner in (MANIFEST, "dataset.json", "summary.json"))
        return OWN_FOLDER if name in FOLDERS or results else ""
    if not path.is_file():
        return ""
    if name in OF_DATASETS or name in OF_RESULTS:
        return OWN_FILE
    if DOCUMENTS.fullmatch(path.name):
        return "document"
    if small.endswith(TABLES):
        return "table"
    if path.with_suffix("") in used:
        if small.endswith(SIDECARS):
            return "sidecar of an image"
        if small.endswith(PROBABILITIES):
            return "probabilities of a label map"
        if small.endswith(".dcm"):
            return "DICOM-SEG of a label map"
    is_preview = small.endswith(PICTURES) and not re.search(rf"{CHANNEL}\.\w+$", name)
    return "picture beside volumes" if is_preview and file_ending.endswith(VOLUMES) else ""


def _stem(file: Path, file_ending: str) -> Path:
    """A file without its ending."""
    name = file.name[: -len(file_ending)] if file_ending else split_ending(file.name)[0]
    return file.with_name(name or file.name)


def _why(path: Path, file_ending: str, channel: str) -> str:
    """What is wrong with a file that is none of those that are looked for."""
    expected = f"CASE{'_0000' if channel else ''}{file_ending}" if file_ending else "an image"
    small = path.name.lower()
    if path.is_symlink() and not path.exists():
        return "it is a link to a file that is gone"
    if path.is_dir():
        return f"it is a folder, but {expected} was expected in this one"
    if not path.is_file():
        return f"it is no file, but {expected} was expected"
    if small.endswith((".part", ".crdownload", ".partial", ".download")):
        return "it is an unfinished download"
    if not file_ending:
        return "it is no image of a kind that is read here"
    if path.name.endswith(file_ending) and channel:
        return f"it lacks the number of its channel: {expected} was expected"
    if small.endswith(file_ending.lower()):
        return f"its ending is not {file_ending} as dataset.json writes it"
    if small.endswith(IMAGES):
        return f"its ending is not {file_ending}, which dataset.json names"
    return f"{expected} was expected"


def _entries(folder: Path, deep: bool) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"The folder '{shown(folder.name)}' cannot be read ({error.strerror}).") from error
    for path in paths:
        if deep and path.is_dir() and not rule_of(path):
            yield from _entries(path, deep)
        else:
            yield path


def _name(path: Path, folder: Path) -> str:
    return shown(path.relative_to(folder).as_posix())


def shown(name: str) -> str:
    """A name that can be printed on one line: old disks have names that are no UTF-8."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
