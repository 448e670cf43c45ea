"""Whether an auxiliary dataset fits a target, and how its channels become the target's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LUMINANCE = (0.299, 0.587, 0.114)  # Source: ITU-R BT.601.
RGB_NAMES = (("r", "g", "b"), ("red", "green", "blue"), ("rgb_to_0_1",) * 3)
Conversion = Literal["as they are", "grey to RGB", "RGB to grey"]


def conversion_to(target: DatasetSpec, auxiliary: DatasetSpec) -> Conversion:
    """What is to be done with an auxiliary dataset's channels.

    Raises:
        DatasetError: If they cannot become the target's.
    """
    ours, theirs = target.channel_names, auxiliary.channel_names
    if len(ours) == len(theirs):
        return "as they are"
    if len(theirs) == 1 and _is_rgb(ours):
        return "grey to RGB"
    if len(ours) == 1 and _is_rgb(theirs):
        return "RGB to grey"
    raise DatasetError(
        f"{auxiliary.name} has {len(theirs)} channel(s) ({', '.join(theirs)}), but the target {target.name} has "
        f"{len(ours)} ({', '.join(ours)}). What can be offered is grey to RGB (repeated) and RGB to grey (luminance); "
        f"convert it to the target's channels, or leave it out."
    )


def check_axes(patch: Sequence[int], image: NDArray[np.generic], target: str, auxiliary: str) -> None:
    """Refuse pictures for a configuration of volumes.

    Args:
        patch: The configuration's patch size.
        image: (C, Z, Y, X), one of the auxiliary dataset.
        target, auxiliary: Names.

    Raises:
        DatasetError: If it is so.
    """
    if len(patch) == 3 and image.shape[1] == 1:
        raise DatasetError(
            f"{auxiliary} has 2D images, which make no patches for a 3D configuration of {target}. What can be offered "
            f"is 3D to slices: train the target with its configuration 2d, or leave {auxiliary} out."
        )


def converted(images: NDArray[np.integer | np.floating], conversion: Conversion) -> NDArray[np.float32]:
    """A case as the target has its channels.

    Args:
        images: (C, Z, Y, X) raw intensities.
        conversion: See `conversion_to`.

    Returns:
        (C of the target, Z, Y, X) float32.
    """
    floats = images.astype(np.float32, copy=False)
    if conversion == "grey to RGB":
        return np.repeat(floats, 3, axis=0)
    if conversion == "RGB to grey":
        return np.tensordot(np.array(LUMINANCE, dtype=np.float32), floats, 1)[None]
    return floats


def schemes(auxiliary: DatasetSpec, conversion: Conversion) -> list[str]:
    """nnU-Net's normalisation by channel of the target, by the auxiliary dataset's own channel names. Grey made of
    channels that are normalised in different ways has a z-score."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    own = [get_normalization_scheme(name).__name__ for name in auxiliary.channel_names]
    if conversion == "grey to RGB":
        return own * 3
    if conversion == "RGB to grey":
        return own[:1] if len(set(own)) == 1 else ["ZScoreNormalization"]
    return own


def _is_rgb(channels: Sequence[str]) -> bool:
    return tuple(name.strip().casefold() for name in channels) in RGB_NAMES
