"""Label maps written as DICOM-SEG, onto the frames of their source series.

A DICOM-SEG carries its patient's identifiers, since an archive files it by them: nothing else that nnkd writes does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.dicom.codes import PRIVATE, Code, CodeTable, Meaning, spoken
from nnkd.errors import DatasetError, SettingError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from nnkd.data.reading.dicom.volumes import DicomImage

LO, ST = 64, 1024  # characters that DICOM allows in a long string and in a short text
SERIES_NUMBER = 1000  # added to the source's, so that viewers list the segmentation behind the scans
UTF8 = "ISO_IR 192"
# Attributes of the patient and the study: an archive files by them. A de-identified series may lack some.
FILED_BY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Algorithm:
    """What made a label map.

    Attributes:
        name: Such as "nnUNetTrainerUNet".
        version: Of the software, nnkd's as a rule.
        parameters: More that identifies it, such as hashes of its weights.
        licences: What its predictions inherit, as a text.
    """

    name: str
    version: str = "not stated"
    parameters: Mapping[str, str] = field(default_factory=dict)
    licences: str = ""


def check_writable() -> None:
    """Make sure that DICOM-SEG can be written.

    Raises:
        SettingError: If highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise SettingError(
            'DICOM-SEG is written by highdicom, which is not installed. Install it: pip install "nnkd[dicom]".'
        ) from error


def write(
    label_map: NDArray[np.integer],
    labels: Mapping[str, Sequence[int]],
    image: DicomImage,
    file: Path,
    algorithm: Algorithm,
    codes: CodeTable | None = None,
) -> tuple[str, ...]:
    """Write a label map as a DICOM-SEG (BINARY) on its source's frames, in place (see `nnkd.files.atomic`).

    Each label is a segment, also one that was not found. Frames without any voxel are left out, except of a label map
    that is empty altogether: of this the first frame is written.

    Args:
        label_map: (Z, Y, X) integers on the image's grid.
        labels: Integers by label name; labels of several integers may overlap.
        image: The source, whose files must still be there.
        file: The target.
        algorithm: What made the label map.
        codes: What labels mean; None: the package's table.

    Returns:
        What was chosen, as sentences.

    Raises:
        DatasetError: If the source lacks what a DICOM-SEG refers to, or highdicom refuses it.
        SettingError: If highdicom is not installed.
    """
    check_writable()
    from pydicom.config import disable_value_validation

    with disable_value_validation():  # which would tell values of the patient that DICOM does not allow
        return _written(label_map, labels, image, file, algorithm, codes or CodeTable.read())


def _written(
    label_map: NDArray[np.integer],
    labels: Mapping[str, Sequence[int]],
    image: DicomImage,
    file: Path,
    algorithm: Algorithm,
    codes: CodeTable,
) -> tuple[str, ...]:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian

    frames, positions = image.to_frames(label_map), None
    sources = check_source(image)
    filed_by = [deepcopy(sources[0][keyword]) for keyword in FILED_BY if keyword in sources[0]]
    for ds in sources:  # highdicom stumbles where they are missing or wrong: they are copied as they are below
        for keyword in FILED_BY:
            setattr(ds, keyword, "")
    if frames.any():
        frames = _in_files(frames, image, sources[0])
    else:  # highdicom would write every frame of every segment: one says as much
        frames = frames[:1]
        positions = [hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, image.slices[0].position)]
    meanings = {label: codes.of(label) for label in labels}
    unknown = [label for label, meaning in meanings.items() if meaning.is_private]
    shorter = [label for label in labels if _text(label) != label]
    said = [spoken(unknown)] if unknown else []
    said += [f"{', '.join(shorter)}: cut or changed to what a DICOM text holds"] if shorter else []
    try:
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=_segments(frames, labels),
            plane_positions=positions,
            omit_empty_frames=positions is None,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(k, *m, algorithm) for k, m in enumerate(meanings.items(), start=1)],
            series_instance_uid=hd.UID(),
            series_number=int(sources[0].get("SeriesNumber") or 0) + SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="nnkd",
            manufacturer_model_name=_text(algorithm.name),
            software_versions=_text(algorithm.version),
            device_serial_number="none",
            content_label="SEGMENTATION",
            content_description=_text(_lineage(algorithm)),
            series_description=_text(f"Segmentation by {algorithm.name}"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set=UTF8,
        )
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise DatasetError(
            f"highdicom cannot write a DICOM-SEG for this series ({in_one_line(error)}). Export it again from the "
            f"archive, or ask for NIfTI alone."
        ) from error
    for element in filed_by:
        made.add(element)
    if unknown:
        made.CodingSchemeIdentificationSequence = [_dataset(CodingSchemeDesignator=PRIVATE, CodingSchemeName="nnkd")]
    made.save_as(file, enforce_file_format=True)
    return tuple(said)


# --- the source ---------------------------------------------------------------------------------------------------


def check_source(image: DicomImage) -> list[Dataset]:
    """Make sure that a DICOM-SEG can refer to a series.

    Returns:
        Its files without pixels, in the order of the array's first axis; a multi-frame file comes once.

    Raises:
        DatasetError: If UIDs are missing, or slices are not one frame each.
    """
    import pydicom

    files = dict.fromkeys(s.file for s in image.slices)
    try:
        found: list[Dataset] = [pydicom.dcmread(f, stop_before_pixels=True, force=True) for f in files]
    except OSError as error:
        raise DatasetError(
            f"The series cannot be read any more ({error.strerror}), but a DICOM-SEG is written beside its source."
        ) from error
    lacking = [k for k in NEEDED if any(not ds.get(k) for ds in found)]
    if lacking:
        raise DatasetError(
            f"The series lacks {', '.join(lacking)}, by which a DICOM-SEG refers to its images. Export it again with "
            f"its UIDs, or ask for NIfTI alone."
        )
    first = found[0]
    if first.Rows * first.Columns < 8:  # highdicom (0.28, tried) packs the bits of such frames wrongly
        raise DatasetError(f"Its frames have {first.Rows * first.Columns} pixels, but 8 or more are expected.")
    frames = int(first.get("NumberOfFrames") or 1)
    if (len(found) > 1 and frames > 1) or (len(found) == 1 and len(image.slices) > frames):
        raise DatasetError(
            f"The {len(image.slices)} slices are not one frame each in the series' {len(found)} file(s) (a mosaic, or "
            f"several multi-frame files), so that no DICOM-SEG can refer to them. Ask for NIfTI alone."
        )
    if "SharedFunctionalGroupsSequence" in first:
        _share_planes(first, image)
        return found
    for ds in found:  # the same to a hair, else it were no volume; highdicom compares digits
        ds.ImageOrientationPatient, ds.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
        _measure(ds, image)
    return found


def _measure(ds: Dataset, image: DicomImage) -> None:
    """Thickness and distance of slices: the one may be missing, the other wrong, positions are neither."""
    from pydicom.valuerep import DSfloat

    apart = DSfloat(image.grid.spacing[0], auto_format=True)
    if not ds.get("SliceThickness"):
        ds.SliceThickness = apart
    if len(image.slices) > 1:
        ds.SpacingBetweenSlices = apart


def _share_planes(ds: Dataset, image: DicomImage) -> None:
    """Say once what each frame of a multi-frame file says for itself, as highdicom wants it."""
    shared, used = ds.SharedFunctionalGroupsSequence[0], image.slices[0].frame
    frame = ds.PerFrameFunctionalGroupsSequence[used]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword in frame:
            shared[keyword] = frame[keyword]
    _measure(shared.PixelMeasuresSequence[0], image)


def _in_files(frames: NDArray[np.integer], image: DicomImage, first: Dataset) -> NDArray[np.integer]:
    """(n, Rows, Columns) in the order of the slices -> in that of a multi-frame file's frames, if the source is one."""
    count = int(first.get("NumberOfFrames") or 1)
    if count == 1:
        return frames
    found = np.zeros((count, *frames.shape[1:]), frames.dtype)
    found[[s.frame for s in image.slices]] = frames
    return found


# --- segments -----------------------------------------------------------------------------------------------------


def _segments(frames: NDArray[np.integer], labels: Mapping[str, Sequence[int]]) -> NDArray[np.integer]:
    """(n, Rows, Columns) of segment numbers, or (n, Rows, Columns, segments) in {0, 1} where labels may overlap."""
    values = [value for integers in labels.values() for value in integers]
    if len(set(values)) < len(values):
        return np.stack([np.isin(frames, list(integers)) for integers in labels.values()], axis=-1).astype(np.uint8)
    found = np.zeros(frames.shape, np.uint8 if len(labels) < 256 else np.uint16)
    for number, integers in enumerate(labels.values(), start=1):
        found[np.isin(frames, list(integers))] = number
    return found


def _described(number: int, label: str, meaning: Meaning, algorithm: Algorithm) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes as dicom

    identified = hd.AlgorithmIdentificationSequence(
        _text(algorithm.name),
        dicom.DCM.ArtificialIntelligence,
        _text(algorithm.version),
        parameters={_text(k): v.replace("\\", "/") for k, v in algorithm.parameters.items()} or None,
    )
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(label),
        segmented_property_category=_coded(meaning.category),
        segmented_property_type=_coded(meaning.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identified,
        anatomic_regions=None if meaning.region is None else [_coded(meaning.region)],
    )
    if meaning.modifier is not None:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(meaning.modifier)]
    described.SegmentDescription = _text(f"{label}. {_lineage(algorithm)}", ST)
    return described


def _coded(code: Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _lineage(algorithm: Algorithm) -> str:
    return f"Licences: {algorithm.licences or 'not stated'}"


def _text(text: str, limit: int = LO) -> str:
    """What a DICOM text of so many characters holds: backslashes separate values, control characters are none."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text.replace("\\", "/")).split())
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."


def _dataset(**attributes: str) -> Dataset:
    import pydicom

    found = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found
