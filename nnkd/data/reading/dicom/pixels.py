"""Stored pixels -> measurements: decoding, look-up tables, slopes, padding."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.dicom.frames import RADIOGRAPHS, UNREADABLE, Frame, unreadable, where
from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

AIR = -1024  # HU; what padding of a CT becomes
_NO_AIR = -160  # HU; a slice of a CT shows at least the air around the patient
_PIXEL_MODULE = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
                 "PhotometricInterpretation", "PixelData")  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """The pixels of one frame.

    Attributes:
        stored: (Y, X), as the file has them, or as its look-up table gives them.
        padding: (Y, X) bool, where there is no measurement; None: nowhere.
        lowest, highest: Of the stored values that are measurements; both 0 if there is none.
    """

    stored: NDArray[Any]
    padding: NDArray[np.bool_] | None
    lowest: float
    highest: float


def read_planes(ds: Dataset, file: Path) -> tuple[list[Plane], tuple[str, ...]]:
    """Decode the pixels of an image object.

    Args:
        ds: Monochrome.
        file: Where it is stored.

    Returns:
        A plane for each frame, and what was done beside decoding.

    Raises:
        DatasetError: If pixels are missing, or nothing here decodes them.
    """
    said = []
    stored = _decoded(ds, file)
    padding = _padding(ds, stored)
    if "ModalityLUTSequence" in ds:
        from pydicom.pixels import apply_modality_lut

        stored = apply_modality_lut(stored, ds)
        said.append("stored values were looked up in its modality LUT")
    if str(ds.PhotometricInterpretation) == "MONOCHROME1" and str(ds.get("Modality")) in RADIOGRAPHS:
        bits, signed = int(ds.BitsStored), int(ds.PixelRepresentation)
        stored = (-1 if signed else 2**bits - 1) - stored.astype(np.int64)
        said.append("it was stored with white as its lowest value (MONOCHROME1) and was inverted")
    planes = []
    for k, plane in enumerate(stored):
        off = padding[k] if padding is not None and padding[k].any() else None
        real = plane if off is None else plane[~off]
        low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
        planes.append(Plane(plane, off, low, high))
    return planes, tuple(said)


def measurements(
    planes: Sequence[Plane], frames: Sequence[Frame], modality: str, exact: bool = True
) -> tuple[NDArray[Any], float, tuple[str, ...]]:
    """Apply each frame's slope and intercept, and put padding where it harms nobody.

    Padding becomes -1024 HU in a CT, and the lowest measurement elsewhere; 0 stays 0 there.

    Args:
        planes: In the order of the slices.
        frames: What belongs to each.
        modality: DICOM's code.
        exact: False: float32 in any case.

    Returns:
        (Z, Y, X) int16 or int32 where slopes and intercepts are whole, else float32; the value for what lies outside;
        what was said.
    """
    ends = [(f.slope * v + f.intercept) for p, f in zip(planes, frames, strict=True) if _has_real(p)
            for v in (p.lowest, p.highest)]  # fmt: skip
    low, high = (min(ends), max(ends)) if ends else (0.0, 0.0)
    units = modality == "CT" and all(f.rescaled for f in frames)
    outside = float(AIR) if units else low
    kind = _kind(planes, frames, min(low, outside), high) if exact else np.dtype(np.float32)
    made = np.empty((len(planes), *planes[0].stored.shape), kind)
    moved = 0
    for k, (plane, frame) in enumerate(zip(planes, frames, strict=True)):
        if frame.slope == 1 and float(frame.intercept).is_integer() and plane.stored.dtype.kind in "iu":
            values = plane.stored.astype(np.int64) + int(frame.intercept) if frame.intercept else plane.stored
        else:
            values = plane.stored * np.float64(frame.slope) + frame.intercept
        if plane.padding is not None:
            replaced = plane.padding & (values != outside)
            replaced &= True if units else values != 0
            moved += int(replaced.sum())
            values = np.where(replaced, outside, values)
        made[k] = values
    said = []
    if moved:
        share = 100 * moved / made.size
        said.append(f"padding ({share:.2g} % of the voxels) has no measurement and was put to {outside:g}")
    if modality == "CT" and not units:
        said.append(
            f"it has no RescaleSlope and RescaleIntercept: stored values ({low:g} to {high:g}) were taken, which may "
            f"be no Hounsfield units"
        )
    elif modality == "CT" and low > _NO_AIR:
        said.append(f"its lowest value is {low:g}, but air has -1000 HU: these may be no Hounsfield units")
    return made, outside, tuple(said)


def _has_real(plane: Plane) -> bool:
    return plane.padding is None or not bool(plane.padding.all())


def _kind(planes: Sequence[Plane], frames: Sequence[Frame], low: float, high: float) -> np.dtype[Any]:
    whole = all(float(f.slope).is_integer() and float(f.intercept).is_integer() for f in frames)
    if not whole or any(p.stored.dtype.kind not in "iu" for p in planes):
        return np.dtype(np.float32)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def _decoded(ds: Dataset, file: Path) -> NDArray[Any]:
    """(frames, Y, X) of stored values."""
    from pydicom.pixels import get_decoder

    syntax = ds.file_meta.TransferSyntaxUID
    if int(ds.get("HighBit", ds.BitsStored - 1)) != int(ds.BitsStored) - 1:
        raise DatasetError(
            f"{where(file)} keeps {ds.BitsStored} bits below bit {ds.HighBit}, an old form that is not read. Export "
            f"the series again."
        )
    try:
        able = get_decoder(syntax).is_available
    except NotImplementedError:  # no codec is known for it at all
        able = False
    frames = int(ds.get("NumberOfFrames") or 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")  # on trailing bytes, and bits beyond BitsStored
            if able:
                array: NDArray[Any] = ds.pixel_array
            elif frames == 1:
                array = _by_itk(ds)
            else:
                raise _no_decoder(ds, file)
    except UNREADABLE as error:
        raise (unreadable(file, error) if able else _no_decoder(ds, file)) from error
    shape = (frames, int(ds.Rows), int(ds.Columns))
    if array.size != np.prod(shape):
        raise DatasetError(f"{where(file)} holds {array.shape} pixels, but its header says {shape}. Export it again.")
    return array.reshape(shape)


def _by_itk(ds: Dataset) -> NDArray[Any]:
    """Decode with ITK's GDCM, which would also rescale: it is shown the pixels without anything else of the header."""
    import SimpleITK
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    bare = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    bare.SOPClassUID, bare.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for keyword in _PIXEL_MODULE:
        setattr(bare, keyword, ds[keyword].value)
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frame.dcm"
        bare.save_as(file, enforce_file_format=True)
        array: NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    return array


def _no_decoder(ds: Dataset, file: Path) -> DatasetError:
    return DatasetError(
        f"{where(file)} is compressed ({ds.file_meta.TransferSyntaxUID.name}), and nothing here decodes that. Install "
        f'what does: pip install "nnkd[dicom]", or export the series uncompressed.'
    )


def _padding(ds: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the file says there is no measurement."""
    first, last = ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")
    if not isinstance(first, int) or stored.dtype.kind not in "iu":
        return None
    # Some writers state a negative value without its sign: what counts is its bits.
    bits = [np.array(v).astype(stored.dtype) for v in (first, last if isinstance(last, int) else first)]
    return np.asarray((stored >= min(bits)) & (stored <= max(bits)))
