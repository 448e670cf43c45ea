"""What Mamba-UNet's scan costs against a loop over steps, and its training step against that of paper 1's UNet.

    python benchmarks/selective_scan.py [--repeats 5]

Same process, one thread, process CPU time, medians of interleaved runs, forward and backward passes; the loop runs
under autograd. Checks that both scans agree.
"""

from __future__ import annotations

import argparse
import os
import statistics

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import torch
from nnkd_networks.mamba_unet import MambaUNet
from nnkd_networks.selective_scan import selective_scan, step_by_step
from nnkd_unet.unet import UNet
from timing import measure
from torch import Tensor

LENGTH, CHANNELS, STATES = 4096, 96, 16
SIZE, BATCH = 64, 4


def arguments() -> list[Tensor]:
    """One sequence as it is at the start of a training; see `selective_scan`."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, 1, LENGTH, *shape, generator=generator)

    steps = torch.nn.functional.softplus(random(CHANNELS) - 3)
    decay = -torch.arange(1.0, STATES + 1).repeat(1, CHANNELS, 1)
    made = (random(CHANNELS), steps, decay, random(STATES), random(STATES))
    return [x.requires_grad_() for x in made]


def scans(repeats: int) -> dict[str, list[float]]:
    """CPU seconds of one forward and backward pass of either scan.

    Raises:
        SystemExit: If they disagree.
    """
    given = arguments()
    found, expected = selective_scan(*given), step_by_step(*given)
    pairs = zip(
        (found.detach(), *torch.autograd.grad(found.sum(), given)),
        (expected.detach(), *torch.autograd.grad(expected.sum(), given)),
        strict=True,
    )
    worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    if worst > 1e-5:
        raise SystemExit(f"The scans differ by {worst:.1e} of the largest value.")
    print(f"largest difference {worst:.1e} of the largest value")
    ways = {"scan": selective_scan, "loop": step_by_step}
    return measure({name: lambda way=way: way(*given).sum().backward() for name, way in ways.items()}, repeats)


def steps(repeats: int) -> dict[str, list[float]]:
    """CPU seconds of one forward and backward pass of either network, for one channel and one label."""
    image = torch.rand(BATCH, 1, SIZE, SIZE)
    networks = {"Mamba-UNet": MambaUNet(1, 2, one_logit=True), "UNet": UNet(1, 2, norm="batch", one_logit=True)}
    return measure(
        {name: lambda network=network: network(image).sum().backward() for name, network in networks.items()}, repeats
    )


def main() -> None:
    """Measure both, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{LENGTH} steps, {CHANNELS} channels, {STATES} states; {BATCH} slices of {SIZE} x {SIZE}")
    for measured in (scans(repeats), steps(repeats)):
        medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
        one, other = medians.values()
        print(*(f"{name} {1000 * seconds:.0f} ms" for name, seconds in medians.items()), sep=", ", end="; ")
        print(f"ratio {other / one:.2f}")


if __name__ == "__main__":
    main()
