"""nnKD_weights fetch's step: a published checkpoint -> the store."""

from __future__ import annotations

import os
from collections.abc import Callable

from filelock import FileLock, Timeout

from nnkd.errors import NnkdError, WeightsError
from nnkd.types import StepReport
from nnkd.weights.downloads import NoConnectionError, download
from nnkd.weights.store import Checkpoint, WeightStore, difference


def fetch_weights(
    checkpoint: Checkpoint,
    store: WeightStore,
    *,
    announce: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> StepReport:
    """Download a checkpoint, or the rest of it, and check its size and sha256.

    Args:
        checkpoint: What to download.
        store: Where to.
        announce: Called with lines about the licence before anything is sent or asked for.
        progress: Called with how many bytes are there and how many there will be.

    Returns:
        Whether it was done or already there.

    Raises:
        WeightsError: If it cannot be downloaded, broke off, or is another file; the message says what to do.
    """
    target = store.file(checkpoint)
    if target.is_file():
        problem = difference(target, checkpoint)
        if problem:
            raise WeightsError(
                f"'{checkpoint.file}' is in the store, but {problem}. Remove {target} and fetch it again."
            )
        return StepReport(skipped=[checkpoint.name], lines=[f"{checkpoint.name} is already there: {target}"])
    announce(f"{checkpoint.name}: weights of {checkpoint.title} ({checkpoint.paper}), {checkpoint.page}")
    announce(f"licence: {checkpoint.licence}. {checkpoint.remark}".rstrip())
    if not checkpoint.url:
        raise WeightsError(
            f"nnkd knows no address of {checkpoint.name}. {checkpoint.remark} {store.placing(checkpoint)}"
        )
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(store.folder / f".{checkpoint.file}.lock", timeout=0):
            _fetch(checkpoint, store, progress)
    except Timeout:
        raise WeightsError(f"Another process is fetching {checkpoint.name} at the moment. Wait for it.") from None
    except NoConnectionError as error:
        raise NoConnectionError(f"{error} {store.placing(checkpoint)}") from error
    except OSError as error:
        raise NnkdError(
            f"{checkpoint.file} could not be written ({error.strerror or error}). Make room or set nnKD_cache to "
            f"another folder, and run the command again: it goes on where it stopped."
        ) from error
    how = "checked" if checkpoint.sha256 else "not checked, since no sha256 of it is published,"
    return StepReport(done=[checkpoint.name], lines=[f"{checkpoint.name}: {how} and kept as {target}"])


def _fetch(checkpoint: Checkpoint, store: WeightStore, progress: Callable[[int, int | None], None]) -> None:
    part = store.unfinished(checkpoint)
    download(checkpoint.url, part, checkpoint.size, progress)
    problem = difference(part, checkpoint)
    if problem:
        part.unlink()
        raise WeightsError(
            f"What was downloaded as {checkpoint.file} is another file: {problem}. It was removed. Fetch it again; if "
            f"that does not help, something between answers in the server's place. {store.placing(checkpoint)}"
        )
    os.replace(part, store.file(checkpoint))
