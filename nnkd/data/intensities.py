"""Raw intensities -> the 8 bits that models prompted by boxes were trained on: CT windows, percentiles, or as is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nnkd.errors import SettingError
from nnkd.files import read_object

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Level and width in HU; windows go from level - width/2 to level + width/2.
WINDOWS: dict[str, tuple[float, float]] = {
    "soft_tissue": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
}
# A label takes a window if its name has one of these words, in singular or plural; all others take soft_tissue.
WORDS: dict[str, tuple[str, ...]] = {
    "lung": ("lung", "pulmonary", "airway", "trachea", "bronchus", "bronchi", "emphysema"),
    "bone": (
        "bone", "rib", "vertebra", "vertebrae", "spine", "sacrum", "femur", "hip", "pelvis", "humerus", "scapula",
        "scapulae", "clavicle", "clavicula", "sternum", "skull", "mandible", "tooth", "teeth", "tibia", "fibula",
        "patella", "radius", "ulna", "fracture", "carpal", "tarsal",
    ),
}  # fmt: skip
PERCENTILES = (0.5, 99.5)
NEGATIVE_SHARE = 0.01  # more negative voxels than this are no overshoot of a filter: 0 is no background then
BRIGHT = 128  # an image stored in 8 bits reaches beyond the middle of its range
FORM = '{"nodule": "lung", "stent": [300, 1500]}'

Window = str | tuple[float, float]
Windows = dict[str, Window]


@dataclass(frozen=True)
class GreyScale:
    """How intensities become 0 to 255: linear from `low` to `high`, cut at both ends, decimals dropped.

    Attributes:
        kind: "window" (CT, fixed), "percentiles" (of the case), or "unchanged" (8 bits already).
        low: What becomes 0, in the image's units (HU in CT).
        high: What becomes 255.
        keep_zero: Whether 0 in the image is background and stays 0.
    """

    kind: Literal["window", "percentiles", "unchanged"]
    low: float
    high: float
    keep_zero: bool = False

    def note(self) -> dict[str, object]:
        """For the manifest."""
        return {"kind": self.kind, "low": round(self.low, 4), "high": round(self.high, 4)}


UNCHANGED = GreyScale("unchanged", 0.0, 255.0)


def to_uint8(data: ArrayLike, scale: GreyScale) -> NDArray[np.uint8]:
    """Convert intensities to 8 bits.

    Args:
        data: Raw intensities, any shape; NaN becomes 0, infinities become the ends.
        scale: From `grey_scale`.

    Returns:
        uint8 of the same shape.
    """
    values = np.nan_to_num(np.asarray(data, dtype=np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if scale.high <= scale.low:  # one value only
        return np.where(values > scale.low, 255, 0).astype(np.uint8)
    unit = (np.clip(values, scale.low, scale.high).astype(np.float64) - scale.low) / (scale.high - scale.low)
    result = np.minimum(unit * 255, 255).astype(np.uint8)
    if scale.keep_zero:
        result[values == 0] = 0
    return result


def grey_scale(
    data: NDArray[np.integer | np.floating], modality: str, window: tuple[float, float] = WINDOWS["soft_tissue"]
) -> GreyScale:
    """Decide how a case becomes 8 bits.

    Images of 8 bits (whole numbers from 0 to 255 that reach 128) stay as they are, CT takes a window, and all else the
    0.5 to 99.5 percentile of its voxels above 0, where 0 stays 0.

    Source: MedSAM's pre_CT_MR. Departs: a window's own ends are used, not the lowest and highest value of the case
    inside it; where 0 is no background (more than 1 % of the voxels are negative), all voxels count.

    Args:
        data: The whole case, raw intensities, any shape.
        modality: The channel's name in capitals, `Volume.modality()`.
        window: Level and width in HU, for CT.
    """
    if is_8bit(data):
        return UNCHANGED
    if is_ct(modality):
        level, width = window
        return GreyScale("window", level - width / 2, level + width / 2)
    finite = data[np.isfinite(data)]
    signed = np.count_nonzero(finite < 0) > NEGATIVE_SHARE * finite.size
    chosen = finite if signed else finite[finite > 0]
    if not chosen.size:
        return GreyScale("percentiles", 0.0, 0.0)
    low, high = (float(v) for v in np.percentile(chosen, PERCENTILES))
    return GreyScale("percentiles", low, high, keep_zero=not signed)


def is_8bit(data: NDArray[np.integer | np.floating]) -> bool:
    """Whether an image holds whole numbers from 0 to 255, some of them at least 128."""
    if not data.size or not BRIGHT <= data.max() <= 255 or data.min() < 0:  # NaN answers no
        return False
    return bool((data == np.rint(data)).all())


def is_ct(modality: str) -> bool:
    """Whether a channel's name says CT: the word, not a part of another one."""
    return "CT" in re.split(r"[^A-Z]+", modality.upper())


MODALITIES: dict[str, tuple[str, ...]] = {
    "ct": ("CT", "CBCT", "CTA", "CECT", "NCCT"),
    "mri": (
        "MR", "MRI", "MRA", "CMR", "T1", "T2", "T1W", "T2W", "T1C", "T1CE", "T1GD", "T1N", "T2F", "T2STAR", "FLAIR",
        "DWI", "ADC", "PD", "PDW", "STIR", "SWI", "DCE", "LGE", "BSSFP", "CINE", "DIXON",
    ),
    "pet": ("PET", "FDG", "SUV"),
    "us": ("US", "ULTRASOUND", "SONOGRAPHY"),
}  # fmt: skip


def kind_of_image(modality: str) -> str:
    """What an image is by its channel's name: "ct", "mri", "pet" or "us"; empty where the name does not say, or says
    two things."""
    words = set(re.split(r"[^A-Z0-9]+", modality.upper()))
    found = [kind for kind, names in MODALITIES.items() if words & set(names)]
    return found[0] if len(found) == 1 else ""


def is_colour(channel_names: Sequence[str]) -> bool:
    """Whether channels are red, green and blue, by their names."""
    return [name.lower() for name in channel_names] in (["r", "g", "b"], ["red", "green", "blue"])


def windows_of(labels: Sequence[str], given: Windows | Path | None = None) -> dict[str, tuple[float, float]]:
    """The CT window of each label: what the user says, else what its name says, else soft tissue.

    Args:
        labels: Label names.
        given: Label -> name of a window or (level, width) in HU; or a JSON file of that form.

    Returns:
        Level and width in HU by label.

    Raises:
        SettingError: If the file is unreadable, a label or window is unknown, or a width is not positive.
    """
    wishes = read_object(given, "windows", FORM) if isinstance(given, Path) else dict(given or {})
    strange = sorted(set(wishes) - set(labels))
    if strange:
        raise SettingError(f"windows names {', '.join(strange)}, but the dataset's labels are {', '.join(labels)}.")
    return {label: _window(wishes.get(label, _guessed(label)), label) for label in labels}


def _guessed(label: str) -> str:
    words = {word for word in re.split(r"[^a-z]+", label.lower()) if word}
    words |= {word[:-1] for word in words if word.endswith("s")}
    return next((window for window, known in WORDS.items() if words & set(known)), "soft_tissue")


def _window(wish: object, label: str) -> tuple[float, float]:
    if isinstance(wish, str) and wish in WINDOWS:
        return WINDOWS[wish]
    if isinstance(wish, list | tuple) and len(wish) == 2 and all(type(v) in (int, float) for v in wish):
        level, width = float(wish[0]), float(wish[1])
        if width > 0 and np.isfinite([level, width]).all():
            return level, width
    raise SettingError(
        f"The window {str(wish)[:80]!r} of '{label}' is neither {', '.join(WINDOWS)} nor [level, width] in HU with a "
        f"width above 0. Example: {FORM}."
    )
