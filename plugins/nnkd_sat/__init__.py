"""SAT (Segment Anything with Text) as a teacher: a checkout of it, run in its own environment, or what it wrote."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_teachers():
    """One teacher, prompted by texts."""
    return [
        Entry(
            "sat",
            "nnkd_sat.teacher:SATTeacher",
            "SAT: segments what a label's name says in CT, MR and PET; needs a checkout of SAT and a GPU",
            source="Zhao et al., npj Digital Medicine 2025 (arXiv 2312.17183)",
            licence="not stated",
            weights_licence="not stated",
        )
    ]
