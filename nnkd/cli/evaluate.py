"""nnKD_evaluate: prediction folders and references -> summary.json, CSV and one HTML report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.files import from_json
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.evaluation.groups.partitions import GroupOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate and return the exit code."""
    return command.run(_evaluate, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "Compare prediction folders with references: DSC, HD, HD95, NSD, ASSD and volume difference per case and "
        "label, in mm and ml. Writes a summary.json in nnU-Net's layout per folder, CSV files and one HTML report "
        "that needs no network.",
        "nnKD_evaluate -d 701 -i teachersTs/atlas student -ref labelsTs -o evaluation",
    )
    parser.add_argument("-i", type=Path, nargs="+", required=True, metavar="PRED", help="folders of label maps")
    parser.add_argument(
        "-ref",
        type=Path,
        action="append",
        required=True,
        help="folder of reference label maps; a second -ref adds how well two raters agree",
    )
    parser.add_argument("-d", metavar="DATASET", help="dataset id or name, to find dataset.json")
    parser.add_argument("-djfile", type=Path, help="dataset.json itself (default: -d's, else the one beside -ref)")
    parser.add_argument("-o", type=Path, help="folder to write to (default, for one PRED: 'evaluation' beside it)")
    parser.add_argument("--names", nargs="+", help="what to call the folders (default: their manifests' names)")
    parser.add_argument("--labels", nargs="+", help="labels to evaluate (default: all of dataset.json)")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        nargs="+",
        default=[],
        metavar="MM",
        help="of the NSD in mm, and of single labels as LABEL=MM (default: 2)",
    )
    parser.add_argument(
        "--definition",
        default="monai",
        help="what a surface and its distances are: monai (voxels; default) or surfel (surface-distance's areas)",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples of participants; 0: none (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument(
        "--participants",
        type=Path,
        metavar="PATH",
        help="participants.tsv, or the folder it or cases.tsv is in (default: dataset.json's; without, each case is a "
        "person). When given, groups of participants are compared: fairness.json and a section of the report",
    )
    parser.add_argument(
        "--attributes", nargs="+", metavar="COLUMN", help="columns to compare groups by (default: sex age bmi)"
    )
    parser.add_argument(
        "--bins", type=_json, metavar="JSON",
        help="edges of groups by column, as the samplers have them, such as '{\"age\": [null, 65, null]}' (default: "
        "paper 1's)",
    )  # fmt: skip
    parser.add_argument(
        "--smallest_group", type=int, metavar="N", help="people in the smallest group that is shown (default: 5)"
    )
    parser.add_argument(
        "--rank", nargs="*", metavar="METRIC",
        help="rank the folders by modality and metric and average the places (default: DSC NSD; also seconds)",
    )  # fmt: skip
    parser.add_argument(
        "--modality",
        metavar="COLUMN",
        help="of participants.tsv, to rank within (default: 'modality' where it exists, else dataset.json's channels)",
    )
    parser.add_argument("--images", type=Path, help="folder of images for the overlays (default: the dataset's)")
    parser.add_argument(
        "--chill", action="store_true", help="only cases that all folders have; else missing ones count as empty"
    )
    parser.add_argument("-np", type=int, metavar="N", help="processes (default: 1 for small sets, else up to 8)")
    parser.add_argument("--overwrite", action="store_true", help="compute anew what an earlier run left")
    command.add_replace(parser)
    return parser


def _tolerance(text: str) -> tuple[str, float]:
    """Label ("" for all of them) and distance in mm."""
    label, equals, value = text.rpartition("=")
    if equals and not label:
        raise argparse.ArgumentTypeError(f"'{text}' names no label. Write MM or LABEL=MM.")
    try:
        return label, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{value}' is no number. Write MM or LABEL=MM, such as 2 or liver=3."
        ) from None


def _json(text: str) -> object:
    try:
        return from_json(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no JSON; write such as '{{\"age\": [null, 65, null]}}'"
        ) from None


def _groups(arguments: argparse.Namespace) -> GroupOptions | None:
    """How to compare groups, where one of the options for it was given."""
    from nnkd.data.groups import ATTRIBUTES, SMALLEST
    from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE
    from nnkd.evaluation.groups.partitions import GroupOptions, bins_of

    place = arguments.participants
    if place is not None and (place / CASES_FILE).is_file() and not (place / PARTICIPANTS_FILE).is_file():
        place = None  # it only says whose case is whose
    if all(wish is None for wish in (place, arguments.attributes, arguments.bins, arguments.smallest_group)):
        return None
    smallest = SMALLEST if arguments.smallest_group is None else arguments.smallest_group
    return GroupOptions(tuple(arguments.attributes or ATTRIBUTES), bins_of(arguments.bins), smallest)


def _evaluate(arguments: argparse.Namespace) -> StepReport:
    from nnkd.errors import SettingError
    from nnkd.evaluation.inputs import Request
    from nnkd.evaluation.intervals import Bootstrap
    from nnkd.steps.evaluate import evaluate

    if len(arguments.ref) > 2:
        raise SettingError(f"-ref was given {len(arguments.ref)} times, but only two references can be compared.")
    tolerances = dict(arguments.tolerance)
    return evaluate(
        Request(
            predictions=arguments.i,
            reference=arguments.ref[0],
            second_reference=arguments.ref[1] if len(arguments.ref) == 2 else None,
            dataset=arguments.d,
            dataset_json=arguments.djfile,
            output=arguments.o,
            names=arguments.names,
            labels=arguments.labels,
            tolerance=tolerances.pop("", 2.0),
            tolerances=tolerances,
            definition=arguments.definition,
            bootstrap=Bootstrap(arguments.bootstrap, arguments.seed),
            participants=arguments.participants,
            groups=_groups(arguments),
            rank=arguments.rank,
            modality=arguments.modality,
            images=arguments.images,
            common_cases=arguments.chill,
            workers=arguments.np,
            overwrite=arguments.overwrite,
            replace=arguments.replace,
        )
    )
