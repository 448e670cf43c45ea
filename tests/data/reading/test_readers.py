"""nnkd.data.reading.readers: nnU-Net's readers behind the door, against ITK's and nibabel's own words."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from toy import toy_dataset

from nnkd.data.dataset import RawDataset
from nnkd.data.reading import formats, readers
from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError, GeometryError

SHAPE = (6, 7, 5)  # x, y, z
AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0.7, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]])


def shear(size: float) -> np.ndarray:
    moved = np.eye(4)
    moved[0, 1] = size
    return moved @ AFFINE


def saved(file, affine=AFFINE, *, qform=None, codes=(1, 2), unit=None, kind=np.int16):
    """A NIfTI file as another program would write it, and its voxels (x, y, z)."""
    voxels = np.random.default_rng(3).integers(0, 3, SHAPE).astype(kind)
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, codes[1])
    image.set_qform(affine if qform is None else qform, codes[0])
    if unit:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, file)
    return voxels


@pytest.fixture
def reader() -> readers.Reader:
    return readers.Reader(SimpleITKIO())


def world(grid: Grid, voxel) -> np.ndarray:
    """mm, RAS."""
    return (np.diag([-1, -1, 1, 1]) @ grid.affine @ (*voxel, 1))[:3]


def test_a_plain_file_is_read_as_nnunet_reads_it(reader, tmp_path):
    saved(tmp_path / "a.nii.gz")
    array, properties = reader.read_images([tmp_path / "a.nii.gz"])
    wanted, told = SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    np.testing.assert_array_equal(array, wanted)
    assert {k: v for k, v in properties.items() if k != readers.HEADER} == told


def test_the_sform_wins_and_it_is_said(reader, tmp_path, caplog):
    other = AFFINE.copy()
    other[0, 3] -= 20
    voxels = saved(tmp_path / "a.nii.gz", qform=other)
    array, properties = reader.read_images([tmp_path / "a.nii.gz"])
    np.testing.assert_array_equal(array[0].T, voxels)
    grid = Grid.from_properties(array.shape[1:], properties)
    np.testing.assert_allclose(world(grid, (2, 3, 4)), (AFFINE @ (2, 3, 4, 1))[:3], atol=1e-5)
    assert "qform and its sform put corners 20 mm (25 voxels) apart: the sform was taken" in caplog.text


def test_axes_a_hair_off_a_right_angle_are_made_right(reader, tmp_path):
    voxels = saved(tmp_path / "a.nii.gz", shear(1e-3), codes=(0, 2))
    with pytest.raises(RuntimeError):  # what makes ours needed
        sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    array, properties = reader.read_images([tmp_path / "a.nii.gz"])
    np.testing.assert_array_equal(array[0].T, voxels)
    grid = Grid.from_properties(array.shape[1:], properties)
    np.testing.assert_allclose(grid.direction @ grid.direction.T, np.eye(3), atol=1e-12)
    for corner in ((0, 0, 0), (5, 6, 4), (5, 0, 0)):
        off = world(grid, corner) - (shear(1e-3) @ (*corner, 1))[:3]
        assert np.abs(off).max() < 0.1 * 0.7
    with pytest.raises(GeometryError, match="nnU-Net does not read 'a"):
        reader.check(tmp_path / "a.nii.gz")


def test_axes_far_off_a_right_angle_are_refused_with_the_true_reason(reader, tmp_path):
    saved(tmp_path / "a.nii.gz", shear(0.2))
    with pytest.raises(
        GeometryError, match=r"not at right angles \(in its sform\).*a corner would move by 0\.\d+ voxels"
    ):
        reader.read_images([tmp_path / "a.nii.gz"])


def test_channels_elsewhere_are_refused(reader, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 50
    saved(tmp_path / "a.nii.gz")
    saved(tmp_path / "b.nii.gz", moved)
    with pytest.raises(GeometryError, match=r"does not lie where .* lies: origin"):
        reader.read_images([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"])


@pytest.mark.parametrize(
    ("affine", "qform", "codes", "unit"),
    [
        (AFFINE, None, (1, 1), "mm"),
        (AFFINE, None, (0, 2), "mm"),
        (AFFINE, None, (1, 0), None),
        (AFFINE, AFFINE @ np.diag([-1, 1, 1, 1]), (1, 4), "mm"),
        (AFFINE, np.diag([0.8, 0.7, 2.5, 1]), (2, 1), "micron"),
        (shear(1e-3), AFFINE, (1, 2), "mm"),
        (shear(1e-3), shear(1e-3), (0, 2), "mm"),
    ],
)
def test_what_is_written_says_what_the_image_says(reader, tmp_path, affine, qform, codes, unit):
    """Every library that opens the image reads the label map at the same place."""
    saved(tmp_path / "a.nii.gz", affine, qform=qform, codes=codes, unit=unit)
    array, properties = reader.read_images([tmp_path / "a.nii.gz"])
    reader.write_seg(array[0].astype(np.uint8), tmp_path / "b.nii.gz", properties)
    image, label_map = (nibabel.load(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    np.testing.assert_array_equal(image.dataobj, label_map.dataobj)
    np.testing.assert_array_equal(image.affine, label_map.affine)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert int(image.header[field]) & 7 == int(label_map.header[field]) & 7
    np.testing.assert_array_equal(image.header.get_sform(), label_map.header.get_sform())
    np.testing.assert_allclose(image.header.get_qform(), label_map.header.get_qform(), atol=1e-6)
    try:
        by_itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    except RuntimeError:
        return
    written = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(by_itk, what)() == getattr(written, what)()


def test_a_dataset_keeps_a_header_through_a_prediction(tmp_path):
    """Image and label map that lie by a sform of their own are one case, and what is written lies there as well."""
    dataset = toy_dataset(tmp_path / "Dataset701_Toy")
    case = dataset.images().cases()[0]
    file = dataset.images().files(case)[0]
    image = nibabel.load(file)
    moved = image.affine.copy()
    moved[:3, 3] += 30
    image.set_sform(moved, 4)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, image.header), file)
    dataset = RawDataset(dataset.folder)
    array, grid, properties = dataset.images().read(case)
    target = dataset.folder / "b.nii.gz"
    dataset.spec.write_label_map(np.zeros(array.shape[1:], np.uint8), target, properties)
    assert not dataset.spec.read_label_map(target)[1].difference(grid)
    np.testing.assert_array_equal(nibabel.load(target).affine, moved)


def with_value(file, value, dtype=np.float32):
    voxels = np.ones(SHAPE, dtype)
    voxels[1, 2, 3] = value
    if file.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), file)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(voxels.T), str(file))
    return file


@pytest.mark.parametrize("own", [SimpleITKIO, NibabelIO])
def test_nan_of_nifti_becomes_0_and_it_is_said(tmp_path, caplog, own):
    """As nnU-Net's reader has it, without its silence: ITK makes infinite values 0 too."""
    file = with_value(tmp_path / "a.nii.gz", np.nan)
    array, properties = readers.Reader(own()).read_images([file])
    wanted = np.ones(SHAPE, np.float32)
    wanted[1, 2, 3] = 0
    assert np.array_equal(array[0], wanted.T)
    said = "1 of its voxels is without a number (NaN), the first at x 1, y 2, z 3 (from 0): it became 0"
    assert properties[readers.NOTES] == [f"'a.nii.gz' in {tmp_path.name}: {said}."]
    assert said in caplog.text
    image = formats.read(file)
    assert np.array_equal(image.array, array)
    assert image.said == (said,)
    assert not image.as_is


@pytest.mark.parametrize(
    ("name", "value", "dtype", "why"),
    [
        ("a.nii.gz", np.inf, np.float32, "1 voxel that is infinite"),
        ("a.nii", -np.inf, np.float64, "1 voxel that is infinite"),
        ("a.nii.gz", 1e300, np.float64, "beyond what float32 holds"),
        ("a.mha", np.nan, np.float32, r"without a number \(NaN\)"),
        ("a.nrrd", np.inf, np.float32, "1 voxel that is infinite"),
        ("a.mha", 1e300, np.float64, "beyond what float32 holds"),
    ],
)
def test_what_is_no_number_is_refused_with_its_place(tmp_path, name, value, dtype, why):
    file = with_value(tmp_path / name, value, dtype)
    with pytest.raises(DatasetError, match=rf"'{name}' in .* holds .*{why}.* at x 1, y 2, z 3"):
        readers.Reader(SimpleITKIO()).read_images([file])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_map_holds_numbers(tmp_path, value):
    file = with_value(tmp_path / "a.nii.gz", value)
    for read in (lambda: readers.Reader(SimpleITKIO()).read_seg(file), lambda: formats.read(file, label_map=True)):
        with pytest.raises(DatasetError, match=r"'a.nii.gz' in .* holds 1 voxel"):
            read()
