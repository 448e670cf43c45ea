"""The simulated cohort of `fairness.py`: small scans of people who do not exist, and six teachers who err by rule.

Scans are the quickstart's phantoms (`nnkd.data.phantoms`: anatomy by sex, age and BMI) on a coarse grid, with three
organs.
On top comes the confound, what makes groups look different and teachers err differently:

    contrast  how much agent has arrived in liver, kidneys and spleen falls from all of it in women of 20 to none at 60,
              with less in men, whose blood dilutes it more; what is common in the young is rare in the old
    BMI       a fatty liver loses 5 HU per kg/m2 over 24, at most 45 HU, and so comes close to or below the spleen;
              noise of 2 HU per kg/m2 over 21 comes on top
    teachers  displace borders at random and by a constant, and miss organs in single slices; `Teacher.trouble` says in
              whom they do so more: one in men, one in older people, one at higher BMI, three a little in all of these

The shares of sex, age and BMI are paper 1's and independent; so those whom the confound hits, older people and those of
high BMI, are fewer. Nothing here is a measurement of people. Lengths in mm, arrays (Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnkd.data.phantoms.cohort import LABELS, PhantomParticipant, draw_participant, draw_phantom
from nnkd.files import atomic

SHAPE, SPACING = (8, 40, 40), (24.0, 8.0, 8.0)  # holds all organs, not the skin of the heaviest
ORGANS = ("liver", "kidney", "spleen")
LEVELS = {"liver": (58.0, 48.0), "kidney": (35.0, 110.0), "spleen": (50.0, 62.0)}  # HU, and what all contrast adds
COMMON = 0.4
GROUPS = {"sex": ("F", "M"), "age": ("20-30", "30-40", "40-50", "50-60"), "bmi": ("<21", "21-24", ">=24")}
EDGES = {"age": (30, 40, 50), "bmi": (21, 24)}


@dataclass(frozen=True)
class Teacher:
    """Who answers with the truth, displaced.

    Attributes:
        wobble: Standard deviation of the random displacement of borders, mm.
        shift: Constant displacement where there is trouble, mm; negative: organs come out too small.
        missed: Chance that an organ is not seen in a slice.
        men, age, bmi: How much more trouble there is in men, at 60 compared with 20, and at a BMI of 31 compared with
            21 or less.
    """

    wobble: float
    shift: float
    missed: float
    men: float = 0.0
    age: float = 0.0
    bmi: float = 0.0

    def trouble(self, person: PhantomParticipant) -> float:
        """Factor of all errors: 1 in a woman of 20 with a BMI of 21."""
        old, heavy = (person.age - 20) / 40, max(person.bmi - 21, 0) / 10
        return 1 + self.men * (person.sex == "M") + self.age * old + self.bmi * heavy


TEACHERS = {
    "steady": Teacher(5.5, 0.0, 0.03, men=0.2, age=0.2, bmi=0.2),
    "young": Teacher(4.0, -1.5, 0.02, age=1.5),
    "lean": Teacher(4.0, 1.5, 0.02, bmi=1.5),
    "female": Teacher(4.0, -1.5, 0.02, men=1.0),
    "timid": Teacher(4.5, -1.5, 0.03, men=0.2, age=0.5, bmi=0.5),
    "eager": Teacher(4.5, 1.5, 0.03, men=0.2, age=0.5, bmi=0.5),
}


def group_names(person: PhantomParticipant) -> dict[str, str]:
    """Paper 1's group of a person by attribute."""
    found = {"sex": person.sex}
    for attribute, edges in EDGES.items():
        found[attribute] = GROUPS[attribute][int(np.searchsorted(edges, getattr(person, attribute), side="right"))]
    return found


def draw_scan(person: PhantomParticipant, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scan with the confound.

    Returns:
        image (Z, Y, X) float32 in HU, and label_map (Z, Y, X) uint8: 0, or 1 + the place in `ORGANS`.
    """
    from scipy.ndimage import gaussian_filter

    image, found = draw_phantom(person, rng, SHAPE, SPACING)
    label_map = np.zeros_like(found)
    contrast = np.clip(1 - (person.age - 20) / 40 - 0.15 * (person.sex == "M") + rng.normal(0, 0.12), 0, 1)
    for value, organ in enumerate(ORGANS, 1):
        mask = found == LABELS[organ]
        label_map[mask] = value
        if not mask.any():
            continue
        plain, added = LEVELS[organ]
        change = plain + added * contrast + rng.normal(0, 6) - float(np.median(image[mask]))
        if organ == "liver":
            change -= min(5 * max(person.bmi - 24, 0), 45)
        image += change * gaussian_filter(mask.astype(np.float32), (0, 0.5, 0.5))  # as soft as phantoms' borders
    image += 2 * max(person.bmi - 21, 0) * rng.standard_normal(image.shape, dtype=np.float32)
    return image, label_map


def ask(
    teacher: Teacher, person: PhantomParticipant, label_map: np.ndarray, rng: np.random.Generator, common: int = 0
) -> np.ndarray:
    """A teacher's label map: each border displaced; where organs then overlap, the one that is deeper inside wins.

    Args:
        teacher: Whose manner.
        person: Whose scan.
        label_map: (Z, Y, X) uint8, the truth.
        rng: Decides what is left open.
        common: Seed of what all teachers find hard in this scan: `COMMON` of the random displacement's variance.

    Returns:
        (Z, Y, X) uint8.
    """
    trouble, shared = teacher.trouble(person), np.random.default_rng(common)
    depths = [np.zeros(label_map.shape)]
    for value in range(1, len(ORGANS) + 1):
        mask = label_map == value
        noise = np.sqrt(COMMON) * _smooth_noise(mask.shape, shared) + np.sqrt(1 - COMMON) * _smooth_noise(
            mask.shape, rng
        )
        moved = trouble * (teacher.wobble * noise + teacher.shift)
        seen = rng.random(len(mask)) >= teacher.missed * trouble
        depths.append(np.where(seen[:, None, None], _depth(mask) + moved, -np.inf))
    return np.argmax(depths, axis=0).astype(np.uint8)


def _depth(mask: np.ndarray) -> np.ndarray:
    """Approximate distance to the border of a mask, mm; positive inside. Slice by slice: borders move within slices."""
    from scipy.ndimage import distance_transform_edt

    depth = np.full(mask.shape, -np.inf)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        inside, outside = (distance_transform_edt(m, SPACING[1:]) for m in (mask[z], ~mask[z]))
        depth[z] = np.where(mask[z], inside - SPACING[1] / 2, SPACING[1] / 2 - outside)
    return depth


def _smooth_noise(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Standard deviation 1; correlated over about 15 mm, and a little between slices."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape), (0.5, 1.2, 1.2), mode="wrap")
    return noise / noise.std()


def write_cohort(folder: Path, number: int, seed: int) -> dict[str, PhantomParticipant]:
    """Write images/CASE.nii.gz, labels/CASE.nii.gz, teachers/TEACHER/CASE.nii.gz and participants_simulated.tsv; what
    is there already is kept.

    Args:
        folder: Where to write.
        number: Of participants.
        seed: Participant n of a seed, and what teachers say of him, are always the same.

    Returns:
        The participants by case.
    """
    people = {}
    for index in range(1, number + 1):
        rng = np.random.default_rng([seed, index])
        person = draw_participant(rng, f"sim_{index:04d}")
        people[person.identifier] = person
        name = f"{person.identifier}.nii.gz"
        last = folder / "teachers" / list(TEACHERS)[-1] / name
        if last.is_file():
            continue
        image, label_map = draw_scan(person, rng)
        _write(np.rint(image).astype(np.int16), folder / "images" / name)
        _write(label_map, folder / "labels" / name)
        for place, (teacher, manner) in enumerate(TEACHERS.items()):
            answer = ask(manner, person, label_map, np.random.default_rng([seed, index, place]), 10_000 * seed + index)
            _write(answer, folder / "teachers" / teacher / name)
    rows = ["\t".join(asdict(next(iter(people.values())))).replace("identifier", "participant_id")]
    rows += ["\t".join(map(str, asdict(person).values())) for person in people.values()]
    (folder / "participants_simulated.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return people


def _write(array: np.ndarray, file: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
