"""LiteMedSAM's image encoders by name. No torch until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nnkd.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Encoder:
    """An image encoder, (B, 3, 256, 256) -> (B, 256, 64, 64).

    Attributes:
        title: For messages.
        module, cls: Where its class is.
        sign: The beginning of tensors' names that no other encoder has.
        trainer: The student that trains a LiteMedSAM with it; empty where there are published weights.
    """

    title: str
    module: str
    cls: str
    sign: str
    trainer: str = ""


@runtime_checkable
class Fusible(Protocol):
    """A network that can be made faster for good."""

    def fuse(self) -> nn.Module:
        """Make it faster; returns itself, in evaluation mode."""


ENCODERS: Mapping[str, Encoder] = {
    "tinyvit": Encoder("TinyViT", "tiny_vit", "TinyViT", "patch_embed.seq."),
    "repvit": Encoder("RepViT", "repvit", "RepViT", "features.", "nnUNetTrainerRepViTDistill"),
    "swin": Encoder("Swin", "swin", "Swin", "absolute_pos_embed", "nnUNetTrainerLiteMedSAM"),
}


def encoder_called(name: str) -> Encoder:
    """One of `ENCODERS`.

    Raises:
        UnknownNameError: If there is no encoder of that name.
    """
    if name not in ENCODERS:
        raise UnknownNameError(f"There is no image encoder '{name}'. There are: {', '.join(ENCODERS)}.")
    return ENCODERS[name]


def build_encoder(name: str, **options: Any) -> nn.Module:
    """An image encoder with random weights; each has `fuse()`, which makes it faster for good.

    Args:
        name: One of `ENCODERS`.
        options: Those of its class.

    Raises:
        UnknownNameError: If there is no encoder of that name.
    """
    encoder = encoder_called(name)
    return getattr(import_module(f"nnkd_litemedsam.networks.{encoder.module}"), encoder.cls)(**options)
