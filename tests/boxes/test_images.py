"""nnkd.boxes.images: npz, pictures and volumes as arrays, and label maps written as the same kind."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image, ImageOps

from nnkd.boxes.cases import find_cases
from nnkd.boxes.images import read_image
from nnkd.errors import DatasetError, NnkdError


def image_of(file: Path, slices="axial"):
    return read_image(find_cases(file)[0], slices)


def npz(file: Path, **arrays) -> Path:
    np.savez_compressed(file, **arrays)
    return file


def volume(file: Path, array: np.ndarray, order: str = "LPS") -> Path:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((0.8, 0.9, 2.5))
    made.SetOrigin((10.0, -20.0, 30.0))
    made = sitk.DICOMOrient(made, order)  # its stored array differs, what it shows does not
    sitk.WriteImage(made, str(file))
    return file


GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 7)).astype(np.uint8)


# --- npz ---


def test_a_volume_of_the_challenge(tmp_path):
    found = image_of(npz(tmp_path / "a.npz", imgs=GREY, boxes=[[1, 2, 0, 4, 5, 3]], gts=GREY > 99, spacing=[1, 1, 2]))
    assert (found.flat, found.colour, found.eight_bit) == (False, False, True)
    assert np.array_equal(found.data, GREY)
    assert found.boxes.tolist() == [[1, 2, 0, 4, 5, 3]]
    assert found.reference.shape == GREY.shape
    found.write(GREY // 100, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        assert written.files == ["segs"]
        assert np.array_equal(written["segs"], GREY // 100)


@pytest.mark.parametrize(
    ("shape", "more", "seen"),
    [
        ((6, 7, 3), {"boxes": [[1, 2, 4, 5]]}, (1, 6, 7, 3)),
        ((6, 7), {"boxes": [[1, 2, 4, 5]]}, (1, 6, 7)),
        ((6, 7, 3), {"boxes": [1, 2, 4, 5]}, (1, 6, 7, 3)),
        ((6, 7, 3), {}, (1, 6, 7, 3)),
        ((6, 7, 3), {"boxes": [[0, 0, 1, 2, 4, 5]]}, (6, 7, 3)),  # three voxels wide
        ((6, 7, 3), {"gts": np.ones((6, 7, 3), np.uint8)}, (6, 7, 3)),
        ((6, 7, 3), {"gts": np.ones((6, 7), np.uint8)}, (1, 6, 7, 3)),
        ((1, 7), {}, (1, 1, 7)),
    ],
)
def test_pictures_and_volumes_of_the_challenge(tmp_path, shape, more, seen):
    found = image_of(npz(tmp_path / "a.npz", imgs=np.ones(shape, np.uint8), **more))
    assert found.data.shape == seen
    assert found.flat == (len(seen) == 4 or seen[0] == 1)
    found.write(np.ones(found.shape, np.uint8), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        assert written["segs"].shape == (shape[:2] if found.flat else shape)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"gts": GREY}, "has no 'imgs', but holds gts"),
        ({"imgs": np.array([{"a": 1}], dtype=object)}, "holds pickled objects"),
        ({"imgs": GREY, "boxes": np.array([[1, None]], dtype=object)}, "holds pickled objects"),
        ({"imgs": GREY.astype(np.float32) - 200}, "float32, not all from 0 to 255"),
        ({"imgs": np.full((4, 5), np.nan, np.float32)}, "float32, not all from 0 to 255"),
        ({"imgs": GREY, "gts": np.full(GREY.shape, np.nan)}, "gts of .* without a number"),
        ({"imgs": np.array([["a", "b"]])}, "real numbers are expected"),
        ({"imgs": np.ones((4, 5), complex)}, "complex128, but real numbers are expected"),
        ({"imgs": np.ones((4, 5), [("a", int)])}, "real numbers are expected"),
        ({"imgs": np.uint8(3)}, "the shape \\(\\)"),
        ({"imgs": np.zeros((0, 5), np.uint8)}, "there is no pixel"),
        ({"imgs": np.zeros((4, 5, 6, 3), np.uint8)}, r"a grey volume \(Z, Y, X\) is expected; colour volumes"),
        ({"imgs": GREY, "boxes": [[1, 2, 4, 5]]}, "a volume of the shape .* but its boxes are those of a picture"),
        ({"imgs": GREY, "boxes": [[1, 2, 3]]}, r"have the shape \(1, 3\)"),
    ],
)
def test_what_an_npz_cannot_be(tmp_path, arrays, words):
    with pytest.raises(DatasetError, match=words):
        image_of(npz(tmp_path / "a.npz", **arrays))


def test_a_pickled_key_that_is_not_needed_is_left_alone(tmp_path):
    found = image_of(npz(tmp_path / "a.npz", imgs=GREY, spacing=np.array([None], dtype=object), boxes=np.zeros((0, 6))))
    assert found.boxes.shape == (0, 6)


@pytest.mark.parametrize("content", [b"", b"no npz", b"PK\x03\x04 cut"])
def test_broken_npz(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"'a\.npz' is (empty|broken|no npz)|'a\.npz' holds pickled"):
        image_of(tmp_path / "a.npz")


# --- pictures ---


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".jpg"])
def test_colour_pictures(tmp_path, ending):
    array = np.repeat(np.repeat(GREY[:, :, :3], 8, axis=0), 8, axis=1)
    Image.fromarray(array).save(tmp_path / f"a{ending}")
    found = image_of(tmp_path / f"a{ending}")
    assert (found.flat, found.colour, found.eight_bit) == (True, True, True)
    assert found.data.shape == (1, *array.shape)
    assert ending == ".jpg" or np.array_equal(found.data[0], array)
    target = tmp_path / f"out{find_cases(tmp_path / f'a{ending}')[0].written}"
    label_map = (array[None, ..., 0] // 100).astype(np.uint16)
    found.write(label_map, target)
    assert np.array_equal(np.asarray(Image.open(target)), label_map[0])


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK"])
def test_other_pictures(tmp_path, mode):
    Image.fromarray(GREY[0]).convert(mode).save(tmp_path / "a.tif")
    found = image_of(tmp_path / "a.tif")
    assert found.colour == (mode in ("RGBA", "CMYK"))  # its palette is grey
    assert found.eight_bit
    assert found.shape == (1, 6, 7)


def test_sixteen_bits(tmp_path):
    array = GREY[0].astype(np.uint16) * 200
    Image.fromarray(array).save(tmp_path / "a.png")
    found = image_of(tmp_path / "a.png")
    assert not found.eight_bit
    assert np.array_equal(found.data[0], array)


def test_pages_are_slices(tmp_path):
    first, *rest = (Image.fromarray(page) for page in GREY)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    found = image_of(tmp_path / "a.tif")
    assert not found.flat
    assert np.array_equal(found.data, GREY)
    found.write(GREY // 50, tmp_path / "out.tif")
    assert np.array_equal(image_of(tmp_path / "out.tif").data, GREY // 50)
    first.save(tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(GREY[0, :3])])
    with pytest.raises(DatasetError, match=r"holds 2 images .*, but one picture, or pages of one size"):
        image_of(tmp_path / "b.tif")


def test_palettes_turns_and_sixteen_bits(tmp_path):
    """As the one reader of pictures has them."""
    colours = np.random.default_rng(1).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    made = Image.fromarray(colours).quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    made.save(tmp_path / "a.png", exif=exif)
    found = image_of(tmp_path / "a.png")
    assert found.shape == (1, 7, 6)
    assert np.array_equal(
        found.data[0], np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")).convert("RGB"))
    )
    case = find_cases(tmp_path / "a.png")[0]
    assert read_image(case, label_map=True).data.max() < 16
    tifffile.imwrite(tmp_path / "b.tif", colours.astype(np.uint16), photometric="rgb")
    with pytest.raises(DatasetError, match="has colours of uint16, but 8 bits each"):
        image_of(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", colours, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(DatasetError, match="has 6 channels, but one picture"):
        image_of(tmp_path / "c.tif")


def test_the_spacing_beside_a_stack_goes_along(tmp_path):
    tifffile.imwrite(tmp_path / "s_0000.tif", GREY, photometric="minisblack")
    (tmp_path / "s.json").write_text('{"spacing": [4, 1, 0.5]}')
    image_of(tmp_path / "s_0000.tif").write(GREY // 99, tmp_path / "out" / "s.tif")
    assert (tmp_path / "out" / "s.json").is_file()
    array, properties = Tiff3DIO().read_seg(str(tmp_path / "out" / "s.tif"))
    assert properties["spacing"] == [4, 1, 0.5]
    assert np.array_equal(array[0], GREY // 99)
    (tmp_path / "s.json").write_text('{"s": {"cell": [[1, 1, 3, 3]]}}')  # boxes
    image_of(tmp_path / "s_0000.tif").write(GREY // 99, tmp_path / "second" / "s.tif")
    assert [p.name for p in (tmp_path / "second").iterdir()] == ["s.tif"]


def test_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"^'a\.png' in .* is no picture that can be read\. Convert it"):
        image_of(tmp_path / "a.png")


@pytest.mark.parametrize(("ending", "value"), [(".nrrd", np.nan), (".nii.gz", np.inf), (".mha", -np.inf)])
def test_a_volume_with_a_voxel_without_a_number(tmp_path, ending, value):
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(DatasetError, match=r"holds 1 voxel .*the first at x 3, y 2, z 1 \(from 0\)"):
        image_of(volume(tmp_path / f"a{ending}", array))


def test_a_picture_of_nan(tmp_path):
    Image.fromarray(np.full((4, 5), np.nan, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DatasetError, match=r"'b\.tif' holds 20 voxels without a number"):
        image_of(tmp_path / "b.tif")


# --- volumes ---


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("order", ["LPS", "RAS", "PIR"])
def test_volumes_are_seen_the_same_and_keep_their_geometry(tmp_path, ending, order):
    array = GREY.astype(np.int16) * 5 - 500
    found = image_of(volume(tmp_path / f"a{ending}", array, order))
    assert np.array_equal(found.data, array)
    assert not found.eight_bit
    found.write((GREY // 60).astype(np.uint16), tmp_path / f"out{ending}")
    before, after = (sitk.ReadImage(str(tmp_path / f"{name}{ending}")) for name in ("a", "out"))
    for what in ("Size", "Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(getattr(before, f"Get{what}")(), getattr(after, f"Get{what}")(), atol=1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(after, "LPS")), GREY // 60)


def test_stored_slices_are_left_as_they_are(tmp_path):
    file = volume(tmp_path / "a.nrrd", GREY, "PIR")
    found = image_of(file, "stored")
    assert found.orientation is None
    assert np.array_equal(found.data, sitk.GetArrayFromImage(sitk.ReadImage(str(file))))


def test_a_volume_of_two_axes_is_a_picture(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(GREY[0].astype(np.float64)), str(tmp_path / "a.nrrd"))
    found = image_of(tmp_path / "a.nrrd")
    assert found.flat
    assert found.data.dtype == np.float32
    found.write(np.ones((1, 6, 7), np.uint8), tmp_path / "out.nrrd")
    assert sitk.ReadImage(str(tmp_path / "out.nrrd")).GetSize() == (7, 6)


def test_volumes_in_colour_of_four_axes_and_cut_short(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(tmp_path / "a.nii.gz"))
    with pytest.raises(DatasetError, match=r"'a\.nii\.gz' has 3 channels, but a volume of one grey value a voxel"):
        image_of(tmp_path / "a.nii.gz")
    four = sitk.JoinSeries([sitk.GetImageFromArray(GREY)] * 2)
    sitk.WriteImage(four, str(tmp_path / "b.nii.gz"))
    with pytest.raises(DatasetError, match="has 2 channels, but a volume of one grey value"):
        image_of(tmp_path / "b.nii.gz")
    content = gzip.decompress(volume(tmp_path / "c.nii.gz", GREY).read_bytes())
    (tmp_path / "c.nii").write_bytes(content[:-50])
    with pytest.raises(DatasetError, match="is truncated"):
        image_of(tmp_path / "c.nii")
    (tmp_path / "d.mha").write_bytes(b"no volume")
    with pytest.raises(DatasetError, match=r"'d\.mha' in .* cannot be read"):
        image_of(tmp_path / "d.mha")


def test_a_label_map_that_cannot_be_written_leaves_nothing(tmp_path):
    found = image_of(npz(tmp_path / "a.npz", imgs=GREY))

    def full(label_map, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    found.save = full
    with pytest.raises(NnkdError, match="No space left on device"):
        found.write(GREY, tmp_path / "out" / "a.npz")
    assert list((tmp_path / "out").iterdir()) == []
