"""The Probabilistic U-Net: a U-Net whose last three 1x1 layers also see a latent vector.

A prior network says which latents are likely for an image, a posterior network which one belongs to an image and a mask
of it. Exactly 4,998,393 parameters with one input, one logit in 2D, six latent dimensions and no normalisation.

Source: Li et al., MICCAI 2025, section 2.1, probabilistic distillation; Kohl et al., NeurIPS 2018; layers as in
stefanknegt/Probabilistic-Unet-Pytorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from types import EllipsisType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from nnkd.errors import WeightsError
from nnkd.inference.probabilistic import ProbabilisticNetwork, logits
from nnkd_unet.unet import WIDTHS, Decoder, Encoder, Norm, padded

LATENT, SAMPLES = 6, 10
BOUND = 5.0  # of |log sigma|: neither its exponential nor the KL divergence can overflow
SEED = 2018
TILE = {"cpu": 4096}  # voxels at a time that stay in a core's cache; 8 % faster than the whole image
LARGE_TILE = 2**18


class Gaussian(NamedTuple):
    """Diagonal normal distributions: mean and log of the standard deviation, each (B, latent) float32."""

    mean: torch.Tensor
    log_sigma: torch.Tensor

    def at(self, noise: torch.Tensor) -> torch.Tensor:
        """The latents that belong to standard normal noise (B or 1, latent)."""
        return self.mean + self.log_sigma.exp() * noise


class Reconstruction(NamedTuple):
    """What training needs of one call.

    Attributes:
        logits: (B, heads, *S), from a latent drawn from the posterior.
        posterior: Of the latent, given image and mask.
        prior: Of the latent, given the image.
        norms: () float32, sum of the L2 norms of the parameters that L2 regularises: all but the U-Net's.
    """

    logits: torch.Tensor
    posterior: Gaussian
    prior: Gaussian
    norms: torch.Tensor


def noise(number: int, latent: int) -> NDArray[np.float32]:
    """Standard normal noise, the same in every call, so that sample n means the same in every window and case.

    Departs: it comes in pairs e, -e. Ten free draws, used for all images alike, would shift all of them one way.

    Returns:
        (number, latent) float32; a smaller number gives the first rows of a larger one.
    """
    half = np.random.default_rng(SEED).standard_normal(((number + 1) // 2, latent))
    return np.stack((half, -half), 1).reshape(-1, latent)[:number].astype(np.float32)


def _no_autocast(device: str) -> AbstractContextManager:
    """Whatever autocast says, float32; "meta", on which networks are counted, knows no autocast."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class GaussianEncoder(nn.Module):
    """Image (and mask) -> a distribution of the latent.

    Departs: log sigma is BOUND * tanh(x / BOUND), nearly x while it is small.

    Args:
        inputs: Image channels.
        masks: Mask channels; 0 for the prior.
        latent, dim, norm, widths: See `PUNet`.
    """

    def __init__(self, inputs: int, masks: int, latent: int, dim: int, norm: Norm, widths: Sequence[int]):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dim - 2]
        self.encoder = Encoder(inputs, widths, dim, norm)
        self.masks = masks
        self.latent = conv(widths[-1], 2 * latent, 1)
        nn.init.normal_(self.latent.weight, std=0.01)  # both distributions start near the standard normal one
        nn.init.zeros_(self.latent.get_parameter("bias"))
        if masks:
            # the first convolution's mask channels stand apart under nnU-Net's name for what depends on the labels, so
            # that -pretrained_weights works with other ones
            self.seg_layers = nn.ModuleList([conv(masks, widths[0], 3, padding=1, bias=False)])
            self._start_as_one_convolution(inputs, masks)

    def _start_as_one_convolution(self, inputs: int, masks: int) -> None:
        first, ours = self.encoder.get_parameter("blocks.0.0.weight"), self.seg_layers.get_parameter("0.weight")
        nn.init.kaiming_normal_(ours, nonlinearity="relu")
        with torch.no_grad():
            first.mul_((inputs / (inputs + masks)) ** 0.5)
            ours.mul_((masks / (inputs + masks)) ** 0.5)

    def forward(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> Gaussian:
        """(B, inputs, *S) and (B, masks, *S) -> mean and log sigma, (B, latent) float32 whatever autocast says."""
        x = self._first_block(x, masks)
        for block in islice(self.encoder.blocks, 1, None):
            x = block(self.encoder.pool(x))
        with _no_autocast(x.device.type):
            found = self.latent(x.float().flatten(2).mean(2)[(..., *[None] * (x.ndim - 2))]).flatten(1)
            mean, raw = found.chunk(2, 1)
            return Gaussian(mean, BOUND * torch.tanh(raw / BOUND))

    def _first_block(self, x: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        convolution, *others = self.encoder.blocks[0].children()
        x = convolution(x) if masks is None else convolution(x) + self.seg_layers[0](masks)
        for layer in others:
            x = layer(x)
        return x


class _Pointwise(Protocol):
    @property
    def weight(self) -> torch.Tensor: ...

    @property
    def bias(self) -> torch.Tensor: ...


def _pointwise(layer: nn.Module) -> _Pointwise:
    """A 1x1 convolution with a bias."""
    return cast("_Pointwise", layer)  # torch's lists do not say what they hold


class PUNet(ProbabilisticNetwork):
    """Paper 1's Probabilistic U-Net, for 2D or 3D images of any size (padded inside as the UNet does).

    Evaluated, it answers with the logarithm of its samples' mean. Called with masks, it reconstructs them. It keeps
    nothing of a call, so threads may share it.

    Departs: several labels share one softmax, where the paper trains one binary network per label.

    Args:
        inputs: Image channels.
        outputs: nnU-Net's number of heads.
        regions: Whether heads are independent. Two heads of a softmax are (0, x): the paper's single logit.
        dim: 2 or 3.
        norm: Normalisation between convolution and ReLU; "none" is the paper's. With "instance" the encoders of prior
            and posterior have batch normalisation: they end in an image's mean, which instance normalisation removes.
        latent: Dimensions of the latent.
        number: Samples of an answer.
        widths: Channels per level.
    """

    noise: torch.Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        regions: bool = False,
        dim: int = 2,
        norm: Norm = "none",
        latent: int = LATENT,
        number: int = SAMPLES,
        widths: Sequence[int] = WIDTHS,
    ):
        super().__init__()
        self.number, self.regions, self.latent = number, regions, latent
        self.levels = len(widths)
        # a constant, but not made in the call: torch.compile takes arrays for inputs, and its guards then fail where
        # nnU-Net predicts in inference mode
        self.register_buffer("noise", torch.from_numpy(noise(number, latent)), persistent=False)
        self.one_logit = outputs == 2 and not regions
        masks = outputs if regions else outputs - 1
        levels: Norm = "batch" if norm == "instance" else norm
        self.prior = GaussianEncoder(inputs, 0, latent, dim, levels, widths)
        self.posterior = GaussianEncoder(inputs, masks, latent, dim, levels, widths)
        self.encoder = Encoder(inputs, widths, dim, norm)
        self.decoder = Decoder(1 if self.one_logit else outputs, widths, dim, norm)
        conv = (nn.Conv2d, nn.Conv3d)[dim - 2]
        # f_comb's first two layers; the third is the decoder's last one, where nnU-Net looks for it
        self.combine = nn.ModuleList([conv(widths[0] + latent, widths[0], 1), conv(widths[0], widths[0], 1)])
        for layer in self.combine:
            nn.init.orthogonal_(layer.get_parameter("weight"))
            nn.init.zeros_(layer.get_parameter("bias"))

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
        """torch's, with a clear sentence about another latent.

        Raises:
            WeightsError: If the weights belong to a latent of another size.
        """
        head = state_dict.get("prior.latent.weight")
        if head is not None and len(head) != 2 * self.latent:
            raise WeightsError(
                f"The weights are of a Probabilistic U-Net whose latent has {len(head) // 2} dimensions, but the "
                f"recipe says {self.latent}. Take the recipe it was trained with, or --set latent={len(head) // 2}."
            )
        return super().load_state_dict(state_dict, *arguments, **keywords)

    # --- the network in parts -----------------------------------------------------------------------------------

    def _features(self, padded_x: torch.Tensor, window: tuple[slice, ...]) -> torch.Tensor:
        """The U-Net without its last layer: (B, width, voxels)."""
        inside: tuple[EllipsisType | slice, ...] = (..., *window)
        return self.decoder.features(self.encoder(padded_x))[inside].flatten(2)

    def _first(self, features: torch.Tensor) -> torch.Tensor:
        """What the first layer makes of features (B, width, voxels), without a latent: once for all samples."""
        layer, width = _pointwise(self.combine[0]), features.shape[1]
        return torch.matmul(layer.weight[:, :width].flatten(1), features) + layer.bias[:, None]

    def _bias(self, latents: torch.Tensor) -> torch.Tensor:
        """What the first layer makes of latents (B, latent): a bias (B, width, 1), the same in all voxels."""
        weight = _pointwise(self.combine[0]).weight
        return functional.linear(latents, weight[:, -self.latent :].flatten(1))[..., None]

    def _rest(self, first: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """f_comb behind its first layer: (B, width, voxels) -> (B, logits, voxels)."""
        second, third = _pointwise(self.combine[1]), _pointwise(self.decoder.seg_layers[0])
        x = functional.relu(first + bias, inplace=True)
        x = functional.relu(torch.matmul(second.weight.flatten(1), x) + second.bias[:, None], inplace=True)
        return torch.matmul(third.weight.flatten(1), x) + third.bias[:, None]

    def _probabilities(self, raw: torch.Tensor) -> torch.Tensor:
        """float32, whatever the logits are."""
        return torch.sigmoid(raw.float()) if self.regions or self.one_logit else torch.softmax(raw.float(), 1)

    def _all_heads(self, probabilities: torch.Tensor) -> torch.Tensor:
        return torch.cat((1 - probabilities, probabilities), 1) if self.one_logit else probabilities

    def _biases(self, padded_x: torch.Tensor) -> list[torch.Tensor]:
        prior = self.prior(padded_x)
        fixed = self.noise if self.number <= len(self.noise) else torch.from_numpy(noise(self.number, self.latent))
        fixed = fixed[: self.number].to(padded_x.device)
        return [self._bias(prior.at(one[None])) for one in fixed]

    # --- its answers --------------------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor | Reconstruction:
        """An answer, or with masks what the loss needs.

        Args:
            x: (B, inputs, *S).
            masks: (B, labels, *S) in [0, 1], 0 where nobody answers.

        Returns:
            Without masks (B, heads, *S) log-probabilities (log-odds with regions); else a reconstruction of them.
        """
        return self.answer(x) if masks is None else self.reconstruct(x, masks)

    def reconstruct(self, x: torch.Tensor, masks: torch.Tensor) -> Reconstruction:
        """The masks again, from a latent drawn from their posterior; arguments as in `forward`."""
        padded_x, window = padded(x, self.levels)
        prior, posterior = self.prior(padded_x), self.posterior(padded_x, padded(masks.to(x), self.levels)[0])
        latents = posterior.at(torch.randn_like(posterior.mean))
        raw = self._rest(self._first(self._features(padded_x, window)), self._bias(latents))
        raw = raw.unflatten(2, x.shape[2:])
        raw = torch.cat((torch.zeros_like(raw), raw), 1) if self.one_logit else raw
        parts = (self.prior, self.posterior, self.combine)
        norms = torch.stack([p.float().norm() for part in parts for p in part.parameters()]).sum()
        return Reconstruction(raw, posterior, prior, norms)

    def samples(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Masks of latents from the prior, see `ProbabilisticNetwork.samples`."""
        padded_x, window = padded(x, self.levels)
        biases, first = self._biases(padded_x), self._first(self._features(padded_x, window))
        for bias in biases:
            yield self._all_heads(self._probabilities(self._rest(first, bias))).unflatten(2, x.shape[2:])

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """The samples' mean as logits; some voxels at a time, so that they stay in the cache.

        Source: Li et al., MICCAI 2025, inference of probabilistic distillation, N = 10.
        """
        padded_x, window = padded(x, self.levels)
        biases, features = self._biases(padded_x), self._features(padded_x, window)
        means = []
        for tile in features.split(TILE.get(x.device.type, LARGE_TILE), 2):
            first = self._first(tile)
            total = self._probabilities(self._rest(first, biases[0]))
            for bias in biases[1:]:
                total = total + self._probabilities(self._rest(first, bias))
            means.append(total / self.number)
        return logits(self._all_heads(torch.cat(means, 2)), self.regions).unflatten(2, x.shape[2:])
