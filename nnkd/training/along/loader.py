"""Batches of auxiliary tasks: nnU-Net's loader and augmentation over cases that are foreground and background.

Which task is asked for is known only when its turn comes, so worker processes cannot work ahead as nnU-Net's do. They
keep one batch of each task ready that was asked for before.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from numpy.typing import NDArray

from nnkd.auxiliary.tasks import Prepared
from nnkd.errors import DatasetError, FileError, NnkdError, in_one_line
from nnkd.processes import end_with_parent
from nnkd.training.guard import CheckedBlosc2
from nnkd.training.loader import DrawnDataLoader

FOREGROUND, IGNORED, OUTSIDE = 1, 2, -1
Wanted = tuple[int, ...]


class BinaryLabels:
    """A preprocessed label map of which one crop at a time becomes 0, 1 (foreground), 2 (to be ignored), and -1 outside
    of the image where the dataset's normalisation leaves the outside alone.

    Args:
        seg: (1, *S) integers, read when cropped.
        foreground: Its integers.
        ignored: To be ignored, or None.
        outside: Whether -1 stays.
    """

    def __init__(self, seg: Any, foreground: frozenset[int], ignored: int | None, outside: bool):
        self._seg, self._foreground, self._ignored, self._outside = seg, sorted(foreground), ignored, outside
        self.shape, self.dtype, self.ndim = seg.shape, np.dtype(np.int16), len(seg.shape)

    def __getitem__(self, window: Any) -> NDArray[np.int16]:
        seg = np.asarray(self._seg[window])
        found = np.isin(seg, self._foreground).astype(np.int16)
        if self._ignored is not None:
            found[seg == self._ignored] = IGNORED
        if self._outside:
            found[seg < 0] = OUTSIDE
        return found


class AuxiliaryCases:
    """Cases of several tasks with the face of nnU-Net's dataset. An identifier is NUMBER_OF_TASK/CASE.

    Args:
        tasks: With their preprocessed cases.
    """

    def __init__(self, tasks: Sequence[Prepared]):
        self.tasks = tuple(tasks)
        self.of_task = [[f"{number}/{case}" for case in task.cases] for number, task in enumerate(self.tasks)]
        self.identifiers = [identifier for cases in self.of_task for identifier in cases]

    @cached_property
    def _folders(self) -> list[CheckedBlosc2]:
        return [CheckedBlosc2(str(task.folder), list(task.cases)) for task in self.tasks]

    def load_case(self, identifier: str) -> tuple[Any, BinaryLabels, None, dict[str, Any]]:
        """Data (C, *S) and label map (1, *S), both read when cropped; no previous stage; nnU-Net's properties, with
        the places of the task's foreground alone."""
        number, _, case = identifier.partition("/")
        task = self.tasks[int(number)]
        try:
            data, seg, _, properties = self._folders[int(number)].load_case(case)
        except (FileError, OSError, RuntimeError, ValueError) as error:  # how pickles and blosc2 refuse
            raise DatasetError(
                f"The preprocessed case '{case}' of the auxiliary {task.task.name} cannot be read "
                f"({in_one_line(error)}). Remove {task.folder.parent.name}/{task.folder.name} and run "
                f"nnKD_plan_and_preprocess with --auxiliaries again."
            ) from error
        foreground = task.index.values(task.task)
        labels = BinaryLabels(seg, foreground, task.index.ignore_label, any(task.index.use_mask))
        places = {
            key: found
            for key, found in properties["class_locations"].items()
            if foreground.issuperset(key if isinstance(key, tuple) else (key,))
        }
        return data, labels, None, {**properties, "class_locations": places}


class AuxiliaryLoader(DrawnDataLoader):
    """nnU-Net's loader of which each batch is of the tasks that are wanted, every one of them equally likely in each
    sample. Its first argument is an `AuxiliaryCases`."""

    def __init__(self, cases: AuxiliaryCases, *arguments: Any, **keywords: Any):
        super().__init__(cases, *arguments, **keywords)
        self.wanted: Wanted = tuple(range(len(cases.tasks)))

    def get_indices(self) -> list[str]:
        """The cases of the next batch."""
        tasks = np.random.choice(self.wanted, self.batch_size)
        return [str(np.random.choice(self._data.of_task[task])) for task in tasks]

    def batch(self, wanted: Wanted) -> dict[str, Any]:
        """{"data": (B, C, *S) float32, "target": (B, 1, *S) or a list of them, "keys": identifiers}.

        Args:
            wanted: Numbers of tasks; one, or several for a mixed batch.
        """
        self.wanted = wanted
        return self.generate_train_batch()


class AuxiliaryBatches:
    """Batches as they are asked for, made by worker processes; in this process where nnUNet_n_proc_DA is 0.

    Args:
        loader: Copied into each worker.
        workers: Their number, at least 1.
    """

    def __init__(self, loader: AuxiliaryLoader, workers: int):
        self._loader = loader
        self._ready: dict[Wanted, Future] = {}
        self._pool = None
        if get_allowed_n_proc_DA() > 0:
            self._pool = ProcessPoolExecutor(max(1, workers), get_context("spawn"), _begin, (loader,))

    def expect(self, wanted: Sequence[Wanted]) -> None:
        """Have batches made that will be taken."""
        for one in wanted:
            if self._pool is not None and one not in self._ready:
                self._ready[one] = self._pool.submit(_make, one)

    def take(self, wanted: Wanted) -> dict[str, Any]:
        """A batch, see `AuxiliaryLoader.batch`.

        Raises:
            NnkdError: If a worker was killed.
            DatasetError: If a preprocessed case is damaged.
        """
        if self._pool is None:
            return self._loader.batch(wanted)
        try:
            self.expect([wanted])
            made = self._ready.pop(wanted).result()
            self.expect([wanted])
        except BrokenProcessPool as error:
            raise NnkdError(
                "A process that augments auxiliary cases was killed, most likely for want of memory. Continue with --c "
                "and a smaller nnUNet_n_proc_DA."
            ) from error
        target = made["target"]
        tensors = [torch.from_numpy(t) for t in target] if isinstance(target, list) else torch.from_numpy(target)
        return {**made, "data": torch.from_numpy(made["data"]), "target": tensors}

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


_LOADER: list[AuxiliaryLoader] = []  # a worker's own


def _begin(loader: AuxiliaryLoader) -> None:
    """A new process draws as every other one would, so it takes its own entropy. It ends when the training does, also
    if that is killed."""
    torch.set_num_threads(1)
    end_with_parent()
    seed = int.from_bytes(os.urandom(4), "little")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    _LOADER.append(loader)


def _make(wanted: Wanted) -> dict[str, Any]:
    """A batch as arrays, which go to the training's process without open files."""
    made = _LOADER[0].batch(wanted)
    target = made["target"]
    arrays = [t.numpy() for t in target] if isinstance(target, list) else target.numpy()
    return {**made, "data": made["data"].numpy(), "target": arrays}
