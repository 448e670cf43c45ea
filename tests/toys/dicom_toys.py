"""Small DICOM series made by code with pydicom alone. No patient, no copied bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498"
STUDY, SERIES, FRAME_OF_REFERENCE = f"{ROOT}.1", f"{ROOT}.9", f"{ROOT}.2"
_STORAGE = "1.2.840.10008.5.1.4.1.1"
CT, MR, PET, SEG, RTDOSE = (f"{_STORAGE}.{end}" for end in ("2", "4", "128", "66.4", "481.2"))
SECONDARY, ULTRASOUND_FILM, ANGIOGRAM, RADIOGRAPH = (f"{_STORAGE}.{end}" for end in ("7", "3.1", "12.1", "1.1"))
ENHANCED_CT, ENHANCED_MR, ENHANCED_PET = (f"{_STORAGE}.{end}" for end in ("2.1", "4.1", "130"))
SINGLE = {"CT": CT, "MR": MR, "PT": PET, "DX": RADIOGRAPH}
ENHANCED = {"CT": ENHANCED_CT, "MR": ENHANCED_MR, "PT": ENHANCED_PET}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING = (0.8, 0.7)  # between rows, between columns, in mm


def noise(shape: tuple[int, ...] = (6, 8, 9), seed: int = 0) -> np.ndarray:
    """(Z, Y, X) int16."""
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def line(count: int, step: Sequence[float] = (0.0, 0.0, 2.5), start: Sequence[float] = (1.0, 2.0, 3.0)) -> np.ndarray:
    """Positions (count, 3) in equal steps, mm LPS."""
    return np.asarray(start, dtype=float) + np.arange(count)[:, None] * np.asarray(step, dtype=float)


def base(sop_class: str, instance: str, modality: str, pixels: np.ndarray) -> FileDataset:
    """An image object that lies nowhere yet.

    Args:
        pixels: (Y, X), (frames, Y, X) or (frames, Y, X, 3) of an integer type.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop_class, instance, modality
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "p", "Made^Up", "", ""
    ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.SeriesInstanceUID = STUDY, FRAME_OF_REFERENCE, SERIES
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "", "", "", "", ""
    ds.SeriesNumber, ds.InstanceNumber, ds.PositionReferenceIndicator, ds.Laterality = 1, 1, "", ""
    ds.Manufacturer = "nobody"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    colour = pixels.ndim == 4
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    if pixels.nbytes % 2:
        ds.PixelData += b"\0"
    return ds


def save(ds: FileDataset, file: Path) -> Path:
    """Write a data set as a DICOM file with preamble and meta header."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)
    return file


def set_all(ds: Dataset, tags: Mapping[str, Any]) -> None:
    """Set attributes by keyword; None takes one out."""
    for keyword, value in tags.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)


def slices(
    folder: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]] | np.ndarray,
    *,
    orientation: Sequence[float] | np.ndarray = AXIAL,
    spacing: Sequence[float] = SPACING,
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
    modality: str = "CT",
    sop_class: str | None = None,
    study_uid: str = STUDY,
    series_uid: str = SERIES,
    frame_uid: str = FRAME_OF_REFERENCE,
    first: int = 1,
    tags: Mapping[str, Any] | None = None,
    each: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """A series of single-frame files, one a slice, in the order of `array`.

    Args:
        array: (Z, Y, X) of an integer type, stored values.
        positions: ImagePositionPatient of each slice.
        orientation: ImageOrientationPatient (6,), or (Z, 6): one a slice.
        spacing: PixelSpacing: between rows, between columns, mm.
        slopes, intercepts: Rescaling of each slice; None: slope 1, intercept 0.
        sop_class: None: the modality's.
        first: InstanceNumber of the first slice.
        tags: More attributes by keyword, the same for all slices; None takes one out.
        each: The same, one mapping a slice.
    """
    sop_class = sop_class or SINGLE.get(modality, SECONDARY)
    files = []
    for k, pixels in enumerate(np.asarray(array)):
        ds = base(sop_class, f"{series_uid}.{first + k}", modality, pixels)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
        ds.InstanceNumber = first + k
        ds.PixelSpacing = _digits(spacing)
        ds.ImagePositionPatient = _digits(positions[k])
        ds.ImageOrientationPatient = _digits(orientation[k] if np.ndim(orientation) == 2 else orientation)
        ds.RescaleSlope = slopes[k] if slopes is not None else 1
        ds.RescaleIntercept = intercepts[k] if intercepts is not None else 0
        set_all(ds, tags or {})
        set_all(ds, each[k] if each is not None else {})
        files.append(save(ds, Path(folder) / f"{series_uid.split('.')[-1]}_{first + k:04d}.dcm"))
    return files


def enhanced(
    file: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]] | np.ndarray,
    *,
    orientation: Sequence[float] | np.ndarray = AXIAL,
    spacing: Sequence[float] = SPACING,
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
    modality: str = "CT",
    sop_class: str | None = None,
    study_uid: str = STUDY,
    series_uid: str = SERIES,
    frame_uid: str = FRAME_OF_REFERENCE,
    stacks: Sequence[str] | None = None,
    dimension: Sequence[Sequence[int]] | None = None,
    tags: Mapping[str, Any] | None = None,
    each: Sequence[Mapping[str, Mapping[str, Any]]] | None = None,
) -> Path:
    """One multi-frame file with functional groups.

    Args:
        array: (frames, Y, X) of an integer type, stored values.
        positions: ImagePositionPatient of each frame.
        orientation: (6,): shared; (frames, 6): one a frame.
        stacks: StackID of each frame; None: all are in one.
        dimension: DimensionIndexValues of each frame.
        tags: More attributes of the whole file by keyword; None takes one out.
        each: More functional groups of each frame: attributes by the group's keyword, as
            {"MREchoSequence": {"EffectiveEchoTime": 30.0}}.
    """
    ds = base(sop_class or ENHANCED[modality], f"{series_uid}.1", modality, np.asarray(array))
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
    ds.NumberOfFrames = len(array)
    shared = Dataset()
    _group(shared, "PixelMeasuresSequence", PixelSpacing=_digits(spacing), SliceThickness=1.0)
    if np.ndim(orientation) == 1:
        _group(shared, "PlaneOrientationSequence", ImageOrientationPatient=_digits(orientation))
    frames = []
    for k in range(len(array)):
        frame = Dataset()
        _group(frame, "PlanePositionSequence", ImagePositionPatient=_digits(positions[k]))
        if np.ndim(orientation) == 2:
            _group(frame, "PlaneOrientationSequence", ImageOrientationPatient=_digits(orientation[k]))
        slope = slopes[k] if slopes is not None else 1
        intercept = intercepts[k] if intercepts is not None else 0
        _group(frame, "PixelValueTransformationSequence",
               RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")  # fmt: skip
        stack = stacks[k] if stacks is not None else "1"
        _group(frame, "FrameContentSequence", StackID=stack, InStackPositionNumber=k + 1)
        if dimension is not None:
            frame.FrameContentSequence[0].DimensionIndexValues = [int(v) for v in dimension[k]]
        for keyword, attributes in (each[k] if each is not None else {}).items():
            _group(frame, keyword, **attributes)
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    set_all(ds, tags or {})
    return save(ds, Path(file))


def _group(parent: Dataset, keyword: str, **attributes: Any) -> None:
    item = getattr(parent, keyword)[0] if keyword in parent else Dataset()
    set_all(item, attributes)
    setattr(parent, keyword, [item])


def _digits(values: Sequence[float] | np.ndarray) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM has them."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(v)) for v in values]
