"""Standardised uptake values: Bq/ml of a PET series -> multiples of an even distribution in the body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkd.data.reading.dicom.frames import where
from nnkd.errors import DatasetError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MOST_HALF_LIVES = 10  # between injection and scan; more is a wrong date


def suv_factor(ds: Dataset, file: Path) -> float:
    """What a voxel in Bq/ml is multiplied with to give the SUV by body weight (g/ml).

    Source: the vendor-neutral computation of QIBA's FDG-PET profile, without its exceptions for single makers.

    Args:
        ds: A PET slice.
        file: Where it is stored.

    Raises:
        DatasetError: If anything it needs is missing or contradicts itself.
    """
    if str(ds.get("Modality")) != "PT":
        raise _refused(file, f"it is {ds.get('Modality')}, no PET (PT)")
    if ds.get("Units") != "BQML":
        raise _refused(file, f"its Units are {ds.get('Units') or 'not said'}, not BQML")
    corrected = [str(word) for word in ds.get("CorrectedImage") or []]
    if not {"ATTN", "DECY"} <= set(corrected):
        raise _refused(file, f"its CorrectedImage is {'/'.join(corrected) or 'not said'}, without ATTN and DECY")
    injected = _first(ds, "RadiopharmaceuticalInformationSequence", file)
    weight = _positive(ds, "PatientWeight", file)
    dose = _positive(injected, "RadionuclideTotalDose", file)
    decay = ds.get("DecayCorrection")
    if decay == "ADMIN":
        return weight * 1000 / dose
    if decay != "START":
        raise _refused(file, f"its DecayCorrection is {decay or 'not said'}, neither START nor ADMIN")
    half_life = _positive(injected, "RadionuclideHalfLife", file)
    seconds = (_start(ds, file) - _injection(ds, injected, file)).total_seconds()
    if not 0 <= seconds <= _MOST_HALF_LIVES * half_life:
        raise _refused(
            file, f"by its header, the scan began {seconds:.0f} s after the injection (half-life {half_life:.0f} s)"
        )
    return weight * 1000 / (dose * math.pow(2, -seconds / half_life))


def _start(ds: Dataset, file: Path) -> datetime:
    """When the scan began, which activities refer to: the series' time, unless the series was made afterwards."""
    start = _moment(ds, "SeriesDate", "SeriesTime", file)
    if start > _moment(ds, "AcquisitionDate", "AcquisitionTime", file):
        raise _refused(file, "its SeriesTime is later than its AcquisitionTime, so the start of the scan is not known")
    return start


def _injection(ds: Dataset, injected: Dataset, file: Path) -> datetime:
    stated = injected.get("RadiopharmaceuticalStartDateTime")
    if stated:
        from pydicom.valuerep import DT

        return datetime.fromisoformat(DT(str(stated)).replace(tzinfo=None).isoformat())
    time = injected.get("RadiopharmaceuticalStartTime")
    if not time:
        raise _refused(file, "RadiopharmaceuticalStartTime is missing")
    moment = _at(str(ds.get("SeriesDate")), str(time))
    late = moment > _moment(ds, "SeriesDate", "SeriesTime", file)  # a time without a date: injected before midnight
    return moment - timedelta(days=1) if late else moment


def _moment(ds: Dataset, date: str, time: str, file: Path) -> datetime:
    for keyword in (date, time):
        if not ds.get(keyword):
            raise _refused(file, f"{keyword} is missing")
    return _at(str(ds.get(date)), str(ds.get(time)))


def _at(date: str, time: str) -> datetime:
    from pydicom.valuerep import DA, TM

    day, clock = DA(date), TM(time)
    return datetime(day.year, day.month, day.day, clock.hour, clock.minute, clock.second, clock.microsecond)


def _positive(ds: Dataset, keyword: str, file: Path) -> float:
    value: Any = ds.get(keyword)
    if value in (None, "") or not float(value) > 0:
        raise _refused(file, f"{keyword} is missing or not positive")
    return float(value)


def _first(ds: Dataset, keyword: str, file: Path) -> Dataset:
    items: Sequence[Dataset] = ds.get(keyword)
    if not items:
        raise _refused(file, f"{keyword} is missing")
    if len(items) > 1:
        raise _refused(file, f"{keyword} names {len(items)} injections")
    return items[0]


def _refused(file: Path, why: str) -> DatasetError:
    return DatasetError(f"No SUV can be computed for {where(file)}: {why}. Take the values in Bq/ml as they are.")
