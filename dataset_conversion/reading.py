"""Names of cases, and what conversions read beside single files."""

from __future__ import annotations

import locale
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.image import Image
from nnkd.errors import DatasetError, in_one_line
from nnkd.files import split_ending

SLICE_TOLERANCE = 0.02  # of the distance between slices; scanners write positions with a few digits


def case_name(path: Path) -> str:
    """The file's name without its ending, with what file systems or nnU-Net dislike replaced."""
    return clean(split_ending(path.name)[0])


def clean(name: str) -> str:
    """A name with everything but letters, digits, "-", "_" and "." replaced by "_"."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def read_series(files: Sequence[str]) -> Image:
    """Read one DICOM series, whose files are in the order of their slices.

    Raises:
        DatasetError: If a file is unreadable, or slices are missing or unevenly spaced (ITK would only warn, and
            squeeze the volume together).
    """
    name = Path(files[0]).parent.name
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(list(files))
    reader.MetaDataDictionaryArrayUpdateOn()
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        why = in_one_line(error, last=True)
        raise DatasetError(f"The DICOM series in {name} cannot be read ({why}). Export it again.") from error
    finally:
        locale.setlocale(locale.LC_CTYPE, before)  # ITK leaves the C locale behind
    if len(files) > 2 and all(reader.HasMetaDataKey(k, "0020|0032") for k in range(len(files))):
        texts = [reader.GetMetaData(k, "0020|0032") for k in range(len(files))]
        positions = np.array([[float(v) for v in text.split("\\")] for text in texts])
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        if np.ptp(steps) > SLICE_TOLERANCE * np.median(steps):
            raise DatasetError(
                f"The DICOM series in {name} lacks slices or is unevenly spaced ({steps.min():.2f} to "
                f"{steps.max():.2f} mm between slices). Export it again."
            )
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    grid = Grid(image.GetSize()[::-1], image.GetSpacing()[::-1], image.GetOrigin(), direction)
    return Image(sitk.GetArrayFromImage(image)[None], grid)
