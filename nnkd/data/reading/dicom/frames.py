"""What the header of a DICOM file says of its frames: where each lies, and how stored values become measurements."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkd.errors import DatasetError, GeometryError, in_one_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Three = tuple[float, float, float]
Six = tuple[float, float, float, float, float, float]
AXIAL: Six = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
RADIOGRAPHS = ("CR", "DX", "MG", "IO", "PX")  # projections: they lie nowhere in the patient
UNREADABLE = (AttributeError, ArithmeticError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError,
              TypeError, ValueError, struct.error)  # what pydicom raises on broken files  # fmt: skip

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = {  # objects that have pixels, which are no measurements of an image
    f"{_STORAGE}66.4": "a segmentation. Give it as a mask, with the series it was drawn on as the image.",
    f"{_STORAGE}66.7": "a segmentation. Give it as a mask, with the series it was drawn on as the image.",
    f"{_STORAGE}481.2": "a dose distribution (RTDOSE), no image. Give the series it was planned on.",
    f"{_STORAGE}30": "a parametric map, no image. Give the series it was computed from, or convert it with highdicom.",
    f"{_STORAGE}77.1.6": "a microscope slide (tiles of a pyramid). Export the region you want as tif or png.",
}
# What one image of a position can have that another has not; the first that tells volumes apart is named.
_TRAITS = ("TemporalPositionIdentifier", "EchoTime", "DiffusionBValue", "DiffusionGradientOrientation", "InversionTime",
           "NominalPercentageOfCardiacPhase", "TriggerTime", "ConvolutionKernel", "ImageType", "AcquisitionNumber",
           "AcquisitionTime", "ContentTime", "SliceThickness")  # fmt: skip
_FRAME_TRAITS = (
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("RespiratorySynchronizationSequence", "NominalPercentageOfRespiratoryPhase"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("FrameContentSequence", "DimensionIndexValues"),
)


@dataclass(frozen=True)
class Frame:
    """One plane of pixels, as its header describes it.

    Attributes:
        file: Where it is stored.
        index: 0-based frame within the file.
        name: What a user finds it by: "InstanceNumber 3" or "frame 3".
        sop_class, sop_instance: UIDs of the file's object.
        position: Centre of the first pixel, mm LPS.
        orientation: Directions along a row and along a column.
        spacing: Between rows and between columns, mm.
        shape: (Y, X).
        slope, intercept: measurement = slope * stored + intercept.
        rescaled: Whether the header says so, and slope and intercept are not merely 1 and 0 by default.
        thickness: Of a slice, mm; 0: not said.
        in_world: False for radiographs, which have no position.
        traits: What tells images of one position apart, by DICOM's keyword.
    """

    file: Path
    index: int
    name: str
    sop_class: str
    sop_instance: str
    position: Three
    orientation: Six
    spacing: tuple[float, float]
    shape: tuple[int, int]
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False
    thickness: float = 0.0
    in_world: bool = True
    traits: dict[str, str] = field(default_factory=dict)


def opened(file: Path) -> Dataset:
    """A DICOM file with its pixels, not decoded yet.

    Raises:
        DatasetError: If it is no DICOM file, or cut short within its header.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # on values a character too long, and the like
        try:
            try:
                ds = pydicom.dcmread(file)
            except InvalidDicomError:  # without the first 132 bytes, as old exports are
                ds = pydicom.dcmread(file, force=True)
        except UNREADABLE as error:
            raise unreadable(file, error) from error
    if "SOPClassUID" not in ds:
        raise DatasetError(f"{where(file)} is no DICOM image: it has no SOP class. Copy it again, or take it out.")
    if not ds.file_meta.get("TransferSyntaxUID"):
        implicit, little = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds


def read_frames(ds: Dataset, file: Path) -> list[Frame]:
    """The frames of an image object, in the order its pixels are stored.

    Raises:
        DatasetError: If it is no image with one value a pixel, or no part of a volume.
        GeometryError: If it does not say where its frames lie.
    """
    _check_kind(ds, file)
    count = int(ds.get("NumberOfFrames") or 1)
    if "PerFrameFunctionalGroupsSequence" in ds or "SharedFunctionalGroupsSequence" in ds:
        return _of_groups(ds, file, count)
    if count > 1:
        raise GeometryError(
            f"{where(file)} is a film of {count} frames ({_kind(ds)}) that does not say where each frame lies. It is "
            f"no volume: convert it with dcm2niix if it should be one, or export single frames as png."
        )
    return [_single(ds, file)]


def where(file: Path) -> str:
    """How a file is called in messages."""
    return f"'{file.name}' in {file.parent.name}"


def unreadable(file: Path, error: BaseException) -> DatasetError:
    """What is raised for a file that is broken."""
    why = in_one_line(error).replace(str(file), file.name).split(" - ")[0]  # pydicom guesses behind it
    return DatasetError(
        f"{where(file)} cannot be read ({why}). It is cut short or broken: copy or export the series again."
    )


def _check_kind(ds: Dataset, file: Path) -> None:
    uid = str(ds.SOPClassUID)
    if uid in _NO_IMAGES:
        raise DatasetError(f"{where(file)} is {_NO_IMAGES[uid]}")
    if "PixelData" not in ds:
        if "Rows" in ds or "Image" in _kind(ds):
            raise DatasetError(f"{where(file)} has no pixels. It is cut short: copy or export the series again.")
        raise DatasetError(f"{where(file)} is no image but {_kind(ds)}. Give the series of images it belongs to.")
    samples, photometric = int(ds.get("SamplesPerPixel") or 1), str(ds.get("PhotometricInterpretation") or "")
    frames = int(ds.get("NumberOfFrames") or 1)
    if samples > 1 or not photometric.startswith("MONOCHROME"):
        film = f"a film of {frames} frames, and " if frames > 1 else ""
        raise DatasetError(
            f"{where(file)} is {film}in colour ({_kind(ds)}, {photometric}), but a volume has one value a voxel. "
            f"Export {'frames' if film else 'it'} as png, or take it out."
        )
    types = [str(part).upper() for part in _several(ds.get("ImageType"))]
    if "MOSAIC" in types:
        raise DatasetError(
            f"{where(file)} is a Siemens mosaic (ImageType {'/'.join(types)}): many slices tiled in one picture. "
            f"Convert the series with dcm2niix, and give nnkd the NIfTI files."
        )
    if "LOCALIZER" in types:
        raise DatasetError(
            f"{where(file)} is a localizer (ImageType {'/'.join(types)}), which is no part of a volume. Take it out, "
            f"or choose another series."
        )


def _single(ds: Dataset, file: Path) -> Frame:
    number = ds.get("InstanceNumber")
    name = f"InstanceNumber {int(number)}" if number not in (None, "") else f"'{file.name}'"
    place: Sequence[float]
    if str(ds.get("Modality")) in RADIOGRAPHS and not ds.get("ImagePositionPatient"):
        place, in_world = (0.0, 0.0, 0.0, *AXIAL), False
        spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing") or (1.0, 1.0)
    else:
        place = (*_numbers(ds, "ImagePositionPatient", 3, file), *_numbers(ds, "ImageOrientationPatient", 6, file))
        spacing, in_world = _numbers(ds, "PixelSpacing", 2, file), True
    traits = {keyword: _word(ds.get(keyword)) for keyword in _TRAITS if _word(ds.get(keyword))}
    return _frame(ds, file, 0, name, place, spacing, ds, float(ds.get("SliceThickness") or 0), in_world, traits)


def _of_groups(ds: Dataset, file: Path, count: int) -> list[Frame]:
    """Frames that functional groups describe: each has its own, and what it lacks is shared."""
    shared = _item(ds, "SharedFunctionalGroupsSequence")
    own = list(ds.get("PerFrameFunctionalGroupsSequence") or [])
    if len(own) != count:
        raise DatasetError(
            f"{where(file)} describes {len(own)} of its {count} frames (PerFrameFunctionalGroupsSequence). It is cut "
            f"short or broken: export it again."
        )
    found = []
    for k, groups in enumerate(own):

        def group(keyword: str, groups: Dataset = groups) -> Dataset:
            return _item(groups if keyword in groups else shared, keyword)

        measures = group("PixelMeasuresSequence")
        plane, turn = group("PlanePositionSequence"), group("PlaneOrientationSequence")
        place = (*_numbers(plane, "ImagePositionPatient", 3, file, "PlanePositionSequence"),
                 *_numbers(turn, "ImageOrientationPatient", 6, file, "PlaneOrientationSequence"))  # fmt: skip
        spacing = _numbers(measures, "PixelSpacing", 2, file, "PixelMeasuresSequence")
        values = group("PixelValueTransformationSequence")
        traits = {word: _word(group(name).get(word)) for name, word in _FRAME_TRAITS if _word(group(name).get(word))}
        thickness = float(measures.get("SliceThickness") or 0)
        rescale = values if "RescaleSlope" in values else ds
        found.append(_frame(ds, file, k, f"frame {k + 1}", place, spacing, rescale, thickness, True, traits))
    return found


def _frame(
    ds: Dataset,
    file: Path,
    index: int,
    name: str,
    place: Sequence[float],
    spacing: Sequence[float],
    rescale: Dataset,
    thickness: float,
    in_world: bool,
    traits: dict[str, str],
) -> Frame:
    slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
    said = slope is not None and intercept is not None
    if said and float(slope) == 0:
        raise DatasetError(f"The RescaleSlope of {name} in {where(file)} is 0: it holds no measurements. Export again.")
    between_rows, between_columns = (float(v) for v in spacing)
    if not (between_rows > 0 and between_columns > 0):
        raise GeometryError(f"The PixelSpacing of {name} in {where(file)} is not positive. Export the series again.")
    x, y, z, *turn = (float(v) for v in place)
    numbers = (*place, between_rows, between_columns, float(slope or 0), float(intercept or 0))
    if not all(math.isfinite(v) for v in numbers):
        raise GeometryError(f"The header of {name} in {where(file)} holds what is no number. Export the series again.")
    a, b, c, d, e, f = turn
    return Frame(
        file, index, name, str(ds.SOPClassUID), str(ds.SOPInstanceUID), (x, y, z), (a, b, c, d, e, f),
        (between_rows, between_columns), (int(ds.Rows), int(ds.Columns)),
        1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept),
        said, thickness, in_world, traits,
    )  # fmt: skip


def _numbers(ds: Dataset, keyword: str, count: int, file: Path, group: str = "") -> list[float]:
    values = [float(v) for v in _several(ds.get(keyword))]
    if len(values) != count:
        inside = f" ({group})" if group else ""
        raise GeometryError(
            f"{where(file)} does not say where it lies: its {keyword}{inside} has {len(values)} of {count} numbers. "
            f"Without it, it is a picture and no part of a volume: export it as png, or take it out."
        )
    return values


def _item(ds: Dataset, keyword: str) -> Dataset:
    """The one item of a sequence; an empty one if there is none."""
    from pydicom.dataset import Dataset

    items: Sequence[Dataset] = ds.get(keyword) or [Dataset()]
    return items[0]


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if not isinstance(value, str | int | float) else [value]


def _word(value: Any) -> str:
    return "/".join(str(part) for part in _several(value))


def _kind(ds: Dataset) -> str:
    """The SOP class in words, such as "RT Structure Set Storage"."""
    return str(getattr(ds.SOPClassUID, "name", ds.SOPClassUID))
