"""LiteMedSAM's image encoders by name. No torch until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from nnkd.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn

Name = Literal["tinyvit", "repvit", "swin"]


@dataclass(frozen=True)
class Encoder:
    """An image encoder, (B, 3, 256, 256) -> (B, 256, 64, 64).

    Attributes:
        title: For messages.
        module, cls: Where its class is.
        sign: The beginning of tensors' names that no other encoder has.
        source: The paper.
    """

    title: str
    module: str
    cls: str
    sign: str
    source: str


ENCODERS: Mapping[str, Encoder] = {
    "tinyvit": Encoder("TinyViT", "tiny_vit", "TinyViT", "patch_embed.seq.", "Wu et al., ECCV 2022 (TinyViT)"),
    "repvit": Encoder("RepViT", "repvit", "RepViT", "features.", "Wang et al., CVPR 2024 (RepViT); paper 2"),
    "swin": Encoder("Swin", "swin", "Swin", "absolute_pos_embed", "Liu et al., ICCV 2021 (Swin); paper 2"),
}


def build_encoder(name: str, **options: Any) -> nn.Module:
    """An image encoder with random weights; each has `fuse()`, which makes it faster for good.

    Args:
        name: One of `ENCODERS`.
        options: Those of its class.

    Raises:
        UnknownNameError: If there is no encoder of that name.
    """
    if name not in ENCODERS:
        raise UnknownNameError(f"There is no image encoder '{name}'. There are: {', '.join(ENCODERS)}.")
    encoder = ENCODERS[name]
    return getattr(import_module(f"nnkd_litemedsam.{encoder.module}"), encoder.cls)(**options)
