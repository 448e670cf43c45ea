"""Claims: which process is at work on which case, so that several may share one folder without doing a case twice.

A claim is a file that only one process can create. Its time of change is renewed while the process lives; a claim whose
process is gone (on this machine), or that was not renewed for a while (on any), is taken over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil
from filelock import FileLock

from nnkd.errors import NnkdError
from nnkd.files import TEMPORARY_PREFIX, load_json, remove_leftovers, sha256_text

FOLDER = ".claims"
LOCK = ".claims.lock"  # beside the folder of claims, which is removed when it is empty; it stays
RENEWED_S = 20.0  # how often a claim is renewed
STALE_S = 300.0  # how long a claim counts that nobody renews: network drives may lag behind by a minute


@dataclass(frozen=True)
class Claim:
    """One case's claim; it may be handed to another process, which can then ask whether it still holds."""

    file: Path
    token: str

    def holds(self) -> bool:
        """Whether nobody has taken it over since."""
        return _content(self.file).get("token") == self.token


@dataclass
class Claims:
    """The claims on a folder's cases, to be used with `with`.

    Attributes:
        folder: Where the claims' folder lies.
        renewed_s, stale_s: See the constants.
    """

    folder: Path
    renewed_s: float = RENEWED_S
    stale_s: float = STALE_S
    _held: dict[str, Claim] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _end: threading.Event = field(default_factory=threading.Event)
    _renewer: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._renewer is not None:
            self._renewer.join()
        for case in list(self._held):
            self.release(case)
        with suppress(OSError):  # others are still at work
            remove_leftovers(self._place, self.stale_s)
            self._place.rmdir()

    @property
    def _place(self) -> Path:
        return self.folder / FOLDER

    def take(self, case: str) -> Claim | None:
        """Claim a case; None if somebody else is at work on it.

        Raises:
            NnkdError: If the folder cannot be written.
        """
        file = self._place / f"{case}.json"
        try:
            claim = self._create(file)
            if claim is None and self._is_stale(file):
                claim = self._take_over(file)
        except OSError as error:
            raise NnkdError(
                f"The case '{case}' could not be claimed in {self.folder.name} ({error.strerror or error}). Make room "
                f"or change the permissions, and run the command again: it continues where it stopped."
            ) from error
        if claim is not None:
            with self._guard:
                self._held[case] = claim
            self._renew()
        return claim

    def release(self, case: str) -> None:
        """Give a claim back; one that was taken over meanwhile is left alone."""
        with self._guard:
            claim = self._held.pop(case, None)
        if claim is not None and claim.holds():
            claim.file.unlink(missing_ok=True)

    def _create(self, file: Path) -> Claim | None:
        self._place.mkdir(parents=True, exist_ok=True)
        claim = Claim(file, uuid.uuid4().hex)
        text = json.dumps({"token": claim.token, "process": os.getpid(), "machine": machine()})
        try:
            return claim if _created(file, text, claim.token) else None
        except FileNotFoundError:  # somebody who ended just now removed the empty folder
            return self._create(file)

    def _is_stale(self, file: Path) -> bool:
        content = _content(file)
        if content.get("machine") == machine() and not _lives(content.get("process")):
            return True
        try:
            return self._now() - file.stat().st_mtime > self.stale_s
        except FileNotFoundError:  # given back just now
            return False

    def _now(self) -> float:
        """The time by the clock that stamps files here: a file server's may differ from this machine's."""
        stamp = self._place / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            stamp.touch()
            return stamp.stat().st_mtime
        finally:
            stamp.unlink(missing_ok=True)

    def _take_over(self, file: Path) -> Claim | None:
        """Replace a stale claim. All do so one after another: otherwise one could remove what another just created."""
        with FileLock(self.folder / LOCK, timeout=60):
            if not self._is_stale(file):
                return None
            file.unlink(missing_ok=True)
            return self._create(file)

    def _renew(self) -> None:
        if self._renewer is None:
            self._renewer = threading.Thread(target=self._keep_renewing, name="claims", daemon=True)
            self._renewer.start()

    def _keep_renewing(self) -> None:
        while not self._end.wait(self.renewed_s):
            with self._guard:
                held = list(self._held.values())
            for claim in held:
                try:
                    if claim.holds():
                        os.utime(claim.file)
                except OSError:  # it was taken over, or the drive is away for a moment
                    continue


def _created(file: Path, text: str, token: str) -> bool:
    """Write a file whole, unless it is there: as a link, which appears with its content, where there are links."""
    whole = file.parent / f"{TEMPORARY_PREFIX}{token}"
    try:
        whole.write_text(text, encoding="utf-8")
        os.link(whole, file)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:  # a drive without links
        return _created_empty(file, text)
    finally:
        whole.unlink(missing_ok=True)


def _created_empty(file: Path, text: str) -> bool:
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    return True


def _content(file: Path) -> dict[str, object]:
    """What a claim says; nothing if it is gone or not written yet."""
    try:
        content = load_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@cache
def machine() -> str:
    """A hash that is the same for all processes that see each other's numbers, and gives no name away."""
    parts = [socket.gethostname()]
    try:  # containers may share a host's name
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"), os.readlink("/proc/self/ns/pid")]
    except OSError:  # not on Linux
        parts.append(str(uuid.getnode()))
    return sha256_text(" ".join(parts))[:16]


def _lives(process: object) -> bool:
    """Whether a process of this machine is still there; also if that cannot be told."""
    return not isinstance(process, int) or process.bit_length() > 31 or psutil.pid_exists(process)
