"""A simulated cohort: abdominal CT-like phantoms whose anatomy varies with sex, age and BMI. No person's data.

Made for trying the whole pipeline, for smoke tests of plugins and for experiments on fairness, where the truth must be
known. The formulas below follow the direction and rough size of published population figures; they are not a model of
anybody, and figures made from them must say "simulated".

Lengths are in mm, in a body frame whose axes are x to the person's left, y to the back and z to the head, with its
origin in the middle of the trunk at about the height of the first lumbar vertebra.

    height        male 175 +- 7 cm, female 163 +- 6 cm; weight = BMI x height^2; surface by Mosteller's formula
    body          lean half-axes grow with height and are 6 % wider in men; fat under the skin is 1.5 (BMI - 15) mm,
                  a quarter more in women, a tenth less in men; the cavity widens by 0.8 mm (women) or 1.3 mm (men) per
                  kg/m2 over 21
    liver         706 ml per m2 of body surface (Urata's formula), plus 1 % per kg/m2 over 23
    spleen        male 210 ml, female 160 ml, x (surface / 1.75 m2), minus 0.6 % per year over 30
    kidney        both together 170 ml per m2, 6 % more in men, minus 0.7 % per year over 30
    pancreas      male 88 ml, female 76 ml, minus 0.6 % per year over 40, plus 1 % per kg/m2 over 23
    ivc           calibre by (surface / 1.75 m2)^1/2
    lung          the bases, as far as they lie in the field of view: men's diaphragm stands 7 mm lower than women's
                  and rises, as theirs, by 1 mm per kg/m2 over 23 (less lung in the field of view)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from nnkd.data.phantoms._body import AIR, LABELS, Anatomy, Scene, paint_body
from nnkd.errors import DatasetError
from nnkd.files import atomic, read_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

Groups = tuple[tuple[float, float, float], ...]  # from, to, share of the people
SHAPE = (16, 96, 96)
SPACING = (12.0, 4.2, 4.2)
AGE_GROUPS: Groups = ((20, 30, 0.437), (30, 40, 0.222), (40, 50, 0.167), (50, 60, 0.174))
BMI_GROUPS: Groups = ((17.0, 21.0, 0.288), (21.0, 24.0, 0.392), (24.0, 36.0, 0.320))
SHARE_OF_MEN = 291 / 702
OVERSAMPLING = 2  # in z: thick slices average over what they contain


@dataclass(frozen=True)
class PhantomParticipant:
    """A simulated person: age in years, bmi in kg/m2."""

    identifier: str
    sex: Literal["F", "M"]
    age: float
    bmi: float


def draw_participant(rng: np.random.Generator, identifier: str) -> PhantomParticipant:
    """A person with paper 1's marginals; sex, age and BMI are independent.

    Source: Li et al. 2025, section 3 (702 people: shares of sex, of four age groups and of three BMI groups).
    """
    low, high, _ = AGE_GROUPS[rng.choice(len(AGE_GROUPS), p=_shares(AGE_GROUPS))]
    age = np.floor(rng.uniform(low, high) * 10) / 10
    group = rng.choice(len(BMI_GROUPS), p=_shares(BMI_GROUPS))
    low, high, _ = BMI_GROUPS[group]
    # thin people crowd below 21, heavy ones above 24
    where = (rng.beta(2, 1), rng.uniform(), rng.beta(1, 3))[group]
    bmi = np.floor((low + (high - low) * where) * 10) / 10
    sex: Literal["F", "M"] = "M" if rng.random() < SHARE_OF_MEN else "F"
    return PhantomParticipant(identifier, sex, float(age), float(bmi))


def draw_anatomy(participant: PhantomParticipant, rng: np.random.Generator) -> Anatomy:
    """Sizes by the formulas at the top of this module, each with its spread between people."""
    man, age, bmi = participant.sex == "M", participant.age, participant.bmi
    height = rng.normal(175, 7) if man else rng.normal(163, 6)  # cm
    surface = np.sqrt(height * bmi * (height / 100) ** 2 / 3600)  # m2
    frame = height / 170

    def about(value: float, spread: float) -> float:
        return float(value * np.clip(rng.normal(1, spread), 1 - 2.5 * spread, 1 + 2.5 * spread))

    visceral = (1.3 if man else 0.8) * (bmi - 21)
    return Anatomy(
        frame=frame,
        half_width=about((140 if man else 132) * frame + visceral, 0.025),
        half_depth=about((98 if man else 92) * frame + visceral, 0.03),
        fat=about(max(1.5 * (bmi - 15) * (0.9 if man else 1.25), 3), 0.1),
        wall=about(17 if man else 13, 0.1),
        dome=float(rng.normal((52 if man else 59) + (bmi - 23), 5)),
        liver=about(706 * surface * (1 + 0.01 * (bmi - 23)), 0.09),
        spleen=about((210 if man else 160) * surface / 1.75 * (1 - 0.006 * (age - 30)), 0.15),
        kidney=about(170 * surface * (1.06 if man else 1.0) * (1 - 0.007 * (age - 30)), 0.08),
        pancreas=about((88 if man else 76) * (1 - 0.006 * max(age - 40, 0)) * (1 + 0.01 * (bmi - 23)), 0.1),
        ivc=about(11.5 * np.sqrt(surface / 1.75), 0.1),
    )


def draw_phantom(
    participant: PhantomParticipant,
    rng: np.random.Generator,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A scan of a simulated person and its true label map.

    Args:
        participant: Whom.
        rng: Decides what sex, age and BMI leave open, the scan's position, contrast and noise.
        shape: (Z, Y, X) voxels.
        spacing: (z, y, x) in mm. Z x z of about 190 mm and Y x y of about 400 mm hold the upper abdomen.

    Returns:
        image (Z, Y, X) float32 in HU and label_map (Z, Y, X) uint8 with the integers of `LABELS`, in LPS order.
    """
    anatomy = draw_anatomy(participant, rng)
    scene = _empty_scene(shape, spacing, rng)
    paint_body(scene, anatomy, rng)
    return _scan(scene, shape, rng)


def write_cohort(
    folder: Path, number: int, seed: int, shape: Sequence[int] = SHAPE, spacing: Sequence[float] = SPACING
) -> list[PhantomParticipant]:
    """Write what somebody would download: images/sim_001.nii.gz ..., labels/sim_001.nii.gz ..., labels.json,
    participants_simulated.tsv and dataset_description.json. Cases that are there already are kept; a larger number
    adds to a smaller one.

    Args:
        folder: Where to write.
        number: Of participants.
        seed: Participant n of a seed is always the same.
        shape, spacing: See `draw_phantom`.

    Returns:
        The participants.

    Raises:
        DatasetError: If the folder holds another cohort.
    """
    description = {
        "Name": "Simulated abdominal CT phantoms",
        "Description": "Simulated by nnkd.data.phantoms; no person's data. Not a medical data set.",
        "License": "CC0",
        "GeneratedBy": {"seed": seed, "shape": list(shape), "spacing": [float(s) for s in spacing]},
    }
    file = folder / "dataset_description.json"
    if file.is_file() and read_json(file) != description:
        raise DatasetError(f"{folder.name} holds another simulated cohort (see {file.name}). Write to an empty folder.")
    write_json(file, description)
    write_json(folder / "labels.json", dict(LABELS))
    people = []
    for index in range(1, number + 1):
        rng = np.random.default_rng([seed, index])
        person = draw_participant(rng, f"sim_{index:03d}")
        people.append(person)
        files = [folder / kind / f"{person.identifier}.nii.gz" for kind in ("images", "labels")]
        if not all(target.is_file() for target in files):
            phantom: tuple[NDArray[np.float32 | np.uint8], ...] = draw_phantom(person, rng, shape, spacing)
            for array, target in zip(phantom, files, strict=True):
                _write_nifti(array, target, spacing)
    _write_participants(people, folder / "participants_simulated.tsv")
    return people


def _shares(groups: Groups) -> NDArray[np.float64]:
    shares = np.array([share for *_, share in groups], dtype=np.float64)
    return shares / float(shares.sum())


def _empty_scene(shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> Scene:
    """Air on the oversampled grid; its coordinates lie a little askew (position on the table) and are bent smoothly."""
    counts = (shape[0] * OVERSAMPLING, shape[1], shape[2])
    steps = (spacing[0] / OVERSAMPLING, spacing[1], spacing[2])
    position = rng.normal(0, (6, 4, 4))
    axes = [
        ((np.arange(n) - (n - 1) / 2) * s + shift).astype(np.float32)
        for n, s, shift in zip(counts, steps, position, strict=True)
    ]
    # lowest cosines of each axis: smooth, cheap, and never folds at this size
    waves = [np.cos(np.pi * np.arange(4)[:, None] * (np.arange(n) + 0.5) / n).astype(np.float32) for n in counts]
    decay = 1 / (1 + np.add.outer(np.add.outer(np.arange(4), np.arange(4)), np.arange(4)))
    bent = []
    for which, size in enumerate((4.0, 3.5, 3.5)):
        weights = (rng.normal(0, size, (4, 4, 4)) * decay).astype(np.float32)
        weights[0, 0, 0] = 0
        field = np.einsum("abc,az,by,cx->zyx", weights, *waves, optimize=True)
        bent.append(axes[which].reshape([-1 if i == which else 1 for i in range(3)]) + field)
    z, y, x = bent
    air = np.full(counts, AIR, dtype=np.float32)
    return Scene(x, y, z, air, np.zeros(counts, dtype=np.uint8), edge=float(max(spacing[1:])))


def _scan(
    scene: Scene, shape: Sequence[int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Slices average over their thickness; then blur, noise and the scanner's own scale."""
    from scipy.ndimage import gaussian_filter

    pairs = (shape[0], OVERSAMPLING, shape[1], shape[2])
    image = scene.image.reshape(pairs).mean(axis=1)
    layers = scene.label_map.reshape(pairs)
    votes = np.stack([(layers == value).sum(axis=1, dtype=np.uint8) for value in range(max(LABELS.values()) + 1)])
    votes[1:] *= 2  # a tie with the background goes to the organ
    label_map = votes.argmax(axis=0).astype(np.uint8)
    image = gaussian_filter(image, (0, 0.55, 0.55))
    fine = rng.standard_normal(image.shape, dtype=np.float32)
    noise = 0.6 * fine + 1.3 * gaussian_filter(fine[::-1], (0, 0.8, 0.8))  # reconstruction correlates noise
    image = image * rng.normal(1, 0.02) + rng.normal(0, 4) + rng.uniform(10, 22) * noise
    return np.clip(image, -1024, 2000).astype(np.float32), label_map


def _write_nifti(array: NDArray[np.float32 | np.uint8], file: Path, spacing: Sequence[float]) -> None:
    import SimpleITK as sitk

    whole = array if array.dtype == np.uint8 else np.rint(array).astype(np.int16)  # as scanners store HU
    image = sitk.GetImageFromArray(whole)
    _place(image, array.shape, spacing)
    with atomic(file) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


class _Placed(Protocol):
    """As much of SimpleITK's images as is asked for here."""

    def SetSpacing(self, spacing: Sequence[float], /) -> object: ...

    def SetOrigin(self, origin: Sequence[float], /) -> object: ...


def _place(image: _Placed, shape: Sequence[int], spacing: Sequence[float]) -> None:
    image.SetSpacing([float(s) for s in reversed(spacing)])
    image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(reversed(shape), reversed(spacing), strict=True)])


def _write_participants(people: Sequence[PhantomParticipant], file: Path) -> None:
    rows = ["participant_id\tsex\tage\tbmi"]
    rows += ["\t".join(str(value) for value in asdict(person).values()) for person in people]
    with atomic(file) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")
