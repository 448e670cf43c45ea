"""What a box costs LiteMedSAM's mask decoder: segment-anything's own, and folded.

    python benchmarks/litemedsam_decoder.py [--boxes 6] [--repeats 9] [--out results.jsonl]

Same process, one thread, variants interleaved, medians of the process CPU time. With the published weights, on an image
of noise: times do not depend on either. Checks that the logits agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import torch
from nnkd_litemedsam import weights
from timing import measure


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=6, help="boxes in the slice (default: 6)")
    parser.add_argument("--repeats", type=int, default=9, help="timed repeats of each variant")
    parser.add_argument("--out", type=Path, default=None, help="append the result to this JSONL file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain, folded = (weights.load_model(weights.published())[0] for _ in range(2))
    plain.eval()
    folded.fuse()
    corners = 20 + 150 * torch.rand(options.boxes, 2)
    boxes = torch.cat([corners, corners + 60], dim=1)
    with torch.inference_mode():
        embedding = folded.image_encoder(torch.rand(1, 3, 256, 256))[0]
        ways = {
            "plain": lambda: plain.decode(embedding, boxes),
            "folded": lambda: folded.decode(embedding, boxes),
            "encoder": lambda: folded.image_encoder(torch.zeros(1, 3, 256, 256)),
        }
        before, after = ways["plain"](), ways["folded"]()
        difference = float((before - after).abs().max() / before.abs().max())
        seconds = {name: statistics.median(s) for name, s in measure(ways, options.repeats).items()}
    for name in ("plain", "folded"):
        print(f"{name:8} {1000 * seconds[name] / options.boxes:7.1f} ms a box")
    print(f"encoder  {1000 * seconds['encoder']:7.1f} ms a slice")
    print(f"{seconds['plain'] / seconds['folded']:.2f} times faster; largest relative difference {difference:.1e}, "
          f"pixels that differ: {int(((before > 0) != (after > 0)).sum())}")  # fmt: skip
    if options.out:
        result = {"benchmark": "litemedsam_decoder", "seconds": seconds, "boxes": options.boxes,
                  "difference": difference}  # fmt: skip
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
