"""nnKD_split: splits_final.json, a test set and a labelled subset, by participant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnkd.cli import command
from nnkd.types import StepReport


def main(argv: Sequence[str] | None = None) -> int:
    """Split and return the exit code."""
    parser = command.parser(
        "Write splits_final.json into nnUNet_preprocessed: folds by participant (participants.tsv, cases.tsv), "
        "stratified jointly over any columns. nnU-Net's own split is by case: two scans of one person may come on both "
        "sides. --test moves people from imagesTr and labelsTr to imagesTs and labelsTs, once. --labelled keeps the "
        "manual label maps of some people and moves the others to labelsHidden, for experiments with few labels. "
        "--shots makes folds in which a few people train and all others validate. The same seed gives the same split.",
        "nnKD_split -d 701 --test 0.3 --stratify sex age bmi --bins age=30,40,50 bmi=21,24",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: 5)")
    parser.add_argument(
        "--test", type=float, metavar="N", help="participants to set aside as test set: a number, or a share below 1"
    )
    parser.add_argument(
        "--labelled", type=int, metavar="N", help="participants whose manual label maps stay in labelsTr"
    )
    parser.add_argument(
        "--shots", type=int, metavar="N", help="participants who train in each fold; all others validate"
    )
    parser.add_argument(
        "--stratify", nargs="+", default=[], metavar="COLUMN", help="columns of participants.tsv, such as sex age bmi"
    )
    parser.add_argument(
        "--bins", nargs="+", type=_bins, default=[], metavar="COLUMN=A,B",
        help="inner bounds of a numeric column, such as age=30,40,50 (default: quartiles)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another splits_final.json or another choice of --labelled"
    )
    command.add_replace(parser)
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        parser.error("--seed is 0 or more")
    return command.run(_run, arguments)


def _bins(text: str) -> tuple[str, list[float]]:
    column, sign, edges = text.partition("=")
    try:
        bounds = [float(edge) for edge in edges.split(",")]
    except ValueError:
        bounds = []
    if not column or not sign or not bounds or bounds != sorted(set(bounds)):
        raise argparse.ArgumentTypeError(f"'{text}' is not COLUMN=A,B,... with rising numbers, such as age=30,40,50")
    return column, bounds


def _run(arguments: argparse.Namespace) -> StepReport:
    from nnkd.data.dataset import RawDataset
    from nnkd.data.split_record import Wishes
    from nnkd.steps.split import split

    wishes = Wishes(
        folds=arguments.folds,
        test=arguments.test,
        labelled=arguments.labelled,
        shots=arguments.shots,
        stratify=tuple(dict.fromkeys(arguments.stratify)),
        bins=dict(arguments.bins),
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        replace=arguments.replace,
    )
    return split(RawDataset.open(arguments.d), wishes)
