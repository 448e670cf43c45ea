"""nnU-Net's sliding window over probabilities: the mean over samples, windows, mirrors and folds, and what spreads.

nnU-Net averages logits, in half precision. Samples of a `ProbabilisticNetwork` are averaged here as what they are, in
single precision, and the logarithm is taken once. Spread is measured from running sums: no more than two samples'
probabilities of one window are in memory at a time, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from numpy.typing import NDArray

from nnkd.devices import threads
from nnkd.errors import PredictionError, SettingError
from nnkd.inference import label_models
from nnkd.inference.probabilistic import ProbabilisticNetwork, logits, no_samples


@dataclass(frozen=True)
class Spread:
    """How far the members of an answer, every sample of every fold, lie apart on the preprocessed grid.

    Attributes:
        maps: (*S) float32 by name: "entropy" of the mean probabilities and "mutual_information", which is that less
            the members' mean entropy, both in nat (over independent heads: the sum of binary entropies); and
            "standard_deviation" of the probabilities, the largest over foreground labels.
        voxels: (members, labels) float64: how many voxels each label has in each member. Where windows overlap, and
            with mirrors, a voxel counts by its share.
    """

    maps: dict[str, NDArray[np.float32]]
    voxels: NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What a model says of a preprocessed case.

    Attributes:
        logits: (heads, *S) float32 of a probabilistic network, else nnU-Net's float16.
        spread: None unless asked for.
    """

    logits: NDArray[np.floating]
    spread: Spread | None = None


def together(answers: Sequence[Answer]) -> Answer:
    """One answer of students that know one label each, in the order of the labels (`label_models`): their
    entropies add up as those of independent heads do."""
    members = {len(found.spread.voxels) for found in answers if found.spread}
    if len(members) > 1:
        raise PredictionError(
            f"Students of single labels answer with {' and '.join(map(str, sorted(members)))} samples. Give all "
            f"of them the same number with --samples."
        )
    merged = label_models.together([found.logits for found in answers])
    spreads = [found.spread for found in answers if found.spread]
    if not spreads:
        return Answer(merged)
    by_name = {name: np.stack([spread.maps[name] for spread in spreads]) for name in spreads[0].maps}
    maps = {name: a.max(0) if name == "standard_deviation" else a.sum(0) for name, a in by_name.items()}
    return Answer(merged, Spread(maps, np.concatenate([spread.voxels for spread in spreads], 1)))


def samples_of(predictor: Any) -> ProbabilisticNetwork | None:
    """The network of an nnUNetPredictor, also of a compiled one, if it answers with samples."""
    network = _plain(predictor.network)
    return network if isinstance(network, ProbabilisticNetwork) else None


def set_samples(predictor: Any, number: int) -> None:
    """Let the network answer with another number of samples.

    Raises:
        SettingError: If the number is below 1, or the network has no samples.
    """
    if number < 1:
        raise SettingError(f"--samples got {number}, but a number of 1 or more is expected.")
    network = samples_of(predictor)
    if network is None:
        raise SettingError(
            f"--samples is for networks that answer with samples, but {predictor.trainer_name} trains one that gives "
            f"a single answer. Leave --samples out."
        )
    network.number = number


def check_spread(predictor: Any) -> None:
    """Make sure that there is more than one member.

    Raises:
        SettingError: If nothing could spread.
    """
    network = samples_of(predictor)
    if len(predictor.list_of_parameters) * (network.number if network else 1) < 2:
        raise SettingError(
            "--uncertainty needs several answers, but one fold with a single answer was chosen, so that nothing "
            "spreads. Name several folds (-f), or take a network that answers with samples, two or more."
        )


def answer(predictor: Any, data: NDArray[np.float32], spread: bool = False) -> Answer:
    """Predict a preprocessed case.

    Every fold is asked through the same windows, Gaussian weights and mirrors as in nnU-Net, one window at a time. In
    the spread, what differs between windows and between mirrors counts as belonging to the members.

    Args:
        predictor: nnU-Net's; its network is moved to the predictor's device.
        data: (C, *S) float32, preprocessed.
        spread: Whether to measure it. Ordinary networks can only be asked for it; their logits stay nnU-Net's.

    Raises:
        PredictionError: If the network answers with numbers that are not finite.
    """
    with torch.inference_mode(), threads(min(default_num_processes, torch.get_num_threads())):
        image = torch.from_numpy(data)
        patch = tuple(predictor.configuration_manager.patch_size)
        padded, inside = pad_nd_image(image, patch, "constant", {"value": 0}, True, None)
        windows = _Windows(predictor, padded, inside[1:], spread)
        first, *others = predictor.list_of_parameters
        total = windows.sums(first)
        for parameters in others:
            total.join(windows.sums(parameters))
        return windows.answer(total, len(predictor.list_of_parameters))


def _plain(network: Any) -> Any:
    """A network without torch.compile's wrapper."""
    return getattr(network, "_orig_mod", network)


@dataclass
class _SpreadSums:
    """What the spread is made of.

    Attributes:
        variance: (foreground heads, *S) float32, p (1 - p): unlike squares exact to rounding near 0 and 1.
        entropy: (*S) float32 of single answers.
        voxels: One (samples, labels) float64 a fold.
    """

    variance: torch.Tensor
    entropy: torch.Tensor
    voxels: list[torch.Tensor]

    def on_cpu(self) -> _SpreadSums:
        return _SpreadSums(self.variance.cpu(), self.entropy.cpu(), self.voxels)


@dataclass
class _Sums:
    """Sums of one fold, later of all: what they become is said by `_Windows.answer`.

    Attributes:
        mean: (heads, *S) float32, probabilities.
        logits: (heads, *S) float16, nnU-Net's; None of a probabilistic network.
        spread: None unless it is measured.
    """

    mean: torch.Tensor
    logits: torch.Tensor | None = None
    spread: _SpreadSums | None = None

    def join(self, other: _Sums) -> None:
        """Add another fold's, in place."""
        self.mean += other.mean
        if self.logits is not None and other.logits is not None:
            self.logits += other.logits
        if self.spread is not None and other.spread is not None:
            self.spread.variance += other.spread.variance
            self.spread.entropy += other.spread.entropy
            self.spread.voxels += other.spread.voxels

    def parts(self) -> Iterator[torch.Tensor]:
        """All sums, one by one."""
        yield self.mean
        if self.logits is not None:
            yield self.logits
        if self.spread is not None:
            yield from (self.spread.variance, self.spread.entropy, *self.spread.voxels)

    def on_cpu(self) -> _Sums:
        """The same in the machine's memory: the next fold's must fit on the GPU."""
        plain = None if self.logits is None else self.logits.cpu()
        return _Sums(self.mean.cpu(), plain, None if self.spread is None else self.spread.on_cpu())


class _Windows:
    """The windows of one case.

    Args:
        predictor: nnU-Net's.
        image: (C, *S) float32, at least as large as a patch.
        inside: The part of S that is not padding.
        spread: Whether to measure it.
    """

    def __init__(self, predictor: Any, image: torch.Tensor, inside: Sequence[slice], spread: bool):
        self.predictor, self.image, self.inside, self.spread = predictor, image, tuple(inside), spread
        self.device = predictor.device
        self.sampler = samples_of(predictor)
        self.regions = self.sampler.regions if self.sampler else predictor.label_manager.has_regions
        self.heads = predictor.label_manager.num_segmentation_heads
        self.places = predictor._internal_get_sliding_window_slicers(image.shape[1:])
        axes = [a + 2 for a in predictor.allowed_mirroring_axes or ()] if predictor.use_mirroring else []
        self.mirrors = [c for n in range(len(axes) + 1) for c in combinations(axes, n)]

    def sums(self, parameters: Mapping[str, torch.Tensor]) -> _Sums:
        """One fold's, on the CPU. As in nnU-Net they are gathered on the GPU if they fit there."""
        _plain(self.predictor.network).load_state_dict(parameters)
        if not self.predictor.perform_everything_on_device:
            return self._sums(torch.device("cpu")).on_cpu()
        try:
            return self._sums(self.device).on_cpu()
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        return self._sums(torch.device("cpu")).on_cpu()

    def _sums(self, where: torch.device) -> _Sums:
        network = self.predictor.network.to(self.device).eval()
        self.predictor.network = network
        image, patch = self.image.to(where), tuple(self.predictor.configuration_manager.patch_size)
        gaussian = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=where)
        weights = torch.zeros(image.shape[1:], device=where)
        for place in self.places:
            weights[place[1:]] += gaussian
        shares = torch.zeros_like(weights)
        shares[self.inside] = 1 / weights[self.inside]
        sums = self._empty(image.shape[1:], where)
        plain, spread = sums.logits, sums.spread
        halves = None if plain is None else torch.zeros_like(plain[0])
        for place in self.places:
            x = image[place][None].to(self.device, memory_format=torch.contiguous_format)
            share = (shares[place[1:]] * gaussian).to(self.device)
            window = self._window(x, share)
            sums.mean[place] += window.mean.mul_(share).to(where)
            if spread is not None and window.spread is not None:
                spread.variance[place] += window.spread.variance.mul_(share).to(where)
                spread.entropy[place[1:]] += window.spread.entropy.mul_(share).to(where)
                spread.voxels[0] += window.spread.voxels[0].cpu()
            if plain is not None and halves is not None and window.logits is not None:
                plain[place] += window.logits.to(where).mul_(gaussian)  # as nnU-Net adds them up
                halves[place[1:]] += gaussian
        if plain is not None and halves is not None:
            plain.div_(halves)
        return sums

    def _empty(self, shape: Sequence[int], where: torch.device) -> _Sums:
        def zeros(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros((*size, *shape), dtype=dtype, device=where)

        plain = None if self.sampler else zeros(self.heads, dtype=torch.half)
        if not self.spread:
            return _Sums(zeros(self.heads), plain)
        labels = self.heads - (not self.regions)
        voxels = torch.zeros((self.sampler.number if self.sampler else 1, labels), dtype=torch.float64)
        return _Sums(zeros(self.heads), plain, _SpreadSums(zeros(labels), zeros(), [voxels]))

    def _window(self, x: torch.Tensor, share: torch.Tensor) -> _Sums:
        """Means over samples and mirrors of one window."""
        straight, *mirrors = self.mirrors
        total = self._mirrored(x, share, straight)
        for axes in mirrors:
            found = self._mirrored(x, share, axes)
            of_heads, of_one = [a - 1 for a in axes], [a - 2 for a in axes]
            total.mean.add_(torch.flip(found.mean, of_heads))
            if total.logits is not None and found.logits is not None:
                total.logits.add_(torch.flip(found.logits, of_heads))
            if total.spread is not None and found.spread is not None:
                total.spread.variance.add_(torch.flip(found.spread.variance, of_heads))
                total.spread.entropy.add_(torch.flip(found.spread.entropy, of_one))
                total.spread.voxels[0] += found.spread.voxels[0]
        for part in total.parts():
            part.div_(len(self.mirrors))
        return total

    def _mirrored(self, x: torch.Tensor, share: torch.Tensor, axes: tuple[int, ...]) -> _Sums:
        return self._samples(torch.flip(x, axes), torch.flip(share, [a - 2 for a in axes]))

    def _samples(self, x: torch.Tensor, share: torch.Tensor) -> _Sums:
        """Means over the samples of one window in one mirror; voxels are counted by `share`."""
        total: _Sums | None = None
        foreground = slice(None) if self.regions else slice(1, None)
        plain: list[torch.Tensor] = []
        number = 0
        for p in self._probabilities(x, plain):
            number += 1
            if total is None:
                total = self._like(p)
            total.mean += p
            if total.spread is not None:
                total.spread.variance += p[foreground] * (1 - p[foreground])
                total.spread.entropy += _entropy(p, self.regions)
                total.spread.voxels.append(self._count(p, share))
        if total is None:
            raise no_samples(_plain(self.predictor.network))
        total.mean.div_(number)
        if total.spread is not None:
            total.spread.variance.div_(number)
            total.spread.entropy.div_(number)
            total.spread.voxels = [torch.stack(total.spread.voxels)]
        total.logits = plain[0] if plain else None
        return total

    def _like(self, p: torch.Tensor) -> _Sums:
        if not self.spread:
            return _Sums(torch.zeros_like(p))
        labels = len(p) - (not self.regions)
        spread = _SpreadSums(p.new_zeros((labels, *p.shape[1:])), p.new_zeros(p.shape[1:]), [])
        return _Sums(torch.zeros_like(p), spread=spread)

    def _probabilities(self, x: torch.Tensor, plain: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """(heads, *patch) float32 of each sample. An ordinary network's logits are put into `plain`."""
        with torch.autocast("cuda", enabled=self.device.type == "cuda"):
            if self.sampler:
                for sample in self.sampler.samples(x):
                    yield sample[0].float()
                    del sample  # before the next one is made
                return
            found = self.predictor.network(x)[0]
        plain.append(found)
        yield torch.sigmoid(found.float()) if self.regions else torch.softmax(found.float(), 0)

    def _count(self, p: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """(labels,) float64: voxels of each label in one sample."""
        if self.regions:
            return ((p > 0.5) * share).flatten(1).sum(1).cpu().double()
        label_map = p.argmax(0).flatten()
        return torch.bincount(label_map, share.flatten(), minlength=len(p))[1:].cpu().double()

    def answer(self, total: _Sums, folds: int) -> Answer:
        """What the sums over all folds come to."""
        here: tuple[EllipsisType | slice, ...] = (..., *self.inside)
        mean = total.mean[here].div_(folds)
        found = logits(mean, self.regions) if total.logits is None else total.logits[here].div_(folds)
        if not torch.isfinite(found).all():
            raise PredictionError("The network answers with numbers that are not finite. Its training went wrong.")
        if total.spread is None:
            return Answer(found.contiguous().numpy())
        variance, entropy = total.spread.variance[here].div_(folds), total.spread.entropy[here].div_(folds)
        mean.clamp_(0, 1)
        whole = _entropy(mean, self.regions)
        foreground = mean if self.regions else mean[1:]
        deviation = (foreground * (1 - foreground)).sub_(variance).clamp_(min=0).sqrt_().amax(0)
        maps = {
            "entropy": whole.numpy(),
            "mutual_information": (whole - entropy).clamp_(min=0).numpy(),
            "standard_deviation": deviation.numpy(),
        }
        return Answer(found.contiguous().numpy(), Spread(maps, torch.cat(total.spread.voxels).numpy()))


def _entropy(p: torch.Tensor, regions: bool) -> torch.Tensor:
    """(heads, *S) probabilities -> (*S) in nat."""
    found = torch.special.entr(p)
    return (found + torch.special.entr(1 - p)).sum(0) if regions else found.sum(0)
