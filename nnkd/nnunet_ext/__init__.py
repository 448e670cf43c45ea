"""What nnUNet_extTrainer points to; holds exactly one module."""
