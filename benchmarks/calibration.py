"""Whether probabilities mean what they say: expected calibration error and Brier score."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import PredictionError

BINS = 15


def read_probabilities(file: Path, spec: DatasetSpec) -> np.ndarray:
    """What `nnKD_predict --save_probabilities` wrote, foreground only.

    Args:
        file: CASE.npz.
        spec: The dataset.

    Returns:
        (labels, Z, Y, X) floating, the labels in the order of `spec.labels`.

    Raises:
        PredictionError: If it cannot be read, or holds another number of heads than the dataset needs.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            found = content["probabilities"]
    except (OSError, ValueError, KeyError) as error:
        raise PredictionError(
            f"'{file.name}' in {file.parent.name} holds no probabilities. Write it with nnKD_predict "
            f"--save_probabilities."
        ) from error
    heads = len(spec.labels) + (not spec.has_regions)
    if found.ndim != 4 or len(found) != heads:
        raise PredictionError(
            f"'{file.name}' in {file.parent.name} has the shape {'x'.join(map(str, found.shape))}, but {heads} heads "
            f"of a volume are expected for {spec.name}. Predict it with a model of this dataset."
        )
    return found if spec.has_regions else found[1:]


def reference_masks(label_map: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """(Z, Y, X) integers -> (labels, Z, Y, X) bool, in the order of `spec.labels`."""
    return np.stack([spec.mask(label_map, label) for label in spec.labels])


def expected_calibration_error(probabilities: np.ndarray, masks: np.ndarray, bins: int = BINS) -> float:
    """Mean over labels of the mean distance between probability and frequency.

    Binning: the probabilities of one label over all voxels, those of background voxels included, go into equal-width
    bins [0, 1/15), [1/15, 2/15) ... [14/15, 1]. A bin's distance is that between its mean probability and the share of
    its voxels that have the label; it weighs as many voxels as it holds. Every label is a question of its own (yes or
    no), so that labels and regions are treated alike.

    Source: Naeini et al. 2015, eq. 3, for M bins. Departs: over the probabilities of each foreground label instead of
    the largest one's confidence, which is the background's nearly everywhere.

    Args:
        probabilities: (labels, ...) in [0, 1].
        masks: The same shape, bool.
        bins: How many.

    Returns:
        In [0, 1]; 0 is calibrated.

    Raises:
        PredictionError: If the shapes differ, or probabilities lie outside of [0, 1].
    """
    _check(probabilities, masks)
    errors = []
    for p, mask in zip(probabilities, masks, strict=True):
        p = p.ravel().astype(np.float64)
        index = np.minimum((p * bins).astype(np.int64), bins - 1)
        said = np.bincount(index, p, minlength=bins)
        happened = np.bincount(index, mask.ravel(), minlength=bins)
        errors.append(np.abs(said - happened).sum() / p.size)
    return float(np.mean(errors))


def brier_score(probabilities: np.ndarray, masks: np.ndarray) -> float:
    """Mean over labels and voxels of the squared difference between probability and truth.

    Source: Brier 1950. Departs: the binary score of each foreground label, averaged; over several classes his sum would
    count the background once more.

    Args:
        probabilities: (labels, ...) in [0, 1].
        masks: The same shape, bool.

    Returns:
        In [0, 1]; 0 is perfect.

    Raises:
        PredictionError: If the shapes differ, or probabilities lie outside of [0, 1].
    """
    _check(probabilities, masks)
    scores = [
        np.square(p.astype(np.float64) - mask).mean() for p, mask in zip(probabilities, masks, strict=True)
    ]  # one label's float64 at a time
    return float(np.mean(scores))


def _check(probabilities: np.ndarray, masks: np.ndarray) -> None:
    if probabilities.shape != masks.shape:
        raise PredictionError(
            f"Probabilities of shape {'x'.join(map(str, probabilities.shape))} do not fit masks of shape "
            f"{'x'.join(map(str, masks.shape))}. Both must be of one case and the same labels."
        )
    low, high = (float(f()) for f in (probabilities.min, probabilities.max))
    if not (low >= 0 and high <= 1 + 1e-6):
        raise PredictionError(f"Probabilities lie between 0 and 1, but these lie between {low:g} and {high:g}.")
