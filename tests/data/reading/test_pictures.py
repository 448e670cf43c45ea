"""nnkd.data.reading.pictures, against Pillow's own conversions."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageOps

from nnkd.data.reading import formats, pictures
from nnkd.errors import DatasetError

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = RGB[..., 0]
RAMP = np.stack([np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)] * 3, -1)
LABELS = RANDOM.integers(0, 3, (20, 30)).astype(np.uint8)
COLOURS = [0, 0, 0, 200, 0, 0, 0, 200, 0]


def seen(file) -> np.ndarray:
    """(3, Y, X) as Pillow shows it."""
    return np.moveaxis(np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB")), -1, 0)


def with_palette(labels=LABELS, colours=COLOURS) -> Image.Image:
    made = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    made.putpalette(colours)
    return made


def png(file, depth: int, colour: int, rows: list[bytes], width: int):
    """A png by hand: of bits that no encoder here writes."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


@pytest.mark.parametrize("ending", ["png", "bmp", "gif"])
def test_palettes_are_colours_of_images_and_indices_of_label_maps(tmp_path, ending):
    Image.fromarray(RGB).quantize(64).save(tmp_path / f"p.{ending}")
    image = formats.read(tmp_path / f"p.{ending}")
    assert image.colour
    np.testing.assert_array_equal(image.array[:, 0], seen(tmp_path / f"p.{ending}"))
    with_palette().save(tmp_path / f"m.{ending}")
    label_map = formats.read(tmp_path / f"m.{ending}", label_map=True)
    np.testing.assert_array_equal(label_map.integers("it")[0], LABELS)
    assert not label_map.said


def test_grey_palettes(tmp_path):
    """Of a gif they are its greys, since it has nothing else; of others the indices are labels, and that is said."""
    for ending in ("png", "gif"):
        with_palette(colours=[0, 0, 0, 90, 90, 90, 255, 255, 255]).save(tmp_path / f"m.{ending}")
    greys = np.array([0, 90, 255])[LABELS]
    for file in (tmp_path / "m.png", tmp_path / "m.gif"):
        image = formats.read(file)
        assert not image.colour
        np.testing.assert_array_equal(image.array[0, 0], greys)
    np.testing.assert_array_equal(formats.read(tmp_path / "m.gif", label_map=True).array[0, 0], greys)
    label_map = formats.read(tmp_path / "m.png", label_map=True)
    np.testing.assert_array_equal(label_map.array[0, 0], LABELS)
    assert label_map.said == ("its palette is grey: the palette's indices were taken, not the greys",)


def test_cmyk_is_made_rgb_and_it_is_said(tmp_path):
    Image.fromarray(RAMP).convert("CMYK").save(tmp_path / "p.jpg", quality=100)
    image = formats.read(tmp_path / "p.jpg")
    np.testing.assert_array_equal(image.array[:, 0], seen(tmp_path / "p.jpg"))
    assert image.said == ("CMYK was made RGB, without its colour profile",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_exif_turns_images_and_label_maps(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"p.{ending}", exif=exif)
    for label_map in (False, True):
        image = formats.read(tmp_path / f"p.{ending}", label_map)
        np.testing.assert_array_equal(image.array[:, 0], seen(tmp_path / f"p.{ending}"))
        assert any("it was turned as its orientation tag says" in said for said in image.said) == (orientation > 1)


def test_sixteen_bits_are_kept(tmp_path):
    deep = RANDOM.integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    Image.fromarray(deep[..., 0]).save(tmp_path / "g.png")
    np.testing.assert_array_equal(formats.read(tmp_path / "g.png").array[0, 0], deep[..., 0])
    assert pictures.form_of(tmp_path / "g.png").plain
    rows = [row.astype(">u2").tobytes() for row in deep.reshape(20, -1)]
    image = formats.read(png(tmp_path / "rgba.png", 16, 6, rows, 30))
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(deep[..., :3], -1, 0))
    assert "transparent" in image.said[0]
    assert not pictures.form_of(tmp_path / "rgba.png").plain
    rows = [row.astype(">u2").tobytes() for row in deep[..., :3].reshape(20, -1)]
    image = formats.read(png(tmp_path / "rgb.png", 16, 2, rows, 30))
    assert image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(deep[..., :3], -1, 0))
    assert np.asarray(Image.open(tmp_path / "rgb.png")).dtype == np.uint8  # what makes ours needed
    rows = [row.astype(">u2").tobytes() for row in deep[..., :2].reshape(20, -1)]
    with pytest.raises(DatasetError, match="has 16 bits and transparency"):
        formats.read(png(tmp_path / "la.png", 16, 4, rows, 30))


@pytest.mark.parametrize(("depth", "row", "labels"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])])
def test_labels_of_two_and_four_bits(tmp_path, depth, row, labels):
    file = png(tmp_path / "a.png", depth, 0, [row] * 3, 4)
    np.testing.assert_array_equal(formats.read(file, label_map=True).array[0, 0], [labels] * 3)
    np.testing.assert_array_equal(formats.read(file).array[0, 0], np.asarray(Image.open(file)))
    assert not pictures.form_of(file).plain  # nnU-Net would read other labels


def test_one_bit(tmp_path):
    """As an image black and white, as a label map 0 and 1."""
    Image.fromarray(LABELS > 0).save(tmp_path / "a.png")
    np.testing.assert_array_equal(formats.read(tmp_path / "a.png").array[0, 0], np.where(LABELS > 0, 255, 0))
    np.testing.assert_array_equal(formats.read(tmp_path / "a.png", label_map=True).array[0, 0], LABELS > 0)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_dropped_only_if_there_is_none(tmp_path, mode):
    opaque = Image.fromarray(RGB).convert(mode)
    opaque.save(tmp_path / "a.png")
    stored = np.asarray(opaque)
    channels = [stored[..., k] for k in range(stored.shape[-1] - 1)]
    for label_map in (False, True):
        image = formats.read(tmp_path / "a.png", label_map)
        np.testing.assert_array_equal(image.array[:, 0], channels)
        assert not image.said
    opaque.putalpha(Image.fromarray(GREY))
    opaque.save(tmp_path / "a.png")
    image = formats.read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array[:, 0], channels)
    assert image.said == ("some of its pixels are transparent: their colours were taken as they are stored",)
    with pytest.raises(DatasetError, match=r"'a\.png' in .* has transparent pixels, but a label map"):
        formats.read(tmp_path / "a.png", label_map=True)


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (1, 2, 3)), ("P", 1), ("I;16", 7)])
def test_a_transparent_value(tmp_path, mode, key):
    made = (
        with_palette() if mode == "P" else Image.fromarray({"RGB": RGB, "I;16": GREY.astype(np.uint16)}.get(mode, GREY))
    )
    for transparent in (None, key):
        made.save(tmp_path / "a.png", **({} if transparent is None else {"transparency": transparent}))
        plain = formats.read(tmp_path / "a.png")
        there = transparent is not None and mode != "RGB"  # no pixel has that colour
        assert bool(plain.said) == there
        assert not formats.read(tmp_path / "a.png", label_map=True).said
    assert not pictures.form_of(tmp_path / "a.png").plain


def test_animations_are_refused(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    for ending in ("gif", "png"):
        pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
        with pytest.raises(DatasetError, match=r"holds 2 pictures \(an animation\), but one is expected"):
            formats.read(tmp_path / f"a.{ending}")


def test_pictures_behind_a_photograph_are_said(tmp_path):
    made = Image.fromarray(RAMP)
    made.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[made.resize((8, 8))])
    image = formats.read(tmp_path / "a.jpg")
    assert image.array.shape == (3, 1, 20, 30)
    assert image.said == ("it holds 2 pictures: the first was taken",)


def test_content_counts_not_the_name(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", "JPEG")
    image = formats.read(tmp_path / "a.png", label_map=True)
    np.testing.assert_array_equal(image.array[0, 0], np.asarray(Image.open(tmp_path / "a.png")))
    assert image.said == (
        "it was read as JPEG, which its content is",
        "it is a JPEG, which changes a label map's values near edges",
    )
    Image.fromarray(RGB).save(tmp_path / "b.png", "TIFF")
    np.testing.assert_array_equal(formats.read(tmp_path / "b.png").array[:, 0], np.moveaxis(RGB, -1, 0))
    Image.fromarray(RGB).save(tmp_path / "c.png", "PPM")
    with pytest.raises(DatasetError, match=r"'c\.png' in .* is no picture that can be read"):
        formats.read(tmp_path / "c.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "tif"])
def test_what_is_cut_short_is_refused(tmp_path, ending):
    Image.fromarray(GREY if ending == "gif" else RGB).save(tmp_path / f"a.{ending}")
    whole = (tmp_path / f"a.{ending}").read_bytes()
    for share in (0.01, 0.2, 0.6, 0.9):
        (tmp_path / f"b.{ending}").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DatasetError, match=rf"'b\.{ending}' in .*(cannot|truncated|no picture)") as caught:
            formats.read(tmp_path / f"b.{ending}")
        assert str(tmp_path) not in str(caught.value)


def test_too_many_pixels_are_refused(tmp_path):
    file = png(tmp_path / "bomb.png", 1, 0, [b""], 60000)
    content = bytearray(file.read_bytes())
    content[20:24] = struct.pack(">I", 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"'bomb\.png' in .* has more pixels than are read at once"):
        formats.read(file)


def test_what_is_plain_is_read_alike_by_nnunet(tmp_path):
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    sitk.WriteImage(sitk.GetImageFromArray(RGB, isVector=True), str(tmp_path / "rgb.png"))
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / "labels.png"))
    for name in ("rgb.png", "labels.png"):
        assert pictures.form_of(tmp_path / name).plain
        theirs, _ = NaturalImage2DIO().read_images([str(tmp_path / name)])
        np.testing.assert_array_equal(formats.read(tmp_path / name).array, theirs)
    with_palette().save(tmp_path / "palette.png")
    assert not pictures.form_of(tmp_path / "palette.png").plain
