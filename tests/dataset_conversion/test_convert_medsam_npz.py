from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.medsam_npz import convert, main
from toy import REAL_DATA, needs_real_data

from nnkd.data.dataset import RawDataset
from nnkd.errors import DatasetError, FolderError


def stack(file: Path, **more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    content = {
        "imgs": rng.integers(0, 256, (5, 6, 7)).astype(np.uint8),
        "gts": made_up.labels((0, 1, 2)),
        "spacing": np.array([0.5, 0.75, 5.0]),
        **more,
    }
    file.parent.mkdir(exist_ok=True)
    np.savez_compressed(file, **{key: value for key, value in content.items() if value is not None})
    return content


def test_volumes(tmp_path, nnunet_folders):
    content = stack(tmp_path / "npz" / "a.npz", origin=np.array([1.0, 2, 3]), direction=np.diag([-1.0, -1, 1]).ravel())
    stack(tmp_path / "npz" / "b.npz", gts=None)
    arguments = [str(tmp_path / "npz"), "-d", "720", "-n", "L", "--channels", "CT", "--labels", "x=1", "y=2"]
    assert main(arguments) == 0
    dataset = RawDataset.open(720)
    array, grid, _ = dataset.images().read("a")
    np.testing.assert_array_equal(array[0], content["imgs"])
    assert grid.spacing == pytest.approx((5.0, 0.75, 0.5))  # the npz says x, y, z
    assert grid.origin == pytest.approx((1, 2, 3))
    np.testing.assert_allclose(grid.direction, np.diag([-1, -1, 1]))
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("a"))[0], content["gts"])
    assert not dataset.label_file("b").exists()


def test_rgb_pictures(tmp_path, nnunet_folders):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    stack(tmp_path / "npz" / "2D_a.npz", imgs=rgb, gts=made_up.labels((0, 3, 9), (20, 24)), spacing=None)
    convert(tmp_path / "npz", "Dataset720_L", labels={"cell": 1}, merge=True)
    dataset = RawDataset.open(720)
    np.testing.assert_array_equal(dataset.images().read("2D_a")[0][:, 0], rgb.transpose(2, 0, 1))
    expected = made_up.labels((0, 3, 9), (20, 24)) > 0
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("2D_a"))[0][0], expected)


def test_bad_stacks_fail_alone(tmp_path, nnunet_folders):
    folder = tmp_path / "npz"
    stack(folder / "a.npz")
    stack(folder / "another_grid.npz", gts=made_up.labels(shape=(4, 6, 7)))
    stack(folder / "another_value.npz", gts=made_up.labels((0, 5)))
    stack(folder / "no_imgs.npz", imgs=None)
    stack(folder / "no_spacing.npz", spacing=None)
    stack(folder / "wrong_spacing.npz", spacing=np.array([1.0, 1.0]))
    stack(folder / "pickled.npz", imgs=np.array([{"code": 1}], dtype=object))
    (folder / "text.npz").write_text("no archive")
    whole = (folder / "a.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    report = convert(folder, "Dataset720_L", labels={"x": 1, "y": 2}, channels=["CT"])
    assert report.done == ["a"]
    reasons = {f.case: f.reason for f in report.failures}
    assert "size 4x6x7 against 5x6x7" in reasons["another_grid"]
    assert "holds the value 5" in reasons["another_value"]
    assert "has no 'imgs', but holds gts, spacing" in reasons["no_imgs"]
    assert "has no 'spacing'" in reasons["no_spacing"]
    assert "spacing of 'wrong_spacing.npz' is not" in reasons["wrong_spacing"]
    assert "never loaded" in reasons["pickled"]
    assert "broken or no npz" in reasons["text"]
    assert "broken or no npz" in reasons["cut"]


def test_what_must_be_named(tmp_path, nnunet_folders):
    with pytest.raises(FolderError, match=r"no \.npz"):
        convert(tmp_path, "Dataset720_L", labels={"x": 1})
    stack(tmp_path / "npz" / "a.npz")
    with pytest.raises(DatasetError, match="Give --channels CT"):
        convert(tmp_path / "npz", "Dataset720_L", labels={"x": 1})
    with pytest.raises(DatasetError, match="merging leaves one"):
        convert(tmp_path / "npz", "Dataset720_L", labels={"x": 1, "y": 2}, merge=True)


@needs_real_data("recist_npz")
def test_lesions(nnunet_folders):
    report = convert(REAL_DATA / "recist_npz", "Dataset720_L", labels={"lesion": 1}, channels=["CT"])
    assert (len(report.done), report.failures) == (3, [])
    dataset = RawDataset.open(720)
    array, grid, _ = dataset.images().read("CT_Lesion_000002_03_01_035-047")
    assert array.shape == (1, 13, 512, 512)
    assert grid.spacing == pytest.approx((5.0, 0.97656202, 0.97656202))
