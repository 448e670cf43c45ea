"""Processes of tests begin as copies of one that has imported the large libraries, once for all tests. Started from
nothing, each would do so for some seconds. They have the environment of whoever starts them, as others have."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

IMPORTED = ["torch", "SimpleITK", "pandas", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"]

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


def on_two(function: Callable[..., None], *arguments: Any) -> None:
    """Run function(rank, *arguments) in two processes at once; an error in one is an error here."""
    ranks = [copies().Process(target=function, args=(rank, *arguments)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
