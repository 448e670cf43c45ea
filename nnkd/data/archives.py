"""Unpacking archives without letting them write anywhere else."""

from __future__ import annotations

import logging
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from nnkd import limits
from nnkd.errors import DatasetError, FolderError, in_one_line
from nnkd.files import split_ending

log = logging.getLogger("nnkd")
Member = tuple[str, int, Callable[[], IO[bytes]]]  # name, size, and what opens it
ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive `unpack` reads."""
    return path.is_file() and path.name.lower().endswith(ARCHIVE_ENDINGS)


def unpack(archive: Path) -> Path:
    """Unpack an archive beside itself, once: a killed run leaves no folder of the final name.

    Names that begin with "._" (macOS' shadows of files) are left out.

    Args:
        archive: A .zip, or a .tar that may be compressed.

    Returns:
        The folder: named as the archive without its ending; if all of the archive lies in one folder, that folder's
        content is in it.

    Raises:
        DatasetError: If it is broken, or a member has an absolute path, leads out of the folder, or is a link or a
            device. Nothing is unpacked then.
        FolderError: If the disk has not enough room, or the folder cannot be written.
    """
    target = archive.parent / split_ending(archive.name, ARCHIVE_ENDINGS)[0]
    if target.is_dir():
        log.warning("'%s' was not unpacked: the folder '%s' beside it was taken.", archive.name, target.name)
        return target
    temporary = archive.parent / f".unpacking-{target.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        unpack_into(archive, temporary)
        inside = list(temporary.iterdir())
        os.replace(inside[0] if len(inside) == 1 and inside[0].is_dir() else temporary, target)
    except OSError as error:
        raise _no_room(archive, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def unpack_into(archive: Path, folder: Path) -> None:
    """Unpack an archive into a new folder; what a failure leaves there is the caller's to remove.

    Args:
        archive: A .zip, or a .tar that may be compressed.
        folder: It must not exist.

    Raises:
        DatasetError, FolderError: As `unpack`.
    """
    try:
        folder.mkdir()
        _extract(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DatasetError(f"'{archive.name}' is broken or no archive. Copy or download it again.") from error
    except RuntimeError as error:  # a password, a way of packing that Python does not know
        raise DatasetError(
            f"'{archive.name}' cannot be unpacked ({in_one_line(error)}). Unpack it yourself and give the folder."
        ) from error
    except OSError as error:
        raise _no_room(archive, error) from error


def _no_room(archive: Path, error: OSError) -> FolderError:
    return FolderError(
        f"'{archive.name}' could not be unpacked in its folder ({error.strerror or error}). Make room there, change "
        f"the permissions, or unpack it yourself and give the folder."
    )


def _extract(archive: Path, into: Path) -> None:
    is_zip = archive.name.lower().endswith(".zip")
    with zipfile.ZipFile(archive) if is_zip else tarfile.open(archive) as opened:
        members = list(_zip_members(opened) if isinstance(opened, zipfile.ZipFile) else _tar_members(opened))
        needed = sum(size for _, size, _ in members)
        packed = archive.stat().st_size
        if needed > max(limits.ALWAYS, packed * limits.RATIO.value):
            raise DatasetError(
                f"'{archive.name}' would unpack to {needed / 1e9:.1f} GB, {needed / packed:.0f} times its own size. "
                f"{limits.RATIO.raised}"
            )
        if needed > shutil.disk_usage(into).free:
            raise OSError(f"it needs {needed / 1e9:.1f} GB, more than there is")
        for name, _, content in members:  # all names were checked before the first byte is written
            file = into.joinpath(*PurePosixPath(name).parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            with content() as source, open(file, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


def _tar_members(opened: tarfile.TarFile) -> Iterator[Member]:
    # Written out member by member, not with extractall: its guarding filter is missing in early 3.10 and 3.11
    for number, member in enumerate(opened):
        _check_number(number)
        _check_name(member.name)
        if member.isdir():
            continue
        if not member.isreg():
            raise DatasetError(
                f"'{member.name}' in the archive is a link or a device. Unpack it yourself if you trust it."
            )
        if _wanted(member.name):
            yield member.name, member.size, partial(_content, opened, member)


def _zip_members(opened: zipfile.ZipFile) -> Iterator[Member]:
    _check_number(len(opened.infolist()) - 1)
    for member in opened.infolist():
        _check_name(member.filename)
        if member.flag_bits & 1:
            raise RuntimeError("it has a password")
        if (member.external_attr >> 16) & 0o170000 == 0o120000:
            raise DatasetError(f"'{member.filename}' in the archive is a link. Unpack it yourself if you trust it.")
        if not member.is_dir() and _wanted(member.filename):
            yield member.filename, member.file_size, partial(opened.open, member)


def _check_number(number: int) -> None:
    if number >= limits.MEMBERS.value:
        raise DatasetError(f"The archive has more than {limits.MEMBERS.value:g} members. {limits.MEMBERS.raised}")


def _wanted(name: str) -> bool:
    return not any(part.startswith("._") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _check_name(name: str) -> None:
    windows = PureWindowsPath(name)  # also splits at "/", and knows drives and backslashes
    if name.startswith(("/", "\\")) or windows.drive or ".." in windows.parts:
        raise DatasetError(
            f"The archive wants to write '{name}', outside its folder. Do not trust it, or unpack it yourself."
        )


def _content(opened: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = opened.extractfile(member)
    if stream is None:
        raise EOFError("a member has no content")
    return stream
