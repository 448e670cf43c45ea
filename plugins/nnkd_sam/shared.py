"""What SAM's and SAM 2's teachers share: their pictures' size, checkpoints, and how their networks are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from nnkd.plugin.networks import Architecture, Paper
from nnkd.teachers.slice_teacher import SliceTeacher

SIZE = 1024  # pixels of a side of what the image encoder sees
AT_ONCE = 16  # boxes that are decoded together
Cache = Annotated[int, Field(ge=0)]  # MiB
TABLE = "paper 1, Table 4,"
ONE_BOX = "one slice is encoded and one box in it decoded"


def corners(boxes: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n, 4) int rows (y0, x0, y1, x1), upper bounds excluded -> float64 rows (x0, y0, x1, y1), the same edges."""
    return np.asarray(boxes, dtype=np.float64)[:, [1, 0, 3, 2]]


class CheckpointTeacher(SliceTeacher):
    """A teacher of slices whose weights are one checkpoint of the family.

    Attributes:
        name: The teacher's.
        says: What its checkpoints are of.
        papers: What papers print, by variant.
        variants: Sizes of its image encoder.
        network: The network, ready.
    """

    name: ClassVar[str]
    costs_only = frozenset({"cache", "licence"})
    says: ClassVar[str]
    papers: ClassVar[Mapping[str, Paper]]
    variants: ClassVar[Sequence[str]]
    network: nn.Module
    _weights: Sequence[Mapping[str, str]]
    _doubt: Mapping[str, str]

    @classmethod
    def _architectures(cls, build: Callable[..., nn.Module], run: Callable[..., object]) -> list[Architecture]:
        """Each size on one slice with one box.

        Args:
            build: Makes the network of a size.
            run: What is executed, of the network, a slice and a box.
        """
        return [
            Architecture(
                variant=model,
                build=partial(build, model),
                inputs=((1, 3, SIZE, SIZE), (1, 4)),
                run=run,
                graph=ONE_BOX,
                paper=cls.papers.get(model),
            )
            for model in cls.variants
        ]

    def weights(self) -> Sequence[Mapping[str, str]]:
        """Name, sha256 and licence of the checkpoint."""
        return self._weights

    def notes(self) -> Mapping[str, object]:
        """Those of every teacher of slices; and where it is in doubt whose weights these are."""
        return {**super().notes(), **self._doubt}
