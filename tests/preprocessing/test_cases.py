"""Tests of nnkd.preprocessing.cases: votes must lie exactly where nnU-Net's own preprocessing puts a label map."""

from __future__ import annotations

import blosc2
import numpy as np
import pytest
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, write_image

from nnkd.data.dataset import DatasetSpec, RawDataset
from nnkd.data.predictions import Manifest, PredictionFolder
from nnkd.errors import GeometryError
from nnkd.files import sha256
from nnkd.preprocessing import folders
from nnkd.votes import bits

LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}


def corners(shape, rng) -> np.ndarray:
    """Blocks of four labels, so that three and four of them meet in corners and edges."""
    coarse = rng.integers(0, 4, [-(-n // 3) for n in shape]).astype(np.uint8)
    fine = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    return fine[: shape[0], : shape[1], : shape[2]]


def image_with_holes(shape, rng) -> np.ndarray:
    """Nonzero in the middle, with zero corners that nnU-Net labels -1 and a zero border that it crops."""
    image = rng.normal(100, 10, shape).astype(np.float32)
    image[:, :3], image[:, :, -2:] = 0, 0
    image[:, 3:18, 3:15] = 0
    return image


@pytest.fixture
def jagged(nnunet_folders) -> RawDataset:
    rng = np.random.default_rng(0)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset702_Jagged"
    dataset = toy_dataset(folder, training=2, labels=LABELS, shape=(9, 27, 25), labelled=2)
    spacing = (2.5, 0.8, 1.1)
    teacher = PredictionFolder(dataset.teachers_folder() / "same")
    labels = {name: list(v) for name, v in dataset.spec.labels.items()}
    teacher.begin(Manifest(kind="teacher", name="same", made_by="toy", labels=labels, file_ending=".nii.gz"))
    for case in dataset.images().cases():
        write_image(image_with_holes((9, 27, 25), rng), dataset.images().files(case)[0], spacing)
        write_image(corners((9, 27, 25), rng), dataset.label_file(case), spacing)
        label_map, _, properties = dataset.spec.read_label_map(dataset.label_file(case))
        inputs = {f.name: sha256(f) for f in dataset.images().files(case)}
        teacher.write(dataset.spec, case, label_map, properties, inputs=inputs, answers=list(labels))
    return dataset


@pytest.mark.parametrize(
    ("name", "patch", "spacing", "transpose"),
    [
        ("2d", (32, 32), (1.0, 1.0), (0, 1, 2)),
        ("2d", (16, 16), (0.5, 1.7), (2, 0, 1)),
        ("3d_fullres", (8, 16, 16), (1.3, 1.3, 1.3), (0, 1, 2)),
        ("3d_fullres", (8, 16, 16), (0.7, 3.1, 0.9), (1, 2, 0)),
    ],
)
def test_votes_lie_where_nnunet_puts_labels(jagged, name, patch, spacing, transpose):
    plans = make_plans(jagged, {name: configuration(name, patch, spacing)}, transpose)
    folder = preprocess(jagged, plans, name)
    for case in jagged.images().cases():
        seg = blosc2.open(str(preprocessed_folder(jagged) / f"nnUNetPlans_{name}" / f"{case}_seg.b2nd"), mode="r")[:]
        expected = np.maximum(seg, 0)
        assert (seg == -1).any()
        assert len(np.unique(expected)) == 4
        np.testing.assert_array_equal(folder.open(case)[:], bits.pack([expected[0]], jagged.spec))


def test_counts_are_of_the_raw_grid(jagged):
    plans = make_plans(jagged, {"2d": configuration("2d", (16, 16), (1.0, 1.0))})
    folder = preprocess(jagged, plans, "2d")
    label_map, _, _ = jagged.spec.read_label_map(jagged.label_file("toy_000"))
    for row, integer in zip(folder.counts("toy_000"), (1, 2, 3), strict=True):
        assert row.tolist() == [(label_map != integer).sum(), (label_map == integer).sum()]


def test_a_teacher_on_another_grid_is_refused(jagged):
    write_image(corners((9, 27, 25), np.random.default_rng(1)), jagged.teachers_folder() / "same" / "toy_001.nii.gz")
    plans = make_plans(jagged, {"2d": configuration("2d", (16, 16), (1.0, 1.0))})
    with pytest.raises(GeometryError, match=r"toy_001.*'same'.*spacing"):
        preprocess(jagged, plans, "2d")


def test_an_interrupted_case_leaves_nothing(jagged, monkeypatch):
    plans = make_plans(jagged, {"2d": configuration("2d", (16, 16), (1.0, 1.0))})
    monkeypatch.setattr(folders.os, "replace", _full_disk)
    with pytest.raises(OSError, match="No space"):
        preprocess(jagged, plans, "2d")
    folder = preprocessed_folder(jagged)
    assert folders.listed_cases(folder / "nnUNetPlans_2d") == []
    assert not list(folder.glob(".writing-*"))


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_regions_are_ors_of_their_labels(nnunet_folders):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    folder = nnunet_folders / "nnUNet_raw" / "Dataset703_Regions"
    dataset = toy_dataset(folder, training=1, labelled=1, labels=labels, regions_class_order=[1, 2])
    assert isinstance(dataset.spec, DatasetSpec)
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file("toy_000"))
    packed = bits.pack([label_map], dataset.spec)
    np.testing.assert_array_equal(packed[0], label_map > 0)
    np.testing.assert_array_equal(packed[1], label_map == 2)
