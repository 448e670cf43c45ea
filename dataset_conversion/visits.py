"""Which files of a tree are one case, and whose: a folder a case, a folder a visit, or everybody's files in one folder.

A case is a person at a visit. The name of a folder does not tell a case where it is a visit's (ses-01, 2019-03-21),
where its files are named after the folder above, or where another folder has the same name: then the folders above
belong to it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnkd_dataset_conversion import reading

from nnkd.data.reading.image import ending_of
from nnkd.data.reading.nifti import NIFTI_ENDINGS
from nnkd.files import is_visible

Files = dict[str, list[Path]]  # by the last word of their names, in small letters
VISIT = re.compile(
    r"(?:ses|session|visit|timepoint|tp|baseline|follow-?up|pre-?op|post-?op)(?:[-_]?\d\w*|[-_]\w+)?"
    r"|(?:19|20)\d\d[-_]?(?:0[1-9]|1[0-2])[-_]?(?:0[1-9]|[12]\d|3[01])",
    re.IGNORECASE,
)
ABOUT = ("anat",)  # BIDS' folders below the visit's


@dataclass(frozen=True)
class Visit:
    """One case.

    Attributes:
        name: The case's.
        person: Whose it is.
        path: Its folders below the root, the case's own (or, among others in one folder, its files') last.
        start: How its images' names begin.
        files: Its files.
        told: Whether the names say whose it is.
    """

    name: str
    person: str
    path: tuple[str, ...]
    start: str
    files: Files = field(default_factory=dict)
    told: bool = True


def visits(root: Path, is_image: Callable[[str], bool], is_label: Callable[[str], bool]) -> list[Visit]:
    """Every group of images and label maps of one folder whose names begin alike.

    Args:
        root: The tree.
        is_image: Whether a file's last word says that it is an image.
        is_label: Whether it says that it is a label map.

    Returns:
        In the order of their folders. A label map named otherwise belongs to the only images of its folder.
    """
    folders: dict[Path, dict[str, Files]] = defaultdict(dict)
    for file in sorted(p for p in root.rglob("*.nii*") if is_visible(p) and ending_of(p) in NIFTI_ENDINGS):
        start, last = _words(file)
        if is_image(last) or is_label(last):
            folders[file.parent].setdefault(start, {}).setdefault(last, []).append(file)
    found = []
    for groups in folders.values():
        _join_label_map(groups, is_image)
    shared = any(len(groups) > 1 for groups in folders.values())  # some folders hold several cases
    for folder, groups in folders.items():
        above = tuple(part for part in folder.relative_to(root).parts if part.lower() not in ABOUT)
        for start, files in groups.items():
            if shared and start and (not above or start != above[-1]):
                found.append(Visit(reading.clean(start), reading.clean(_person(start)), (*above, start), start, files))
            else:
                found.append(_visit(above or (folder.name,), start, files))
    counts = Counter(visit.name for visit in found)
    return [_by_path(visit) if counts[visit.name] > 1 else visit for visit in found]


def _join_label_map(groups: dict[str, Files], is_image: Callable[[str], bool]) -> None:
    """Give a label map that is named otherwise to the only images of its folder.

    BraTS20_Training_355 calls its one W39_1998.09.19_Segm.nii.
    """
    with_images = [start for start, files in groups.items() if any(map(is_image, files))]
    if len(with_images) != 1:
        return
    joined = groups[with_images[0]]
    for start in [start for start in groups if start != with_images[0]]:
        for last, paths in groups.pop(start).items():
            joined[last] = joined.get(last, []) + paths


def _visit(path: tuple[str, ...], start: str, files: Files) -> Visit:
    """The only case of a folder."""
    visit = Visit(reading.clean(path[-1]), reading.clean(_person(path[-1])), path, start, files)
    is_visit = len(path) > 1 and (VISIT.fullmatch(path[-1]) or start == path[-2])
    return _by_path(visit) if is_visit else visit


def _by_path(visit: Visit) -> Visit:
    """Named by its folders; the person is what they tell beside the visit."""
    path = visit.path
    others = [part for part in path if not VISIT.fullmatch(part)]
    if len(others) == len(path) and len(path) > 1 and visit.start == path[-2]:
        others = others[:-1]  # the files are named after the folder above: the last one is the visit's
    name, told = reading.clean("_".join(path)), 0 < len(others) < len(path)
    return replace(visit, name=name, person=reading.clean("_".join(others)) if told else name, told=told)


def _person(name: str) -> str:
    """A name without the visit at its end: sub-01 of sub-01_ses-02, BraTS-GLI-00005 of BraTS-GLI-00005-101."""
    match = re.fullmatch(rf"(.+?)[-_](?:{VISIT.pattern})", name, re.IGNORECASE)
    return match[1] if match else re.sub(r"(?i)^(BraTS-[a-z-]+-\d+)-\d+$", r"\1", name)


def _words(file: Path) -> tuple[str, str]:
    """How a file's name begins, and its last word: BraTS20_Training_001, t1ce."""
    start, _, last = re.sub(r"[-_](?=[^-_]*$)", "\0", file.name[: -len(ending_of(file))]).rpartition("\0")
    return start, last.lower()
