"""HSNet as nnU-Net wants a network: any number of channels and labels, slices of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnkd.errors import BrokenPluginError
from nnkd_hsnet.decoder import Decoder

if TYPE_CHECKING:
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

STRIDE = 32  # of the coarsest scale
COLOURS = 3


def pvt_v2_b2(drop_path: float = 0.0) -> PyramidVisionTransformerV2:
    """PVTv2-b2 with random weights and without its classifier: 24,849,856 parameters.

    Source: Wang et al., Computational Visual Media 2022 (PVT v2), through timm.

    Raises:
        BrokenPluginError: If timm is not installed.
    """
    try:
        from timm.models import pvt_v2
    except ImportError as error:
        raise BrokenPluginError(
            f"nnUNetTrainerHSNet needs the package timm ({error}). Install it: "
            f'pip install "nnkd[hsnet]", or pip install timm.'
        ) from error
    # the function itself: other packages put networks of this name into timm's registry
    return pvt_v2.pvt_v2_b2(pretrained=False, num_classes=0, drop_path_rate=drop_path)


def _to_colours(inputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts by dealing the channels to the colours, and keeps their variance."""
    layer = nn.Conv2d(inputs, COLOURS, 1)
    nn.init.zeros_(layer.get_parameter("bias"))
    dealt = (torch.arange(inputs) % COLOURS == torch.arange(COLOURS)[:, None]).float()
    dealt = torch.where(dealt.sum(1, keepdim=True) == 0, 1.0, dealt)  # with two channels the third colour is their sum
    with torch.no_grad():
        layer.weight.copy_((dealt / dealt.sum(1, keepdim=True).sqrt())[..., None, None])
    return layer


class Encoder(nn.Module):
    """Channels to three colours, then PVTv2-b2.

    One channel is repeated. Two, or more than three, are mixed by a learned 1x1 convolution: so the transformer keeps
    its published shape, and ImageNet weights fit whatever the channels.
    """

    def __init__(self, inputs: int, drop_path: float = 0.0):
        super().__init__()
        self.colours = nn.Identity() if inputs in (1, COLOURS) else _to_colours(inputs)
        self.backbone = pvt_v2_b2(drop_path)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, H, W), H and W multiples of 32 -> four scales."""
        x = x.expand(-1, COLOURS, -1, -1) if x.shape[1] == 1 else self.colours(x)
        found = self.backbone.forward_intermediates(x, intermediates_only=True)
        return found[1] if isinstance(found, tuple) else found  # never a tuple: only intermediates were asked for


class HSNet(nn.Module):
    """HSNet: 29,257,010 parameters with up to three channels and one logit; 29,849,657 with `paper_exact`.

    In training mode it gives its four outputs, in evaluation mode their mean, which paper 1 predicts with. (The
    published model sums them and stretches each image's sigmoid to [0, 1].) Images are padded inside to a multiple of
    32, at least 64, and cropped after.

    Source: Li et al., MICCAI 2025, section 2.1; Zhang et al., Computers in Biology and Medicine 2022.

    Args:
        inputs: Image channels; one, two or more than three become three, see `Encoder`.
        outputs: nnU-Net's number of heads.
        one_logit: Give (0, x) for two softmax heads, whose softmax is sigmoid(x): the paper's single logit.
        paper_exact: Keep the never-called attention block.
        enlarge: Images are made so many times larger inside. The finest output has a fourth of the size inside.
        drop_path: Chance that a residual branch of the transformer's last block is left out; earlier blocks' grow
            towards it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        one_logit: bool = False,
        paper_exact: bool = False,
        enlarge: int = 1,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.one_logit = one_logit
        self.enlarge = enlarge
        self.encoder = Encoder(inputs, drop_path)
        self.decoder = Decoder(1 if one_logit else outputs, paper_exact)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, inputs, H, W) -> logits (B, outputs, H, W), four of them in training mode."""
        size = x.shape[2:]
        multiple = STRIDE // self.enlarge
        # at least two pixels at the coarsest scale: batch normalisation has no variance over one
        missing = [max(2 * multiple - n, -n % multiple) for n in size]
        x = functional.pad(x, [amount for m in reversed(missing) for amount in (m // 2, m - m // 2)])
        padded = x.shape[2:]
        if self.enlarge > 1:
            x = functional.interpolate(x, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        outputs = self.decoder(self.encoder(x))
        outputs = [functional.interpolate(y, padded, mode="bilinear", align_corners=False) for y in outputs]
        window = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
        outputs = [self._heads(y[(..., *window)]) for y in outputs]
        return outputs if self.training else torch.stack(outputs).mean(0)

    def _heads(self, logits: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(logits), logits), 1) if self.one_logit else logits
