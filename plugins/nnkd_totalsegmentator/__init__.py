"""TotalSegmentator as a teacher: most organs of CT and MR scans, without a prompt."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_teachers():
    """One teacher."""
    return [
        Entry(
            "totalsegmentator",
            "nnkd_totalsegmentator.teacher:TotalSegmentatorTeacher",
            "TotalSegmentator: 117 structures in CT, 50 in MR; needs no prompt",
            source="Wasserthal et al., Radiology: AI 2023; D'Antonoli et al., Radiology 2025",
            licence="Apache-2.0",
            weights_licence="Apache-2.0",
        )
    ]
