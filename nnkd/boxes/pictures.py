"""How a scan's slices look to a model prompted by boxes: 8 bits, by label where CT windows differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnkd.boxes.images import BoxImage
from nnkd.data.intensities import UNCHANGED, WINDOWS, GreyScale, Window, grey_scale, to_uint8, windows_of
from nnkd.data.reading.scan_values import oddities
from nnkd.errors import SettingError

AIR = (-1100.0, -900.0)  # HU
AIR_SHARE = 0.01  # of the voxels of a CT, in the air around a body and in its lungs


@dataclass(frozen=True)
class CtWindows:
    """Level and width in HU, by label.

    Attributes:
        by_label: Of labels that are known.
        otherwise: Of all others.
    """

    by_label: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    otherwise: tuple[float, float] = WINDOWS["soft_tissue"]

    def of(self, label: str) -> tuple[float, float]:
        """A label's."""
        return self.by_label.get(label, self.otherwise)


@dataclass(frozen=True)
class Looks:
    """The pictures of an image's slices.

    Attributes:
        image: The image.
        scales: The grey scales that are needed.
        by_label: Which of them shows a label.
        assumed: What was assumed about the intensities, for the user; empty: nothing.
        odd: What cannot be about them, as sentences (see `nnkd.data.reading.scan_values`).
    """

    image: BoxImage
    scales: tuple[GreyScale, ...]
    by_label: dict[str, int]
    assumed: str = ""
    odd: tuple[str, ...] = ()

    def picture(self, look: int, z: int) -> NDArray[np.uint8]:
        """A slice (Y, X, 3) uint8 in one of the grey scales; grey is a view of one channel."""
        data, scale = self.image.data[z], self.scales[look]
        if self.image.colour:
            return np.asarray(data, dtype=np.uint8)
        as_stored = data.dtype == np.uint8 and scale == UNCHANGED
        grey = np.asarray(data, dtype=np.uint8) if as_stored else to_uint8(data, scale)
        return np.broadcast_to(grey[..., None], (*grey.shape, 3))

    def notes(self) -> dict[str, object]:
        """For the manifest."""
        return {label: self.scales[look].note() for label, look in self.by_label.items()}


def looks_of(image: BoxImage, labels: Iterable[str], modality: str, windows: CtWindows) -> Looks:
    """Decide how an image's slices become 8 bits.

    Args:
        image: The image.
        labels: Which are asked for.
        modality: The channel's name, such as CT; empty: guessed.
        windows: For CT.
    """
    names = list(labels)
    if image.eight_bit or image.colour:
        return Looks(image, (UNCHANGED,), dict.fromkeys(names, 0))
    assumed = "" if modality or image.flat else _guess(image.data)
    taken = modality or ("CT" if assumed == "CT" else "")
    by_window = {w: grey_scale(image.data, taken.upper(), w) for w in {windows.of(name) for name in names}}
    found: dict[GreyScale, int] = {}
    by_label = {name: found.setdefault(by_window[windows.of(name)], len(found)) for name in names}
    odd = tuple(oddities([image.data], [taken]))
    return Looks(image, tuple(found), by_label, assumed, odd)


def _guess(data: np.ndarray) -> str:
    """CT has air at about -1000 HU."""
    air = np.count_nonzero((data >= AIR[0]) & (data <= AIR[1]))
    return "CT" if air >= AIR_SHARE * data.size else "not CT"


def read_windows(text: str | None, labels: Iterable[str]) -> CtWindows:
    """The CT windows that a command line asks for.

    Args:
        text: A window's name, LEVEL,WIDTH in HU, or a JSON file of windows by label; None: as labels' names suggest.
        labels: All labels.

    Raises:
        SettingError: If it is none of these.
    """
    names = tuple(labels)
    if text is None:
        return CtWindows(windows_of(names))
    if text.endswith(".json"):
        return CtWindows(windows_of(names, Path(text)))
    window: Window = text
    if text not in WINDOWS:
        try:
            level, width = (float(part) for part in text.split(","))
        except ValueError:
            raise SettingError(
                f"--window got '{text}', but {', '.join(WINDOWS)}, LEVEL,WIDTH in HU or a .json file is expected."
            ) from None
        window = (level, width)
    return CtWindows(otherwise=windows_of(("all",), {"all": window})["all"])
