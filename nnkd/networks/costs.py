"""What a network costs: its parameters and multiply-adds, by torch's counter and by the one that the papers used.

Networks are counted on torch's device "meta", which has shapes and no numbers: exact, and instant whatever the size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnkd.errors import BrokenPluginError, NnkdError, in_one_line
from nnkd.plugin.networks import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTED = "matrix products, convolutions and attention; no norms, activations, pooling or interpolation"


@dataclass(frozen=True)
class Count:
    """A network's size.

    Attributes:
        parameters: Numbers in all its parameters.
        macs: Multiply-adds of one run, by torch's counter.
        by_operation: The same by operation, such as {"convolution": 55650025472}.
    """

    parameters: int
    macs: int
    by_operation: Mapping[str, int] = field(default_factory=dict)


def count(architecture: Architecture) -> Count:
    """Count a network exactly, without memory for its weights.

    Raises:
        BrokenPluginError: If it cannot be built or run.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def counted(network: nn.Module, inputs: Sequence[Tensor]) -> Count:
        # without fused attention, which not every torch's counter knows
        with _plain_attention(), FlopCounterMode(display=False) as counter:
            network(*inputs)
        operations = counter.get_flop_counts().get("Global", {})
        return Count(
            parameters=sum(p.numel() for p in network.parameters()),
            macs=counter.get_total_flops() // 2,
            by_operation={str(op).rpartition(".")[2]: flops // 2 for op, flops in operations.items()},
        )

    return _on_some_device(architecture, counted)


def ready_network(architecture: Architecture, device: str) -> nn.Module:
    """The network as it computes: in evaluation mode, without gradients, made ready on its device."""
    network = architecture.build().eval().requires_grad_(False).to(device)
    if architecture.ready is not None:
        architecture.ready(network)
    return _runnable(network, architecture)


def random_inputs(architecture: Architecture, device: str) -> list[Tensor]:
    """Inputs in [0, 1], always the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator).to(device) for shape in architecture.inputs]


def _on_some_device(architecture: Architecture, counted: Callable[[nn.Module, Sequence[Tensor]], Any]) -> Any:
    """Count on "meta", or, for a network that looks at numbers, on the CPU."""
    try:
        return _on(architecture, counted, "meta")
    except NnkdError:
        raise
    except Exception:  # noqa: BLE001 - a plugin's code, which may look at numbers; what else is wrong shows below
        pass
    try:
        return _on(architecture, counted, "cpu")
    except NnkdError:
        raise
    except Exception as error:
        raise BrokenPluginError(_why(error, architecture)) from error


def _on(architecture: Architecture, counted: Callable[[nn.Module, Sequence[Tensor]], Any], device: str) -> Any:
    import torch

    with torch.device(device):
        network = architecture.build()
        inputs = [torch.zeros(shape) for shape in architecture.inputs]
    network = _runnable(network.eval().requires_grad_(False), architecture)
    with torch.no_grad():  # outside of torch.device: thop's own sums are numbers
        return counted(network, inputs)


def _runnable(network: nn.Module, architecture: Architecture) -> nn.Module:
    """A module whose forward pass is what is to be executed; its parameters are the network's."""
    from torch import nn

    if architecture.run is None:
        return network
    run = architecture.run

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Tensor) -> object:
            return run(self.network, *inputs)

    return Graph().eval()


def _plain_attention() -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def _why(error: Exception, architecture: Architecture) -> str:
    shapes = ", ".join("x".join(map(str, shape)) for shape in architecture.inputs)
    why = f"{type(error).__name__}: {in_one_line(error)}"
    return f"It could not be built, or not be run on {shapes} ({why}). Try another --size."
