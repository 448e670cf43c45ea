from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.drive import convert, main
from toy import REAL_DATA, needs_real_data

from nnkd.data.dataset import RawDataset
from nnkd.errors import FolderError


def binary(file: Path, seed: int) -> np.ndarray:
    return made_up.picture(file, np.random.default_rng(seed).choice([0, 255], (20, 24)).astype(np.uint8))


def in_palette(file: Path, array: np.ndarray) -> None:
    """Write black and white as the indices 0 and 1 of a palette that is not quite grey, as DRIVE's second rater did."""
    from PIL import Image

    picture = Image.new("P", array.shape[::-1])
    picture.putdata((array // 255).ravel().tolist())
    picture.putpalette([4, 2, 4, 252, 254, 252, 0, 90, 200])
    picture.save(file)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = tmp_path / "DRIVE"
    for number, part in ((21, "training"), (22, "training"), (1, "test")):
        name = f"{number:02d}"
        made_up.picture(folder / part / "images" / f"{name}_{part}.tif", seed=number)
        binary(folder / part / "1st_manual" / f"{name}_manual1.gif", number)
        binary(folder / part / "mask" / f"{name}_{part}_mask.gif", 100 + number)
        if part == "test":
            second = folder / part / "2nd_manual" / f"{name}_manual2.gif"
            in_palette(second, binary(second, 200 + number))
    return folder


def drawn(folder: Path, name: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(folder / name))


def test_the_first_rater_is_the_label(drive, nnunet_folders):
    assert main([str(drive), "-d", "712", "-n", "Drive"]) == 0
    dataset = RawDataset.open(712)
    assert dataset.images().cases() == ["21_training", "22_training"]
    assert dataset.images("Ts").cases() == ["01_test"]
    array, _, _ = dataset.images().read("22_training")
    np.testing.assert_array_equal(array[:, 0], made_up.picture(drive / "x.tif", seed=22).transpose(2, 0, 1))
    for case, split, seed in (("22_training", "Tr", 22), ("01_test", "Ts", 1)):
        label_map = dataset.spec.read_label_map(dataset.label_file(case, split))[0][0]
        np.testing.assert_array_equal(label_map * 255, binary(drive / "x.gif", seed))
    assert not (dataset.folder / "ratersTs").exists()


def test_raters_apart(drive, nnunet_folders):
    convert(drive, "Dataset712_Drive", raters=True)
    folder = RawDataset.open(712).folder / "ratersTs"
    for rater, seed in (("1st_manual", 1), ("2nd_manual", 201)):
        np.testing.assert_array_equal(drawn(folder / rater, "01_test.png") * 255, binary(drive / "x.gif", seed))


def test_raters_swapped_train_without_labels(drive, nnunet_folders):
    convert(drive, "Dataset712_Drive", raters=True, swap=True)
    dataset = RawDataset.open(712)
    assert dataset.images().cases() == ["01_test"]
    assert not dataset.label_file("01_test").exists()
    assert (dataset.folder / "ratersTr" / "2nd_manual" / "01_test.png").is_file()
    assert dataset.label_file("21_training", "Ts").is_file()


def test_field_of_view_is_the_ignore_label(drive, nnunet_folders):
    convert(drive, "Dataset712_Drive", fov=True)
    dataset = RawDataset.open(712)
    assert dataset.spec.ignore_label == 2
    label_map = dataset.spec.read_label_map(dataset.label_file("21_training"))[0][0]
    inside = binary(drive / "x.gif", 121) > 0
    np.testing.assert_array_equal(label_map, np.where(inside, binary(drive / "x.gif", 21) > 0, 2))


def test_missing_label_broken_image_and_wrong_folder(drive, nnunet_folders, tmp_path):
    (drive / "test" / "1st_manual" / "01_manual1.gif").unlink()  # the official download has none for the test set
    (drive / "training" / "images" / "21_training.tif").write_bytes(b"II*\x00 cut")
    made_up.picture(drive / "training" / "1st_manual" / "22_manual1.gif", np.zeros((9, 24), np.uint8))
    report = convert(drive, "Dataset712_Drive")
    assert report.done == ["01_test"]
    assert "cannot be read" in report.failures[0].reason
    assert "size 1x9x24 against 1x20x24" in report.failures[1].reason
    with pytest.raises(FolderError, match="no training/images"):
        convert(tmp_path, "Dataset713_Drive")


@pytest.mark.heavy
@needs_real_data("drive")
def test_real_photographs(nnunet_folders):
    report = convert(REAL_DATA / "drive", "Dataset712_Drive", raters=True, swap=True, fov=True)
    assert (len(report.done), report.failures) == (30, [])
    dataset = RawDataset.open(712)
    a, b = (drawn(dataset.folder / "ratersTr" / r, "01_test.png") for r in ("1st_manual", "2nd_manual"))
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert dice == pytest.approx(0.79, abs=0.05)  # what the raters agree to over all photographs
