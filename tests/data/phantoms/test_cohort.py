"""The simulated cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnkd.data.groups import groups
from nnkd.data.participants import read_participants
from nnkd.data.phantoms.cohort import (
    AGE_GROUPS,
    BMI_GROUPS,
    LABELS,
    SHAPE,
    SPACING,
    PhantomParticipant,
    draw_anatomy,
    draw_participant,
    draw_phantom,
    write_cohort,
)
from nnkd.errors import DatasetError

pytestmark = pytest.mark.heavy

RANGES_ML = {  # what radiologists measure in adults; the lung only as far as it is in the field of view
    "liver": (600, 2400),
    "kidney": (150, 550),
    "spleen": (30, 450),
    "lung": (600, 3500),
    "ivc": (20, 160),
    "pancreas": (35, 160),
}


def volumes(label_map: np.ndarray, spacing: tuple = SPACING) -> dict[str, float]:
    """ml by label."""
    return {name: float((label_map == value).sum() * np.prod(spacing) / 1000) for name, value in LABELS.items()}


def mean_volumes(sex: str, age: float, bmi: float, number: int = 10) -> dict[str, float]:
    """Mean ml over several people of the same sex, age and BMI; the same random numbers whatever these are."""
    person = PhantomParticipant("x", sex, age, bmi)
    found = [volumes(draw_phantom(person, np.random.default_rng([7, n]))[1]) for n in range(number)]
    return {name: float(np.mean([one[name] for one in found])) for name in LABELS}


@pytest.fixture(scope="module")
def reference() -> dict[str, float]:
    return mean_volumes("M", 30, 23)


def test_same_generator_same_phantom():
    person = PhantomParticipant("x", "F", 40, 25)
    first, second = (draw_phantom(person, np.random.default_rng(3)) for _ in range(2))
    other = draw_phantom(person, np.random.default_rng(4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[1] != other[1]).mean() > 0.02


def test_every_phantom_has_all_organs_of_plausible_size():
    for number in range(20):
        rng = np.random.default_rng([1, number])
        image, label_map = draw_phantom(draw_participant(rng, "x"), rng)
        assert image.shape == label_map.shape == SHAPE
        assert image.dtype == np.float32
        assert label_map.dtype == np.uint8
        assert set(np.unique(label_map)) <= {0, *LABELS.values()}
        for name, volume in volumes(label_map).items():
            low, high = RANGES_ML[name]
            assert low < volume < high, (number, name, volume)


def test_other_grids():
    image, label_map = draw_phantom(
        PhantomParticipant("x", "M", 30, 23), np.random.default_rng(0), (10, 48, 40), (18, 8, 9)
    )
    assert image.shape == (10, 48, 40)
    assert set(LABELS.values()) <= set(np.unique(label_map))


def test_intensities_tell_tissues_apart():
    image, label_map = draw_phantom(PhantomParticipant("x", "M", 30, 23), np.random.default_rng(0))
    assert image[label_map == LABELS["lung"]].mean() < -600
    assert 30 < image[label_map == LABELS["liver"]].mean() < 140
    assert image[0, :8, :8].mean() < -900
    assert image.max() > 250


def test_patient_right_is_low_x_and_head_is_high_z():
    _, label_map = draw_phantom(PhantomParticipant("x", "M", 30, 23), np.random.default_rng(0))
    where = {name: np.argwhere(label_map == value).mean(axis=0) for name, value in LABELS.items()}
    assert where["liver"][2] < where["pancreas"][2] < where["spleen"][2]
    assert where["kidney"][0] < where["liver"][0] < where["lung"][0]
    assert where["pancreas"][1] < where["kidney"][1]


def test_women_have_smaller_organs(reference: dict[str, float]):
    women = mean_volumes("F", 30, 23)
    for name in LABELS:
        assert women[name] < reference[name], name


def test_organs_shrink_with_age(reference: dict[str, float]):
    old = mean_volumes("M", 60, 23)
    assert old["kidney"] < 0.9 * reference["kidney"]
    assert old["spleen"] < 0.95 * reference["spleen"]
    assert old["pancreas"] < 0.97 * reference["pancreas"]
    assert old["liver"] == pytest.approx(reference["liver"], rel=0.03)


def test_organs_grow_with_bmi_and_the_lung_gives_way(reference: dict[str, float]):
    heavy = mean_volumes("M", 30, 32)
    for name in ("liver", "kidney", "pancreas", "ivc"):
        assert heavy[name] > 1.05 * reference[name], name
    person = PhantomParticipant("x", "M", 30, 32), PhantomParticipant("x", "M", 30, 23)
    heavy_body, slim_body = (draw_anatomy(p, np.random.default_rng(0)) for p in person)
    assert heavy_body.dome == pytest.approx(slim_body.dome + 9)
    assert heavy_body.fat > 1.8 * slim_body.fat


def test_marginals_are_the_papers():
    rng, number = np.random.default_rng(0), 4000
    people = [draw_participant(rng, str(n)) for n in range(number)]
    tolerance = 4 * np.sqrt(0.25 / number)
    assert np.mean([p.sex == "M" for p in people]) == pytest.approx(291 / 702, abs=tolerance)
    for column, table in (("age", AGE_GROUPS), ("bmi", BMI_GROUPS)):
        for low, high, share in table:
            inside = np.mean([low <= getattr(p, column) < high for p in people])
            assert inside == pytest.approx(share, abs=tolerance), (column, low)


def test_cohort_is_what_somebody_would_download(tmp_path: Path):
    people = write_cohort(tmp_path, 2, seed=5, shape=(8, 40, 40), spacing=(24, 10, 10))
    image, labels = (sitk.ReadImage(str(tmp_path / kind / "sim_001.nii.gz")) for kind in ("images", "labels"))
    assert image.GetSize() == labels.GetSize() == (40, 40, 8)
    assert image.GetSpacing() == pytest.approx((10, 10, 24))
    assert image.GetOrigin() == labels.GetOrigin() == pytest.approx((-195, -195, -84))
    assert image.GetDirection() == pytest.approx(np.eye(3).ravel())
    assert "imulated" in (tmp_path / "dataset_description.json").read_text()
    (tmp_path / "participants_simulated.tsv").rename(tmp_path / "participants.tsv")
    found = read_participants(tmp_path)
    assert [(p.identifier, p.sex, p.age, p.bmi) for p in found.values()] == [
        (p.identifier, p.sex, p.age, p.bmi) for p in people
    ]
    assert set(groups(found.values(), "sex").values()) <= {"F", "M"}


def test_cohort_is_completed_after_an_interruption_and_never_mixed(tmp_path: Path):
    small = {"shape": (8, 40, 40), "spacing": (24, 10, 10)}
    write_cohort(tmp_path / "whole", 3, 5, **small)
    write_cohort(tmp_path / "grown", 2, 5, **small)
    (tmp_path / "grown" / "labels" / "sim_002.nii.gz").unlink()
    kept = (tmp_path / "grown" / "images" / "sim_001.nii.gz").stat().st_mtime_ns
    write_cohort(tmp_path / "grown", 3, 5, **small)
    assert (tmp_path / "grown" / "images" / "sim_001.nii.gz").stat().st_mtime_ns == kept
    for file in sorted((tmp_path / "whole").rglob("*.nii.gz")):
        twin = tmp_path / "grown" / file.relative_to(tmp_path / "whole")
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, twin)))
    with pytest.raises(DatasetError, match="another simulated cohort"):
        write_cohort(tmp_path / "grown", 3, 6, **small)
