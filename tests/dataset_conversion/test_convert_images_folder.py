from __future__ import annotations

from pathlib import Path

import made_up
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnkd_dataset_conversion.images_folder import convert, main
from toy import REAL_DATA, needs_real_data

from nnkd.data.dataset import RawDataset
from nnkd.errors import DatasetError, FolderError, SettingError


def grey(file: Path, values=(0, 255), seed: int = 0, **options) -> np.ndarray:
    return made_up.picture(file, np.random.default_rng(seed).choice(values, (20, 24)).astype(np.uint8), **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(2):
        made_up.picture(tmp_path / "photos" / f"p {k}.bmp", seed=k)
        grey(tmp_path / "masks" / f"p {k}.png", (0, 128, 255), seed=k)
    return tmp_path / "photos"


def test_rgb_stays_one_png_and_values_get_names(photos, nnunet_folders):
    values = {128: "cytoplasm", 255: "nucleus"}
    report = convert(photos, "Dataset710_P", masks=photos.parent / "masks", values=values)
    dataset = RawDataset.open(710)
    assert report.done == ["p_0", "p_1"]
    assert dataset.spec.channel_names == ("R", "G", "B")
    assert dataset.spec.labels == {"cytoplasm": (1,), "nucleus": (2,)}
    array, _, _ = dataset.images().read("p_1")
    assert array.shape == (3, 1, 20, 24)
    expected = made_up.picture(photos / "p 1.bmp", seed=1)
    np.testing.assert_array_equal(array[:, 0], expected.transpose(2, 0, 1))
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file("p_1"))
    mask = grey(photos.parent / "masks" / "p 1.png", (0, 128, 255), seed=1)
    np.testing.assert_array_equal(label_map[0], np.where(mask == 255, 2, mask // 128))


def test_a_value_without_name_fails_that_case(photos, nnunet_folders):
    grey(photos.parent / "masks" / "p 0.png", (0, 7, 255))
    masks = photos.parent / "masks"
    report = convert(photos, "Dataset710_P", masks=masks, values={128: "cytoplasm", 255: "nucleus"})
    assert [f.case for f in report.failures] == ["p_0"]
    assert "holds the value 7, but --values names 0, 128, 255" in report.failures[0].reason


def test_zero_can_be_a_label_and_another_value_the_background(tmp_path, nnunet_folders):
    grey(tmp_path / "image" / "1.png", range(256))
    mask = grey(tmp_path / "label" / "1.png")
    arguments = [
        "-d",
        "710",
        "-n",
        "EM",
        "--masks",
        str(tmp_path / "label"),
        "--values",
        "0=membrane",
        "255=background",
    ]
    assert main([str(tmp_path / "image"), *arguments]) == 0
    dataset = RawDataset.open(710)
    assert dataset.spec.channel_names == ("grey",)
    label_map, _, _ = dataset.spec.read_label_map(dataset.label_file("1"))
    np.testing.assert_array_equal(label_map[0], mask == 0)


def test_lossy_masks_need_a_threshold(tmp_path, nnunet_folders):
    truth = np.zeros((32, 32), np.uint8)
    truth[5:20, 7:25] = 255
    made_up.picture(tmp_path / "i" / "a.jpg", np.stack([truth // 2] * 3, -1))
    made_up.picture(tmp_path / "m" / "a.jpg", np.stack([truth] * 3, -1))  # RGB, as many jpg masks are
    options = {"masks": tmp_path / "m", "labels": {"polyp": 1}}
    assert "--threshold" in convert(tmp_path / "i", "Dataset710_P", values={255: "polyp"}, **options).failures[0].reason
    assert convert(tmp_path / "i", "Dataset710_P", threshold=127, **options).done == ["a"]
    dataset = RawDataset.open(710)
    assert dataset.images().files("a")[0].name == "a_0000.png"
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("a"))[0][0], truth > 127)


def test_masks_among_the_images(tmp_path, nnunet_folders):
    for k in (1, 2):
        made_up.picture(tmp_path / "x" / f"{k}.jpg", np.full((20, 24), 9 * k, np.uint8))
        grey(tmp_path / "x" / f"{k}-mask.png")
    convert(tmp_path / "x", "Dataset710_X", masks=tmp_path / "x", mask_name="{case}-mask", values={255: "lung"})
    dataset = RawDataset.open(710)
    assert dataset.images().cases() == ["1", "2"]
    assert dataset.label_file("2").is_file()


def test_same_name_other_ending_needs_a_pattern(tmp_path, nnunet_folders):
    made_up.picture(tmp_path / "x" / "1.bmp")
    grey(tmp_path / "x" / "1.png")
    with pytest.raises(DatasetError, match=r"called 1 \(1\.bmp, 1\.png\).*such as '\*\.bmp'"):
        convert(tmp_path / "x", "Dataset710_X", masks=tmp_path / "x", values={255: "lung"})
    convert(tmp_path / "x", "Dataset710_X", masks=tmp_path / "x", values={255: "lung"}, pattern="*.bmp")
    assert RawDataset.open(710).label_file("1").is_file()


def test_grey_joins_the_channels(photos, nnunet_folders):
    convert(photos, "Dataset710_G", labels={"x": 1}, grey=True)
    array, _, _ = RawDataset.open(710).images().read("p_0")
    expected = made_up.picture(photos / "p 0.bmp", seed=0).mean(-1)
    np.testing.assert_allclose(array[0, 0], expected, atol=0.51)


def test_gif_palettes_and_transparency(tmp_path, nnunet_folders):
    array = grey(tmp_path / "i" / "a.gif", range(256))
    made_up.picture(tmp_path / "i" / "b.png", np.full((20, 24), 9, np.uint8))
    from PIL import Image

    labels = made_up.labels(shape=(20, 24))
    palette = Image.fromarray(labels, "L").convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])  # black, red, green: labels are the indices
    (tmp_path / "m").mkdir()
    palette.save(tmp_path / "m" / "b.png")
    assert not convert(tmp_path / "i", "Dataset710_G", labels={"x": 1, "y": 2}, masks=tmp_path / "m").failures
    dataset = RawDataset.open(710)
    np.testing.assert_array_equal(dataset.images().read("a")[0][0, 0], array)
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("b"))[0][0], labels)


def test_rgba_loses_its_alpha(tmp_path, nnunet_folders):
    made_up.picture(tmp_path / "i" / "a.png", mode="RGBA")
    convert(tmp_path / "i", "Dataset710_A", labels={"x": 1})
    assert RawDataset.open(710).images().read("a")[0].shape == (3, 1, 20, 24)


def test_palettes_of_photographs_are_colours_and_of_masks_labels(tmp_path, nnunet_folders):
    from PIL import Image, ImageOps

    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(colours).quantize(64).save(tmp_path / "i" / "a.png", exif=exif)
    labels = made_up.labels(shape=(20, 24))
    mask = Image.frombytes("P", (24, 20), labels.tobytes())
    mask.putpalette([0, 0, 0, 0, 9, 0, 0, 0, 9])
    mask.save(tmp_path / "m" / "a.png")
    report = convert(tmp_path / "i", "Dataset710_P", labels={"x": 1, "y": 2}, masks=tmp_path / "m")
    assert not report.failures
    dataset = RawDataset.open(710)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "i" / "a.png")).convert("RGB"))
    np.testing.assert_array_equal(dataset.images().read("a")[0][:, 0], np.moveaxis(seen, -1, 0))
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("a"))[0][0], labels)
    assert any("a: it was turned as its orientation tag says" in line for line in report.lines)


def test_a_jpg_called_png_is_written_as_png(tmp_path, nnunet_folders):
    from PIL import Image

    (tmp_path / "i").mkdir()
    Image.fromarray(np.full((20, 24, 3), 99, np.uint8)).save(tmp_path / "i" / "a.png", "JPEG")
    report = convert(tmp_path / "i", "Dataset710_J", labels={"x": 1})
    with Image.open(RawDataset.open(710).images().files("a")[0]) as written:
        assert written.format == "PNG"
    assert "a: it was read as JPEG, which its content is." in report.lines


def test_colours_of_sixteen_bits_are_refused(tmp_path, nnunet_folders):
    import tifffile

    (tmp_path / "i").mkdir()
    for name, kind in (("a", np.uint8), ("b", np.uint16)):
        tifffile.imwrite(tmp_path / "i" / f"{name}.tif", np.zeros((20, 24, 3), kind), photometric="rgb")
    report = convert(tmp_path / "i", "Dataset710_D", labels={"x": 1})
    assert report.done == ["a"]
    assert "has 3 channels of uint16, but nnU-Net reads pngs of one, in 8 or 16 bits" in report.failures[0].reason


def test_lossy_labels_are_said_and_strange_values_advised(tmp_path, nnunet_folders):
    grey(tmp_path / "i" / "a.png", range(256))
    made_up.picture(tmp_path / "m" / "a.jpg", made_up.labels(shape=(20, 24)) * 100)
    report = convert(tmp_path / "i", "Dataset710_L", labels={"x": 100, "y": 200}, masks=tmp_path / "m")
    assert "or cut a lossy mask (jpg) with --threshold" in report.failures[0].reason
    assert "a: it is a JPEG, which changes a label map's values near edges." in report.lines


@pytest.mark.parametrize("pages", [3, 4])
def test_tif_stacks_of_few_pages_become_volumes_too(tmp_path, nnunet_folders, pages):
    import tifffile

    stack = np.random.default_rng(0).integers(0, 256, (pages, 20, 24)).astype(np.uint8)
    (tmp_path / "i").mkdir()
    tifffile.imwrite(tmp_path / "i" / "s.tif", stack, photometric="minisblack")
    convert(tmp_path / "i", "Dataset710_S", labels={"x": 1}, channels=["EM"], spacing=(5, 0.5, 0.25))
    array, grid, _ = RawDataset.open(710).images().read("s")
    np.testing.assert_array_equal(array[0], stack)
    assert grid.spacing == pytest.approx((5, 0.5, 0.25))


def test_tif_stacks_become_volumes(tmp_path, nnunet_folders):
    from skimage import io

    stack = np.random.default_rng(0).integers(0, 60000, (6, 20, 24)).astype(np.uint16)
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    io.imsave(tmp_path / "i" / "s.tif", stack, check_contrast=False)
    io.imsave(tmp_path / "m" / "s.tif", (stack > 30000).astype(np.uint8), check_contrast=False)
    options = {"labels": {"x": 1}, "channels": ["EM"], "masks": tmp_path / "m"}
    with pytest.raises(SettingError, match="--spacing"):
        convert(tmp_path / "i", "Dataset710_S", **options)
    assert not convert(tmp_path / "i", "Dataset710_S", spacing=(5, 0.5, 0.25), **options).failures
    array, grid, _ = RawDataset.open(710).images().read("s")
    np.testing.assert_array_equal(array[0], stack)
    assert grid.spacing == pytest.approx((5, 0.5, 0.25))


def test_float_tif_does_not_fit_a_png(tmp_path, nnunet_folders):
    from skimage import io

    (tmp_path / "i").mkdir()
    io.imsave(tmp_path / "i" / "f.tif", np.random.default_rng(0).random((20, 24)).astype(np.float32))
    report = convert(tmp_path / "i", "Dataset710_F", labels={"x": 1})
    assert "a png holds integers from 0 to 65535" in report.failures[0].reason


def test_volumes_of_several_kinds_and_channels(tmp_path, nnunet_folders):
    for k in range(2):
        made_up.volume(tmp_path / "i" / f"a_{k:04d}.nrrd", seed=k)
        made_up.volume(tmp_path / "i" / f"b_{k:04d}.nii.gz", seed=k)
    made_up.volume(tmp_path / "m" / "a.nii.gz", made_up.labels())
    made_up.volume(tmp_path / "m" / "lonely.nii.gz", made_up.labels())
    options = {"labels": {"x": 1, "y": 2}, "masks": tmp_path / "m"}
    with pytest.raises(DatasetError, match="Give --channels CT"):
        convert(tmp_path / "i", "Dataset710_V", **options)
    report = convert(tmp_path / "i", "Dataset710_V", channels=["T1", "T2"], **options)
    assert [(f.case, f.reason) for f in report.failures] == [("lonely", "It is a mask without image.")]
    array, _, _ = RawDataset.open(710).images().read("a")
    np.testing.assert_array_equal(array, RawDataset.open(710).images().read("b")[0])


def test_test_images(photos, nnunet_folders, tmp_path):
    made_up.picture(tmp_path / "test" / "t.png")
    grey(tmp_path / "test_masks" / "t.png")
    convert(photos, "Dataset710_T", labels={"x": 1}, values={255: "x"}, test=tmp_path / "test",
            test_masks=tmp_path / "test_masks")  # fmt: skip
    dataset = RawDataset.open(710)
    assert dataset.label_file("t", "Ts").is_file()
    assert dataset.spec.json["numTraining"] == 2


def test_pictures_and_volumes_are_not_mixed(photos, nnunet_folders):
    made_up.volume(photos / "v.nii.gz")
    with pytest.raises(DatasetError, match="holds volumes"):
        convert(photos, "Dataset710_M", labels={"x": 1})


def test_a_broken_picture_and_a_grey_one_among_rgb(photos, nnunet_folders):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (photos / "empty.png").write_bytes(b"")
    grey(photos / "x-ray.png")
    report = convert(photos, "Dataset710_B", labels={"x": 1})
    reasons = {f.case: f.reason for f in report.failures}
    assert report.done == ["p_0", "p_1"]
    assert "cannot be read" in reasons["broken"]
    assert "is empty" in reasons["empty"]
    assert "has 1 channel, but 3 (R, G, B) are expected" in reasons["x-ray"]


def test_options_that_contradict_each_other(photos, nnunet_folders):
    masks = photos.parent / "masks"
    with pytest.raises(SettingError, match="No label is named"):
        convert(photos, "Dataset710_O")
    with pytest.raises(SettingError, match="one label"):
        convert(photos, "Dataset710_O", labels={"a": 1, "b": 2}, threshold=3)
    with pytest.raises(SettingError, match="but --labels only a"):
        convert(photos, "Dataset710_O", labels={"a": 1}, values={255: "b"})
    with pytest.raises(DatasetError, match="--mask_name"):
        convert(photos, "Dataset710_O", labels={"a": 1}, masks=masks, mask_name="{case}_seg")
    with pytest.raises(FolderError, match="no folder 'nowhere'"):
        convert(photos.parent / "nowhere", "Dataset710_O", labels={"a": 1})


def test_a_folder_without_images(tmp_path, nnunet_folders):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "readme.txt").write_text("nothing here")
    with pytest.raises(FolderError, match="no image and no DICOM series"):
        convert(tmp_path / "e", "Dataset710_E", labels={"x": 1})


REAL = [
    (
        "white_blood_cells",
        "",
        "white_blood_cells",
        ["--pattern", "*.bmp", "--values", "128=cytoplasm", "255=nucleus"],
        300,
    ),
    ("em_membranes", "image", "em_membranes/label", ["--values", "0=membrane", "255=background"], 30),
    ("left_atrium", "images", "left_atrium/labels", ["--labels", "left_atrium", "--channels", "MRI"], 80),
    ("lung_ct_slices", "images", "lung_ct_slices/masks", ["--labels", "lung", "--threshold", "127", "--grey"], 10),
    ("chest_xray", "", "chest_xray", ["--mask_name", "{case}-mask", "--values", "255=lung"], 4),
    ("polyps", "images", "polyps/masks", ["--labels", "polyp", "--threshold", "127"], 5),
]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("folder", "images", "masks", "options", "count"),
    [pytest.param(*row, id=row[0], marks=needs_real_data(row[0])) for row in REAL],
)
def test_real_folders(nnunet_folders, folder, images, masks, options, count):
    arguments = [str(REAL_DATA / folder / images), "-d", "710", "-n", "Real", "--masks", str(REAL_DATA / masks)]
    assert main([*arguments, *options]) == 0
    dataset = RawDataset.open(710)
    assert len(dataset.images().cases()) == count
    for case in dataset.images().cases()[:3]:
        label_map, grid, _ = dataset.spec.read_label_map(dataset.label_file(case))
        assert not grid.difference(dataset.images().read(case)[1])
        assert label_map.any()


@needs_real_data("white_blood_cells")
def test_blood_cells_labels_are_where_they_should_be(nnunet_folders):
    folder = REAL_DATA / "white_blood_cells"
    convert(folder, "Dataset710_W", masks=folder, pattern="00*.bmp", values={128: "cytoplasm", 255: "nucleus"})
    dataset = RawDataset.open(710)
    original = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "001.png")))
    label_map = dataset.spec.read_label_map(dataset.label_file("001"))[0][0]
    np.testing.assert_array_equal(np.array([0, 128, 255])[label_map], original)


def test_channels_are_numbered_once_each(tmp_path, nnunet_folders):
    """T1 twice, as .nii and .nii.gz, would stand in for the T2 that is missing."""
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0000.nii", "c_0001.nii.gz", "c_0002.nii.gz"):
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkInt16), str(tmp_path / "in" / name))
    words = [str(tmp_path / "in"), "-d", "705", "-n", "Two", "--channels", "T1", "T2", "--labels", "l"]
    assert main(words) == 3
    made = nnunet_folders / "nnUNet_raw" / "Dataset705_Two" / "imagesTr"
    assert sorted(f.name for f in made.iterdir()) == ["a_0000.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize("ending", [".img", ".mhd", ".nhdr"])
def test_pairs_of_files_are_one_case(tmp_path, nnunet_folders, ending):
    (tmp_path / "in").mkdir()
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "in" / f"a{ending}"))
    words = [str(tmp_path / "in"), "-d", "706", "-n", "Pairs", "--channels", "CT", "--labels", "l"]
    assert main(words) == 0
    (file,) = (nnunet_folders / "nnUNet_raw" / "Dataset706_Pairs" / "imagesTr").iterdir()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), array)


def test_nifti_2_becomes_what_nnunet_reads(tmp_path, nnunet_folders):
    (tmp_path / "in").mkdir()
    voxels = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    nibabel.save(nibabel.Nifti2Image(voxels, np.diag([1.0, 2, 3, 1])), tmp_path / "in" / "a.nii.gz")
    words = [str(tmp_path / "in"), "-d", "707", "-n", "New", "--channels", "CT", "--labels", "l"]
    assert main(words) == 0
    (file,) = (nnunet_folders / "nnUNet_raw" / "Dataset707_New" / "imagesTr").iterdir()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T, voxels)
    assert np.array_equal(nibabel.load(file).affine, np.diag([1.0, 2, 3, 1]))


def test_a_dataset_that_nnunet_does_not_read_is_mended_as_the_message_advises(tmp_path, nnunet_folders):
    raw = tmp_path / "Dataset001_Old"
    for folder, name in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        (raw / folder).mkdir(parents=True)
        voxels = (np.arange(120) % 2).reshape(6, 5, 4).astype(np.uint8)
        nibabel.save(nibabel.Nifti2Image(voxels, np.eye(4)), raw / folder / f"{name}.nii.gz")
    words = [str(raw / "imagesTr"), "-d", "708", "-n", "Mended", "--masks", str(raw / "labelsTr")]
    assert main([*words, "--channels", "CT", "--labels", "l"]) == 0
    made = RawDataset(nnunet_folders / "nnUNet_raw" / "Dataset708_Mended")
    assert made.images().cases() == ["a"]
    made.spec.reader.check(made.images().files("a")[0])
    assert made.spec.read_label_map(made.label_file("a"))[0].sum() == 60


def test_a_flat_mask_of_a_volume_of_one_slice_gets_the_images_header(tmp_path, nnunet_folders):
    """nnU-Net compares the spacings of both; a file of two axes has no third one."""
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    (tmp_path / "x").mkdir()
    (tmp_path / "m").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 1), np.int16), affine), tmp_path / "x" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5), np.uint8), affine), tmp_path / "m" / "a.nii.gz")
    assert convert(tmp_path / "x", "Dataset710_X", labels={"l": 1}, channels=["CT"], masks=tmp_path / "m").done == ["a"]
    folder = RawDataset.open(710).folder
    image, mask = nibabel.load(folder / "imagesTr" / "a_0000.nii.gz"), nibabel.load(folder / "labelsTr" / "a.nii.gz")
    assert image.shape == mask.shape == (6, 5, 1)
    assert np.array_equal(image.affine, mask.affine)
