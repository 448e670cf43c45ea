"""Networks of others as students: Swin UNETR and Mamba-UNet, two of paper 3's."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_students():
    """Trainers for -tr."""
    return [
        Entry(
            "nnUNetTrainerSwinUNETR",
            "nnkd_networks.swin_trainer:nnUNetTrainerSwinUNETR",
            "MONAI's Swin UNETR, for slices and volumes; needs monai",
            source="Hatamizadeh et al., BrainLes 2021; one of the students of Yang et al., ASAP",
            licence="Apache-2.0",
        ),
        Entry(
            "nnUNetTrainerMambaUNet",
            "nnkd_networks.mamba_trainer:nnUNetTrainerMambaUNet",
            "a U-Net of visual state-space blocks, for slices and volumes; takes mamba-ssm where it is installed",
            source="Wang et al., Mamba-UNet, 2024; one of the students of Yang et al., ASAP",
            licence="Apache-2.0",
        ),
    ]
