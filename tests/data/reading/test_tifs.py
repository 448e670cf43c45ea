"""nnkd.data.reading.tifs, against tifffile's asarray and Pillow's conversions."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image, ImageOps

from nnkd.data.reading import formats, tifs
from nnkd.errors import DatasetError

RANDOM = np.random.default_rng(0)
STACK = RANDOM.integers(0, 256, (6, 20, 30)).astype(np.uint8)
RGB = RANDOM.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = {"photometric": "minisblack"}


@pytest.mark.parametrize("pages", [2, 3, 4, 5])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32, np.float16])
def test_pages_are_slices_however_many(tmp_path, pages, big, kind):
    stack = STACK[:pages].astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stack, bigtiff=big, compression="zlib", **GREY)
    image = formats.read(tmp_path / "a.tif")
    assert (image.flat, image.colour, image.said) == (False, False, ())
    assert tifs.look(tmp_path / "a.tif").stack
    np.testing.assert_array_equal(image.array, stack[None])


def test_pages_that_pillow_wrote(tmp_path):
    first, *rest = (Image.fromarray(page) for page in STACK[:3])
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif").array[0], STACK[:3])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_colours(tmp_path, kind, planar, compression):
    colours = RGB.astype(kind) * kind(1 if kind is np.uint8 else 250)
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression=compression)
    image = formats.read(tmp_path / "a.tif")
    assert image.colour
    assert not tifs.look(tmp_path / "a.tif").stack
    assert image.array.dtype == kind
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(colours, -1, 0))


def test_palettes_are_colours_of_images_and_indices_of_label_maps(tmp_path):
    made = Image.fromarray(RGB).quantize(64)
    made.save(tmp_path / "a.tif")
    image = formats.read(tmp_path / "a.tif")
    assert image.colour
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(np.asarray(made.convert("RGB")), -1, 0))
    label_map = formats.read(tmp_path / "a.tif", label_map=True)
    np.testing.assert_array_equal(label_map.array[0, 0], tifffile.imread(tmp_path / "a.tif"))
    colours = RANDOM.integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", STACK, photometric="palette", colormap=colours)
    image = formats.read(tmp_path / "b.tif")
    np.testing.assert_array_equal(image.array[0], STACK)
    assert image.said == ("its values were taken, not the colours of its palette",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_turns(tmp_path, orientation):
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", extratags=tag)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(turned))
    image = formats.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(wanted, -1, 0))
    assert bool(image.said) == (orientation > 1)


@pytest.mark.parametrize("mode", ["CMYK", "1", "LA", "L"])
def test_other_modes(tmp_path, mode):
    made = Image.fromarray(RGB).convert(mode)
    made.save(tmp_path / "a.tif")
    wanted = np.asarray(made.convert("RGB" if mode == "CMYK" else "L"))
    image = formats.read(tmp_path / "a.tif")
    assert image.colour == (mode == "CMYK")
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(np.atleast_3d(wanted), -1, 0))
    label_map = formats.read(tmp_path / "a.tif", label_map=True)
    if mode == "1":
        np.testing.assert_array_equal(label_map.array[0, 0], wanted > 0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_where_zero_is_white(tmp_path, kind):
    grey = STACK[0].astype(kind) * kind(1 if kind is np.uint8 else 250)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    image = formats.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0, 0], np.iinfo(kind).max - grey)
    assert image.said == ("its zero is white: it was inverted",)
    with pytest.raises(DatasetError, match=r"In 'a\.tif' in .* zero is white, so that its values may be upside down"):
        formats.read(tmp_path / "a.tif", label_map=True)


def test_a_drawing_of_one_bit_whose_zero_is_white(tmp_path):
    drawn = STACK[0] > 99
    tifffile.imwrite(tmp_path / "a.tif", drawn, photometric="miniswhite")
    white = np.asarray(Image.open(tmp_path / "a.tif").convert("L")) > 0
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif", label_map=True).array[0, 0], white)
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif").array[0, 0], white * 255)


def test_transparency(tmp_path):
    alpha = np.full((20, 30, 1), 255, np.uint8)
    for extra, words in (("unassalpha", ""), ("unspecified", "a fourth channel of unknown meaning")):
        tifffile.imwrite(tmp_path / "a.tif", np.dstack([RGB, alpha]), photometric="rgb", extrasamples=[extra])
        image = formats.read(tmp_path / "a.tif")
        np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(RGB, -1, 0))
        assert not image.said
        tifffile.imwrite(tmp_path / "a.tif", np.dstack([RGB, alpha // 2]), photometric="rgb", extrasamples=[extra])
        if words:
            with pytest.raises(DatasetError, match=words):
                formats.read(tmp_path / "a.tif")
        else:
            assert "some of its pixels are transparent" in formats.read(tmp_path / "a.tif").said[0]
        with pytest.raises(DatasetError, match="transparent pixels, but a label map"):
            formats.read(tmp_path / "a.tif", label_map=True)


@pytest.mark.parametrize("axes", ["ZYX", "CYX", "ZCYX", "ZYXS", "TYX", "TZYX", "TZCYX", "YXS"])
def test_hyperstacks_of_imagej(tmp_path, axes):
    """By their axes, not by how many there are: three of each."""
    shape = [{"Y": 20, "X": 30}.get(axis, 3) for axis in axes]
    array = RANDOM.integers(0, 256, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": axes})
    check_axes(tmp_path / "a.tif", array, axes)


@pytest.mark.parametrize("axes", ["ZYX", "CYX", "CZYX", "TYX", "TCZYX"])
def test_ome(tmp_path, axes):
    shape = [{"Y": 20, "X": 30}.get(axis, 3) for axis in axes]
    array = RANDOM.integers(0, 256, shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, ome=True, metadata={"axes": axes}, **GREY)
    check_axes(tmp_path / "a.tif", array, axes)


def check_axes(file, array, axes):
    if "T" in axes or axes == "ZYXS":
        words = "3 time points" if "T" in axes else "3 slices x 3 colours"
        with pytest.raises(DatasetError, match=rf"{words}.*, but one picture, or grey pages of one size are expected"):
            formats.read(file)
        return
    image = formats.read(file)
    assert image.colour == ("S" in axes)
    wanted = tifffile.imread(file)
    np.testing.assert_array_equal(wanted, array)
    letters = axes.replace("S", "C")
    wanted = wanted.reshape(*wanted.shape, *(1,) * (4 - len(letters)))
    letters += "".join(axis for axis in "CZ" if axis not in letters)
    np.testing.assert_array_equal(image.array, wanted.transpose([letters.index(axis) for axis in "CZYX"]))
    assert image.flat == ("Z" not in axes)


def test_several_images_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for array in (STACK, STACK[:2]):
            writer.write(array, metadata={"axes": "ZYX"}, **GREY)
    with pytest.raises(DatasetError, match=r"holds 2 images \(6 x 20 x 30, 2 x 20 x 30\), but one"):
        formats.read(tmp_path / "a.ome.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 3, 20, 30), np.uint8), **GREY)
    with pytest.raises(DatasetError, match="2 pages x 3 pages, but one picture"):
        formats.read(tmp_path / "b.tif")


def test_a_preview_is_passed_over_and_it_is_said(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    image = formats.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(RGB, -1, 0))
    assert image.said == ("smaller copies or masks in the file were passed over",)


def test_parts_in_other_files_are_refused(tmp_path):
    """An OME file of a set: tifffile would fill what is missing with zeros."""
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK[:2], metadata={"axes": "ZYX"}, **GREY)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        described = tif.ome_metadata
    wider = described.replace('SizeZ="2"', 'SizeZ="4"').replace(
        "</Pixels>",
        '<TiffData FirstZ="2" IFD="0" PlaneCount="2"><UUID FileName="b.ome.tif">urn:uuid:1</UUID></TiffData></Pixels>',
    )
    assert wider != described
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK[:2], description=wider, metadata=None, **GREY)
    with pytest.raises(DatasetError, match=r"Parts of 'a\.ome\.tif' in .* lie in other files"):
        formats.read(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("by_pillow", [False, True])
def test_stacks_cut_short_are_refused(tmp_path, compression, by_pillow):
    if by_pillow:
        first, *rest = (Image.fromarray(page) for page in STACK)
        first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    else:
        tifffile.imwrite(tmp_path / "a.tif", STACK, compression=compression, **GREY)
    whole = (tmp_path / "a.tif").read_bytes()
    for share in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        (tmp_path / "b.tif").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DatasetError, match=r"'b\.tif' in "):
            formats.read(tmp_path / "b.tif")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.integers(0, 400), some.binary(min_size=1, max_size=4))
def test_broken_files_end_in_one_sentence(tmp_path, place, content):
    tifffile.imwrite(tmp_path / "a.tif", STACK[:2], compression="zlib", **GREY)
    broken = bytearray((tmp_path / "a.tif").read_bytes())
    broken[place : place + len(content)] = content
    (tmp_path / "a.tif").write_bytes(broken)
    try:
        shape = formats.read(tmp_path / "a.tif").array.shape
    except DatasetError as error:
        shape, said = (), str(error)
    assert len(shape) == 4 or "'a.tif'" in said


def test_too_many_pixels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], compression="zlib", **GREY)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        for name in ("ImageWidth", "ImageLength"):
            tif.pages[0].tags[name].overwrite(60000)
    with pytest.raises(DatasetError, match="more pixels than are read at once"):
        formats.read(tmp_path / "a.tif")
