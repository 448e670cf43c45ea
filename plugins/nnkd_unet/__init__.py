"""The Probabilistic U-Net: a student whose answer is a distribution over masks."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_students():
    """One trainer."""
    return [
        Entry(
            "nnUNetTrainerPUNet",
            "nnkd_punet.trainer:nnUNetTrainerPUNet",
            "paper 1's Probabilistic U-Net (5.00 M parameters), learning from one random teacher a sample",
            "Li et al., MICCAI 2025; Kohl et al., NeurIPS 2018",
            "Apache-2.0",
        )
    ]
