"""Whether a scan's values can be what its channel says: Hounsfield units in CT, more than one value, and what a model
was trained on. What cannot be is said, not refused: an odd scan may still be meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.intensities import kind_of_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LOOKED_AT = 1_000_000  # voxels: of more, evenly spaced ones are looked at
AIR, OFFSET = -1000, 1024  # HU; what scanners add so that stored values are not negative
PADDING = -1100  # HU: nothing in a body is darker; scanners write such values outside their field of view
BRIGHTEST = 5000  # HU: metal; scanners mostly stop at 3071
FAT = -50  # HU: fat, lung and air are darker
LUNG = -300  # HU: lung and air are darker
NARROW = 50  # HU: noise of a scanner alone is wider
FEW = 1e-3  # share of the voxels that noise reaches
AS_BRIGHT, AS_BONE = 0.1, (850, 1200)  # HU: no scan has a tenth of its voxels there, but soft tissue after +1024 is
AS_DARK = 0.02  # share of the voxels that are not air or lung; any part of a body but a lung has more
ORGAN = (FAT, 300)  # HU: where the middle of an organ's own voxels lies, of bones too
LUNG_TISSUE = -940  # HU: the middle of a lung's own voxels is brighter; that of soft tissue after -1024 is not
CONSEQUENCE = "Windows and normalisation of CT go by Hounsfield units; predictions may be wrong."


def oddities(channels: Iterable[NDArray[Any]], channel_names: Sequence[str]) -> list[str]:
    """What is odd about a case's values, as sentences without its name; empty: nothing.

    Args:
        channels: Raw intensities of each, of any shape, all of them numbers.
        channel_names: dataset.json's, or those that the user gives.
    """
    found = []
    for index, (channel, name) in enumerate(zip(channels, channel_names, strict=False)):
        what = f"Channel {index} ({name})" if len(channel_names) > 1 else "The image"
        low, high = (float(channel.min()), float(channel.max())) if channel.size else (0.0, 0.0)
        if low == high:
            found.append(f"{what} has the one value {low:g} everywhere: there is nothing to be seen in it.")
        elif kind_of_image(name) == "ct" and "CBCT" not in name.upper():  # cone beams have greys of their own
            sentence = not_hounsfield(channel)
            found += [f"{what} {sentence}"] if sentence else []
    return found


def not_hounsfield(values: NDArray[Any]) -> str:
    """Why the values of a CT cannot be Hounsfield units, as the rest of a sentence; empty: they may be.

    In Hounsfield units air is -1000, fat about -100 and soft tissue about 40, whatever the scanner; any part of a body
    has something of it. So values are told that were stored with 1024 added (or taken off twice), scaled to 0 to 1 or
    to the mean, or cut to a window's 8 bits. Other factors, and a window's cut that stays in HU, are not, nor is what
    is cut so close around one organ that nothing else is in it.

    Args:
        values: Raw intensities of any shape, all of them numbers.
    """
    flat = values.reshape(-1)
    low, high = float(flat.min()), float(flat.max())
    inside = flat[:: -(-flat.size // MOST_LOOKED_AT)]
    inside = inside[inside >= min(PADDING, high)]
    share = inside.size or 1
    bright = np.count_nonzero((inside >= AS_BONE[0]) & (inside <= AS_BONE[1])) / share
    guess = ""
    if high - low <= NARROW:
        guess = "They look scaled."
    elif np.count_nonzero(inside < FAT) / share < FEW:
        if low >= 0 and high <= 255:
            guess = "They look like a window's 8 bits, of which HU cannot be made again."
        elif bright >= AS_BRIGHT and high <= BRIGHTEST + OFFSET:
            guess = _shifted(low, high, -OFFSET)
        elif not (low < 0 and high <= BRIGHTEST and bright < AS_DARK and ORGAN[0] < _middle(inside) < ORGAN[1]):
            guess = "Nothing is as dark as air, lung or fat."
    elif bright >= AS_BRIGHT and np.count_nonzero(inside < LUNG) / share < FEW:
        guess = _shifted(low, high, -OFFSET)
    elif np.count_nonzero(inside > LUNG) / share < AS_DARK and _middle(inside) < LUNG_TISSUE:
        guess = _shifted(low, high, OFFSET)
    if not guess:
        return ""
    return (
        f"should be CT, but its values, from {low:g} to {high:g}, are no Hounsfield units (HU: air {AIR}, fat -100, "
        f"soft tissue 40). {guess} {CONSEQUENCE}"
    )


def _middle(values: NDArray[Any]) -> float:
    """The median without the lowest value, to which all around an organ may be set."""
    rest = values[values > values.min()]
    return float(np.median(rest if rest.size else values))


def _shifted(low: float, high: float, by: int) -> str:
    done = "added" if by < 0 else "taken off twice"
    return f"They look stored with {OFFSET} {done}: in HU they would be {low + by:g} to {high + by:g}."


def unlike_training(array: NDArray[Any], plans: Mapping[str, Any], schemes: Sequence[str]) -> list[str]:
    """Whether a scan lies beyond all that a model was trained on, where the model counts on raw values.

    Args:
        array: (C, ...) raw intensities, all of them numbers.
        plans: The model's.
        schemes: nnU-Net's normalisation of each channel; only CTNormalization goes by the training data's values.

    Returns:
        Sentences without the case's name.
    """
    seen = plans.get("foreground_intensity_properties_per_channel", {})
    found = []
    for index, (channel, scheme) in enumerate(zip(array, schemes, strict=False)):
        known = seen.get(str(index))
        if scheme != "CTNormalization" or not known:
            continue
        low, high = known["percentile_00_5"], known["percentile_99_5"]
        least, most = float(channel.min()), float(channel.max())
        if most < low or least > high or most - least < NARROW / 1000 * (high - low):
            found.append(
                f"Its channel {index} has values from {least:g} to {most:g}, but what the model learned to find had "
                f"{low:g} to {high:g}: no voxel is like it, or all are alike. Predictions mean little."
            )
    return found
