"""LiteMedSAM: a small MedSAM that is prompted by boxes, and paper 2's way to a faster one."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_teachers():
    """One teacher, prompted by boxes."""
    return [
        Entry(
            "litemedsam",
            "nnkd_litemedsam.teacher:LiteMedSAMTeacher",
            "LiteMedSAM: segments what lies in a box of an axial slice; works on CPUs",
            source="Ma et al., Nature Communications 2024 (MedSAM), branch LiteMedSAM",
            licence="Apache-2.0",
            weights_licence="Apache-2.0",
        )
    ]


PAPER_2 = "Yang et al. 2024, A Light-weight Universal Medical Segmentation Network for Laptops (paper 2)"


@hookimpl
def nnkd_register_students():
    """Paper 2's two stages."""
    return [
        Entry(
            "nnUNetTrainerLiteMedSAM",
            "nnkd_litemedsam.trainers.boxes:nnUNetTrainerLiteMedSAM",
            "LiteMedSAM with another image encoder, trained on boxes around labels (stage 1)",
            source=PAPER_2,
            licence="Apache-2.0",
        ),
        Entry(
            "nnUNetTrainerRepViTDistill",
            "nnkd_litemedsam.trainers.distillation:nnUNetTrainerRepViTDistill",
            "RepViT-M0.6 that learns a box model's embeddings of images, without labels (stage 2)",
            source=PAPER_2,
            licence="Apache-2.0",
        ),
    ]
