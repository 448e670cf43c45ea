"""One file of a DICOM folder: whether it is an object, which series it belongs to, and the rule that sets it aside."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkd.data.reading.image import KNOWN, ending_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
MAYBE_DICOM = (".img", ".hdr")  # Analyze's endings, but old exports use them, too
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LABELMAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
STANDARD = "1.2.840.10008."
VOLUMES_BY_NAME = ("Image Storage", "US Volume Storage")
LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM"}  # in ImageType
SCREENS = {"SCREEN SAVE", "SCREENSAVE", "SCREENSHOT"}
LOCALIZER_WORDS = re.compile(r"\b(locali[sz]ers?|scout|topogram|scanogram|surview|survey|3[- ]?pl(ane)?|loc)\b", re.I)
KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
    "SeriesDescription", "Modality", "ImageType", "PatientID", "Rows",
)  # fmt: skip
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
OTHER_MAGICS = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"%PDF")  # viewers and letters on a CD


@dataclass(frozen=True)
class Header:
    """What one object says of itself.

    Attributes:
        file: Where it lies.
        instance, series, study, frame_of_reference, sop_class: UIDs; `frame_of_reference` may be empty.
        number: Of the series; empty: none.
        description: Of the series.
        modality: Such as "CT".
        patient: Its identifier; only compared within a series, never kept or shown.
        rule: Why it is no image to convert; empty: it is one.
        flaw: What keeps it from being read, although its series is known; empty: nothing.
    """

    file: Path
    instance: str
    series: str
    study: str
    frame_of_reference: str
    sop_class: str
    number: str
    description: str
    modality: str
    patient: str
    rule: str
    flaw: str


@dataclass(frozen=True)
class Other:
    """A file that is no readable DICOM object.

    Attributes:
        file: Where it lies.
        reason: What is wrong with it, or the rule that sets it aside.
        understood: Whether it is what lies beside DICOM (a licence, a viewer, a picture).
    """

    file: Path
    reason: str
    understood: bool


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning: its sentences hold absolute paths and values of headers. For a whole scan, as
    filters of warnings belong to all threads."""
    from pydicom.config import disable_value_validation

    log = logging.getLogger("pydicom")
    level = log.level
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def look(file: Path) -> Header | Other:
    """Read a file's header. It is opened once, and not at all where its name says that it is a picture or NIfTI.

    Args:
        file: Any file.
    """
    from pydicom import dcmread

    ending = ending_of(file)
    if ending in KNOWN and ending not in MAYBE_DICOM:
        return Other(file, "image that is no DICOM", understood=True)
    try:
        with open(file, "rb") as opened:
            start = opened.read(132)
            if start[128:] != b"DICM" and start[:2] not in (b"\x08\x00", b"\x02\x00"):
                return _no_dicom(file, start)
            opened.seek(0)
            # only what is asked for is parsed, and nothing behind the pixels' tag is read
            found = dcmread(opened, stop_before_pixels=True, force=True, specific_tags=list(KEYWORDS))
    except OSError as error:
        return Other(file, f"cannot be opened ({error.strerror or 'error'})", understood=False)
    except Exception as error:  # noqa: BLE001 - a broken header makes pydicom raise whatever its bytes lead to
        # its own text may hold what stands in the header, so only its type is said
        return Other(file, f"has a broken DICOM header ({type(error).__name__})", understood=False)
    return _header(file, found)


def shown(name: str) -> str:
    """A file's name as text that can be printed and stored: old disks have names that are no UTF-8."""
    return name.encode("utf-8", "replace" if os.name == "nt" else "surrogateescape").decode("utf-8", "replace")


def kind_of_name(file: Path) -> str:
    """The ending in small letters; empty where there is none, or digits, as behind the last point of a UID."""
    ending = file.suffix.lower()
    return "" if ending[1:].isdigit() else ending


def _no_dicom(file: Path, start: bytes) -> Other:
    ending = kind_of_name(file)
    if ending in ARCHIVES:
        return Other(file, "is an archive; unpack it, or convert it by itself", understood=False)
    like_a_slice = ending in DICOM_ENDINGS
    if not ending:  # IM0001 beside LICENSE and README, which are text
        like_a_slice = not start or (b"\0" in start and not start.startswith(OTHER_MAGICS))
    if like_a_slice:
        return Other(file, "is no DICOM object" if start else "is empty", understood=False)
    return Other(file, "no DICOM", understood=True)


def _header(file: Path, found: Dataset) -> Header | Other:
    sop_class = _text(found, "SOPClassUID") or _text(getattr(found, "file_meta", None), "MediaStorageSOPClassUID")
    description = _text(found, "SeriesDescription")
    has_pixels = bool(_text(found, "Rows"))
    rule = _rule(sop_class, set(_text(found, "ImageType").upper().split("\\")), description, has_pixels)
    series, instance = _text(found, "SeriesInstanceUID"), _text(found, "SOPInstanceUID")
    flaw = ""
    if not rule and not (sop_class and instance):
        flaw = "lacks the UID of its class or instance"
    elif not rule and not has_pixels:
        flaw = "is an image without rows and columns, perhaps cut short"
    if not rule and not series:
        return Other(file, flaw or "lacks the UID of its series", understood=False)
    return Header(
        file, instance, series, _text(found, "StudyInstanceUID"), _text(found, "FrameOfReferenceUID"), sop_class,
        _text(found, "SeriesNumber"), description, _text(found, "Modality"), _text(found, "PatientID"), rule, flaw,
    )  # fmt: skip


def _rule(sop_class: str, image_type: set[str], description: str, has_pixels: bool) -> str:
    from pydicom.uid import UID

    name = UID(sop_class).name if sop_class else ""
    is_known = name != sop_class
    if is_known and not any(words in name for words in VOLUMES_BY_NAME):
        return "DICOMDIR" if name.startswith("Media Storage Directory") else name.removesuffix(" Storage")
    if sop_class == LABELMAP_SEGMENTATION:  # newer than pydicom's dictionary
        return "Segmentation"
    if sop_class and not sop_class.startswith(STANDARD) and not has_pixels:
        return "a manufacturer's own object without pixels"
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(f"{SECONDARY_CAPTURE}."):
        return "Secondary Capture (screenshot, dose report)"
    if image_type & SCREENS:
        return "screenshot"
    if image_type & LOCALIZERS:
        return "localizer"
    if LOCALIZER_WORDS.search(description.replace("_", " ")):
        return "localizer by its description"
    return ""


def _text(found: Any, keyword: str) -> str:
    try:
        value = found.get(keyword) if found is not None else None
    except Exception:  # noqa: BLE001 - a value that is not as its type says is as good as none
        return ""
    if value is None:
        return ""
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    return "\\".join(str(part).strip().strip("\0") for part in parts)
