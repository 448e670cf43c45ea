"""How papers counted their networks, so that their figures can be told from ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from nnkd.networks.costs import _on_some_device, count
from nnkd.plugin.networks import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

THOP, FVCORE = "thop", "fvcore"  # their figures are the papers': they counted with them
FVCORES_RULES = f"the rules of {FVCORE}"
OPERATIONS_OF_A_NORM = 5  # that fvcore counts for each number that a norm sees; 2 for batch norms in evaluation mode
INSTALL_THOP = 'not counted: thop is not installed (pip install "nnkd[profile]")'


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
