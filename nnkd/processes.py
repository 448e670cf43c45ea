"""Where jobs run: in this process, or in others that are started from nothing (as everywhere but on Linux)."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread
from typing import TYPE_CHECKING, Any, TypeVar

from nnkd.errors import NnkdError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.context import BaseContext

Job = TypeVar("Job")


# What a Python started with -c runs first: the current folder stands first on sys.path there
WITHOUT_CURRENT_FOLDER = "import sys; sys.path[:] = [p for p in sys.path if p]; "


def python(code: str, *arguments: str) -> list[str]:
    """The command line of a Python that runs code and imports nothing from the current folder; PYTHONPATH is kept.

    Args:
        code: Its statements.
        arguments: Its sys.argv from 1 on.
    """
    then = "from nnkd.processes import keep_current_folder_out; keep_current_folder_out(); "
    return [sys.executable, "-c", WITHOUT_CURRENT_FOLDER + then + code, *arguments]


def keep_current_folder_out() -> None:
    """From now on processes of Python's own multiprocessing import nothing from the current folder, as they would until
    they hear from this one what sys.path is."""
    os.environ["PYTHONSAFEPATH"] = "1"  # from Python 3.11 on
    if sys.version_info < (3, 11):
        from multiprocessing import util

        if not hasattr(util.spawnv_passfds, "kept_out"):
            util.spawnv_passfds = _kept_out(util.spawnv_passfds)


def _kept_out(spawn: Callable[..., int]) -> Callable[..., int]:
    def spawned(path: Any, words: Sequence[Any], files: Any) -> int:
        words = list(words)
        if "-c" in words:
            code = words.index("-c") + 1
            words[code] = WITHOUT_CURRENT_FOLDER + words[code]
        return spawn(path, words, files)

    spawned.kept_out = True  # type: ignore[attr-defined]
    return spawned


class Here(Executor):
    """Runs what is submitted at once, in this process: nnU-Net's -npp 0 and -nps 0."""

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except Exception as error:  # noqa: BLE001 - handed on to whoever asks for the result, as every executor does
            future.set_exception(error)
        return future


def run_all(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    number: int,
    *,
    killed: str,
    title: str = "",
    in_order: bool = False,
) -> Iterator[tuple[Job, Any]]:
    """Do jobs in processes, or in this one where one is enough.

    Args:
        work: Does one; what it raises stops all.
        jobs: What is to be done.
        number: How many to do at once.
        killed: What to say when a process was killed; {number} in it stands for that of processes, {job} for the job
            that was waited for.
        title: Of the progress bar; empty: there is none.
        in_order: Whether results come in the order of the jobs; else as they are ready.

    Yields:
        Each job and its result.

    Raises:
        NnkdError: If a process was killed.
    """
    from tqdm import tqdm

    number = min(number, len(jobs))
    executor, ahead = (workers(number), 2 * number) if number > 1 else (Here(), 0)
    with tqdm(total=len(jobs), desc=title, unit="case", disable=not (title and jobs)) as bar:
        try:
            for job, future in submitted(executor, work, ((job, (job,)) for job in jobs), ahead, in_order):
                try:
                    result = future.result()
                except BrokenExecutor as error:
                    raise NnkdError(killed.format(number=number, job=job)) from error
                yield job, result
                bar.update()
        finally:
            executor.shutdown(cancel_futures=True)


def submitted(
    executor: Executor,
    work: Callable[..., Any],
    jobs: Iterable[tuple[Job, tuple[Any, ...]]],
    ahead: int,
    in_order: bool = True,
) -> Iterator[tuple[Job, Future]]:
    """Have jobs done a few ahead of who takes the results: each may be a whole scan in memory.

    Args:
        executor: Does them.
        work: Does one.
        jobs: Each, and what `work` is called with, which is not kept; taken one by one.
        ahead: How many more may be under way when a result is handed out.
        in_order: Whether results come in the order of the jobs; else as they are ready.

    Yields:
        Each job and its future, whose result tells all that went wrong.
    """
    running: dict[Future, Job] = {}

    def take() -> tuple[Job, Future]:
        future = next(iter(running) if in_order else as_completed(running))
        return running.pop(future), future

    for job, arguments in jobs:
        running[_submit(executor, work, arguments)] = job
        if len(running) > ahead:
            yield take()
    while running:
        yield take()


def _submit(executor: Executor, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Future:
    try:
        return executor.submit(work, *arguments)
    except BrokenExecutor as error:  # found out now, but it was an earlier job that broke it
        broken: Future = Future()
        broken.set_exception(error)
        return broken


def pool(processes: int, jobs: Sized) -> Executor:
    """An executor for these jobs: with no process asked for, or a single job, this process does them."""
    if processes <= 0 or len(jobs) == 1:
        return Here()
    return workers(min(processes, len(jobs)))


def workers(number: int) -> ProcessPoolExecutor:
    """Processes that are started from nothing and end with this one."""
    from concurrent.futures import ProcessPoolExecutor

    keep_current_folder_out()
    return ProcessPoolExecutor(number, mp_context=new_processes(), initializer=end_with_parent)


def new_processes() -> BaseContext:
    """How workers are started: from nothing."""
    from multiprocessing import get_context

    return get_context("spawn")


def end_with_parent() -> None:
    """In a worker: end without a word at Ctrl-C, of which its parent speaks, and when the parent does, also if that is
    killed and cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def ended_by_interrupt(seconds: float, code: int, sentence: str) -> Iterator[None]:
    """While this lasts, Ctrl-C ends the process after so many seconds at the latest. Python raises KeyboardInterrupt
    only between two of its own instructions: never while the main thread computes in ITK or scipy, and threads that do
    are waited for when it ends. Nothing is done outside the main thread, or where Ctrl-C means something else.

    Args:
        seconds: For ending in good order.
        code: The exit code otherwise.
        sentence: What to say then.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)  # as Python asks
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    over = Event()
    Thread(target=_end_when_told, args=(heard, over, seconds, code, sentence), daemon=True).start()
    try:
        yield
        over.set()
    except Exception:
        over.set()
        raise
    finally:  # after KeyboardInterrupt the seconds run on, to the end of the process
        signal.set_wakeup_fd(before)
        told.close()


def _end_when_told(heard: socket.socket, over: Event, seconds: float, code: int, sentence: str) -> None:
    with heard:
        while signals := heard.recv(16):
            if signal.SIGINT in signals:
                break
        else:
            return
    if not over.wait(seconds):
        from multiprocessing import active_children

        os.write(2, f"{sentence}\n".encode())  # whoever holds Python's own stream may never give it back
        for child in active_children():
            child.kill()
        os._exit(code)
