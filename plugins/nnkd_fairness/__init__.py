"""Samplers that let groups of people take part equally: paper 1's jointly balanced batches, and its rivals."""

from nnkd import Entry, hookimpl

LICENCE = "Apache-2.0"
PAPER_1 = "Li et al., MICCAI 2025"


@hookimpl
def nnkd_register_samplers():
    """Rules that form batches."""
    return [
        Entry(
            "balanced",
            "nnkd_fairness.balanced:Balanced",
            "batches balanced jointly over sex, age and BMI, or any columns; as many as there are",
            PAPER_1,
            LICENCE,
        ),
        Entry(
            "balanced_paper",
            "nnkd_fairness.balanced_paper:BalancedPaper",
            "the same by paper 1's own procedure of draws and replacements, with a cap",
            PAPER_1,
            LICENCE,
        ),
        Entry(
            "stratified",
            "nnkd_fairness.rivals:Stratified",
            "each group of one attribute equally often in every batch",
            "Puyol-Antón et al., MICCAI 2021",
            LICENCE,
        ),
        Entry(
            "weighted",
            "nnkd_fairness.rivals:Weighted",
            "participants by the inverse frequency of their stratum",
            licence=LICENCE,
        ),
        Entry(
            "group_dro",
            "nnkd_fairness.rivals:GroupDRO",
            "strata equally often, and losses weighed towards the strata with the largest",
            "Sagawa et al., ICLR 2020",
            LICENCE,
        ),
    ]
