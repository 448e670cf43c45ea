"""MONAI's Swin UNETR as nnU-Net wants a network: any number of labels, images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnkd.errors import BrokenPluginError

STRIDE = 32  # of the coarsest scale


class Heads(nn.Module):
    """The last layer, under nnU-Net's names: `seg_layers` (skipped by -pretrained_weights) and `deep_supervision`
    (always off: there is one output)."""

    def __init__(self, features: int, logits: int, dim: int):
        super().__init__()
        self.deep_supervision = False
        self.seg_layers = nn.ModuleList([(nn.Conv2d, nn.Conv3d)[dim - 2](features, logits, 1)])

    def forward(self, features: Tensor) -> Tensor:
        """(B, features, *S) -> (B, logits, *S)."""
        return self.seg_layers[0](features)


class SwinUNETR(nn.Module):
    """Swin UNETR with MONAI's depths, heads and windows, for 2D or 3D images of any size.

    Images are padded inside to multiples of 32, and cropped after. With one channel and one logit, volumes take
    15,702,979 parameters at 24 features and 62,186,659 at 48.

    Source: Hatamizadeh et al., Swin UNETR, BrainLes 2021, through MONAI.

    Args:
        inputs: Image channels.
        outputs: nnU-Net's number of heads.
        dim: 2 or 3.
        feature_size: Features of the finest scale, a multiple of 12.
        drop_path: Chance that a residual branch of the transformer's last block is left out in training.
        checkpointing: Compute the transformer's blocks again in the backward pass instead of keeping what they made.
        one_logit: Give (0, x) for two softmax heads, whose softmax is sigmoid(x).

    Raises:
        BrokenPluginError: If monai is not installed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dim: int = 3,
        feature_size: int = 24,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        one_logit: bool = False,
    ):
        super().__init__()
        self.one_logit = one_logit
        self.body = monais(
            in_channels=inputs,
            out_channels=1,
            spatial_dims=dim,
            feature_size=feature_size,
            dropout_path_rate=drop_path,
            use_checkpoint=checkpointing,
        )
        self.body.out = nn.Identity()  # the heads are ours
        self.decoder = Heads(feature_size, 1 if one_logit else outputs, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *S) -> (B, outputs, *S) logits."""
        size = x.shape[2:]
        missing = missing_voxels(size)
        x = functional.pad(x, [amount for m in reversed(missing) for amount in (m // 2, m - m // 2)])
        window = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
        logits = self.decoder(self.body(x))[(..., *window)]
        return torch.cat((torch.zeros_like(logits), logits), 1) if self.one_logit else logits


def monais(
    *,
    in_channels: int,
    out_channels: int,
    spatial_dims: int,
    feature_size: int,
    dropout_path_rate: float,
    use_checkpoint: bool,
) -> nn.Module:
    """MONAI's network with random weights.

    Raises:
        BrokenPluginError: If monai, or einops, is not installed.
    """
    try:
        import einops  # noqa: F401 - monai asks for it only when the network runs
        from monai.networks import nets
    except ImportError as error:
        raise BrokenPluginError(
            f"nnUNetTrainerSwinUNETR needs the packages monai and einops ({error}). Install them: "
            f'pip install "nnkd[networks]", or pip install monai einops.'
        ) from error
    here = torch.get_default_device()
    with torch.device("cpu"):  # it reads numbers out of tensors, which "meta", where nnKD_profile counts, has not
        network = nets.SwinUNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            spatial_dims=spatial_dims,
            feature_size=feature_size,
            dropout_path_rate=dropout_path_rate,
            use_checkpoint=use_checkpoint,
        )
    return network.to(here)


def missing_voxels(size: Sequence[int]) -> list[int]:
    """What each axis lacks to a multiple of 32; the last one of at least 64 where all would be 32, because instance
    normalisation has no variance over a single voxel at the coarsest scale."""
    missing = [-n % STRIDE for n in size]
    if all(n + m <= STRIDE for n, m in zip(size, missing, strict=True)):
        missing[-1] += STRIDE
    return missing
