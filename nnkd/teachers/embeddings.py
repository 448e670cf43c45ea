"""Embeddings of slices, kept for later prompts within a bounded memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MIB = 2**20


class EmbeddingCache:
    """Keeps the embeddings that were used last, in the CPU's memory.

    Attributes:
        limit: Bytes that may be kept; 0: none.
        size: Bytes that are kept.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, image: NDArray[np.uint8]) -> Tensor | None:
        """The embedding of a slice of exactly these 8-bit values (H, W, 3); None if it is not kept."""
        if not self.limit:
            return None
        key = _key(image)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, image: NDArray[np.uint8], embedding: Tensor) -> None:
        """Keep an embedding; those that were not used for longest go."""
        if not self.limit or embedding.nbytes > self.limit:
            return
        key = _key(image)
        if key in self._kept:
            self.size -= self._kept.pop(key).nbytes
        # a copy of its own: a part of a batch would keep the whole batch in memory
        self._kept[key] = embedding.detach().cpu().clone()
        self.size += embedding.nbytes
        while self.size > self.limit:
            self.size -= self._kept.popitem(last=False)[1].nbytes


def _key(image: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()
