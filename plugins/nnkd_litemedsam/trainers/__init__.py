"""Students that learn from slices: boxes with their masks, and distillation of an image encoder."""
