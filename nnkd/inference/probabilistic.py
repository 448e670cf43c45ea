"""Networks that answer with samples: what training, prediction and uncertainty agree on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn

from nnkd.errors import BrokenPluginError

LEAST = 1e-6  # probabilities are clamped to [LEAST, 1 - LEAST] before the logarithm


class ProbabilisticNetwork(nn.Module, ABC):
    """A network whose answer to an image is a distribution, given as equally likely samples.

    nnU-Net averages what a network returns over windows, mirrors and folds as logits: a geometric mean of these
    networks' probabilities. nnKD_predict averages `samples` themselves and takes the logarithm once.

    Attributes:
        number: How many samples an answer has.
        regions: Whether heads are independent (nnU-Net's regions) or share one softmax, background first.
    """

    number: int
    regions: bool

    @abstractmethod
    def samples(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The samples of a batch of images, one after another. Sample n has the same noise whatever the image, so that
        windows, slices, mirrors and cases fit together.

        Args:
            x: (B, inputs, *S) preprocessed.

        Yields:
            `number` times (B, heads, *S) float32 probabilities; over a softmax's heads they sum to one.
        """

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of the samples as nnU-Net wants it: logits.

        Args:
            x: (B, inputs, *S) preprocessed.

        Returns:
            (B, heads, *S) float32, see `logits`.

        Raises:
            BrokenPluginError: If there is no sample.
        """
        total: torch.Tensor | None = None
        for sample in self.samples(x):
            total = sample.clone() if total is None else total.add_(sample)
        if total is None:
            raise no_samples(self)
        return logits(total.div_(self.number), self.regions)


def no_samples(network: ProbabilisticNetwork) -> BrokenPluginError:
    """What to raise where a network answers with none."""
    return BrokenPluginError(
        f"{type(network).__name__} answers with no sample, but {network.number} are expected. Correct the plugin."
    )


def logits(probabilities: torch.Tensor, regions: bool) -> torch.Tensor:
    """Log-probabilities, or log-odds of independent heads; their softmax, or sigmoid, gives the probabilities back.

    Args:
        probabilities: Any shape, float32.
        regions: Whether heads are independent.
    """
    clamped = probabilities.clamp(LEAST, 1 - LEAST)
    return torch.logit(clamped) if regions else clamped.log()
