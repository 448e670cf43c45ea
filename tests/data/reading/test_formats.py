"""nnkd.data.reading.formats: files as other programs write them, against nibabel's and ITK's own words."""

from __future__ import annotations

import gzip
import logging
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnkd.data.reading import formats
from nnkd.data.reading.formats import read, write
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.image import Image, images_among
from nnkd.data.reading.nifti import copy_header, read_header
from nnkd.data.reading.readers import Reader
from nnkd.errors import DatasetError, GeometryError

AFFINE = np.array([[-1.5, 0, 0, 30], [0, 2.0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -1, 1, 1])
VOXELS = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype(np.int16)  # x, y, z


def nifti(file: Path, voxels=VOXELS, affine=AFFINE, **raw) -> Path:
    """A file with bytes of the header exchanged: offset="format:values"."""
    nibabel.save(nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype), file)
    content = bytearray(file.read_bytes())
    for offset, packed in raw.items():
        at = int(offset[1:])
        content[at : at + len(packed)] = packed
    file.write_bytes(content)
    return file


# --- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8", ">i2", ">f4", ">f8"])
@pytest.mark.parametrize("slope", [(0.37, -1.5), (np.nan, np.nan), (1.0, 0.0), (1.0, 0.5), (0.0, 3.0)])
def test_values_are_what_nibabel_says(tmp_path, kind, slope):
    """(0, 3): NIfTI has no scaling then; ITK adds 3."""
    header = nibabel.Nifti1Header(endianness=">" if kind[0] == ">" else "<")
    header.set_data_dtype(kind)
    file = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(VOXELS.astype(kind), AFFINE, header, dtype=np.dtype(kind)), file)
    content = bytearray(file.read_bytes())
    content[112:120] = struct.pack(f"{'>' if kind[0] == '>' else '<'}2f", *slope)
    file.write_bytes(content)
    expected = nibabel.load(file).get_fdata()
    image = read(file)
    assert image.array.dtype.isnative
    np.testing.assert_allclose(image.array[0].T, expected, rtol=1e-6, atol=1e-5)
    array, _ = Reader(SimpleITKIO()).read_images([file])
    np.testing.assert_allclose(array[0].T, expected, rtol=1e-6, atol=1e-5)
    write(image, tmp_path / "b.nii.gz")  # ITK takes any of them
    np.testing.assert_allclose(nibabel.load(tmp_path / "b.nii.gz").get_fdata(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("voxels", "says"),
    [
        (VOXELS.astype(np.complex64), "complex numbers.*Save its magnitude"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "is in colour"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]), "is in colour"),
        (np.zeros((4, 5, 6, 2, 3), np.int16), "5 axes, but at most four"),
    ],
)
def test_what_is_no_image_of_one_value_a_voxel(tmp_path, voxels, says):
    file = nifti(tmp_path / "a.nii.gz", voxels)
    for look in (read, lambda file: Reader(SimpleITKIO()).read_images([file])):
        with pytest.raises(DatasetError, match=says):
            look(file)


@pytest.mark.parametrize(
    ("voxels", "kind"),
    [(np.array([[True, False]]), "uint8"), (np.ones((2, 2), np.float16), "float32"), (np.ones((2, 2), ">i2"), "int16")],
)
def test_types_that_formats_do_not_share(tmp_path, voxels, kind):
    found = formats._checked(voxels, tmp_path / "a")
    assert found.dtype == kind
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, voxels)


@pytest.mark.parametrize(
    ("voxels", "says"),
    [
        (np.zeros((2, 2), complex), "complex numbers"),
        (np.zeros((0, 2)), "holds no voxel"),
        (np.zeros(2, [("R", "u1"), ("G", "u1")]), "colour"),
    ],
)
def test_types_that_are_no_images(tmp_path, voxels, says):
    with pytest.raises(DatasetError, match=says):
        formats._checked(voxels, tmp_path / "a")


def test_files_that_are_not_there_and_axes_that_are_too_many(tmp_path):
    with pytest.raises(DatasetError, match=r"'none.mha' in .* is missing"):
        read(tmp_path / "none.mha")
    sitk.WriteImage(sitk.Image([2, 3, 4, 5], sitk.sitkVectorUInt8, 3), str(tmp_path / "a.mha"))
    with pytest.raises(DatasetError, match="5 axes"):
        read(tmp_path / "a.mha")


def test_a_nifti_that_is_none(tmp_path):
    (tmp_path / "a.nii").write_bytes(bytes(400))
    with pytest.raises(DatasetError, match=r"'a\.nii' in "):
        read(tmp_path / "a.nii")


def test_a_header_is_copied_into_a_file_that_is_not_compressed(tmp_path):
    image = nifti(tmp_path / "image.nii")
    elsewhere = np.diag([1.0, 1.0, 1.0, 1.0])
    copy_header(nifti(tmp_path / "mask.nii", affine=elsewhere), read_header(image).stored)
    found = nibabel.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.asarray(found.dataobj), VOXELS)
    np.testing.assert_allclose(found.affine, AFFINE)


def test_axes_of_freesurfer_that_are_not_at_right_angles(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 1] = 1.0
    nibabel.save(nibabel.MGHImage(VOXELS, sheared), tmp_path / "a.mgz")
    with pytest.raises(GeometryError, match="right angles"):
        read(tmp_path / "a.mgz")


def test_colours_in_nrrd_are_refused_and_channels_are_not(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 9, (3, 4, 5, 3)).astype(np.uint8)
    for ending in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(tmp_path / f"a{ending}"))
        assert np.array_equal(read(tmp_path / f"a{ending}").array, np.moveaxis(pixels, -1, 0))
        array, _ = Reader(SimpleITKIO()).read_images([tmp_path / f"a{ending}"])  # nnU-Net alone: (Z, Y, X, C)
        assert np.array_equal(array, np.moveaxis(pixels, -1, 0))
        with pytest.raises(GeometryError, match=r"its channels are not its fourth axis.*nnKD_convert_dataset"):
            Reader(SimpleITKIO()).check(tmp_path / f"a{ending}")
    content = (tmp_path / "a.nrrd").read_bytes().replace(b"kinds: vector", b"kinds: RGB-color")
    (tmp_path / "b.nrrd").write_bytes(content)
    with pytest.raises(DatasetError, match="is in colour"):
        read(tmp_path / "b.nrrd")


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1), (4, 5, 6, 2), (4, 5, 6, 1, 3), (4, 5, 1), (4, 5)])
@pytest.mark.parametrize("intent", ["none", "vector"])
def test_axes_of_one_behind_space_are_none(tmp_path, shape, intent):
    voxels = np.random.default_rng(0).integers(0, 9, shape).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, AFFINE)
    image.header.set_intent(intent)
    nibabel.save(image, tmp_path / "a.nii.gz")
    channels = max(1, *shape[3:]) if len(shape) > 3 else 1
    expected = np.moveaxis(voxels.reshape(*(*shape, 1)[:3], channels), -1, 0).transpose(0, 3, 2, 1)
    found = read(tmp_path / "a.nii.gz")
    assert np.array_equal(found.array, expected)
    assert found.flat == (len(shape) == 2)
    reader = Reader(SimpleITKIO())
    array, properties = reader.read_images([tmp_path / "a.nii.gz"])
    assert np.array_equal(array, expected)
    if len(shape) > 2:
        np.testing.assert_allclose(Grid.from_properties(array.shape[1:], properties).affine, LPS @ AFFINE, atol=1e-6)
    label_map = (expected[0] % 3).astype(np.uint8)
    reader.write_seg(label_map, tmp_path / "b.nii.gz", properties)
    np.testing.assert_array_equal(
        np.asanyarray(nibabel.load(tmp_path / "b.nii.gz").dataobj).T.squeeze(), label_map.squeeze()
    )
    np.testing.assert_allclose(nibabel.load(tmp_path / "b.nii.gz").affine, nibabel.load(tmp_path / "a.nii.gz").affine)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("channels", [1, 2])
def test_four_axes_of_itk(tmp_path, ending, channels):
    volumes = np.random.default_rng(0).integers(0, 9, (channels, 3, 4, 5)).astype(np.int16)
    parts = [sitk.GetImageFromArray(v) for v in volumes]
    for part in parts:
        part.SetSpacing((0.7, 0.8, 2.5))
        part.SetOrigin((-11.0, 12.0, 13.0))
        part.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
    sitk.WriteImage(sitk.JoinSeries(parts), str(tmp_path / f"a{ending}"))
    found = read(tmp_path / f"a{ending}")
    assert np.array_equal(found.array, volumes)
    array, properties = Reader(SimpleITKIO()).read_images([tmp_path / f"a{ending}"])
    assert np.array_equal(array, volumes)
    for grid in (found.grid, Grid.from_properties(array.shape[1:], properties)):
        for voxel in ((0, 0, 0), (4, 3, 2), (1, 0, 2)):
            place = (grid.affine @ (*voxel, 1))[:3]
            np.testing.assert_allclose(place, parts[0].TransformIndexToPhysicalPoint(voxel), atol=1e-9)
    Reader(SimpleITKIO()).write_seg(volumes[0], tmp_path / f"b{ending}", properties)
    written = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    assert written.TransformIndexToPhysicalPoint((4, 3, 2)) == parts[0].TransformIndexToPhysicalPoint((4, 3, 2))


# --- other files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nifti2", "pair", "pair2", "mgz", "mgh"])
def test_nibabels_other_files(tmp_path, kind):
    new = {"nifti2": nibabel.Nifti2Image, "pair": nibabel.Nifti1Pair, "pair2": nibabel.Nifti2Pair}
    ending = {"nifti2": ".nii.gz", "mgz": ".mgz", "mgh": ".mgh"}.get(kind, ".img")
    image = new.get(kind, nibabel.MGHImage)(VOXELS.astype(np.float32), AFFINE)
    nibabel.save(image, tmp_path / f"a{ending}")
    (file,) = images_among(sorted(tmp_path.iterdir()))
    found = read(file)
    assert np.array_equal(found.array[0].T, VOXELS)
    np.testing.assert_allclose(found.grid.affine, LPS @ AFFINE, atol=1e-5)
    write(found, tmp_path / "b.nii.gz")
    written = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    np.testing.assert_allclose(
        written.TransformIndexToPhysicalPoint((3, 4, 5)), (LPS @ AFFINE @ (3, 4, 5, 1))[:3], atol=1e-4
    )
    if kind == "nifti2":
        array, _ = Reader(SimpleITKIO()).read_images([file])  # ITK alone cannot
        assert np.array_equal(array[0].T, VOXELS)
        assert not found.as_is
        with pytest.raises(GeometryError, match=r"as it is meant: it is NIfTI-2. Convert the folder"):
            Reader(SimpleITKIO()).check(file)


def test_half_a_pair_and_a_cut_one(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(VOXELS, AFFINE), tmp_path / "a.img")
    content = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(content[:-10])
    with pytest.raises(DatasetError, match="is truncated: 230 of 240 bytes"):
        read(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(DatasetError, match=r"'a.hdr' in .* is one half of a pair, and 'a.img' is not there"):
        read(tmp_path / "a.hdr")
    nibabel.save(nibabel.Spm2AnalyzeImage(VOXELS, AFFINE), tmp_path / "b.img")
    with pytest.raises(DatasetError, match="Analyze file or the like, not NIfTI: which side is left"):
        read(tmp_path / "b.img")


def test_data_files_are_no_images(tmp_path):
    for name in ("a.mhd", "b.nhdr"):
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name))
    for header, data, word in (("c.mhd", "c.img", b"ElementDataFile = "), ("d.nhdr", "d.nrrd", b"data file: ")):
        content = (tmp_path / {"c": "a.mhd", "d": "b.nhdr"}[header[0]]).read_bytes()
        before = content.rpartition(word.strip().split(b"=")[0].strip())[0]
        (tmp_path / header).write_bytes(before + word + data.encode() + b"\n")
        (tmp_path / data).write_bytes(VOXELS.tobytes())
    nibabel.save(nibabel.Nifti1Pair(VOXELS, AFFINE), tmp_path / "e.img")
    assert [f.name for f in images_among(sorted(tmp_path.iterdir()))] == ["a.mhd", "b.nhdr", "c.mhd", "d.nhdr", "e.hdr"]


def layered(file: Path, layers: np.ndarray, segments) -> Path:
    """What 3D Slicer writes. layers: (L, Z, Y, X) uint8."""
    count, z, y, x = layers.shape
    lines = ["NRRD0004", "type: unsigned char", "dimension: 4", "space: left-posterior-superior",
             f"sizes: {count} {x} {y} {z}", "space directions: none (1.5,0,0) (0,2,0) (0,0,3)",
             "kinds: list domain domain domain", "encoding: gzip", "space origin: (1,2,3)"]  # fmt: skip
    for k, (name, layer, value) in enumerate(segments):
        lines += [f"Segment{k}_{key}:={v}" for key, v in (("Name", name), ("Layer", layer), ("LabelValue", value))]
    text = "\n".join(lines) + "\n\n"
    file.write_bytes(text.encode() + gzip.compress(layers.transpose(1, 2, 3, 0).tobytes()))
    return file


def test_segmentations_in_layers(tmp_path):
    layers = np.zeros((2, 3, 4, 5), np.uint8)
    layers[0, 0], layers[1, 1] = 1, 2
    file = layered(tmp_path / "a.seg.nrrd", layers, [("liver", 0, 1), ("tumour", 1, 2)])
    found = read(file)
    assert np.array_equal(found.integers("it"), layers.max(0))
    np.testing.assert_allclose(found.grid.affine @ (4, 3, 2, 1), (7.0, 8.0, 9.0, 1.0))
    layers[1][layers[1] > 0] = 1
    with pytest.raises(DatasetError, match="segments 'liver' and 'tumour', both with the value 1"):
        read(layered(file, layers, [("liver", 0, 1), ("tumour", 1, 1)]))
    layers[1, 0, 0, 0] = 2
    with pytest.raises(DatasetError, match=r"segments that overlap.*as a label map"):
        read(layered(file, layers, [("liver", 0, 1), ("tumour", 1, 2)]))


# --- where it lies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e3), ("mm", 1.0), ("micron", 1e-3), ("unknown", 1.0)])
def test_units_become_millimetres_as_itk_has_it(tmp_path, unit, scale):
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = read(tmp_path / "a.nii.gz")
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    for voxel in ((0, 0, 0), (3, 4, 5)):
        place = (found.grid.affine @ (*voxel, 1))[:3]
        np.testing.assert_allclose(place, itk.TransformIndexToPhysicalPoint(voxel), rtol=1e-6)
        np.testing.assert_allclose(place, scale * (LPS @ AFFINE @ (*voxel, 1))[:3], rtol=1e-6)
    assert bool(found.said) == (scale != 1.0)
    assert found.as_is == (scale == 1.0)


@pytest.mark.parametrize(
    ("exchanged", "says"),
    [
        ({"b80": struct.pack("<f", 0.0), "b252": struct.pack("<2h", 1, 0)}, "does not say its spacing along x"),
        ({"b80": struct.pack("<f", np.nan), "b252": struct.pack("<2h", 0, 0)}, "does not say its spacing along x"),
        ({"b256": struct.pack("<3f", 0.9, 0.9, 0.9), "b252": struct.pack("<2h", 1, 0)}, "its qform is no rotation"),
        ({"b280": struct.pack("<3f", 0, 0, 0), "b252": struct.pack("<2h", 0, 1)}, "lies nowhere: Its axes span no"),
        ({"b280": struct.pack("<f", np.nan), "b252": struct.pack("<2h", 0, 1)}, "lies nowhere: Its axes span no"),
    ],
)
def test_headers_that_say_nothing_are_refused(tmp_path, exchanged, says):
    file = nifti(tmp_path / "a.nii", **exchanged)
    for look in (read, lambda file: Reader(SimpleITKIO()).read_images([file])):
        with pytest.raises(GeometryError, match=says):
            look(file)


@pytest.mark.parametrize(
    ("exchanged", "says"),
    [
        ({"b80": struct.pack("<f", 0.0)}, "of different spacings"),
        ({"b80": struct.pack("<f", 4.0)}, "of different spacings"),
        (
            {"b256": struct.pack("<3f", 0.9, 0.9, 0.9), "b252": struct.pack("<2h", 1, 1)},
            "qform is no rotation: the sform",
        ),
    ],
)
def test_an_sform_is_enough(tmp_path, exchanged, says, caplog):
    """ITK takes the spacing of pixdim."""
    file = nifti(tmp_path / "a.nii", **{"b252": struct.pack("<2h", 0, 1), **exchanged})
    found = read(file)
    np.testing.assert_allclose(found.grid.affine, LPS @ AFFINE, atol=1e-5)
    assert any(says in sentence for sentence in found.said)
    assert not found.as_is
    caplog.set_level(logging.WARNING, "nnkd")
    array, properties = Reader(SimpleITKIO()).read_images([file])
    np.testing.assert_allclose(Grid.from_properties(array.shape[1:], properties).affine, LPS @ AFFINE, atol=1e-5)
    assert says in caplog.text


def test_no_form_at_all_is_said(tmp_path):
    file = nifti(tmp_path / "a.nii", b252=struct.pack("<2h", 0, 0))
    found = read(file)
    itk = sitk.ReadImage(str(file))
    np.testing.assert_allclose((found.grid.affine @ (3, 4, 5, 1))[:3], itk.TransformIndexToPhysicalPoint((3, 4, 5)))
    assert not found.known
    assert "which side is left" in found.said[0]


# --- what is written -------------------------------------------------------------------------------------------


def test_a_copied_header_leaves_label_maps_small(tmp_path):
    label_map = np.zeros((1, 60, 100, 100), np.uint8)
    z, y, x = np.mgrid[:60, :100, :100]
    label_map[0][(z - 30) ** 2 + (y - 50) ** 2 + (x - 50) ** 2 < 400] = 1
    file = nifti(tmp_path / "a.nii.gz", np.zeros((100, 100, 60), np.int16))
    write(Image(label_map, read(file).grid), tmp_path / "itk.nii.gz")
    write(Image(label_map, read(file).grid, header=read_header(file).stored), tmp_path / "own.nii.gz")
    image = nibabel.load(tmp_path / "own.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj).T, label_map[0])
    assert image.header["sform_code"] == nibabel.load(file).header["sform_code"] == 2
    assert (tmp_path / "own.nii.gz").stat().st_size < 1.3 * (tmp_path / "itk.nii.gz").stat().st_size
    before = (tmp_path / "own.nii.gz").stat().st_mtime_ns
    copy_header(tmp_path / "own.nii.gz", read_header(file).stored)  # nothing to do
    assert (tmp_path / "own.nii.gz").stat().st_mtime_ns == before


# --- headers and names that programs trip over -------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_names_that_are_no_text_end_no_process(tmp_path, ending):
    """ITK aborts the interpreter at such a name."""
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / f"a{ending}"))
    file = tmp_path / os.fsdecode(b"M\xfcller" + ending.encode())
    os.rename(tmp_path / f"a{ending}", file)
    with pytest.raises(DatasetError, match=r"'M\?ller.*no UTF-8.*Rename it"):
        read(file)
    with pytest.raises(DatasetError, match="no UTF-8"):
        write(read_back(tmp_path), file)


def read_back(folder: Path) -> Image:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(folder / "b.mha"))
    return read(folder / "b.mha")


def test_a_slope_with_an_intercept_that_is_no_number(tmp_path):
    file = nifti(tmp_path / "a.nii", _112=struct.pack("<2f", 2.0, np.nan))
    with pytest.raises(DatasetError, match=r"cannot be read .*intercept"):
        read(file)


@pytest.mark.parametrize(
    ("space", "known"),
    [("space: left-posterior-superior", True), ("space: right-anterior-superior", True), ("space: scanner-xyz", False),
     ("space dimension: 3", False), ("", False)],
)  # fmt: skip
def test_nrrd_that_does_not_say_which_side_is_left(tmp_path, space, known):
    place = "space directions: (2,0,0) (0,2,0) (0,0,3)\nspace origin: (1,2,3)" if space else "spacings: 2 2 3"
    x, y, z = VOXELS.shape
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {x} {y} {z}\nendian: little\nencoding: raw\n{space}\n{place}\n"
    (tmp_path / "a.nrrd").write_bytes(head.replace("\n\n", "\n").encode() + b"\n" + VOXELS.tobytes("F"))
    image = read(tmp_path / "a.nrrd")
    assert np.array_equal(image.array[0].T, VOXELS)
    assert image.known == known
    assert bool([sentence for sentence in image.said if "which side is left" in sentence]) == (not known)


def test_a_mask_with_a_voxel_without_a_number_is_no_colour_picture(tmp_path):
    values = np.zeros((3, 4, 5), np.float32)
    values[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.mha"))
    with pytest.raises(DatasetError, match=r"^The mask holds 1 voxel without a number"):
        read(tmp_path / "a.mha").integers("The mask")


@pytest.mark.parametrize(
    ("free", "says"), [(1000, "^the disk is full$"), (2**31, "^it was cut short, though 2 GiB are")]
)
def test_a_full_disk_is_said_of_a_full_disk_alone(tmp_path, monkeypatch, free, says):
    image = formats.read(volume_of(tmp_path / "a.nrrd"))
    write = sitk.WriteImage

    def cut(image, name, **options):  # what ITK's NIfTI writer does on a full disk: no error
        write(image, name, **options)
        Path(name).write_bytes(Path(name).read_bytes()[:150])

    monkeypatch.setattr(sitk, "WriteImage", cut)
    monkeypatch.setattr(formats.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=says):
        formats.write(image, tmp_path / "b.nii.gz")


def volume_of(file):
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)), str(file))
    return file


def test_nan_is_written_and_is_no_full_disk(tmp_path):
    image = formats.read(volume_of(tmp_path / "a.nrrd"))
    image.array[0, 0, 0, 0] = np.nan
    formats.write(image, tmp_path / "b.nrrd")
    assert np.isnan(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.nrrd")))[0, 0, 0])
