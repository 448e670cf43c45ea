"""HSNet: a pyramid vision transformer with a hybrid decoder, the second student of paper 1."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_students():
    """One trainer for -tr."""
    return [
        Entry(
            "nnUNetTrainerHSNet",
            "nnkd_hsnet.trainer:nnUNetTrainerHSNet",
            "HSNet (29.26 M parameters): PVTv2-b2 and four outputs, for slices; needs timm",
            source="Li et al., MICCAI 2025; Zhang et al., Computers in Biology and Medicine 2022 (HSNet)",
            licence="Apache-2.0",
        )
    ]
