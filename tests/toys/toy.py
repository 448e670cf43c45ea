"""Toy data made by code: small datasets and prediction folders that every test can use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.predictions import Manifest, PredictionFolder
from nnkd.files import sha256

LABELS = {"background": 0, "liver": 1, "spleen": 2}
REAL_DATA = Path(os.environ.get("NNKD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def needs_real_data(folder: str) -> pytest.MarkDecorator:
    """Skip a test unless the real data of that name are there."""
    there = (REAL_DATA / folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"real data '{folder}' not found; set NNKD_TEST_DATA")


def two_balls(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """A label map (Z, Y, X) uint8 with two balls (1 and 2), a little different each time."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    size = np.asarray(shape, dtype=float)
    label_map = np.zeros(shape, dtype=np.uint8)
    for label, centre in ((1, 0.3), (2, 0.7)):
        middle = size * np.where(size > 1, centre, 0) + rng.uniform(-1, 1, 3) * (size > 1)
        radius = np.maximum(size * rng.uniform(0.18, 0.25), 0.6)
        label_map[(((grid - middle) / radius) ** 2).sum(-1) <= 1] = label
    return label_map


def image_of(label_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image (Z, Y, X) float32 in which label 1 is brighter than background and label 2 brighter still."""
    return (100 + 60.0 * label_map + rng.normal(0, 5, label_map.shape)).astype(np.float32)


def write_image(array: np.ndarray, file: Path, spacing: Sequence[float] = (2.0, 1.0, 1.0)) -> None:
    """Write (Z, Y, X) with SimpleITK; spacing in mm, order (z, y, x)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array[0] if file.suffix == ".png" else array)
    if file.suffix != ".png":
        image.SetSpacing([float(s) for s in reversed(spacing)])
        image.SetOrigin((5.0, -3.0, 10.0))
    sitk.WriteImage(image, str(file))


def toy_dataset(
    folder: Path,
    *,
    training: int = 4,
    test: int = 0,
    labelled: int = 2,
    shape: Sequence[int] = (8, 24, 20),
    ending: str = ".nii.gz",
    channels: Sequence[str] = ("CT",),
    labels: dict | None = None,
    seed: int = 0,
    **json_keys: object,
) -> RawDataset:
    """A raw dataset in `folder` (named DatasetXXX_Name): cases toy_000 ...; the first `labelled` have a label map,
    all test cases have one in labelsTs. The truth of every case lies in `folder/truth`, for tests."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if ending == ".png" else np.float32
    for index in range(training + test):
        case, split = f"toy_{index:03d}", "Tr" if index < training else "Ts"
        truth = two_balls(shape, rng)
        for channel in range(len(channels)):
            write_image(image_of(truth, rng).astype(dtype), folder / f"images{split}" / f"{case}_{channel:04d}{ending}")
        write_image(truth, folder / "truth" / f"{case}{ending}")
        if index < labelled or split == "Ts":
            write_image(truth, folder / f"labels{split}" / f"{case}{ending}")
    write_dataset_json(folder, channels, labels or LABELS, ending, training, **json_keys)
    return RawDataset(folder)


def toy_teacher(
    dataset: RawDataset,
    name: str,
    *,
    shift: int = 0,
    flip_share: float = 0.0,
    answers: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    split: str = "Tr",
    seed: int = 0,
) -> PredictionFolder:
    """A prediction folder teachersTr/NAME: the truth, shifted by some voxels in x and with some foreground lost."""
    rng = np.random.default_rng(seed)
    spec = dataset.spec
    answers = list(spec.labels) if answers is None else list(answers)
    folder = PredictionFolder(dataset.teachers_folder(split) / name)
    labels = {label: list(values) for label, values in spec.labels.items()}
    folder.begin(Manifest(kind="teacher", name=name, made_by="toy", labels=labels, file_ending=spec.file_ending))
    for case in cases or dataset.images(split).cases():
        truth, _, properties = spec.read_label_map(dataset.folder / "truth" / f"{case}{spec.file_ending}")
        label_map = np.roll(truth, shift, axis=2)
        label_map[rng.random(label_map.shape) < flip_share] = 0
        keep = np.isin(label_map, [v for label in answers for v in spec.labels[label]])
        inputs = {file.name: sha256(file) for file in dataset.images(split).files(case)}
        folder.write(spec, case, np.where(keep, label_map, 0), properties, inputs=inputs, answers=answers)
    return folder
