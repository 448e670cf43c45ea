"""What a network costs: its parameters and multiply-adds, by torch's counter and by the one that the papers used.

Networks are counted on torch's device "meta", which has shapes and no numbers: exact, and instant whatever the size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from nnkd.errors import BrokenPluginError, NnkdError

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTED = "matrix products, convolutions and attention; no norms, activations, pooling or interpolation"
THOP, FVCORE = "thop", "fvcore"  # their figures are the papers': they counted with them
FVCORES_RULES = f"the rules of {FVCORE}"
OPERATIONS_OF_A_NORM = 5  # that fvcore counts for each number that a norm sees; 2 for batch norms in evaluation mode
INSTALL_THOP = 'not counted: thop is not installed (pip install "nnkd[profile]")'


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


@dataclass(frozen=True)
class PaperCount:
    """The same as papers count.

    Attributes:
        by: The counter and its version.
        parameters, macs: None where it could not count.
        problem: Why it could not; empty if it could.
        kilo: What the paper's M is the square of, and its G the cube.
    """

    by: str
    parameters: int | None = None
    macs: int | None = None
    problem: str = ""
    kilo: int = 1000


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


def paper_count(architecture: Architecture) -> PaperCount:
    """Count a network as the papers did. Most took the package thop: convolutions, linear layers, norms and poolings
    that are modules, one run in evaluation mode; neither attention's matrix products nor anything else that is a
    function. Where the paper took fvcore, its rules are followed without it.

    Raises:
        BrokenPluginError: If the network cannot be built or run.
    """
    if architecture.paper is not None and architecture.paper.counter == FVCORE:
        return _as_fvcore(architecture, architecture.paper.training)
    try:
        import thop
    except ImportError:  # on Python 3.12 also where setuptools is missing, whose distutils it imports
        return PaperCount(THOP, problem=INSTALL_THOP)
    by = f"{THOP} {metadata.version(THOP)}"
    if architecture.uncountable:
        return PaperCount(by, problem=f"not counted: {architecture.uncountable}")

    def counted(network: nn.Module, inputs: Sequence[Tensor]) -> PaperCount:
        if _named_twice(network):
            return PaperCount(by, problem="not counted: some layers have several names, and thop counts each time")
        known = _derived_layers(network, thop.profile.__globals__["register_hooks"])
        macs, met = thop.profile(network, inputs=tuple(inputs), custom_ops=known, verbose=False)
        every = architecture.paper is not None and architecture.paper.counted_parameters == "all"
        parameters = sum(p.numel() for p in network.parameters()) if every else int(met)
        return PaperCount(by, parameters, int(macs))

    return _on_some_device(architecture, counted)


def _as_fvcore(architecture: Architecture, training: bool) -> PaperCount:
    """All parameters; what torch's counter counts, and norms that are torch's own layers.

    Source: fvcore 0.1.5; paper 2's two networks come out as printed, and as fvcore itself was measured, to 6 digits.
    """

    def norms(network: nn.Module, inputs: Sequence[Tensor]) -> int:
        from torch import nn

        operations: list[int] = []

        def seen(norm: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
            simple = isinstance(norm, nn.modules.batchnorm._BatchNorm) and not training
            operations.append(given[0].numel() * (2 if simple else OPERATIONS_OF_A_NORM))

        for module in network.modules():
            own = isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward
            if own or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_hook(seen)
        network(*inputs)
        return sum(operations)

    counted = count(architecture)
    macs = counted.macs + _on_some_device(architecture, norms)
    return PaperCount(FVCORES_RULES, counted.parameters, macs, kilo=1024)


def _named_twice(network: nn.Module) -> bool:
    """Whether a layer with parameters can be reached under two names."""
    layers = [m for _, m in network.named_modules(remove_duplicate=False) if list(m.parameters(recurse=False))]
    return len(layers) > len(set(layers))


def _derived_layers(network: nn.Module, known: Mapping[type, Any]) -> dict[type, Any]:
    """Layers derived from one that thop knows, such as timm's LayerNorm: by themselves thop would pass over them."""
    found = {}
    for kind in {type(module) for module in network.modules() if not list(module.children())}:
        base = next((base for base in kind.__mro__ if base in known), None)
        if base not in (None, kind):
            found[kind] = known[base]
    return found


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
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    shapes = ", ".join("x".join(map(str, shape)) for shape in architecture.inputs)
    return f"It could not be built, or not be run on {shapes} ({type(error).__name__}: {first}). Try another --size."
