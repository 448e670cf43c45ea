"""Tests of nnkd.boxes.int8 and nnkd.boxes.calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from box_graphs import graphs
from extras import needs
from toy import toy_dataset

from nnkd.boxes import int8
from nnkd.boxes.calibration import CalibrationPicture, read_pictures
from nnkd.boxes.export import write_box_model
from nnkd.boxes.int8 import Measured, add_int8
from nnkd.boxes.model import BoxModelFolder, ExportedBoxModel
from nnkd.errors import DatasetError, FolderError, SettingError, WeightsError
from nnkd.files import sha256
from nnkd.networks import runtimes

pytestmark = pytest.mark.heavy

needs_export = needs("export", "onnx", "onnxscript", "onnxruntime")


def pictures(number: int = 4, references: bool = True) -> list[CalibrationPicture]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(number):
        image = rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)
        masks = np.zeros((1, 64, 48), bool)
        masks[0, 10:40, 10:30] = True
        made.append(
            CalibrationPicture(f"case{index}", image, np.array([[10, 10, 40, 30]]), masks if references else None)
        )
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A box model's folder; its encoder is one convolution, which 8 bits change little."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("int8")
    write_box_model(graphs(), folder)
    return folder


@needs_export
def test_eight_bits_are_written_described_and_run(exported, monkeypatch):
    monkeypatch.setattr(int8, "LEAST_AGREEMENT", 0.0)
    lines = add_int8(exported, pictures(), tolerance=1.0)
    content = json.loads((exported / "box_model.json").read_text())
    assert content["encoder"]["int8"] == "encoder_int8.onnx"
    assert content["files"]["encoder_int8.onnx"] == sha256(exported / "encoder_int8.onnx")
    assert (content["int8"]["calibrated_on"], content["int8"]["measured_on"]) == (2, 2)
    assert (content["int8"]["layers"], content["int8"]["layers_in_float32"]) == (1, 0)
    assert lines[0] == "8 bits: 1 of 1 layers, calibrated on 2 pictures"
    assert "DSC with float32's masks" in lines[1]
    described = BoxModelFolder.read(exported)
    image = pictures()[0].image
    exact, rounded = (ExportedBoxModel(described, "onnxruntime", precision=p).encode(image) for p in ("fp32", "int8"))
    error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
    assert 0 < error < 0.1  # .058 where the CPU has no VNNI: sums of two products saturate there; else below .05
    assert (exported / "encoder_int8.onnx").stat().st_size < (exported / "encoder.onnx").stat().st_size


@needs_export
def test_eight_bits_that_lose_too_much_are_refused_and_the_model_stays(exported, monkeypatch):
    before = (exported / "box_model.json").read_text()
    monkeypatch.setattr(int8, "FILE", "worse.onnx")
    monkeypatch.setattr(int8, "measure", lambda *_: Measured(0.9, 0.88, 0.99, 7))
    with pytest.raises(WeightsError, match=r"8 bits are refused: on \w+ DSC .* in 7 boxes, .* 0\.900 -> 0\.880"):
        add_int8(exported, pictures(), tolerance=0.01)
    assert not (exported / "worse.onnx").exists()
    assert (exported / "box_model.json").read_text() == before
    monkeypatch.setattr(int8, "LARGEST", 0.0)
    with pytest.raises(WeightsError, match="every part of the encoder spoils the embedding"):
        add_int8(exported, pictures())


@pytest.mark.parametrize(
    ("measured", "passes"),
    [
        (Measured(0.9, 0.891, 0.97, 3), True),
        (Measured(0.9, 0.88, 0.97, 3), False),
        (Measured(0.8, 0.85, 0.9, 3), False),  # better by accident: other masks
        (Measured(None, None, 0.992, 3), True),
        (Measured(None, None, 0.98, 3), False),
    ],
)
def test_the_gate(measured, passes):
    assert measured.passes(0.01) is passes


def test_too_few_pictures_and_no_onnxruntime_are_refused(tmp_path, monkeypatch):
    if "onnxruntime" in runtimes.installed():
        with pytest.raises(SettingError, match=r"has 3 usable picture\(s\), but at least 4"):
            add_int8(tmp_path, pictures(3))
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match="8 bits are made with onnxruntime"):
        add_int8(tmp_path, pictures())


# --- pictures -------------------------------------------------------------------------------------------------------


def test_npz_give_the_slice_with_the_largest_reference(tmp_path):
    imgs, gts = np.zeros((3, 32, 24), np.uint8), np.zeros((3, 32, 24), np.uint8)
    imgs[1] = 77
    gts[1, 4:20, 3:9], gts[1, 25:31, 10:20], gts[2, 4:8, 3:9], gts[1, 0, 0] = 1, 5, 1, 7
    np.savez(tmp_path / "a.npz", imgs=imgs, gts=gts)
    np.savez(tmp_path / "empty.npz", imgs=imgs, gts=np.zeros_like(gts))
    (one,), _ = read_pictures(tmp_path)
    assert (one.case, one.image.shape, int(one.image.max())) == ("a", (32, 24, 3), 77)
    np.testing.assert_array_equal(one.boxes, [[4, 3, 20, 9], [25, 10, 31, 20]])  # label 7 is one pixel
    assert one.masks.sum() == 16 * 6 + 6 * 10


def test_a_raw_dataset_gives_what_is_labelled(tmp_path):
    folder = toy_dataset(tmp_path / "Dataset701_Toy", training=3, labelled=2).folder
    found, counted = read_pictures(folder)
    assert counted.line.endswith("2 used, 1 set aside (without a label map, or a further channel: toy_002_0000.nii.gz)")
    assert [one.case for one in found] == ["toy_000", "toy_001"]
    assert all(one.masks is not None and one.image.dtype == np.uint8 for one in found)
    for one in found:
        for box, mask in zip(one.boxes, one.masks, strict=True):
            assert mask[box[0] : box[2], box[1] : box[3]].sum() == mask.sum() > 0


def test_images_alone_have_boxes_in_their_middle(tmp_path):
    np.savez(tmp_path / "a.npz", imgs=np.ones((40, 20), np.uint8), boxes=np.zeros((0, 4)))
    (one,), _ = read_pictures(tmp_path)
    assert one.masks is None
    np.testing.assert_array_equal(one.boxes, [[10, 5, 30, 15]])


def test_what_cannot_calibrate_is_refused(tmp_path):
    with pytest.raises(FolderError, match="There is no folder 'gone' with calibration cases"):
        read_pictures(tmp_path / "gone")
    with pytest.raises(FolderError, match="holds no image"):
        read_pictures(tmp_path)
    folder = toy_dataset(tmp_path / "Dataset701_Toy", training=1, labelled=0).folder
    with pytest.raises(FolderError, match="has no image with a reference"):
        read_pictures(folder)
    (tmp_path / "Dataset701_Toy" / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="is no valid JSON"):
        read_pictures(folder)


@pytest.mark.parametrize(
    "change", [lambda i: i.SetOrigin((50.0, 0.0, 0.0)), lambda i: i.SetSpacing((1.0, 1.0, 3.0)), None]
)
def test_label_maps_to_calibrate_on_lie_where_their_images_do(tmp_path, change):
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 100, (4, 40, 40)).astype(np.float32))
    labels = np.zeros((4, 40, 40), np.uint8)
    labels[1:3, 5:30, 5:30] = 1
    label_map = sitk.GetImageFromArray(labels)
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    sitk.WriteImage(image, str(tmp_path / "imagesTr" / "a_0000.nii.gz"))
    if change is not None:
        change(label_map)
    sitk.WriteImage(label_map, str(tmp_path / "labelsTr" / "a.nii.gz"))
    if change is None:
        assert len(read_pictures(tmp_path)[0]) == 1
        return
    with pytest.raises(DatasetError, match=r"label map of 'a' does not lie on its image's grid"):
        read_pictures(tmp_path)
