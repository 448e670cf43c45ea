"""Schedulers of auxiliary datasets: paper 3's bandit, and what it is compared with."""

from nnkd import Entry, hookimpl

LICENCE = "Apache-2.0"
PAPER_3 = "Yang et al., ASAP"


@hookimpl
def nnkd_register_auxiliary_schedulers():
    """Rules that choose the dataset to train along."""
    return [
        Entry(
            "ucb",
            "nnkd_ucb.ucb:Ucb",
            "upper confidence bounds of loss and gradient alignment, turn by turn",
            PAPER_3,
            LICENCE,
        ),
        Entry(
            "dal",
            "nnkd_ucb.flad:Dal",
            "FLAD's EXP3 or UCB1 on gradient alignment alone",
            "Albalak et al., NeurIPS 2023",
            LICENCE,
        ),
        Entry(
            "gms",
            "nnkd_ucb.rivals:Gms",
            "the one dataset with the most similar gradient magnitude before training",
            "Yu et al., NeurIPS 2020",
            LICENCE,
        ),
        Entry(
            "mtl",
            "nnkd_ucb.rivals:Mtl",
            "all datasets together in mixed batches",
            "Graham et al., MedIA 2023",
            LICENCE,
        ),
        Entry("random", "nnkd_ucb.rivals:Random", "every dataset equally likely, turn by turn", licence=LICENCE),
        Entry("none", "nnkd_ucb.rivals:TargetOnly", "the target alone: direct fine-tuning", licence=LICENCE),
    ]
