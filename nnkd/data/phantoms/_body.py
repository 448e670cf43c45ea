"""The body of a phantom: organs as smooth shapes, painted one over the other. `cohort` says whose it is.

Lengths in mm, axes x to the person's left, y to the back, z to the head. A signed distance is negative inside; it is
approximate, which is why the wanted volumes were calibrated on 60 drawn people (within 10 % on average)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS: Mapping[str, int] = {"liver": 1, "kidney": 2, "spleen": 3, "lung": 4, "ivc": 5, "pancreas": 6}
AIR, FAT, MUSCLE, BONE, LUNG = -1000.0, -100.0, 55.0, 320.0, -820.0


@dataclass(frozen=True)
class Anatomy:
    """Sizes of one simulated person, before the random deformation. Lengths in mm, volumes in ml.

    Attributes:
        frame: Size of the skeleton relative to a height of 170 cm.
        half_width, half_depth: Of the body without fat.
        fat: Thickness of the fat under the skin.
        wall: Thickness of the muscles around the cavity.
        dome: Height of the right diaphragm's dome.
        liver, spleen, kidney, pancreas: Wanted volumes; kidney is both.
        ivc: Calibre (mean radius).
    """

    frame: float
    half_width: float
    half_depth: float
    fat: float
    wall: float
    dome: float
    liver: float
    spleen: float
    kidney: float
    pancreas: float
    ivc: float


@dataclass
class Scene:
    """What has been painted so far, on the oversampled grid (Z, Y, X)."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    z: NDArray[np.float32]
    image: NDArray[np.float32]
    label_map: NDArray[np.uint8]
    edge: float

    def paint(
        self, distance: NDArray[np.floating], intensity: float | NDArray[np.floating], label: int | None = 0
    ) -> None:
        """Fill where a signed distance is negative, with a soft edge of about one voxel; None keeps labels."""
        share = np.clip(0.5 - distance / self.edge, 0, 1)
        self.image += share * (intensity - self.image)
        if label is not None:
            self.label_map[share > 0.5] = label

    def ellipsoid(
        self,
        centre: Sequence[float] | NDArray[np.floating],
        radii: Sequence[float] | NDArray[np.floating],
        power: float = 2.0,
        tilt: float = 0.0,
    ) -> NDArray[np.floating]:
        """Signed distance (approximate, mm) to an ellipsoid; centre and radii in order x, y, z. `tilt` turns it about
        the y axis [radians], a power above 2 makes it boxier."""
        x, z = self.x - centre[0], self.z - centre[2]
        if tilt:
            x, z = x * np.cos(tilt) - z * np.sin(tilt), x * np.sin(tilt) + z * np.cos(tilt)
        parts = (x / radii[0], (self.y - centre[1]) / radii[1], z / radii[2])
        if power == 2.0:
            norm = np.sqrt(sum(part * part for part in parts))
        else:
            norm = sum(np.abs(part) ** power for part in parts) ** (1 / power)
        return (norm - 1) * min(radii)

    def column(
        self, x: float | NDArray[np.floating], y: float | NDArray[np.floating], radii: tuple[float, float]
    ) -> NDArray[np.floating]:
        """Signed distance to an upright tube whose axis may wander with z; radii in x and y."""
        return (np.hypot((self.x - x) / radii[0], (self.y - y) / radii[1]) - 1) * min(radii)

    def tube(self, points: NDArray[np.floating], radii: NDArray[np.floating]) -> NDArray[np.floating]:
        """Signed distance to a string of balls; points (n, 3) in order x, y, z, radii (n,)."""
        distance = np.full(self.x.shape, 1e3, dtype=np.float32)
        reach = radii.max() + 3 * self.edge
        low, high = points.min(0) - reach, points.max(0) + reach
        near = np.all([(a >= lo) & (a <= hi) for a, lo, hi in zip(self._axes, low, high, strict=True)], axis=0)
        here = np.stack([a[near] for a in self._axes], axis=-1)
        to_points = np.linalg.norm(here[:, None] - points.astype(np.float32), axis=-1) - radii.astype(np.float32)
        distance[near] = to_points.min(axis=1)
        return distance

    @property
    def _axes(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        return self.x, self.y, self.z


def paint_body(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Paint trunk, thorax, bowel, organs and vessels, in this order: what comes later covers what was there.

    Args:
        scene: Air, to be filled.
        anatomy: Whose body.
        rng: Decides contrast, texture and the organs' places and shapes.
    """
    contrast = rng.uniform(0, 1)  # how much of the contrast agent has arrived
    texture = _texture(scene.x.shape, rng)
    cavity = _paint_trunk(scene, anatomy, rng)
    below = _paint_thorax(scene, anatomy, cavity, texture, rng)
    _paint_bowel(scene, anatomy, np.maximum(cavity + 2, below), texture, rng)
    _paint_organs(scene, anatomy, np.maximum(cavity + 3, below), contrast, texture, rng)
    _paint_vessels(scene, anatomy, below, contrast, rng)


def _texture(shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.floating]:
    """Smooth noise with standard deviation 1; its correlation is about three voxels."""
    from scipy.ndimage import gaussian_filter

    noise: NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
    smooth: NDArray[np.float32] = gaussian_filter(noise, (1.0, 1.8, 1.8), mode="wrap")
    smooth /= smooth.std()
    return smooth


def _paint_trunk(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> NDArray[np.floating]:
    """Skin, fat, muscles, ribs and spine; returns the signed distance to the cavity."""
    waist = 1 - 0.05 * np.exp(-(((scene.z + 50) / 45) ** 2))
    a, b = anatomy.half_width * waist, anatomy.half_depth

    def shell(inset: float) -> NDArray[np.floating]:
        across, along = np.abs(scene.x) / (a - inset), np.abs(scene.y) / (b - inset)
        return ((across**2.4 + along**2.4) ** (1 / 2.4) - 1) * (b - inset)

    skin = shell(-anatomy.fat)
    scene.paint(skin, 20.0)
    scene.paint(skin + 3, FAT)
    scene.paint(shell(0), MUSCLE)
    cavity = shell(anatomy.wall)
    scene.paint(cavity, FAT)
    # ribs: slanted bands in the wall, lower at the front
    angle = np.abs(np.arctan2(scene.x, scene.y))  # 0 at the back, pi at the front
    band = np.abs((scene.z + 58 * angle + rng.uniform(0, 34)) % 34 - 17) - 5
    ribs = np.maximum.reduce([np.abs(shell(anatomy.wall * 0.6)) - 4, band, 25 * angle - 50 - scene.z])
    scene.paint(ribs, BONE)
    _paint_spine(scene, anatomy)
    return cavity


def _paint_spine(scene: Scene, anatomy: Anatomy) -> None:
    s, back = anatomy.frame, _spine_y(anatomy)
    for side in (-1, 1):
        scene.paint(scene.column(side * 34 * s, back + 24 * s, (27 * s, 19 * s)), MUSCLE)
        psoas = np.maximum(scene.column(side * (30 * s - 0.1 * scene.z), back, (15 * s, 17 * s)), scene.z + 10)
        scene.paint(psoas, MUSCLE)
    disc = np.abs((scene.z + 3) % 34 - 17) < 4
    scene.paint(scene.column(0, back, (22 * s, 17 * s)), np.where(disc, 80.0, BONE))
    scene.paint(scene.column(0, back, (18 * s, 13 * s)), np.where(disc, 80.0, 190.0))
    arch = np.maximum(scene.ellipsoid((0, back + 27 * s, 0), (24 * s, 14 * s, 1e4), 1.3), -1e3)
    scene.paint(arch, BONE)
    scene.paint(scene.column(0, back + 23 * s, (9 * s, 7 * s)), 30.0)


def _spine_y(anatomy: Anatomy) -> float:
    return anatomy.half_depth - anatomy.wall - 36 * anatomy.frame


def _paint_thorax(
    scene: Scene,
    anatomy: Anatomy,
    cavity: NDArray[np.floating],
    texture: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.floating]:
    """Lungs and heart above the diaphragm; returns the signed distance to the room below it."""
    a, b = anatomy.half_width, anatomy.half_depth
    left_lower = rng.normal(12, 3)
    domes = []
    for side, drop in ((-1, 0.0), (1, left_lower)):
        flat = ((scene.x - side * 0.42 * a) / (0.72 * a)) ** 2 + ((scene.y + 0.12 * b) / (0.95 * b)) ** 2
        domes.append(anatomy.dome - drop - 72 * flat)
    diaphragm = np.maximum(np.maximum(*domes), np.float32(anatomy.dome - 78))
    heart = scene.ellipsoid((0.14 * a, -0.38 * b, anatomy.dome + 38), (0.42 * a, 0.42 * b, 46))
    middle = scene.column(0, _spine_y(anatomy) - 22, (0.16 * a, 0.5 * b))
    lung = np.maximum.reduce([cavity + 1, diaphragm + 3 - scene.z, 4 - middle, 4 - heart])
    scene.paint(np.maximum(cavity, diaphragm - scene.z), MUSCLE)
    scene.paint(lung, LUNG + 20 * texture + 350 * np.clip(texture - 1.4, 0, 1), LABELS["lung"])
    scene.paint(np.maximum(heart, diaphragm - scene.z), 90.0)
    return scene.z - diaphragm + 4


def _paint_bowel(
    scene: Scene, anatomy: Anatomy, room: NDArray[np.floating], texture: NDArray[np.floating], rng: np.random.Generator
) -> None:
    """Loops with some gas at the front, and the stomach."""
    lean = np.clip((30 - anatomy.fat) / 25, 0.15, 1.0)  # fat people have more fat between the loops
    front = scene.y - _spine_y(anatomy) + 38
    loops = np.maximum.reduce([room + 4, (0.9 - lean - texture) * 6, front])
    scene.paint(loops, 35 + 12 * texture)
    gas = np.maximum.reduce([room + 10, (1.5 - np.roll(texture, 7, axis=2)) * 6, scene.y + 0.25 * anatomy.half_depth])
    scene.paint(gas, -700.0)
    s = anatomy.frame
    centre = np.array((52, -32, 22)) * s + rng.normal(0, 8, 3)
    stomach = np.maximum(scene.ellipsoid(centre, np.array((42, 30, 44)) * s * rng.uniform(0.75, 1.1)), room + 2)
    scene.paint(stomach, 45.0)
    scene.paint(stomach + 5, rng.uniform(0, 25))
    scene.paint(np.maximum(stomach + 5, scene.y - centre[1] + rng.uniform(5, 20)), -850.0)


def _paint_organs(
    scene: Scene,
    anatomy: Anatomy,
    room: NDArray[np.floating],
    contrast: float,
    texture: NDArray[np.floating],
    rng: np.random.Generator,
) -> None:
    """Liver with gall bladder, spleen, kidneys and pancreas."""
    a, b, s = anatomy.half_width, anatomy.half_depth, anatomy.frame
    grow = (anatomy.liver / 910) ** (1 / 3)
    shift = rng.normal(0, 5, 3)
    right = scene.ellipsoid(
        (-0.50 * a + shift[0], 0.02 * b + shift[1], anatomy.dome - 58 + shift[2]),
        np.array((68, 74, 76)) * grow * rng.normal(1, 0.04, 3), 2.3, rng.normal(0.1, 0.06),
    )  # fmt: skip
    left = scene.ellipsoid(
        (-0.02 * a + shift[0], -0.42 * b + shift[1], anatomy.dome - 36 + shift[2]),
        np.array((72, 34, 34)) * grow * rng.normal(1, 0.1, 3), 2.0, rng.normal(-0.15, 0.1),
    )  # fmt: skip
    hollow = scene.ellipsoid((0.0, 0.45 * b, anatomy.dome - 110), (62 * s, 60 * s, 85 * s))
    liver = np.maximum.reduce([np.minimum(right, left), room, 3 - hollow])
    portal = np.clip(texture - 1.2, 0, 1)
    scene.paint(liver, 58 + 48 * contrast + rng.normal(0, 6) + 25 * contrast * portal, LABELS["liver"])
    gall = scene.ellipsoid((-0.36 * a + shift[0], -0.32 * b, anatomy.dome - 105 + shift[2]), (15, 16, 26))
    scene.paint(gall, 8.0)

    grow = (anatomy.spleen / 138) ** (1 / 3)
    centre = np.array((0.57 * a, 0.28 * b, anatomy.dome - 57)) + rng.normal(0, 6, 3)
    spleen = scene.ellipsoid(centre, np.array((34, 46, 50)) * grow * rng.normal(1, 0.08, 3), 2.0, rng.normal(-0.2, 0.1))
    bite = scene.ellipsoid(centre - np.array((38, 18, 6)) * grow, np.array((26, 38, 50)) * grow)
    spleen = np.maximum.reduce([spleen, 2 - bite, room])
    scene.paint(spleen, 50 + 62 * contrast + rng.normal(0, 6), LABELS["spleen"])
    _paint_kidneys(scene, anatomy, contrast, rng)
    _paint_pancreas(scene, anatomy, contrast, texture, rng)


def _paint_kidneys(scene: Scene, anatomy: Anatomy, contrast: float, rng: np.random.Generator) -> None:
    grow = (anatomy.kidney / 355) ** (1 / 3)
    for side, height in ((-1, -42), (1, -30)):
        centre = np.array((side * 0.46 * anatomy.half_width, _spine_y(anatomy) + 2, height)) + rng.normal(0, (4, 4, 6))
        radii = np.array((29, 25, 54)) * grow * rng.normal(1, 0.06, 3)
        tilt = side * rng.normal(0.22, 0.06)  # lower poles point outwards
        kidney = scene.ellipsoid(centre, radii, 2.2, tilt)
        sinus = scene.ellipsoid(centre - np.array((side * 20, 6, 0)) * grow, np.array((16, 9, 24)) * grow)
        scene.paint(kidney, 35 + 120 * contrast + rng.normal(0, 6), LABELS["kidney"])
        scene.paint(kidney + 9 * grow, 32 + 80 * contrast, LABELS["kidney"])
        scene.paint(sinus, FAT + 40)


def _paint_pancreas(
    scene: Scene, anatomy: Anatomy, contrast: float, texture: NDArray[np.floating], rng: np.random.Generator
) -> None:
    s, front = anatomy.frame, _spine_y(anatomy) - 42 * anatomy.frame
    knots = np.array([(-36, 6, -44), (-30, 0, -27), (-6, -13, -13), (26, -8, -6), (52, 8, 0), (72, 22, 6)]) * s
    knots = knots + np.array((0, front, 0)) + rng.normal(0, 2.5, (6, 3)) + rng.normal(0, 3, 3)
    curve = _smooth_curve(knots, 22)
    radii = np.interp(np.linspace(0, 1, 22), [0, 0.2, 0.45, 1], [14.5, 13.5, 9.5, 10.5])
    radii = radii * np.sqrt(anatomy.pancreas / 73.5) / np.sqrt(s) * rng.normal(1, 0.03)
    lobes = scene.tube(curve, radii) + 1.2 * texture
    bed = np.where(scene.label_map == 0, lobes - 7, np.float32(1e3))  # fat parts it from the bowel, not from organs
    scene.paint(bed, FAT)
    scene.paint(lobes, 42 + 50 * contrast + rng.normal(0, 6) + 6 * texture, LABELS["pancreas"])


def _smooth_curve(knots: NDArray[np.floating], number: int) -> NDArray[np.floating]:
    from scipy.interpolate import CubicSpline

    curve: NDArray[np.float64] = CubicSpline(np.linspace(0, 1, len(knots)), knots)(np.linspace(0, 1, number))
    return curve


def _paint_vessels(
    scene: Scene, anatomy: Anatomy, below: NDArray[np.floating], contrast: float, rng: np.random.Generator
) -> None:
    """Aorta on the left and IVC on the right of the spine's front; above the liver the IVC turns to the heart."""
    s, front = anatomy.frame, _spine_y(anatomy) - 22 * anatomy.frame
    aorta = scene.column(rng.normal(10, 3) * s, front - 6 * s, (11 * s, 11 * s))
    scene.paint(aorta, 45 + rng.uniform(0.7, 1.6) * 110 * contrast)
    forward = np.clip(scene.z - anatomy.dome + 70, 0, None) ** 2 / 240
    wander = rng.normal(0, 3) * np.sin(scene.z / 60 + rng.uniform(0, 6))
    radii = (anatomy.ivc * rng.uniform(1.1, 1.3), anatomy.ivc / rng.uniform(1.1, 1.3))
    ivc = scene.column(-(22 + rng.normal(0, 2)) * s + wander, front - 2 * s - forward, radii)
    scene.paint(np.maximum(ivc, below - 12), 42 + 85 * contrast + rng.normal(0, 8), LABELS["ivc"])
