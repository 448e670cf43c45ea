"""Networks as plugins describe them: to be counted, and to be exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Paper:
    """What a paper says about a network, and how it counted.

    Attributes:
        source: Where.
        parameters, macs: As printed there, such as "2.26 M" and "55.65 G"; empty if it says nothing. A MAC is one
            multiply-add; papers call them FLOPs.
        at: What the figures are for.
        counted_parameters: Whether parameters are those that thop meets ("met": in layers it knows and that are
            executed), or "all".
        remark: What else there is to know.
        counter: What it counted with: "thop", or "fvcore", whose M is 2^20 here and whose G is 2^30.
        training: Whether the network was in training mode, in which fvcore counts more for batch norms.
    """

    source: str
    parameters: str = ""
    macs: str = ""
    at: str = ""
    counted_parameters: str = "met"
    remark: str = ""
    counter: Literal["thop", "fvcore"] = "thop"
    training: bool = False


@dataclass(frozen=True)
class Architecture:
    """A network that can be built with random weights.

    Attributes:
        variant: What tells it from others of the same name.
        build: Makes it, on torch's default device.
        inputs: Shapes of its float32 inputs, batch included.
        run: What is executed, of the network and its inputs; None: its forward pass.
        graph: What that is, in words.
        ready: What is done to the network before it computes, such as fusing its batch norms; not before counting.
        paper: The paper that counted this very graph.
        uncountable: Why thop's figures would be wrong; empty if they are not.
    """

    variant: str
    build: Callable[[], nn.Module]
    inputs: Sequence[tuple[int, ...]]
    run: Callable[..., object] | None = None
    graph: str = "forward pass"
    ready: Callable[[nn.Module], object] | None = None
    paper: Paper | None = None
    uncountable: str = ""


@dataclass(frozen=True)
class PaperGraph:
    """How a paper counted a student's network; trainers list theirs in the class attribute `paper_graphs`.

    Attributes:
        variant: What to call it.
        options: Options, as after --set, that make the paper's network.
        paper, run, graph: As for `Architecture`.
    """

    variant: str
    options: Mapping[str, Any]
    paper: Paper
    run: Callable[..., object] | None = None
    graph: str = "forward pass"


@dataclass(frozen=True)
class BoxGraphs:
    """A box model taken apart: what an image costs once, and what every box in it costs.

    Attributes:
        name: What it is called, such as "litemedsam".
        encoder_name: Which image encoder it has, such as "tinyvit".
        encoder: (1, 3, size, size) -> (1, channels, grid, grid), made ready for inference.
        decoder: (channels, grid, grid) and (n, 4) -> (n, size, size) logits, likewise; n may be any.
        whole: An image (1, 3, size, size) and (n, 4) -> (n, size, size) logits as in training, to be compared with.
        weights: "name", "sha256" and "licence" of the checkpoint.
        size: Pixels of a side of the input.
        grid: Pixels of a side of the embedding.
        channels: Of the embedding.
    """

    name: str
    encoder_name: str
    encoder: nn.Module
    decoder: nn.Module
    whole: nn.Module
    weights: Mapping[str, str]
    size: int
    grid: int
    channels: int


def plain_unet(
    features: Sequence[int], kernels: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], convolutions: int
) -> dict[str, Any]:
    """What nnU-Net's plans say under "architecture" of its plain U-Net.

    Args:
        features: Of each stage.
        kernels, strides: Of each stage, a number an axis; as many axes as the images have.
        convolutions: A stage, in encoder and decoder.
    """
    dim, stages = len(kernels[0]), len(features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [list(kernel) for kernel in kernels],
            "strides": [list(stride) for stride in strides],
            "n_conv_per_stage": [convolutions] * stages,
            "n_conv_per_stage_decoder": [convolutions] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
