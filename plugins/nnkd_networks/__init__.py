"""Networks of others as students: Swin UNETR, one of paper 3's."""

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
        )
    ]
