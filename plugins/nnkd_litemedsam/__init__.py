"""LiteMedSAM: a small MedSAM that is prompted by boxes."""

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
