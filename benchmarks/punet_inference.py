"""What ten samples of the Probabilistic U-Net cost, against the loop over the whole network and against the UNet.

    python benchmarks/punet_inference.py [--size 256] [--repeats 9] [--out results.jsonl]

Same process, one thread, variants interleaved, medians of the process CPU time. Weights are random: times do not depend
on them. Checks that all ways to the mean agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import torch
from nnkd_unet.punet_network import PUNet, noise
from nnkd_unet.unet import UNet, padded
from timing import measure
from torch import nn

REACH = {"times faster than the naive loop": 8.0, "times the UNet's time": 1.6}


def naive(network: PUNet, x: torch.Tensor) -> torch.Tensor:
    """The mean foreground probability as published code computes it: for every sample the prior, the U-Net, and 1x1
    layers on its features with the latent written beside each voxel."""
    total = torch.zeros(())
    for one in torch.from_numpy(noise(network.number, network.latent)):
        padded_x, window = padded(x, network.levels)
        latents = network.prior(padded_x).at(one[None])
        features = network.decoder.features(network.encoder(padded_x))[(..., *window)]
        beside = latents[(..., *[None] * (x.ndim - 2))].expand(-1, -1, *x.shape[2:])
        combined = torch.cat((features, beside), 1)
        for layer in network.combine:
            combined = nn.functional.relu(layer(combined))
        total = total + torch.sigmoid(network.decoder.seg_layers[0](combined))
    return total / network.number


def by_samples(network: PUNet, x: torch.Tensor) -> torch.Tensor:
    """The mean of the samples, one whole image after another."""
    total = torch.zeros(())
    for sample in network.samples(x):
        total = total + sample[:, 1:]
    return total / network.number


def variants(x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """What is timed; all but the UNet give the mean foreground probability."""
    torch.manual_seed(0)
    network, unet = PUNet(1, 2).eval(), UNet(1, 2, one_logit=True).eval()
    with torch.no_grad():  # samples that differ, and probabilities around one half
        network.prior.latent.weight.normal_(std=0.3)
        network.decoder.seg_layers[0].weight.normal_(std=0.3)
        network.decoder.seg_layers[0].bias.zero_()
    return {
        "UNet": lambda: unet(x),
        "naive loop": lambda: naive(network, x),
        "samples": lambda: by_samples(network, x),
        "answer": lambda: network(x).exp()[:, 1:],
    }


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels along each side of the image")
    parser.add_argument("--repeats", type=int, default=9, help="timed repeats of each variant")
    parser.add_argument("--out", type=Path, default=None, help="append the result to this JSONL file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.rand(1, 1, options.size, options.size)
    with torch.inference_mode():
        ways = variants(x)
        difference = max(float((ways[name]() - ways["naive loop"]()).abs().max()) for name in ("samples", "answer"))
        seconds = {name: statistics.median(s) for name, s in measure(ways, options.repeats).items()}
    for name, value in seconds.items():
        print(f"{name:12} {1000 * value:8.1f} ms  {value / seconds['UNet']:6.2f} x UNet")
    faster, longer = seconds["naive loop"] / seconds["answer"], seconds["answer"] / seconds["UNet"]
    for (what, wanted), found in zip(REACH.items(), (faster, longer), strict=True):
        print(f"{found:.2f} {what} (to reach: {wanted})")
    print(f"largest difference of the mean probabilities: {difference:.1e}")
    if options.out:
        result = {"benchmark": "punet_inference", "size": options.size, "seconds": seconds, "difference": difference}
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
