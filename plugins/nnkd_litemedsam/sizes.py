"""What LiteMedSAM's networks see and answer, with any of its image encoders."""

from __future__ import annotations

SIZE = 256  # pixels of a side of the input
GRID = 64  # pixels of a side of the embedding
CHANNELS = 256  # of the embedding
