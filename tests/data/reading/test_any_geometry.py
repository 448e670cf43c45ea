"""Random geometries through every door: each voxel lies where the library that knows the format says it lies.

A format is a function in WRITERS, a way to read it one in DOORS. What is right is never computed by nnkd.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_toys import enhanced, slices
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnkd.boxes.cases import BoxCase
from nnkd.boxes.images import read_image
from nnkd.data.reading import formats
from nnkd.data.reading.dicom import volumes
from nnkd.data.reading.dicom.series import scan
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.image import ending_of
from nnkd.data.reading.readers import Reader
from nnkd.errors import GeometryError
from nnkd.teachers.foreign import MaskFile

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MOST_SHEARED = 0.3  # from here on a geometry must be refused; axes have four voxels or more


@dataclass(frozen=True)
class Geometry:
    """Where an array (x, y, z) is to lie.

    Attributes:
        affine: (4, 4), voxels to mm, LPS.
        shear: How far off a right angle its axes are.
        voxels: (n, 3), whose places are asked for.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    shear: float
    voxels: np.ndarray

    @property
    def array(self) -> np.ndarray:
        """(x, y, z) int16, each value once."""
        return np.arange(np.prod(self.shape), dtype=np.int16).reshape(self.shape)


@st.composite
def geometries(draw) -> Geometry:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(int(n) for n in rng.integers(4, 9, 3))
    low, high = draw(st.sampled_from([(1, 1), (0.3, 6), (0.0002, 0.002), (0.0002, 10)]))
    spacing = np.exp(rng.uniform(np.log(low), np.log(high), 3))
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    if draw(st.booleans()):  # oblique
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ turn
    if rng.random() < 0.5 and np.linalg.det(turn) < 0:  # left-handed ones stay as often
        turn[:, 2] *= -1
    shear = draw(st.sampled_from([0.0, 0.0, 1e-5, 1e-4, 1e-3, MOST_SHEARED, 0.6]))
    skew = np.eye(3)
    i, j = rng.permutation(3)[:2]
    skew[i, j] = shear
    affine = np.eye(4)
    affine[:3, :3] = turn @ skew * spacing
    affine[:3, 3] = rng.uniform(-200, 200, 3) * spacing
    voxels = np.stack([rng.integers(0, n, 4) for n in shape], axis=1)
    return Geometry(shape, affine, shear, voxels)


# --- formats: a function writes a geometry, and says by its library's own arithmetic where a voxel lies ----------


@dataclass(frozen=True)
class Written:
    """A file (or a folder), and voxels (n, 3) -> mm, LPS (n, 3)."""

    source: Path
    places: Callable[[np.ndarray], np.ndarray]


def nifti(kind: str) -> Callable[[Path, Geometry], Written | None]:
    def write(folder: Path, geometry: Geometry) -> Written | None:
        affine = TO_LPS @ geometry.affine
        new = nibabel.Nifti2Image if kind == "nifti2" else nibabel.Nifti1Image
        image = new(geometry.array, affine)
        if kind == "qform" and geometry.shear:
            return None  # a qform is a rotation
        elsewhere = affine.copy()
        elsewhere[:3, 3] += 5 * affine[:3, 0]
        image.set_qform(elsewhere if kind == "apart" else affine, int(kind in ("qform", "both", "apart")))
        image.set_sform(affine, int(kind != "qform"))
        file = folder / "a.nii.gz"
        nibabel.save(image, file)
        found = TO_LPS @ nibabel.load(file).affine
        return Written(file, lambda voxels: voxels @ found[:3, :3].T + found[:3, 3])

    return write


def by_itk(ending: str) -> Callable[[Path, Geometry], Written | None]:
    def write(folder: Path, geometry: Geometry) -> Written | None:
        image = sitk.GetImageFromArray(geometry.array.T)
        spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(geometry.affine[:3, 3].tolist())
        image.SetDirection((geometry.affine[:3, :3] / spacing).ravel().tolist())
        file = folder / f"a{ending}"
        sitk.WriteImage(image, str(file))
        found = sitk.ReadImage(str(file))
        return Written(
            file, lambda voxels: np.array([found.TransformContinuousIndexToPhysicalPoint(v.tolist()) for v in voxels])
        )

    return write


def dicom(many: bool) -> Callable[[Path, Geometry], Written | None]:
    """One file a slice, or one file with all frames; what is right is pydicom's attributes and DICOM's formula."""

    def write(folder: Path, geometry: Geometry) -> Written | None:
        columns = geometry.affine[:3, :3]
        x, y, z = (columns[:, k] for k in range(3))
        normal = np.cross(x, y) / np.linalg.norm(np.cross(x, y))
        leans = np.linalg.norm(z - normal * (z @ normal)) * geometry.shape[2]
        if abs(x @ y) > 1e-9 * np.linalg.norm(x) * np.linalg.norm(y) or leans > 0.01 * min(map(np.linalg.norm, (x, y))):
            return None  # a slice has right angles, and leaning stacks are resampled: see dicom/test_volumes.py
        spacing = (float(np.linalg.norm(y)), float(np.linalg.norm(x)))
        orientation = (*(x / spacing[1]), *(y / spacing[0]))
        positions = geometry.affine[:3, 3] + np.arange(geometry.shape[2])[:, None] * z
        array = np.ascontiguousarray(geometry.array.T)
        if many:
            enhanced(folder / "a.dcm", array, positions, orientation=orientation, spacing=spacing)
        else:
            slices(folder, array, positions, orientation=orientation, spacing=spacing)
        return Written(folder, lambda voxels: np.array([_place(folder, array, *v) for v in voxels]))

    return write


def _place(folder: Path, array: np.ndarray, x: int, y: int, z: int) -> np.ndarray:
    """mm, LPS, of the pixel (row y, column x) in the slice whose pixels are array[z] (PS3.3 C.7.6.2.1.1)."""
    for file in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(file)
        groups = getattr(ds, "PerFrameFunctionalGroupsSequence", [None])
        planes = ds.pixel_array.reshape(-1, *array.shape[1:])
        for group, plane in zip(groups, planes, strict=True):
            if not np.array_equal(plane, array[z]):
                continue
            shared = ds.SharedFunctionalGroupsSequence[0] if group is not None else None
            position = ds if group is None else group.PlanePositionSequence[0]
            plane_of = ds if shared is None else shared.PlaneOrientationSequence[0]
            measures = ds if shared is None else shared.PixelMeasuresSequence[0]
            along = np.asarray(plane_of.ImageOrientationPatient, dtype=float)
            between_rows, between_columns = (float(v) for v in measures.PixelSpacing)
            start = np.asarray(position.ImagePositionPatient, dtype=float)
            return start + along[:3] * between_columns * x + along[3:] * between_rows * y
    raise AssertionError("no such slice")


WRITERS = {
    **{f"NIfTI, {kind}": nifti(kind) for kind in ("sform", "qform", "both", "apart", "nifti2")},
    "NRRD": by_itk(".nrrd"),
    "MHA": by_itk(".mha"),
    "DICOM, slices": dicom(many=False),
    "DICOM, frames": dicom(many=True),
}


# --- doors: a file -> voxels (Z, Y, X) and their affine (x, y, z) -> mm, LPS -------------------------------------


def door(file: Path) -> tuple[np.ndarray, np.ndarray]:
    image = formats.read(file)
    return image.array[0], image.grid.affine


def reader(file: Path) -> tuple[np.ndarray, np.ndarray]:
    array, properties = Reader(SimpleITKIO()).read_images([file])
    return array[0], Grid.from_properties(array.shape[1:], properties).affine


def mask(file: Path) -> tuple[np.ndarray, np.ndarray]:
    found = MaskFile.read(file)
    return found.values, found.grid.affine


def box_image(file: Path) -> tuple[np.ndarray, np.ndarray]:
    found = read_image(BoxCase(file.name, file, ending_of(file)))
    assert found.orientation is not None
    return found.data, found.orientation.grid.affine


def series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    (found,) = scan(folder).series
    image = volumes.read(found.files)
    return image.array[0], image.grid.affine


OF_FILES, OF_DICOM = (door, reader, mask, box_image), (series,)


@pytest.mark.parametrize("name", WRITERS)
def test_every_voxel_lies_where_its_file_says(name, tmp_path_factory, capsys):
    outcomes: Counter[str] = Counter()

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(geometries())
    def check(geometry: Geometry) -> None:
        written = WRITERS[name](tmp_path_factory.mktemp("any"), geometry)
        if written is None:
            return
        places = written.places(geometry.voxels)
        doors = OF_DICOM if written.source.is_dir() else OF_FILES
        refused = {look.__name__: _is_refused(look, written, geometry, places) for look in doors}
        assert len(set(refused.values())) == 1, refused  # all doors alike
        outcomes["refused" if all(refused.values()) else "read"] += 1

    check()
    with capsys.disabled():
        print(f"\n{name}: {outcomes['refused']} of {outcomes.total()} geometries refused, all of them sheared")
    assert outcomes["read"]


def _is_refused(look: Callable, written: Written, geometry: Geometry, places: np.ndarray) -> bool:
    try:
        array, affine = look(written.source)
    except GeometryError as error:
        if "not at right angles" not in str(error) or not geometry.shear:
            raise
        return True
    assert geometry.shear < MOST_SHEARED, "strongly sheared axes were taken"
    indices = np.array([np.argwhere(array == geometry.array[tuple(v)])[0][::-1] for v in geometry.voxels])
    off = indices @ affine[:3, :3].T + affine[:3, 3] - places
    if geometry.shear:  # made right-angled: a tenth of a voxel
        assert np.linalg.norm(off @ np.linalg.inv(geometry.affine[:3, :3]).T, axis=1).max() < 0.1
    else:
        assert np.abs(off).max() < 1e-3 * np.linalg.norm(geometry.affine[:3, :3], axis=0).min()
    return False
