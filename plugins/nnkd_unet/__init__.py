"""Paper 1's UNet, and the Probabilistic U-Net on top of it: a student whose answer is a distribution over masks."""

from nnkd import Entry, hookimpl

PAPER_1 = "Li et al., MICCAI 2025"
LICENCE = "Apache-2.0"


@hookimpl
def nnkd_register_students():
    """Two trainers, which share a network."""
    return [
        Entry(
            "nnUNetTrainerUNet",
            "nnkd_unet.unet_trainer:nnUNetTrainerUNet",
            "paper 1's UNet (2.26 M parameters), Adam 1e-4",
            PAPER_1,
            LICENCE,
        ),
        Entry(
            "nnUNetTrainerPUNet",
            "nnkd_unet.punet_trainer:nnUNetTrainerPUNet",
            "paper 1's Probabilistic U-Net (5.00 M parameters), learning from one random teacher a sample",
            f"{PAPER_1}; Kohl et al., NeurIPS 2018",
            LICENCE,
        ),
    ]
