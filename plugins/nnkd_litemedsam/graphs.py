"""LiteMedSAM in two parts, as it is exported: what an image costs once, and what every box in it costs."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from nnkd.box_export import BoxGraphs
from nnkd_litemedsam.folded_decoder import FoldedDecoder
from nnkd_litemedsam.model import LiteMedSAM


class DecoderGraph(nn.Module):
    """The folded decoder: an embedding (256, 64, 64) and boxes (n, 4) -> (n, 256, 256) logits."""

    def __init__(self, network: LiteMedSAM):
        super().__init__()
        self.prompt_encoder, self.mask_decoder = network.prompt_encoder, network.mask_decoder
        self._folded = FoldedDecoder(self.prompt_encoder, self.mask_decoder)

    def forward(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Boxes in rows (x0, y0, x1, y1) in pixels of the 256."""
        return self._folded.segment_at_once(embedding, boxes)


def graphs_of(network: LiteMedSAM, encoder: str, weights: Mapping[str, str]) -> BoxGraphs:
    """A model taken apart.

    Args:
        network: Nothing of it fused; it stays so.
        encoder: The name of its image encoder.
        weights: "name", "sha256" and "licence" of its checkpoint.
    """
    whole = network.eval().requires_grad_(False)
    ready = copy.deepcopy(whole).fuse()
    return BoxGraphs("litemedsam", encoder, ready.image_encoder, DecoderGraph(ready), whole, weights)
