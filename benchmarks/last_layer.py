"""How soon UNet and PUNet tell two labels apart, by the spread that the last layer starts with.

    python benchmarks/last_layer.py [--seeds 10] [--norm batch]

Made-up images of one bar, half of it label 1, half label 2; narrow networks, whole batches, Adam with 1e-3. Prints the
share of labelled pixels with the right label after 40, 80, 160 and 320 steps: the median of the seeds and the least.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch
from nnkd_unet.punet_loss import EvidenceLoss
from nnkd_unet.punet_network import PUNet
from nnkd_unet.unet import UNet

STEPS, WIDTHS = (40, 80, 160, 320), (8, 16)
SMALL = 0.01


def images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(8, 1, 16, 16) images and (8, 16, 16) label maps."""
    target = torch.zeros(8, 16, 16, dtype=torch.long)
    target[:, 4:8, 6:10], target[:, 8:12, 6:10] = 1, 2
    image = (target > 0)[:, None] + 0.1 * torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    image[:, :, 4:8, 7:9] -= 0.5
    return image, target


def right(kind: type, spread: float | None, norm: str, seed: int) -> list[float]:
    """Share of labelled pixels with the right label, after each of STEPS; `spread` None is the networks' own."""
    torch.manual_seed(seed)
    network = kind(1, 3, norm=norm, widths=WIDTHS)
    if spread is not None:
        torch.nn.init.normal_(network.decoder.seg_layers[0].weight, std=spread)
    image, target = images(seed)
    masks = torch.stack((target == 1, target == 2), 1).float()
    evidence = EvidenceLoss(regions=False)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    found = []
    for step in range(1, STEPS[-1] + 1):
        optimizer.zero_grad()
        if kind is PUNet:
            loss = evidence(network.reconstruct(image, masks), masks).loss / target[0].numel()
        else:
            loss = torch.nn.functional.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
        if step in STEPS:
            with torch.no_grad():  # batch statistics: running ones need more steps than these
                found.append(float((network(image).argmax(1) == target)[target > 0].float().mean()))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--norm", choices=("batch", "instance", "none"), default="batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| network, {options.norm} | start | {' | '.join(f'{step} steps' for step in STEPS)} |\n{'|---' * 6}|")
    for kind in (UNet, PUNet):
        for spread in (SMALL, None):
            columns = zip(*(right(kind, spread, options.norm, seed) for seed in range(options.seeds)), strict=True)
            cells = " | ".join(f"{median(column):.2f} ({min(column):.2f})" for column in columns)
            print(f"| {kind.__name__} | {spread or 'its own'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
