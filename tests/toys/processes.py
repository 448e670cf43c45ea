"""Processes of tests begin as copies of one that has imported the large libraries, once for all tests. Started from
nothing, each would do so for some seconds. They have the environment of whoever starts them, as others have."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

IMPORTED = ["torch", "SimpleITK", "pandas", "pytest", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"]

if sys.platform == "win32":

    def copies() -> BaseContext:
        """There are no copies: processes that are started from nothing."""
        return multiprocessing.get_context("spawn")

else:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    class Copy(ForkServerProcess):
        """One process."""

        def __init__(self, *arguments: Any, **keywords: Any):
            super().__init__(*arguments, **keywords)
            self.environment = dict(os.environ)

        def run(self) -> None:
            """In the process: what it is for, with the environment of who started it."""
            os.environ.clear()
            os.environ.update(self.environment)
            super().run()

    class Copies(ForkServerContext):
        """Starts them."""

        Process = Copy

    def copies() -> BaseContext:
        """What `multiprocessing.get_context` would give."""
        multiprocessing.set_forkserver_preload(IMPORTED)
        return Copies()


class Threads:
    """A start method whose pools are threads."""

    def __init__(self, context: Any):
        self.context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def Pool(self, *arguments: Any) -> ThreadPool:
        """Threads in the place of processes."""
        return ThreadPool(*arguments)


def nnunet_in_threads(patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's pools, such as the two of every validation, are threads."""
    original = multiprocessing.get_context

    def get_context(method: str | None = None) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return Threads(original(method)) if caller.startswith("nnunetv2.") else original(method)

    patch.setattr(multiprocessing, "get_context", get_context)
    patch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)  # it forks twelve times to list a folder


def on_two(function: Callable[..., None], *arguments: Any) -> None:
    """Run function(rank, *arguments) in two processes at once; an error in one is an error here."""
    ranks = [copies().Process(target=function, args=(rank, *arguments)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]


def python(code: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python -c code arguments` in a process of its own, whose pools of nnU-Net are threads.

    Args:
        code: What it runs; sys.exit ends it.
        arguments: Its sys.argv[1:].
        more: What `begin` takes.

    Returns:
        Exit code and what it said, as subprocess.run has them.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = begin(code, *arguments, said=Path(folder), **more)
        process.join()
        out, err = (Path(folder, name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return subprocess.CompletedProcess(["python", "-c", code], process.exitcode or 0, out, err)


def begin(
    code: str,
    *arguments: object,
    said: Path | None = None,
    path: Sequence[Path | str] = (),
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> multiprocessing.Process:
    """The same, which is not waited for.

    Args:
        code: What it runs.
        arguments: Its sys.argv[1:].
        said: Folder for the files out and err; None: it speaks where this process does.
        path: What comes first in its sys.path.
        folder: Where it works; None: here.
        environment: Its variables; None: those of this process.
    """
    words = [str(word) for word in arguments]
    where = (str(folder or os.getcwd()), [str(place) for place in path], environment)
    process = copies().Process(target=_run, args=(code, words, said and str(said), *where))
    process.start()
    return process


def _run(
    code: str, words: list[str], said: str | None, folder: str, path: list[str], environment: dict[str, str] | None
) -> None:
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    for name in [name for name in sys.modules if name.partition(".")[0] == "nnunetv2"]:
        del sys.modules[name]  # it reads the environment when it is imported
    os.chdir(folder)
    sys.argv = ["-c", *words]
    sys.path[:0] = path
    with contextlib.ExitStack() as stack:
        for number, name in ((1, "out"), (2, "err")) if said else ():
            os.dup2(stack.enter_context(open(Path(said, name), "wb")).fileno(), number)
        nnunet_in_threads(stack.enter_context(pytest.MonkeyPatch.context()))
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
