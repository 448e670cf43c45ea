"""The classical teacher: labelled cases are registered to the scan, and their labels fused."""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import participants_of_cases
from nnkd.data.reading.geometry import Orientation
from nnkd.errors import DatasetError, PredictionError, SettingError, UnknownNameError, in_one_line
from nnkd.plugin.teachers import Teacher
from nnkd.types import Prompt, TeacherContext, Volume
from nnkd.votes import consensus
from nnkd_basic import registration as reg

CACHE_BYTES = 2_000_000_000
WINDOW_VOXELS = 5  # side of the window in which local similarity is measured
SHARPNESS = 4
NO_VOTE = 65535  # beyond an atlas's edge, or its ignore label
log = logging.getLogger("nnkd")


@dataclass(frozen=True)
class _Scan:
    """An image ready for registration.

    Attributes:
        full: Its grid (no intensities are needed there).
        fine: Intensities on the grid that is registered.
        quick: Intensities on a very coarse grid, for choosing.
        content: Hash of the intensities.
    """

    full: sitk.Image
    fine: sitk.Image
    quick: sitk.Image
    content: str


@dataclass(frozen=True)
class _Atlas:
    """A labelled case."""

    case: str
    scan: _Scan
    labels: sitk.Image


class AtlasTeacher(Teacher):
    """Registers labelled cases to the scan and fuses their labels.

    Source: Heckemann et al. 2006 (fusion by majority); Artaechevarria et al. 2009 (by local similarity).
    """

    devices = ("cpu",)
    no_network = "The atlas teacher registers labelled cases to the scan: a classical method without a network."

    def __init__(
        self,
        context: TeacherContext,
        *,
        dataset: str | int | None = None,
        cases: tuple[str, ...] = (),
        number: int = 3,
        choice: Literal["similar", "first", "random"] = "similar",
        registration: Literal["deformable", "affine"] = "deformable",
        method: Literal["demons", "bspline"] = "demons",
        fusion: Literal["weighted", "majority"] = "weighted",
        spacing: float | None = None,
        seed: int = 0,
    ):
        """Find the atlases and check them.

        Args:
            context: Labels, dataset, threads.
            dataset: Where the atlases are; None: the dataset itself.
            cases: Which of its manually labelled cases may serve; none given: all.
            number: How many are registered to a scan.
            choice: The most similar ones after a quick affine registration, the first, or seeded random ones.
            registration: Affine only, or deformable after it.
            method: Demons (one modality) or B-splines with mutual information (intensities differ; slower).
            fusion: Votes weighted by local similarity, or the majority.
            spacing: Voxel size in mm at which is registered; None: the scan's own, up to a million voxels.
            seed: Of sampling and random choice.

        Raises:
            SettingError: If an option has an impossible value.
            DatasetError: If there is no labelled case, or an atlas's files do not fit each other.
        """
        super().__init__(context)
        if number < 1 or seed < 0 or (spacing is not None and spacing <= 0):
            raise SettingError("The atlas teacher's number and spacing must be positive, and its seed not negative.")
        if dataset is not None:
            self.source = RawDataset.open(dataset)
        elif context.dataset is not None:
            self.source = RawDataset(context.dataset.folder)
        else:
            raise SettingError("The atlas teacher has no dataset to take atlases from. Set its option dataset=ID.")
        self.number, self.choice, self.fusion = number, choice, fusion
        self.registration, self.method, self.spacing, self.seed = registration, method, spacing, seed
        self.candidates = _candidates(self.source, cases)
        self.answered = _present(self.source, self.candidates, context.labels)
        self._cache: dict[tuple[str, int], _Atlas] = {}
        self._notes: dict[str, object] = {}
        self._told: set[str] = set()

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> dict[str, NDArray[np.bool_]]:
        """Segment one case; labels no atlas has are left out."""
        threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # else sums, and so results, depend on the machine
        try:
            scan = _scan(volume.data[0], volume, self.spacing)
            if obstacle := reg.obstacle(scan.fine):
                raise PredictionError(f"The atlas teacher cannot register to '{volume.case}': its image {obstacle}.")
            atlases = self._choose(volume, scan)
            with ThreadPoolExecutor(self.context.workers) as pool:
                moved = list(pool.map(lambda pair: self._register(scan, *pair), atlases))
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        self._notes = {"atlases": [atlas.case for atlas, _ in atlases]}
        fused = fuse([labels for labels, _ in moved], [weights for _, weights in moved]).reshape(volume.shape)
        return {name: np.isin(fused, self.source.spec.labels[name]) for name in self.answered}

    def notes(self) -> Mapping[str, object]:
        """Which atlases served."""
        return self._notes

    def _choose(self, volume: Volume, scan: _Scan) -> list[tuple[_Atlas, sitk.Transform | None]]:
        """Atlases, the most similar first where similarity was looked at, with an affine transform to start from."""
        allowed = self._allowed(volume)
        if self.choice == "random":
            rng = np.random.default_rng([self.seed, zlib.crc32(volume.case.encode())])
            allowed = [allowed[i] for i in rng.permutation(len(allowed))]
        found: list[tuple[float, _Atlas, sitk.Transform | None]] = []
        for case in allowed:
            atlas = self._atlas(case, volume)
            if atlas.scan.content == scan.content:  # the case itself under another name
                continue
            if obstacle := reg.obstacle(atlas.scan.fine):
                self._pass_over(case, f"its image {obstacle}")
                continue
            if self.choice == "similar":
                try:
                    transform, similarity = reg.affine(scan.quick, atlas.scan.quick, self.seed, iterations=30)
                except PredictionError as error:
                    self._pass_over(case, str(error))
                    continue
                found.append((similarity, atlas, transform))
            else:
                found.append((0.0, atlas, None))
                if len(found) == self.number:
                    break
        if not found:
            raise PredictionError(
                f"No labelled case of {self.source.name} may serve as atlas for '{volume.case}': the case itself, "
                f"other scans of the same person, and images that cannot be registered never do. Label another one, "
                f"or set dataset=ID."
            )
        found.sort(key=lambda item: -item[0])  # stable: without similarities the order stays
        return [(atlas, transform) for _, atlas, transform in found[: self.number]]

    def _pass_over(self, case: str, why: str) -> None:
        if case not in self._told:
            log.warning("'%s' does not serve as atlas: %s", case, why)
        self._told.add(case)

    def _allowed(self, volume: Volume) -> list[str]:
        """Candidates that are neither the case nor of its person."""
        theirs = participants_of_cases(self.source.folder, self.candidates)
        home = self.context.dataset or self.source
        person = participants_of_cases(home.folder, [volume.case])[volume.case].identifier
        return [
            case
            for case in self.candidates
            if case != volume.case and theirs[case].identifier not in (person, volume.case)
        ]

    def _register(
        self, scan: _Scan, atlas: _Atlas, start: sitk.Transform | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """An atlas's labels on the scan's grid, and how much to trust them there (None: everywhere alike)."""
        try:
            transform, _ = reg.affine(scan.fine, atlas.scan.fine, self.seed, start)
            if self.registration == "deformable" and self.method == "demons":
                transform = reg.demons(scan.fine, atlas.scan.fine, transform)
            elif self.registration == "deformable":
                transform = reg.bspline(scan.fine, atlas.scan.fine, transform, self.seed)
        except (PredictionError, RuntimeError) as error:  # RuntimeError: ITK's
            raise PredictionError(
                f"The atlas '{atlas.case}' cannot be registered ({in_one_line(error, last=True)}). Choose others "
                f"(option cases)."
            ) from error
        labels = reg.warped_labels(atlas.labels, scan.full, transform, NO_VOTE)
        if self.fusion == "majority":
            return labels, None
        fixed = sitk.GetArrayFromImage(scan.fine)
        trust = local_similarity(fixed, reg.warped_image(atlas.scan.fine, scan.fine, transform))
        weights = sitk.GetImageFromArray(trust)
        weights.CopyInformation(scan.fine)
        edge = sitk.sitkNearestNeighbor if weights.GetSize() == scan.full.GetSize() else sitk.sitkLinear
        return labels, sitk.GetArrayFromImage(sitk.Resample(weights, scan.full, sitk.Transform(), edge, 1e-3))

    def _atlas(self, case: str, volume: Volume) -> _Atlas:
        channel = _channel(self.source, volume)
        if (case, channel) not in self._cache:
            if sum(_bytes(atlas) for atlas in self._cache.values()) > CACHE_BYTES:
                self._cache.clear()
            self._cache[case, channel] = _load(self.source, case, channel, self.spacing)
        atlas = self._cache[case, channel]
        if atlas.labels.GetDimension() != (2 if volume.is_2d else 3):
            raise DatasetError(
                f"'{volume.case}' and the atlas '{case}' of {self.source.name} are not both 2D or both 3D. Take "
                f"atlases from another dataset (dataset=ID)."
            )
        return atlas


def fuse(labels: Sequence[NDArray[np.integer]], weights: Sequence[NDArray[np.floating] | None]) -> NDArray[np.integer]:
    """Fuse label maps by weighted votes.

    Args:
        labels: Label maps of one shape; NO_VOTE where one does not vote. The most trusted first.
        weights: Positive numbers of that shape, or None: all count alike and ties go to the first.

    Returns:
        The integer with most votes in each voxel; 0 where nobody votes.
    """
    tie_breakers = 1 + 0.01 * np.arange(len(labels), 0, -1) / len(labels)
    best = np.zeros(labels[0].shape, dtype=np.float32)
    winner = np.zeros(labels[0].shape, dtype=labels[0].dtype)
    values = sorted({int(v) for one in labels for v in np.unique(one)} - {NO_VOTE})
    for value in values:
        score = np.zeros(winner.shape, dtype=np.float32)
        for one, weight, alike in zip(labels, weights, tie_breakers, strict=True):
            score += np.where(one == value, alike if weight is None else weight, 0).astype(np.float32)
        wins = score > best
        best[wins], winner[wins] = score[wins], value
    return winner


def local_similarity(fixed: NDArray[np.floating], moved: NDArray[np.floating]) -> NDArray[np.float32]:
    """Correlation of two images in a window around each voxel, to a power, as float32 in (0, 1].

    Source: Artaechevarria et al. 2009, normalised cross-correlation.
    """
    # Against round-off in the differences of squares below, intensities are brought to the order of 1 first.
    a, b = ((image - image.mean()) / (image.std() + 1e-6) for image in (fixed.astype(float), moved.astype(float)))
    mean_a, mean_b = (ndimage.uniform_filter(image, WINDOW_VOXELS) for image in (a, b))
    covariance = ndimage.uniform_filter(a * b, WINDOW_VOXELS) - mean_a * mean_b
    variances = [ndimage.uniform_filter(i * i, WINDOW_VOXELS) - m * m for i, m in ((a, mean_a), (b, mean_b))]
    correlation = covariance / np.sqrt(np.maximum(variances[0], 1e-6) * np.maximum(variances[1], 1e-6))
    return (np.clip(correlation, 0.05, 1.0) ** SHARPNESS).astype(np.float32)


def _candidates(source: RawDataset, wanted: Sequence[str]) -> list[str]:
    """Manually labelled cases, or those of them that are asked for."""
    imaged = set(source.images("Tr").cases())
    manual = [case for case in consensus.manual_cases(source) if case in imaged]
    strange = sorted(set(wanted) - set(manual))
    if strange:
        raise UnknownNameError(
            f"{source.name} has no manual label map of {', '.join(strange)}; it has "
            f"{', '.join(manual) if manual else 'none'}."
        )
    if not manual:
        raise DatasetError(
            f"{source.name} has no manually labelled case to serve as atlas. Put label maps into labelsTr, or take "
            f"atlases from another dataset (dataset=ID)."
        )
    return list(wanted) or manual


def _present(source: RawDataset, cases: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """Asked labels that at least one atlas has."""
    values: set[int] = set()
    for case in cases:
        label_map, _, _ = source.spec.read_label_map(source.label_file(case))
        values |= set(np.unique(label_map).tolist())
    known = source.spec.labels
    found = tuple(name for name in asked if name in known and values & set(known[name]))
    if not found:
        raise DatasetError(
            f"No atlas of {source.name} has any of the labels {', '.join(asked)}; its labels are "
            f"{', '.join(known)}. Name them alike in both dataset.json."
        )
    return found


def _channel(source: RawDataset, volume: Volume) -> int:
    """Which of the atlases' channels shows what the volume's only one does."""
    names, wanted = source.spec.channel_names, volume.channel_names[0]
    same = [index for index, name in enumerate(names) if name == wanted]
    if len(same) > 1:  # several channels of one name: the file's number tells
        number = re.search(r"_(\d{4})\.", volume.files[0].name) if volume.files else None
        return int(number.group(1)) if number and int(number.group(1)) in same else same[0]
    if same or len(names) == 1:
        return same[0] if same else 0
    raise DatasetError(
        f"The atlases of {source.name} have the channels {', '.join(names)}, but the scan's is {wanted}. Choose "
        f"another one with the option channel."
    )


def _load(source: RawDataset, case: str, channel: int, spacing: float | None) -> _Atlas:
    volume, orientation, _ = source.images("Tr").volume(case)
    label_map, grid, _ = source.spec.read_label_map(source.label_file(case))
    turned = Orientation(grid)
    difference = turned.grid.difference(orientation.grid)
    if difference:
        raise DatasetError(f"Image and label map of the atlas '{case}' do not fit: {difference}. Correct one of them.")
    labels = turned.to_lps(label_map).astype(np.uint16)
    if source.spec.ignore_label is not None:
        labels[labels == source.spec.ignore_label] = NO_VOTE
    image = reg.to_image(labels, volume.spacing, volume.origin, volume.direction)
    return _Atlas(case, _scan(volume.data[channel], volume, spacing), image)


def _scan(intensities: np.ndarray, volume: Volume, spacing: float | None) -> _Scan:
    image = reg.to_image(intensities.astype(np.float32), volume.spacing, volume.origin, volume.direction)
    fine = reg.coarsened(image, reg.FINE_VOXELS, spacing)
    content = hashlib.sha256(np.ascontiguousarray(intensities).tobytes()).hexdigest()
    full = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    full.CopyInformation(image)
    return _Scan(full, fine, reg.coarsened(image, reg.QUICK_VOXELS), content)


def _bytes(atlas: _Atlas) -> int:
    images = (atlas.labels, atlas.scan.full, atlas.scan.fine)
    return sum(image.GetNumberOfPixels() * image.GetSizeOfPixelComponent() for image in images)
