"""Training slices: made out of nnUNet_raw, stored, loaded; their plans and options."""
