"""nnkd.data.reading.dicom.uptake: SUV by body weight, against the formula in numbers."""

from __future__ import annotations

import dicom_toys as toys
import numpy as np
import pytest
from pydicom.dataset import Dataset

from nnkd.data.reading.dicom.volumes import read
from nnkd.errors import DatasetError

HALF_LIFE = 6586.2  # s, F-18
DOSE, WEIGHT = 370e6, 70.0  # Bq, kg


def series(folder, injected=None, **more):
    item = Dataset()
    toys.set_all(item, {"RadionuclideTotalDose": DOSE, "RadionuclideHalfLife": HALF_LIFE,
                        "RadiopharmaceuticalStartTime": "101500.00", **(injected or {})})  # fmt: skip
    tags = {"Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["NORM", "ATTN", "DECY"],
            "PatientWeight": WEIGHT, "SeriesDate": "20200102", "SeriesTime": "111500", "AcquisitionDate": "20200102",
            "AcquisitionTime": "111530.5", "RadiopharmaceuticalInformationSequence": [item], **more}  # fmt: skip
    stored = np.abs(toys.noise())
    slopes = [1, 0.5, 0.25, 1.5, 0.1, 2.25]
    return stored * np.array(slopes)[:, None, None], toys.slices(
        folder, stored, toys.line(6), modality="PT", slopes=slopes, tags=tags
    )


def test_values_are_becquerels_unless_asked(tmp_path):
    wanted, files = series(tmp_path)
    image = read(files)
    np.testing.assert_array_equal(image.array[0], wanted.astype(np.float32))
    assert image.said == ()


HOUR = DOSE * 0.5 ** (3600 / HALF_LIFE)


@pytest.mark.parametrize(
    ("injected", "tags", "dose"),
    [
        ({}, {}, HOUR),
        ({}, {"DecayCorrection": "ADMIN"}, DOSE),
        ({"RadiopharmaceuticalStartDateTime": "20200102101500.000000"}, {}, HOUR),
        ({"RadiopharmaceuticalStartTime": "233000"}, {"SeriesTime": "003000", "AcquisitionTime": "003100"}, HOUR),
    ],
)
def test_suv(tmp_path, injected, tags, dose):
    wanted, files = series(tmp_path, injected, **tags)
    image = read(files, suv=True)
    np.testing.assert_allclose(image.array[0], wanted * WEIGHT * 1000 / dose, rtol=1e-6)
    assert image.array.dtype == np.float32
    assert "standardised uptake values" in image.said[-1]


@pytest.mark.parametrize(
    ("injected", "tags", "why"),
    [
        ({}, {"Units": "CNTS"}, "its Units are CNTS, not BQML"),
        ({}, {"PatientWeight": None}, "PatientWeight is missing"),
        ({}, {"PatientWeight": 0}, "PatientWeight is missing or not positive"),
        ({}, {"CorrectedImage": ["NORM"]}, "without ATTN and DECY"),
        ({}, {"DecayCorrection": "NONE"}, "DecayCorrection is NONE"),
        ({}, {"DecayCorrection": None}, "DecayCorrection is not said"),
        ({}, {"SeriesTime": None}, "SeriesTime is missing"),
        ({}, {"SeriesTime": "120000"}, "SeriesTime is later than its AcquisitionTime"),
        ({}, {"RadiopharmaceuticalInformationSequence": None}, "RadiopharmaceuticalInformationSequence is missing"),
        ({"RadionuclideTotalDose": None}, {}, "RadionuclideTotalDose is missing"),
        ({"RadionuclideHalfLife": None}, {}, "RadionuclideHalfLife is missing"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "RadiopharmaceuticalStartTime is missing"),
        ({"RadiopharmaceuticalStartDateTime": "20190102101500"}, {}, "the scan began 31539600 s after the injection"),
        ({"RadiopharmaceuticalStartDateTime": "20200102121500"}, {}, "the scan began -3600 s after the injection"),
    ],
)
def test_suv_is_refused_where_a_number_lacks(tmp_path, injected, tags, why):
    _, files = series(tmp_path, injected, **tags)
    with pytest.raises(DatasetError, match=f"No SUV can be computed for .*{why}"):
        read(files, suv=True)


def test_suv_of_a_ct(tmp_path):
    with pytest.raises(DatasetError, match="it is CT, no PET"):
        read(toys.slices(tmp_path, toys.noise(), toys.line(6)), suv=True)
