"""nnkd.data.reading.raw_pictures: datasets of pictures and tif stacks, against tifffile and nnU-Net's own readers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnkd.data.dataset import DatasetSpec, RawDataset, write_dataset_json
from nnkd.data.reading import raw_pictures
from nnkd.data.reading.readers import Reader
from nnkd.errors import DatasetError

RANDOM = np.random.default_rng(0)
STACK = RANDOM.integers(0, 3, (5, 20, 30)).astype(np.uint8)
GREY = {"photometric": "minisblack"}


def dataset_of(folder, stacks, *, beside=True, **more) -> RawDataset:
    """Tif stacks whose label maps are themselves."""
    for k, stack in enumerate(stacks):
        for to, name in (("imagesTr", f"c{k}_0000.tif"), ("labelsTr", f"c{k}.tif")):
            (folder / to).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / to / name, stack, **GREY)
            if beside:
                (folder / to / f"c{k}.json").write_text(json.dumps({"spacing": [4, 0.5, 0.25]}))
    write_dataset_json(folder, ["EM"], {"background": 0, "a": 1, "b": 2}, ".tif", len(stacks), **more)
    return RawDataset(folder)


def test_a_stack_and_its_spacing(tmp_path):
    dataset = dataset_of(tmp_path / "Dataset701_T", [STACK])
    array, grid, properties = dataset.images().read("c0")
    np.testing.assert_array_equal(array[0], STACK)
    assert (grid.spacing, grid.in_world) == ((4, 0.5, 0.25), True)
    label_map, mine, _ = dataset.spec.read_label_map(dataset.label_file("c0"))
    assert not mine.difference(grid)
    dataset.spec.write_label_map(label_map, tmp_path / "out" / "c0.tif", properties)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["c0.json", "c0.tif"]
    again, theirs = Tiff3DIO().read_seg(str(tmp_path / "out" / "c0.tif"))
    np.testing.assert_array_equal(again[0], STACK)
    assert theirs["spacing"] == [4, 0.5, 0.25]


def test_without_images_each_file_says_what_it_is(tmp_path):
    """As in nnUNet_preprocessed, whose dataset.json nnKD_evaluate is given."""
    dataset = dataset_of(tmp_path / "Dataset701_T", [STACK])
    spec = DatasetSpec(dataset.spec.json, "a copy", tmp_path)
    label_map, grid, properties = spec.read_label_map(dataset.label_file("c0"))
    np.testing.assert_array_equal(label_map, STACK)
    assert (grid.spacing, grid.in_world) == ((4, 0.5, 0.25), True)
    spec.write_label_map(label_map, tmp_path / "out" / "a.tif", properties)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), STACK)
    tifffile.imwrite(tmp_path / "flat.tif", STACK[0], **GREY)
    label_map, grid, properties = spec.read_label_map(tmp_path / "flat.tif")
    np.testing.assert_array_equal(label_map, STACK[:1])
    assert not grid.in_world
    spec.write_label_map(label_map, tmp_path / "out" / "b.tif", properties)
    assert not (tmp_path / "out" / "b.json").exists()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "b.tif"), STACK[0])


@pytest.mark.parametrize("pages", [3, 4])
def test_stacks_of_three_and_four_pages_are_no_colours(tmp_path, pages):
    dataset = dataset_of(tmp_path / "Dataset701_T", [STACK[:pages]])
    theirs, _ = NaturalImage2DIO().read_images([str(dataset.images().files("c0")[0])])
    assert theirs.shape == (pages, 1, 20, 30)  # what makes the check needed
    with pytest.raises(DatasetError, match='Put "overwrite_image_reader_writer": "Tiff3DIO" into'):
        dataset.images().read("c0")
    with pytest.raises(DatasetError, match="is a tif stack"):
        dataset.spec.reader.check(dataset.label_file("c0"), is_label_map=True)
    dataset = dataset_of(tmp_path / "Dataset702_T", [STACK[:pages]], overwrite_image_reader_writer="Tiff3DIO")
    array, _, properties = dataset.images().read("c0")
    np.testing.assert_array_equal(array[0], STACK[:pages])
    dataset.spec.write_label_map(STACK[:pages], tmp_path / "a.tif", properties)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        np.testing.assert_array_equal(tif.asarray(), STACK[:pages])


def test_a_spacing_that_is_missing_is_said_and_a_wrong_one_refused(tmp_path, caplog):
    dataset = dataset_of(tmp_path / "Dataset701_T", [STACK], beside=False)
    _, grid, _ = dataset.images().read("c0")
    assert not grid.in_world
    assert "no c0.json beside it gives its spacing, and 1, 1, 1 was taken" in caplog.text
    for wrong in ('{"spacing": [1, 1]}', '{"spacing": [1, 0, 1]}', '{"spacing": null}', "{}", "[1, 1, 1]", "{"):
        (dataset.folder / "imagesTr" / "c0.json").write_text(wrong)
        with pytest.raises(DatasetError, match=r"'c0\.json' in imagesTr must be .* three positive numbers"):
            dataset.images().read("c0")


def test_a_picture_in_colour_is_no_stack(tmp_path):
    dataset = dataset_of(tmp_path / "Dataset701_T", [STACK])
    tifffile.imwrite(tmp_path / "a_0000.tif", np.zeros((20, 30, 3), np.uint8), photometric="rgb")
    with pytest.raises(DatasetError, match="is a picture in colour, but the dataset's others are stacks"):
        dataset.spec.reader.read_images([tmp_path / "a_0000.tif"])


def picture_of(kind: str) -> Image.Image:
    if kind == "palette":
        made = Image.frombytes("P", (30, 20), STACK[0].tobytes())
        made.putpalette([0, 0, 0, 0, 1, 0, 0, 2, 0])  # red, which nnU-Net takes, is 0 everywhere
        return made
    return Image.fromarray(STACK[0]).convert(kind)


@pytest.mark.parametrize("kind", ["palette", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_label_maps_of_which_nnunet_reads_colours(tmp_path, kind, ending):
    if ending == "bmp" and kind == "LA":
        return
    file = tmp_path / f"a.{ending}"
    picture_of(kind).save(file)
    reader = Reader(NaturalImage2DIO())
    if ending == "tif" and kind == "palette":  # of a tif nnU-Net reads the indices
        np.testing.assert_array_equal(reader.read_seg(file)[0][0, 0], STACK[0])
        with pytest.raises(DatasetError, match="has a palette, whose indices nnU-Net takes for grey values"):
            reader.read_images([file])
        return
    for look in (reader.read_seg, lambda f: reader.check(f, is_label_map=True)):
        with pytest.raises(DatasetError, match="but a label map has one value a pixel"):
            look(file)


def test_images_with_a_palette_are_read_in_colour_as_nnunet_reads_them(tmp_path):
    made = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3)).astype(np.uint8)).quantize(64)
    made.save(tmp_path / "a_0000.png")
    array, _ = Reader(NaturalImage2DIO()).read_images([tmp_path / "a_0000.png"])
    np.testing.assert_array_equal(array[:, 0], np.moveaxis(np.asarray(made.convert("RGB")), -1, 0))


def test_colours_of_sixteen_bits_are_said(tmp_path, caplog):
    import SimpleITK as sitk

    deep = sitk.GetImageFromArray(RANDOM.integers(0, 65536, (20, 30, 3)).astype(np.uint16), isVector=True)
    sitk.WriteImage(deep, str(tmp_path / "a_0000.png"))
    Reader(NaturalImage2DIO()).read_images([tmp_path / "a_0000.png"])
    assert "nnU-Net reads 8 of the 16 bits of its colours" in caplog.text


def test_a_sidecar_goes_along(tmp_path):
    dataset = dataset_of(tmp_path / "Dataset701_T", [STACK])
    (image,) = dataset.images().files("c0")
    assert raw_pictures.sidecars(image, label_map=False) == [image.with_name("c0.json")]
    assert raw_pictures.sidecars(dataset.label_file("c0"), True) == [dataset.label_file("c0").with_suffix(".json")]
    assert raw_pictures.sidecars(tmp_path / "c0_0000.nii.gz", False) == []
