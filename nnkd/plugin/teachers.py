"""What a plugin's classes must be. Options of all of them are the keyword-only arguments of `__init__`, with
annotations and defaults: `--set NAME.option=value` is checked and converted against these (`nnkd.plugin.options`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nnkd.errors import NnkdError
from nnkd.types import FolderCount, Prompt, TeacherContext, Volume

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nnkd.plugin.networks import Architecture, BoxGraphs


class Teacher(ABC):
    """A frozen model, or a classical method, that segments a case. Constructed once, then called case by case.

    Attributes:
        prompt: What `predict` is told per label: nothing, the label's text, or boxes per axial slice.
        channels: Whether the volume has the one channel that the user chose, or all of them; or ("colour") the one, but
            red, green and blue together where these are all channels and the user chose none.
        devices: Where it can compute; one that names only "cpu" is never asked for more.
        costs_only: Names of options that change no answer, as a cache's size: an interrupted run may go on with others.
        no_network: Why there is no network for nnKD_profile to count, as a sentence; empty with `architectures`.
    """

    prompt: ClassVar[Literal["none", "text", "box"]] = "none"
    channels: ClassVar[Literal["one", "all", "colour"]] = "one"
    devices: ClassVar[tuple[str, ...]] = ("cuda", "cpu", "mps")
    costs_only: ClassVar[frozenset[str]] = frozenset()
    no_network: ClassVar[str] = ""

    def __init__(self, context: TeacherContext):
        self.context = context

    @abstractmethod
    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> Mapping[str, NDArray[np.bool_ | np.floating]]:
        """Segment one case.

        Args:
            volume: The case.
            prompts: By label name; empty for teachers with prompt "none".

        Returns:
            By label name: a bool mask (Z, Y, X), or float probabilities in [0, 1] of that shape (cut at > 0.5). A
            label that is left out is an abstention; an empty mask is an answer ("not here").

        Raises:
            NnkdError: If this case cannot be segmented; the others go on.
        """

    def weights(self) -> Sequence[Mapping[str, str]]:
        """The weight files in use, as {"name", "sha256", "licence"}; for the manifest."""
        return ()

    def inputs(self, case: str) -> Mapping[str, Path]:
        """Files beside the images that the answer for a case is made from, by a name for the manifest. When one of
        them changes, the case is done again.

        Raises:
            NnkdError: If one is missing; the case fails before anything is computed.
        """
        return {}

    def folders(self, cases: Sequence[str]) -> Sequence[FolderCount]:
        """Which files of folders that it reads beside the images are taken.

        Args:
            cases: All cases of the images' folder.
        """
        return ()

    @classmethod
    def architectures(cls) -> Sequence[Architecture]:
        """Its networks, for nnKD_profile: with random weights, on inputs of the size they were made for.

        Raises:
            NnkdError: If there is nothing to count; the message says why.
        """
        raise NnkdError(cls.no_network or f"{cls.__name__} does not say what its network is.")

    def notes(self) -> Mapping[str, object]:
        """What the manifest should keep about the case predicted last, as JSON: no absolute path, no person."""
        return {}


class BoxTeacher(Teacher):
    """A teacher prompted by boxes whose image encoder can be shared between labels and students."""

    prompt = "box"

    @abstractmethod
    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one slice.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (channels, h, w) float32 embedding.
        """

    @abstractmethod
    def decode(
        self, embedding: NDArray[np.float32], boxes: NDArray[np.integer], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Segment boxes in an embedded slice.

        Args:
            embedding: What `encode` returned.
            boxes: (n, 4) int, rows (y0, x0, y1, x1) in pixels of the slice, upper bounds excluded.
            shape: (H, W) of the slice.

        Returns:
            (n, H, W) float32 probabilities in [0, 1].
        """

    def export_graphs(self) -> BoxGraphs:
        """Its networks, for nnKD_export.

        Raises:
            NnkdError: If they cannot be exported; the message says why.
        """
        raise NnkdError(f"{type(self).__name__} does not say what its networks are, so it cannot be exported.")
