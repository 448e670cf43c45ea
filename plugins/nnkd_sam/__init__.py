"""SAM, MedSAM, SAM 2 and MedSAM2 as teachers: large models that are prompted by boxes in axial slices."""

from nnkd import Entry, hookimpl

PAPERS = {
    "sam": "Kirillov et al., ICCV 2023",
    "medsam": "Ma et al., Nature Communications 2024",
    "sam2": "Ravi et al., ICLR 2025",
    "medsam2": "Ma et al., arXiv 2408.03322, branch MedSAM2 of MedSAM, and arXiv 2504.03600",
}


@hookimpl
def nnkd_register_teachers():
    """Four teachers, each prompted by boxes."""
    licences = {"licence": "Apache-2.0", "weights_licence": "Apache-2.0"}
    return [
        Entry(
            "sam",
            "nnkd_sam.sam:SAMTeacher",
            "Segment Anything (ViT-B, L or H): segments what lies in a box of an axial slice",
            source=PAPERS["sam"],
            **licences,
        ),
        Entry(
            "medsam",
            "nnkd_sam.sam:MedSAMTeacher",
            "MedSAM: Segment Anything (ViT-B) trained on medical images",
            source=PAPERS["medsam"],
            **licences,
        ),
        Entry(
            "sam2",
            "nnkd_sam.sam2:SAM2Teacher",
            "SAM 2 (Hiera T, S, B+ or L), slice by slice",
            source=PAPERS["sam2"],
            **licences,
        ),
        Entry(
            "medsam2",
            "nnkd_sam.medsam2:MedSAM2Teacher",
            "MedSAM2 (Hiera-T trained on medical images), slice by slice (2024) or as a film (2025)",
            source=PAPERS["medsam2"],
            **licences,
        ),
    ]
