"""LiteMedSAM: image encoder, prompt encoder and mask decoder."""

from __future__ import annotations

from torch import Tensor, nn

from nnkd.errors import BrokenPluginError
from nnkd_litemedsam.networks.encoders import Fusible
from nnkd_litemedsam.networks.folded_decoder import FoldedDecoder
from nnkd_litemedsam.networks.tiny_vit import TinyViT
from nnkd_litemedsam.sizes import CHANNELS, GRID, SIZE


class LiteMedSAM(nn.Module):
    """The whole model, 9,791,300 parameters with the default encoder.

    Source: Ma et al., Nature Communications 2024 (MedSAM), branch LiteMedSAM.

    Attributes:
        image_encoder, prompt_encoder, mask_decoder: As the published weights call them.
    """

    def __init__(self, encoder: nn.Module | None = None):
        """Build it with random weights.

        Args:
            encoder: (B, 3, 256, 256) -> (B, 256, 64, 64); None: TinyViT.

        Raises:
            BrokenPluginError: If the package segment-anything is not installed.
        """
        super().__init__()
        try:
            from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
        except ImportError as error:
            raise BrokenPluginError(
                f"litemedsam needs the package segment-anything ({error}). Install it: "
                f'pip install "nnkd[litemedsam]", or pip install segment-anything.'
            ) from error
        self.image_encoder = TinyViT() if encoder is None else encoder
        self.prompt_encoder = PromptEncoder(CHANNELS, (GRID, GRID), (SIZE, SIZE), mask_in_chans=16)
        self.mask_decoder = MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=8, mlp_dim=2048),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )
        self._folded: FoldedDecoder | None = None

    def fuse(self) -> LiteMedSAM:
        """Make it faster, for good: the encoder's batch norms are fused and, on CPUs, the decoder is folded. Only for
        inference, where it lies: weights that change or move afterwards are not seen everywhere.

        Returns:
            Itself, in evaluation mode.
        """
        self.eval().requires_grad_(False)
        if isinstance(self.image_encoder, Fusible):
            self.image_encoder.fuse()
        if self.prompt_encoder.no_mask_embed.weight.device.type == "cpu":
            self._folded = FoldedDecoder(self.prompt_encoder, self.mask_decoder)
        return self

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Encode and decode one image: (1, 3, 256, 256) and boxes (n, 4) -> (n, 256, 256) logits."""
        return self.decode(self.image_encoder(image)[0], boxes)

    def decode(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Segment boxes in one embedded image.

        Args:
            embedding: (256, 64, 64).
            boxes: (n, 4) float32, rows (x0, y0, x1, y1) in pixels of the 256.

        Returns:
            (n, 256, 256) logits.
        """
        if self._folded is not None:
            return self._folded.segment(embedding, boxes)
        sparse, dense = self.prompt_encoder(points=None, boxes=boxes, masks=None)
        masks, _ = self.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, 0]
