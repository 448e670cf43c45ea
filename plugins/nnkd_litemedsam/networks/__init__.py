"""TinyViT, RepViT and Swin encoders, the prompt encoder and mask decoder, and the same taken apart for export."""
