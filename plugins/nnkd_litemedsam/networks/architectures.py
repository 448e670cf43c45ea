"""What nnKD_profile counts and times of LiteMedSAM, and what paper 2 says about it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from nnkd.plugin.networks import Architecture, Paper
from nnkd_litemedsam.networks.encoders import ENCODERS, Fusible, build_encoder
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.sizes import SIZE

IMAGE, BOX = (1, 3, SIZE, SIZE), (1, 4)
UNSEEN = "its linear layers are functions, which thop does not see"
LIKE_FOR_LIKE = "it compares a whole model with an encoder: compare rows of the same kind"
TEACHER = Paper("paper 2, Table 3,", "14.55 M", "42.85 G", counter="fvcore", remark=f"the whole model; {LIKE_FOR_LIKE}")
STUDENT = Paper(
    "paper 2, Table 4,",
    "2.32 M",
    "9.00 G",
    counter="fvcore",
    training=True,
    remark=f"the encoder alone, in training mode; {LIKE_FOR_LIKE}",
)


def architectures() -> Sequence[Architecture]:
    """The whole model with each image encoder, and each encoder alone; the default, with TinyViT, first."""
    wholes = [
        Architecture(
            variant="default" if name == "tinyvit" else name,
            build=partial(_whole, name),
            inputs=(IMAGE, BOX),
            graph="one slice is encoded and one box in it decoded",
            ready=_fused,
            paper=TEACHER if name == "swin" else None,
            uncountable=UNSEEN,
        )
        for name in ENCODERS
    ]
    alone = [
        Architecture(
            variant=f"{name} encoder",
            build=partial(build_encoder, name),
            inputs=(IMAGE,),
            graph="one slice is encoded",
            ready=_fused,
            paper=STUDENT if name == "repvit" else None,
            uncountable=UNSEEN,
        )
        for name in ENCODERS
    ]
    return [*wholes, *alone]


def _fused(network: nn.Module) -> nn.Module:
    return network.fuse() if isinstance(network, Fusible) else network


def _whole(name: str) -> LiteMedSAM:
    return LiteMedSAM(build_encoder(name))
