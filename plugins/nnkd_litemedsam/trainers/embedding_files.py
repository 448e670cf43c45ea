"""A teacher's embeddings in half precision, kept on disk within a budget, by the content of the picture.

A picture that was flipped has a file of its own, and one that changed finds none of the old ones, so nothing can be
out of date. Entries are drawn at random during training, so what is kept stays: once the budget is full, the rest is
computed whenever it is needed.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nnkd.errors import NnkdError
from nnkd.files import atomic
from nnkd_litemedsam.sizes import CHANNELS, GRID

GIB = 2**30
PREFIX = "embeddings_"
SHAPE = (CHANNELS, GRID, GRID)
BYTES = int(np.prod(SHAPE)) * 2 + 128  # of a file: half precision and numpy's header
log = logging.getLogger("nnkd")


@dataclass
class EmbeddingFiles:
    """The files of one teacher.

    Attributes:
        folders: litemedsam_256 by dataset.
        teacher: Hash of the teacher.
        budget: Bytes that all teachers' embeddings of these datasets may take.
        used: Bytes that this teacher's take.
    """

    folders: Mapping[str, Path] = field(repr=False)
    teacher: str
    budget: int
    used: int = 0

    def __post_init__(self) -> None:
        self.folders = {name: folder / f"{PREFIX}{self.teacher[:12]}" for name, folder in self.folders.items()}

    def open(self, wanted: int) -> EmbeddingFiles:
        """Count what is there. Where other teachers' embeddings leave too little of the budget, those that were written
        longest ago go.

        Args:
            wanted: How many embeddings of this teacher there may be.
        """
        self.used = sum(_size(folder) for folder in self.folders.values())
        others = {
            other: _size(other)
            for folder in self.folders.values()
            for other in folder.parent.glob(f"{PREFIX}*")
            if other not in self.folders.values()
        }
        for other in sorted(others, key=lambda path: path.stat().st_mtime):
            if min(self.budget, max(self.used, wanted * BYTES)) + sum(others.values()) <= self.budget:
                break
            log.info("Another teacher's %s of %s goes: the budget is full.", other.name, other.parent.parent.name)
            shutil.rmtree(other, ignore_errors=True)
            others[other] = 0
        self.budget -= sum(others.values())
        return self

    def file(self, dataset: str, picture: NDArray[np.uint8]) -> Path:
        """Where the embedding of a picture (h, w, 3) uint8 is kept, or would be."""
        digest = hashlib.blake2b(repr(picture.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(picture).data)
        name = digest.hexdigest()
        return self.folders[dataset] / name[:2] / f"{name}.npy"

    @staticmethod
    def read(file: Path | None) -> torch.Tensor | None:
        """(256, 64, 64) float16; None if it is not there, or cut off."""
        if file is None:
            return None
        try:
            found = np.lib.format.open_memmap(file, mode="r")  # takes no memory for what a header announces
        except (OSError, ValueError, EOFError, OverflowError):
            return None
        return torch.from_numpy(np.array(found)) if found.shape == SHAPE and found.dtype == np.float16 else None

    def write(self, file: Path, embedding: torch.Tensor) -> None:
        """Keep an embedding (256, 64, 64), if the budget allows; on a full disk, keep no more."""
        fresh = not file.is_file()  # one that was cut off is written again
        if fresh and self.used + BYTES > self.budget:
            return
        values = embedding.detach().to("cpu", torch.float16).numpy()
        if not np.isfinite(values).all():  # beyond half precision
            return
        try:
            with atomic(file) as temporary:
                np.save(temporary, values)
        except NnkdError as error:
            log.warning("Embeddings are no longer kept: %s", error)
            self.budget = 0
            return
        self.used += BYTES if fresh else 0


def _size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.npy")) if folder.is_dir() else 0
