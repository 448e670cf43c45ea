"""What `laptop.py` segments: photographs with one and with 241 boxes, and CTs with one and with six objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from skimage.io import imread

from nnkd.data.intensities import GreyScale, to_uint8

SOFT_TISSUE = GreyScale("window", -160.0, 240.0)
ORGANS = {1: "spleen", 2: "right kidney", 3: "left kidney", 5: "liver", 6: "stomach", 7: "aorta"}
SIDE = 512  # pixels of a CT's slice as scanners give it; the trunk CT has 122
TILES, CELLS, SIDE = 16, 241, 120  # SIDE: of the largest photograph
NUCLEUS = 255

Case = tuple[np.ndarray, np.ndarray]  # (Z, Y, X, 3) uint8; (n, 6) int, rows z0 y0 x0 z1 y1 x1


def cell(data: Path, slices: int) -> Case:
    """One blood cell, one box."""
    image, mask = _cell(data, 1)
    return image[None], _boxes([mask])


def cells(data: Path, slices: int) -> Case:
    """16 x 16 blood cells in one picture, boxes around 241 nuclei; smaller photographs leave a black edge."""
    pairs = [_cell(data, i) for i in range(1, TILES**2 + 1)]
    picture = np.zeros((TILES * SIDE, TILES * SIDE, 3), np.uint8)
    masks = []
    for i, (image, mask) in enumerate(pairs):
        top, left = i // TILES * SIDE, i % TILES * SIDE
        where = (slice(top, top + image.shape[0]), slice(left, left + image.shape[1]))
        picture[where] = image
        if len(masks) < CELLS:
            whole = np.zeros(picture.shape[:2], bool)
            whole[where] = mask
            masks.append(whole)
    return picture[None], _boxes(masks)


def lesion(data: Path, slices: int) -> Case:
    """A lesion in a stack of CT slices, as MedSAM's challenge has it."""
    with np.load(sorted((data / "recist_npz").glob("*.npz"))[-1], allow_pickle=False) as found:
        images, mask = found["imgs"], found["gts"] > 0
    return _colour(images[_middle(mask, slices)]), _boxes([mask[_middle(mask, slices)]])


def trunk_one(data: Path, slices: int) -> Case:
    """The liver in a trunk CT of 512 x 512 pixels a slice."""
    images, boxes = trunk(data, slices)
    return images, boxes[[list(ORGANS.values()).index("liver")]]


def trunk(data: Path, slices: int) -> Case:
    """Six organs there."""
    folder = data / "trunk_ct"
    image, masks = (
        np.moveaxis(np.asarray(nibabel.as_closest_canonical(nibabel.load(folder / f"{name}.nii.gz")).dataobj), 2, 0)
        for name in ("ct", "totalsegmentator_v1_full")
    )
    some = _middle(np.logical_and.reduce([(masks == organ).any(axis=(1, 2)) for organ in ORGANS]), slices)
    factor = SIDE / max(image.shape[1:])
    enlarged = ndimage.zoom(to_uint8(image[some], SOFT_TISSUE).astype(np.float32), (1, factor, factor), order=1)
    masks = ndimage.zoom(masks[some], (1, factor, factor), order=0)
    return _colour(np.rint(enlarged).astype(np.uint8)), _boxes([masks == organ for organ in ORGANS])


CASES: Mapping[str, Callable[[Path, int], Case]] = {
    "cell": cell,
    "241 cells": cells,
    "lesion": lesion,
    "CT, 1 organ": trunk_one,
    "CT, 6 organs": trunk,
}


def _cell(data: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 3) uint8, h and w at most SIDE, and its nucleus (h, w) bool."""
    folder = data / "white_blood_cells"
    image, mask = (imread(next(folder.rglob(f"{number:03d}.{ending}"))) for ending in ("bmp", "png"))
    return image[..., :3], mask == NUCLEUS


def _middle(there: np.ndarray, slices: int) -> slice:
    """Some slices around the middle of those in which something is."""
    found = np.flatnonzero(there.reshape(len(there), -1).any(axis=1))
    first = max(0, int(found[len(found) // 2]) - slices // 2)
    return slice(first, first + slices)


def _colour(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[..., None], 3, axis=-1)


def _boxes(masks: list[np.ndarray]) -> np.ndarray:
    rows = []
    for mask in masks:
        whole = mask if mask.ndim == 3 else mask[None]
        found = [np.flatnonzero(whole.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        rows.append([*(int(f[0]) for f in found), *(int(f[-1]) + 1 for f in found)])
    return np.array(rows)
