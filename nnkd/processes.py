"""Where jobs run: in this process, or in others that are started from nothing (as everywhere but on Linux)."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any


class Here(Executor):
    """Runs what is submitted at once, in this process: nnU-Net's -npp 0 and -nps 0."""

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except Exception as error:  # noqa: BLE001 - handed on to whoever asks for the result, as every executor does
            future.set_exception(error)
        return future


def pool(processes: int, jobs: Sequence[Any]) -> Executor:
    """An executor for these jobs: with no process asked for, or a single job, this process does them."""
    if processes <= 0 or len(jobs) == 1:
        return Here()
    return workers(min(processes, len(jobs)))


def workers(number: int) -> ProcessPoolExecutor:
    """Processes that are started from nothing and end with this one."""
    return ProcessPoolExecutor(number, mp_context=get_context("spawn"), initializer=end_with_parent)


def end_with_parent() -> None:
    """In a worker: end without a word at Ctrl-C, of which its parent speaks, and when the parent does, also if that is
    killed and cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
