"""Tests of nnkd.data.dataset."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from toy import LABELS, toy_dataset, write_image

from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset, write_dataset_json
from nnkd.errors import DatasetError, NnkdError, UnknownNameError


def spec_of(folder, labels=LABELS, channels=("CT",), ending=".nii.gz", **more) -> DatasetSpec:
    """dataset.json in a folder."""
    folder.mkdir(exist_ok=True)
    return write_dataset_json(folder, channels, labels, ending, 1, **more)


def label_file(spec, folder, array):
    """A label map on disk."""
    file = folder / f"case{spec.file_ending}"
    write_image(array, file)
    return file


# dataset.json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "has no dataset.json"),
        ("{", "no valid JSON"),
        ('{"labels": {}}', "lacks channel_names, file_ending"),
        ('{"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".png"}', "names no label"),
        ("[1]", "is no dictionary"),
        ('{"channel_names": {"0": "CT"}, "labels": {"0": "background", "1": "a"}, "file_ending": ".png"}', "name to"),
        ('{"channel_names": {"CT": 0}, "labels": {"background": 0, "a": 1}, "file_ending": ".png"}', "channel_names"),
    ],
    ids=["missing", "broken", "keys", "no label", "list", "old labels", "old channels"],
)
def test_a_wrong_dataset_json_is_said_in_one_sentence(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=reason):
        DatasetSpec.read(tmp_path / "dataset.json")


def test_labels_stand_in_the_order_of_their_integers(tmp_path):
    spec = spec_of(tmp_path, {"background": 0, "spleen": 2, "liver": 1, "ignore": 3})
    assert list(spec.labels) == ["liver", "spleen"]
    assert spec.ignore_label == 3
    assert spec.values == {0, 1, 2, 3}
    assert not spec.has_regions
    with pytest.raises(UnknownNameError, match="no label 'kidney'; it has liver, spleen"):
        spec.check_label("kidney")


def test_channels_stand_in_file_order(tmp_path):
    spec = spec_of(tmp_path, channels=[f"c{i}" for i in range(11)])
    assert spec.channel_names == tuple(f"c{i}" for i in range(11))


def test_regions_are_painted_in_their_order_and_read_as_unions(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    spec = spec_of(tmp_path, labels, regions_class_order=[1, 2, 3])
    assert spec.has_regions
    assert list(spec.labels) == ["whole", "core", "enhancing"]
    masks = {name: np.zeros((1, 1, 4), dtype=bool) for name in spec.labels}
    for name, voxels in (("whole", 3), ("core", 2), ("enhancing", 1)):
        masks[name][..., :voxels] = True
    label_map = spec.label_map(masks, (1, 1, 4))
    assert label_map.ravel().tolist() == [3, 2, 1, 0]
    for name, mask in masks.items():
        np.testing.assert_array_equal(spec.mask(label_map, name), mask)


def test_regions_without_their_order_are_refused(tmp_path):
    spec = spec_of(tmp_path, {"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1])
    with pytest.raises(DatasetError, match="2 regions but regions_class_order"):
        spec.label_map({}, (1, 1, 1))


def test_large_integers_get_a_large_type(tmp_path):
    spec = spec_of(tmp_path, {"background": 0, "a": 300})
    assert spec.label_map({"a": np.ones((1, 1, 1), dtype=bool)}, (1, 1, 1)).tolist() == [[[300]]]


# files and cases


def test_a_case_has_one_file_a_channel(tmp_path):
    data = toy_dataset(tmp_path / "Dataset701_Toy", channels=("CT", "PET"))
    array, grid, _ = data.images().read("toy_000")
    assert array.shape == (2, 8, 24, 20)
    assert grid.spacing == (2.0, 1.0, 1.0)
    assert data.images().cases() == [f"toy_{i:03d}" for i in range(4)]
    (data.folder / "imagesTr" / "toy_001_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"'toy_001' has 1 (image|channel).*names 2 channels \(CT, PET\)"):
        data.images().read("toy_001")


def test_one_image_too_many_is_refused(tmp_path):
    data = toy_dataset(tmp_path / "Dataset701_Toy")
    write_image(np.zeros((8, 24, 20), np.float32), data.folder / "imagesTr" / "toy_000_0001.nii.gz")
    with pytest.raises(DatasetError, match="'toy_000' has 2 images"):
        data.images().read("toy_000")


def test_hidden_and_foreign_files_are_no_cases(dataset):
    folder = dataset.folder / "imagesTr"
    for name in (".writing-ab-toy_009_0000.nii.gz", "notes.txt", "toy_010.nii.gz", "toy_011_0000.mha"):
        (folder / name).write_text("x")
    assert len(dataset.images().cases()) == 4
    with pytest.raises(UnknownNameError, match="no case 'toy_010'"):
        dataset.images().files("toy_010")


def test_a_folder_without_images_says_what_it_holds(dataset):
    with pytest.raises(DatasetError, match="has no folder imagesTs"):
        dataset.images("Ts").cases()
    (dataset.folder / "imagesTs").mkdir()
    with pytest.raises(DatasetError, match="It is empty"):
        dataset.images("Ts").cases()
    (dataset.folder / "imagesTs" / "scan.nii.gz").write_text("x")
    with pytest.raises(DatasetError, match=r"It holds scan\.nii\.gz"):
        dataset.images("Ts").cases()


@pytest.mark.parametrize("size", [0, 40, 2000], ids=["empty", "header cut", "data cut"])
def test_an_empty_or_truncated_image_is_named(dataset, size):
    file = dataset.folder / "imagesTr" / "toy_002_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(
        DatasetError, match=r"'toy_002_0000\.nii\.gz' in imagesTr (is empty|cannot be read|is truncated)"
    ):
        dataset.images().read("toy_002")


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_uncompressed_files_that_are_cut_are_named(tmp_path, ending):
    data = toy_dataset(tmp_path / "Dataset701_Toy", ending=ending)
    file = data.images().files("toy_000")[0]
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DatasetError, match=r"cannot be read|is truncated"):
        data.images().read("toy_000")


def test_channels_of_different_size_are_named(tmp_path):
    data = toy_dataset(tmp_path / "Dataset701_Toy", channels=("CT", "PET"))
    write_image(np.zeros((8, 24, 19), np.float32), data.folder / "imagesTr" / "toy_000_0001.nii.gz")
    with pytest.raises(DatasetError, match="'toy_000"):
        data.images().read("toy_000")


def test_an_ending_that_nnunet_does_not_read_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no reader for '\.xyz'"):
        _ = spec_of(tmp_path, ending=".xyz").reader


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_3d_formats_keep_their_geometry(tmp_path, ending):
    data = toy_dataset(tmp_path / "Dataset701_Toy", ending=ending)
    volume, orientation, properties = data.images().volume("toy_000")
    assert volume.data.dtype == np.float32
    assert volume.spacing == pytest.approx((2.0, 1.0, 1.0))
    assert volume.origin == pytest.approx((5.0, -3.0, 10.0))
    assert volume.modality() == "CT"
    label_map, grid, _ = data.spec.read_label_map(data.label_file("toy_000"))
    file = data.folder / f"copy{ending}"
    data.spec.write_label_map(orientation.to_file(orientation.to_lps(label_map)), file, properties)
    again, same, _ = data.spec.read_label_map(file)
    np.testing.assert_array_equal(again, label_map)
    assert same.difference(grid) == ""


def test_a_tif_stack_is_3d_and_its_sidecar_gives_millimetres(tmp_path):
    spec = spec_of(tmp_path / "Dataset702_Tif", ending=".tif")
    folder = tmp_path / "Dataset702_Tif" / "imagesTr"
    write_image(np.random.default_rng(0).random((7, 6, 5)).astype(np.float32), folder / "a_0000.tif")
    (folder / "a.json").write_text(json.dumps({"spacing": [3.0, 1.0, 2.0]}))
    volume, orientation, properties = ImageFolder(folder, spec).volume("a")
    assert volume.shape == (7, 6, 5)
    assert volume.spacing == (3.0, 1.0, 2.0)
    assert orientation.grid.in_world
    label_map = np.random.default_rng(0).integers(0, 3, (7, 6, 5))
    spec.write_label_map(label_map, tmp_path / "a.tif", properties)
    np.testing.assert_array_equal(spec.read_label_map(tmp_path / "a.tif")[0], label_map)


def test_an_rgb_png_is_three_channels_in_one_file(tmp_path):
    spec = spec_of(tmp_path / "Dataset703_Rgb", channels=("R", "G", "B"), ending=".png")
    folder = tmp_path / "Dataset703_Rgb" / "imagesTr"
    folder.mkdir()
    rgb = np.random.default_rng(0).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(folder / "a_0000.png"))
    volume, orientation, properties = ImageFolder(folder, spec).volume("a")
    assert volume.is_2d
    assert volume.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(volume.data[:, 0], rgb.transpose(2, 0, 1))
    label_map = orientation.to_file(np.random.default_rng(0).integers(0, 3, (1, 6, 5)))
    spec.write_label_map(label_map, tmp_path / "a.png", properties)
    np.testing.assert_array_equal(spec.read_label_map(tmp_path / "a.png")[0], label_map)


def test_an_rgb_png_with_the_wrong_number_of_channel_names(tmp_path):
    spec = spec_of(tmp_path / "Dataset703_Rgb", channels=("R", "G"), ending=".png")
    folder = tmp_path / "Dataset703_Rgb" / "imagesTr"
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 5, 3), np.uint8), isVector=True), str(folder / "a_0000.png"))
    with pytest.raises(DatasetError, match=r"3 channels .*2 channels"):
        ImageFolder(folder, spec).read("a")


# label maps


def test_values_outside_dataset_json_are_named(tmp_path):
    spec = spec_of(tmp_path)
    file = label_file(spec, tmp_path, np.array([[[0, 1, 2, 7, 9]]], dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"holds the values 7, 9, but dataset\.json .* names 0, 1, 2"):
        spec.read_label_map(file)


def test_fractions_are_no_labels(tmp_path):
    spec = spec_of(tmp_path)
    file = label_file(spec, tmp_path, np.array([[[0, 1, 1.5]]], dtype=np.float32))
    with pytest.raises(DatasetError, match="holds fractions"):
        spec.read_label_map(file)


def test_the_ignore_label_may_be_there(tmp_path):
    spec = spec_of(tmp_path, {**LABELS, "ignore": 3})
    file = label_file(spec, tmp_path, np.array([[[0, 3, 1]]], dtype=np.uint8))
    assert spec.read_label_map(file)[0].tolist() == [[[0, 3, 1]]]


def test_a_missing_label_map_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"'case\.nii\.gz' is missing"):
        spec_of(tmp_path).read_label_map(tmp_path / "case.nii.gz")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from nnkd.data.dataset import RawDataset
from nnkd.errors import NnkdError
data = RawDataset(Path(sys.argv[1]))
case = data.images().cases()[0]
label_map, _, properties = data.spec.read_label_map(data.label_file(case))
noise = np.random.default_rng(0).integers(0, 3, label_map.shape)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
try:
    data.spec.write_label_map(noise, data.label_file(case), properties)
except NnkdError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_full_disk_leaves_the_old_label_map_and_nothing_else(tmp_path, ending):
    data = toy_dataset(tmp_path / "Dataset701_Toy", ending=ending)
    file = data.label_file("toy_000")
    before = file.read_bytes()
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(data.folder)], check=False, capture_output=True, text=True
    )
    assert "could not be written" in run.stderr
    assert file.read_bytes() == before
    assert sorted(p.name for p in file.parent.iterdir()) == [f"toy_00{i}{ending}" for i in range(2)]


def test_labels_that_the_file_format_cannot_hold_are_refused(tmp_path):
    data = toy_dataset(tmp_path / "Dataset701_Toy")
    _, _, properties = data.images().read("toy_000")
    with pytest.raises(NnkdError, match="do not fit"):
        data.spec.write_label_map(np.full((8, 24, 20), 70000), tmp_path / "a.nii.gz", properties)
    assert not (tmp_path / "a.nii.gz").exists()


def test_a_dataset_is_opened_by_id(dataset):
    found = RawDataset.open(701)
    assert found.folder == dataset.folder
    assert found.name == "Dataset701_Toy"
    assert found.label_file("a", "Ts") == dataset.folder / "labelsTs" / "a.nii.gz"


def test_a_lone_volume_for_two_channels_is_refused_before_it_is_read(tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=1, channels=("T1", "T2"))
    (tmp_path / "Dataset701_Toy" / "imagesTr" / "toy_000_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"'toy_000' has 1 image .*names 2 channels \(T1, T2\)"):
        dataset.images().files("toy_000")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "a\tb", "nier\u202e", "x" * 201])
def test_names_that_cannot_be_shown_are_refused(tmp_path, name):
    for labels, channel in (({"background": 0, name: 1}, "CT"), ({"background": 0, "liver": 1}, name)):
        content = {"channel_names": {"0": channel}, "labels": labels, "numTraining": 0, "file_ending": ".nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(DatasetError, match="has a label or channel '") as caught:
            DatasetSpec.read(tmp_path / "dataset.json")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["<script>", "$\\frac{1$", "{{ 7*7 }}", "%s", "=1+1", "../../up", "fälle", "x" * 200])
def test_other_names_are_taken(tmp_path, name):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, name: 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert list(DatasetSpec.read(tmp_path / "dataset.json").labels) == [name]
