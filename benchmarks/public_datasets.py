"""Real images of many kinds as nnU-Net's datasets, for `litemedsam_distillation.py` and `asap.py`.

hippocampus/, left_atrium/, trunk_ct/, trunk_mr/ (NIfTI), recist_npz/ (npz as in MedSAM), drive/, em_membranes/,
white_blood_cells/, lung_ct_slices/, chest_xray/ and polyps/ (pictures).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from skimage.io import imread, imsave

Pair = tuple[str, Path | np.ndarray, Path | np.ndarray]  # case, image, label map; files are copied
GREY, COLOUR = ("grey",), ("R", "G", "B")


@dataclass(frozen=True)
class Source:
    """One of the collections.

    Attributes:
        number, name: Of the dataset.
        title: In tables.
        channels: As in dataset.json.
        labels: Names, numbered from 1.
        ending: Of its files.
        pairs: Reads them, sorted.
        boxable: Whether a box says what is meant: not so with all vessels of an eye.
    """

    number: int
    name: str
    title: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    ending: str
    pairs: Callable[[Path], Iterator[Pair]]
    boxable: bool = True


def write_dataset(data: Path, raw: Path, source: Source, cases: int | None, test: int) -> str:
    """Write one into nnUNet_raw, once; returns its name. At least half of the cases stay for training, and what has
    one case alone is tested on."""
    name = f"Dataset{source.number}_{source.name}"
    folder = raw / name
    if (folder / "dataset.json").is_file():
        return name
    pairs = list(source.pairs(data))
    held_out = min(test, max(1, len(pairs) // 2)) if source.boxable else 0
    training = pairs[: len(pairs) - held_out] or pairs  # one case alone: its images may be learned from, its labels not
    for case, image, _ in training[:cases]:
        write_case(image, folder / "imagesTr" / f"{case}_0000{source.ending}")
    for case, image, labels in pairs[len(pairs) - held_out :]:
        write_case(image, folder / "imagesTs" / f"{case}_0000{source.ending}")
        write_case(labels, folder / "labelsTs" / f"{case}{source.ending}")
    write_description(folder, source, source.labels, len(training[:cases]))
    return name


def write_description(folder: Path, source: Source, labels: Iterable[str], training: int) -> None:
    """Write dataset.json, last of all."""
    content = {
        "channel_names": {str(i): channel for i, channel in enumerate(source.channels)},
        "labels": {"background": 0, **{label: i for i, label in enumerate(labels, start=1)}},
        "numTraining": training,
        "file_ending": source.ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_case(content: Path | np.ndarray, file: Path) -> None:
    """Write an image or a label map; files are copied."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    elif file.name.endswith(".nii.gz"):
        sitk.WriteImage(sitk.GetImageFromArray(content), str(file))
    else:
        imsave(file, content, check_contrast=False)


def _scans(folder: str, images: str, labels: str) -> Callable[[Path], Iterator[Pair]]:
    def pairs(data: Path) -> Iterator[Pair]:
        for file in sorted((data / folder / images).glob("*.nii.gz")):
            yield file.name.removesuffix(".nii.gz"), file, data / folder / labels / file.name

    return pairs


def _one_scan(folder: str, image: str, labels: str, numbers: tuple[int, ...]) -> Callable[[Path], Iterator[Pair]]:
    def pairs(data: Path) -> Iterator[Pair]:
        found = sitk.ReadImage(str(data / folder / labels))
        array = sitk.GetArrayFromImage(found)
        chosen = np.zeros_like(array, dtype=np.uint8)
        for new, old in enumerate(numbers, start=1):
            chosen[array == old] = new
        kept = sitk.GetImageFromArray(chosen)
        kept.CopyInformation(found)
        target = data_cache(folder) / labels
        sitk.WriteImage(kept, str(target))
        yield folder, data / folder / image, target

    return pairs


def data_cache(name: str) -> Path:
    """Where label maps are kept that were made of others: in the current folder."""
    folder = Path("made_labels") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stacks(data: Path) -> Iterator[Pair]:
    for file in sorted((data / "recist_npz").glob("*.npz")):
        with np.load(file, allow_pickle=False) as found:
            yield file.stem, found["imgs"].astype(np.float32), (found["gts"] > 0).astype(np.uint8)


def _pictures(
    folder: str, images: str, mask_of: Callable[[Path], Path], grey: bool
) -> Callable[[Path], Iterator[Pair]]:
    def pairs(data: Path) -> Iterator[Pair]:
        for file in sorted((data / folder).glob(images)):
            mask = imread(mask_of(file))
            yield file.stem.replace(" ", ""), _picture(file, grey), (_flat(mask) > 127).astype(np.uint8)

    return pairs


def _eyes(data: Path) -> Iterator[Pair]:
    for file in sorted((data / "drive").glob("*/images/*.tif")):
        traced = next((file.parents[1] / "1st_manual").glob(f"{file.stem.split('_')[0]}_*"))
        yield file.stem, _picture(file, False), (imread(traced).squeeze() > 127).astype(np.uint8)


def _membranes(data: Path) -> Iterator[Pair]:
    for file in sorted((data / "em_membranes" / "image").glob("*.png"), key=lambda file: int(file.stem)):
        yield (
            f"slice{int(file.stem):02d}",
            _picture(file, True),
            (imread(file.parents[1] / "label" / file.name) < 128).astype(np.uint8),
        )


def _cells(data: Path) -> Iterator[Pair]:
    for file in sorted((data / "white_blood_cells").glob("*.bmp")):
        mask = imread(file.with_suffix(".png"))
        yield file.stem, _picture(file, False), np.select([mask > 192, mask > 64], [1, 2], 0).astype(np.uint8)


def _picture(file: Path, grey: bool) -> np.ndarray:
    image = imread(file)
    return _flat(image) if grey else image[..., :3]


def _flat(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.ndim == 3 else image


ORGANS: Mapping[str, tuple[int, ...]] = {"ct": (1, 2, 3, 5, 6, 7, 8, 10), "mr": (1, 2, 3, 5, 6, 23)}
NAMES = ("spleen", "right_kidney", "left_kidney", "liver", "stomach", "aorta", "inferior_vena_cava", "pancreas")
DATASETS = (
    Source(801, "Hippocampus", "MR, hippocampus", ("MRI",), ("anterior", "posterior"), ".nii.gz",
           _scans("hippocampus", "imagesTr", "labelsTr")),
    Source(802, "LeftAtrium", "MR, left atrium", ("MRI",), ("left_atrium",), ".nii.gz",
           _scans("left_atrium", "images", "labels")),
    Source(803, "TrunkCT", "CT, organs (labels: TotalSegmentator)", ("CT",), NAMES, ".nii.gz",
           _one_scan("trunk_ct", "ct.nii.gz", "totalsegmentator_v1_full.nii.gz", ORGANS["ct"])),
    Source(804, "Lesions", "CT, lesions", GREY, ("lesion",), ".nii.gz", _stacks),
    Source(805, "Cells", "microscopy, blood cells", COLOUR, ("nucleus", "cytoplasm"), ".png", _cells),
    Source(806, "LungCT", "CT slices, lung", GREY, ("lung",), ".png",
           _pictures("lung_ct_slices", "images/*.jpg", lambda f: f.parents[1] / "masks" / f.name, True)),
    Source(807, "ChestXray", "X-ray, lung", GREY, ("lung",), ".png",
           _pictures("chest_xray", "?.jpg", lambda f: f.with_name(f"{f.stem}-mask.png"), True)),
    Source(808, "Polyps", "endoscopy, polyps", COLOUR, ("polyp",), ".png",
           _pictures("polyps", "images/*.jpg", lambda f: f.parents[1] / "masks" / f.name, False)),
    Source(809, "Drive", "fundus", COLOUR, ("vessel",), ".png", _eyes, boxable=False),
    Source(810, "Membranes", "electron microscopy", GREY, ("membrane",), ".png", _membranes, boxable=False),
    Source(811, "TrunkMR", "MR, trunk", ("MRI",), NAMES[:6], ".nii.gz",
           _one_scan("trunk_mr", "mr.nii.gz", "totalsegmentator_mr.nii.gz", ORGANS["mr"]), boxable=False),
)  # fmt: skip
