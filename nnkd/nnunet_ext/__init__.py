"""What nnUNet_extTrainer points to: nnU-Net imports every file in this folder when it looks for a trainer.

So there is exactly one, which asks the registry. Its path stands in users' environments and does not move.
"""
