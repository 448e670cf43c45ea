"""Downloading one file so that it can be killed at any time and goes on where it stopped."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nnkd.errors import WeightsError

CHUNK = 1 << 20  # bytes
TIMEOUT_S = 30.0  # without a single byte
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class NoConnectionError(WeightsError):
    """The server could not be reached at all."""


def download(url: str, part: Path, size: int | None, progress: Callable[[int, int | None], None]) -> None:
    """Download a file, or the rest of it, into `part`.

    What is in `part` already is asked for no more (an HTTP range), unless the server does not know ranges.

    Args:
        url: What to download.
        part: Where it grows. It stays when something breaks off, so that the next call goes on.
        size: How many bytes it must have; None if not known.
        progress: Called with how many bytes are there and how many there will be, now and then.

    Raises:
        NoConnectionError: If the server cannot be reached.
        WeightsError: If it answers with an error or another size, or the transfer broke off.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    has = part.stat().st_size if part.is_file() else 0
    if size is not None and has > size:
        part.unlink()
        has = 0
    if has and has == size:
        return
    with _ask(url, has, part) as answer:
        if has and not _goes_on(answer, has):
            has = 0  # the server sends all of it again
        rest = answer.headers.get("Content-Length")
        total = has + int(rest) if rest and rest.isdigit() else None
        if size is not None and total is not None and total != size:
            raise WeightsError(f"The server offers {total} bytes of {_name(url)}, but {size} are expected. {_TELL}")
        there = _copy(answer, part, has, lambda bytes_: progress(bytes_, size or total))
    expected = size or total
    if expected is not None and there != expected:
        raise WeightsError(
            f"The download of {_name(url)} broke off after {there} of {expected} bytes. Run the same command again: it "
            f"goes on from there."
        )


_TELL = "The published file has changed, or something between answers in its place; nothing was kept."


def _ask(url: str, has: int, part: Path) -> http.client.HTTPResponse:
    headers = {"User-Agent": "nnkd"} | ({"Range": f"bytes={has}-"} if has else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and has:  # the part is longer than the file
            part.unlink()
            return _ask(url, 0, part)
        raise WeightsError(f"The server answers {error.code} ({error.reason}) for {url}.") from error
    except BROKEN as error:
        raise NoConnectionError(f"{url} cannot be reached ({getattr(error, 'reason', error)}).") from error
    return answer


def _goes_on(answer: http.client.HTTPResponse, has: int) -> bool:
    return answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {has}-")


def _copy(source: IO[bytes], part: Path, has: int, progress: Callable[[int], None]) -> int:
    """Append to a part of `has` bytes (0: begin anew); returns how many there are then, also if it broke off."""
    with open(part, "r+b" if has else "wb") as out:
        out.seek(has)
        try:
            while chunk := source.read(CHUNK):
                out.write(chunk)
                has += len(chunk)
                progress(has)
        except http.client.IncompleteRead as error:
            out.write(error.partial)
            has += len(error.partial)
        except BROKEN as error:
            out.flush()
            raise WeightsError(
                f"The download broke off after {has} bytes ({error}). Run the same command again: it goes on from "
                f"there."
            ) from error
        finally:
            out.flush()
            os.fsync(out.fileno())
    return has


def _name(url: str) -> str:
    return url.rpartition("/")[2]
