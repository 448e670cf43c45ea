"""What a training step with an auxiliary task costs, beside fine-tuning and beside two plain backward passes.

    python benchmarks/asap_step.py [--patch 32 64 64] [--batch 2] [--repeats 7] [--out results.jsonl]

nnU-Net's 3D U-Net of 16.5 million parameters. Same process, one thread, variants interleaved, medians of the process
CPU time; the time of the cosine is that of its products, taken inside the hooks. Peak memory: each variant in a process
of its own, above what was there before its second step. Checks that all ways to the cosine agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from process_memory import peak_above
from timing import measure
from torch import nn
from torch.nn.functional import cross_entropy

from nnkd.training.along import gradients
from nnkd.training.along.gradients import SecondPass, binary_heads

FINE_TUNING, TWO_PASSES, OURS, OWN_HEADS, NAIVE = (
    "fine-tuning",
    "two backward passes",
    "with the cosine",
    "with the cosine, heads of its own",
    "gradients apart, joined, compared",
)
EXACT = "gradients apart, in float64"
REACH = {"times two backward passes": 1.05, "share of a step for the cosine": 0.01}


class Steps:
    """A network with a target batch and an auxiliary one, and the ways to train on them."""

    def __init__(self, patch: tuple[int, ...], batch: int):
        torch.manual_seed(0)
        features = (32, 64, 128, 256, 320)
        self.network = PlainConvUNet(
            1, len(features), features, nn.Conv3d, 3, [1, 2, 2, 2, 2], 2, 2, 2, conv_bias=True,
            norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True}, deep_supervision=False,
        )  # fmt: skip
        self.data = [torch.randn(batch, 1, *patch) for _ in range(2)]
        self.target = [torch.randint(0, 2, (batch, *patch)) for _ in range(2)]
        self.shared, self.own = (SecondPass(self.network, heads) for heads in (None, binary_heads(self.network, 2)))
        self.cosines: dict[str, float] = {}
        self.in_hooks: list[float] = []

    def ways(self) -> dict[str, Callable[[], None]]:
        """The variants by name."""
        return {
            FINE_TUNING: lambda: self._step(lambda: None),
            TWO_PASSES: lambda: self._step(lambda: self._loss(1).backward()),
            OURS: lambda: self._step(lambda: self._compared(OURS, self.shared)),
            OWN_HEADS: lambda: self._step(lambda: self._compared(OWN_HEADS, self.own)),
            NAIVE: self._naive,
        }

    def _loss(self, which: int, forward: Callable | None = None) -> torch.Tensor:
        return cross_entropy((forward or self.network)(self.data[which]), self.target[which])

    def _step(self, second: Callable[[], None]) -> None:
        """Without a step of an optimiser, which is the same for all; so that all see the same weights."""
        self.network.zero_grad(set_to_none=True)
        self._loss(0).backward()
        second()

    def _compared(self, name: str, second: SecondPass) -> None:
        before = sum(self.in_hooks)
        _, found = second.train(lambda: self._loss(1, second))
        self.cosines[name] = found.cosine
        self.in_hooks = [sum(self.in_hooks) - before] if name == OURS else self.in_hooks[:1]

    def _naive(self) -> None:
        parameters = list(self.network.parameters())  # without deep supervision some heads have no part in the loss
        target, auxiliary = (
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(self._loss(which), parameters, allow_unused=True)
                    if g is not None
                ]
            )
            for which in (0, 1)
        )
        self.cosines[NAIVE] = float(torch.cosine_similarity(target, auxiliary, 0))
        if EXACT not in self.cosines:  # float32 sums over so many numbers are wrong in the fourth digit
            self.cosines[EXACT] = float(torch.cosine_similarity(target.double(), auxiliary.double(), 0))


def timed_products(steps: Steps) -> None:
    """Have the time of the cosine's products noted."""
    plain = gradients._products

    def products(*arguments: torch.Tensor) -> torch.Tensor:
        start = time.process_time()
        found = plain(*arguments)
        steps.in_hooks.append(time.process_time() - start)
        return found

    gradients._products = products


def peak(options: argparse.Namespace, name: str) -> float:
    """MiB, of a step in a process of its own."""
    patch = [str(n) for n in options.patch]
    command = [sys.executable, __file__, "--patch", *patch, "--batch", str(options.batch), "--peak-of", name]
    # memory that is given back at once, so that what one variant kept does not hide what another one takes
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **given_back})
    return float(done.stdout)


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 64, 64), help="voxels along each axis")
    parser.add_argument("--batch", type=int, default=2, help="patches in a batch")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each variant")
    parser.add_argument("--out", type=Path, default=None, help="append the result to this JSONL file")
    parser.add_argument("--peak-of", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = Steps(tuple(options.patch), options.batch)
    if options.peak_of:
        way = steps.ways()[options.peak_of]
        way()
        steps.network.zero_grad(set_to_none=True)
        print(peak_above(way))
        return
    timed_products(steps)
    seconds = {name: statistics.median(found) for name, found in measure(steps.ways(), options.repeats).items()}
    peaks = {name: peak(options, name) for name in seconds}
    millions = sum(p.numel() for p in steps.network.parameters()) / 1e6
    print(f"{millions:.1f} M parameters, patch {options.patch}, batch {options.batch}, torch {torch.__version__}")
    for name, value in seconds.items():
        times = f"{1000 * value:8.1f} ms  {value / seconds[FINE_TUNING]:5.2f} x fine-tuning  {peaks[name]:6.0f} MiB"
        print(f"{name:36} {times}  cosine {steps.cosines.get(name, float('nan')):.6f}")
    share = steps.in_hooks[0] / seconds[OURS]
    for (what, wanted), found in zip(REACH.items(), (seconds[OURS] / seconds[TWO_PASSES], share), strict=True):
        print(f"{found:.4f} {what} (to reach: at most {wanted})")
    difference = abs(steps.cosines[OURS] - steps.cosines[EXACT])
    print(f"difference from the cosine in float64: {difference:.1e}")
    assert difference < 1e-4
    if options.out:
        result = {"benchmark": "asap_step", "patch": list(options.patch), "batch": options.batch, "seconds": seconds,
                  "peaks_mib": peaks, "cosine_share": share, "difference": difference}  # fmt: skip
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
