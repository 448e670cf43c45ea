"""What nnkd wrote into a folder, and may therefore replace: the one place that decides.

A folder that nnkd writes to keeps the hash of each file in `.nnkd-written`. nnkd adds to any folder, but replaces only
files that still have a hash of theirs; others need --replace. Images, manual label maps and the dataset.json of a
dataset are never replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnkd.errors import FolderError, NnkdError, ReplacingError
from nnkd.files import TEMPORARY_PREFIX, atomic, read_json, sha256, write_json

RECORD = ".nnkd-written"  # sha256 and name, a line a file, as sha256sum writes them; never shortened
DATA = re.compile(r"(images|labels|raters)(Tr|Ts|Hidden)|gt_segmentations")  # folders of what only people make
DATASET_JSON = "dataset.json"


class Written:
    """The files of a folder, and of folders in it, that nnkd wrote. Several processes may write at once.

    Attributes:
        folder: Where they lie; it need not exist.
        replace: Whether files that nnkd did not write may be replaced, too (--replace).
    """

    def __init__(self, folder: Path, replace: bool = False):
        self.folder, self.replace = folder, replace

    def check(self, names: Iterable[str], also: Mapping[str, str] | None = None) -> None:
        """Make sure that files may be written, before anything is computed.

        Args:
            names: Of the files, within the folder.
            also: sha256 of files that another record of nnkd's names.

        Raises:
            FolderError: If the folder is a file, or a folder has the name of a file.
            ReplacingError: If a file would be replaced that nnkd did not write, or that was changed since.
        """
        check_folder(self.folder)
        there = [name for name in dict.fromkeys(names) if os.path.lexists(self.folder / name)]
        if not there:
            return
        known = self._known()
        others = [name for name in there if not self._is_own(name, known, also or {})]
        kept = [name for name in others if is_data(self.folder / name)]
        if kept:
            raise ReplacingError(
                f"{_some(kept)} in '{_called(self.folder)}' would be replaced, but images, manual label maps and the "
                f"{DATASET_JSON} of a dataset never are. Write to another folder."
            )
        if others and not self.replace:
            raise ReplacingError(
                f"{_some(others)} in '{_called(self.folder)}' would be replaced, but nnkd did not write "
                f"{'it' if len(others) == 1 else 'them'}, or somebody changed {'it' if len(others) == 1 else 'them'} "
                f"since. Write to another folder, or replace with --replace."
            )

    def announce(self, name: str, finished: Path, also: Mapping[str, str] | None = None) -> None:
        """Take note of a finished file before it is moved to its place, once more if it may be.

        Args:
            name: What it will be called within the folder.
            finished: Where it lies now.
            also: As `check` has it.

        Raises:
            ReplacingError: As `check`.
        """
        digest, target = sha256(finished), self.folder / name
        same = target.is_file() and not is_data(target) and sha256(target) == digest
        if not same:
            self.check([name], also)
        self.adopt({name: digest})

    def adopt(self, files: Mapping[str, str]) -> None:
        """Take note of files that are there, with the sha256 that another record of nnkd's has."""
        known = self._known()
        lines = [f"{digest}  {_on_one_line(name)}\n" for name, digest in files.items() if (digest, name) not in known]
        if not lines:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / RECORD, "ab") as record:  # appended, so that no two processes take a line from another
            record.write("".join(lines).encode("utf-8", "surrogateescape"))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """`nnkd.files.atomic`, for a file that may be replaced.

        Yields:
            The temporary path to write to.

        Raises:
            ReplacingError: As `check`; the file that is there stays.
        """
        with atomic(self.folder / name) as temporary:
            yield temporary
            self.announce(name, temporary)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """A folder to write several files to, which are moved to their places together at the end; all or none.

        Raises:
            ReplacingError: As `check`.
        """
        staging = self.folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-files"
        new = not self.folder.is_dir()
        staging.mkdir(parents=True)
        try:
            yield staging
            names = sorted(file.relative_to(staging).as_posix() for file in staging.rglob("*") if file.is_file())
            self.check(names)
            told = [name for name in names if name.endswith(".json")]  # whoever is killed leaves none that tells of
            self.remove(told)  # other files than those beside it
            for name in [*(name for name in names if name not in told), *told]:
                self.move(staging / name, name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if new and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON, unless the file says the same already.

        Raises:
            ReplacingError: As `check`.
        """
        if self.differs(name, content):
            with self.writing(name) as temporary:
                write_json(temporary, content)

    def differs(self, name: str, content: Any) -> bool:
        """Whether a file is to be written for this content to be in it."""
        try:
            there: Any = read_json(self.folder / name)
        except (NnkdError, OSError):
            return True
        return bool(there != json.loads(json.dumps(content)))

    def move(self, finished: Path, name: str) -> None:
        """Put a finished file of the same file system in its place.

        Raises:
            ReplacingError: As `check`.
        """
        self.announce(name, finished)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(finished, target)

    def remove(self, names: Iterable[str], also: Mapping[str, str] | None = None) -> None:
        """Remove those of the files that nnkd wrote; others stay."""
        known = self._known()
        for name in names:
            file = self.folder / name
            if file.is_file() and self._is_own(name, known, also or {}):
                file.unlink()

    def _is_own(self, name: str, known: Collection[tuple[str, str]], also: Mapping[str, str]) -> bool:
        file = self.folder / name
        if file.is_dir():
            raise FolderError(f"'{name}' in '{_called(self.folder)}' is a folder, where a file is to be written.")
        if not file.is_file():  # a link to nowhere, a socket
            return False
        digest = sha256(file)
        return (digest, name) in known or also.get(name) == digest

    def _known(self) -> set[tuple[str, str]]:
        try:
            text = (self.folder / RECORD).read_bytes().decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {(line[:64], _as_named(line[66:])) for line in text.split("\n") if line}


def check_folder(folder: Path, option: str = "-o") -> None:
    """Make sure that a folder is one, or can be made.

    Raises:
        FolderError: If it, or what it is to lie in, is a file.
    """
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return
        if os.path.lexists(place):
            what = f"{option} is" if place == folder else f"'{_called(folder)}' is to be made in"
            kind = "file" if place.is_file() else "broken link"
            raise FolderError(
                f"{what} the {kind} '{place.name}', but a folder is expected. Choose another with {option}."
            )


def is_data(file: Path) -> bool:
    """Whether a file lies where only people put images and label maps, or describes a dataset; links are followed."""
    home = Path(os.path.realpath(file.parent))
    if file.name == DATASET_JSON and any((home / f"images{split}").is_dir() for split in ("Tr", "Ts")):
        return True
    return any(DATA.fullmatch(part.name) for part in (home, home.parent))


def check_results(folder: Path, source: Path | None = None) -> str:
    """Make sure that a folder may take label maps.

    Args:
        folder: Where label maps are to go (-o).
        source: Where the images are (-i), if they lie in a folder.

    Returns:
        What the user should know, as a sentence; empty: nothing.

    Raises:
        FolderError: If it is a file, or images lie in it: label maps would be taken for some.
    """
    check_folder(folder)
    home = Path(os.path.realpath(folder))
    if source is not None and home == Path(os.path.realpath(source)):
        raise FolderError(
            f"-o is the folder of the images, '{home.name}': label maps would replace them or be taken for some. "
            f"Choose another folder."
        )
    if home.name in ("imagesTr", "imagesTs"):
        raise FolderError(
            f"-o is {home.name} of a dataset, where label maps would be taken for images. Choose another."
        )
    if DATA.fullmatch(home.name):
        return f"What is written into {home.name} counts as manual label maps from now on."
    return ""


def _called(folder: Path) -> str:
    return folder.absolute().name


def _some(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more file(s)" if len(names) > 1 else "")


def _on_one_line(name: str) -> str:
    return name.replace("\\", "\\\\").replace("\n", "\\n")


def _as_named(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
