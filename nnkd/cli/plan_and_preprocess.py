"""nnKD_plan_and_preprocess: as nnUNetv2_plan_and_preprocess, votes included."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from nnkd.cli import command
from nnkd.types import StepReport


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "Fingerprint, plan and preprocess, as nnUNetv2_plan_and_preprocess does, and put the teachers' votes on the "
        "preprocessed grid. Only what is missing or no longer holds is done.",
        "nnKD_plan_and_preprocess -d 701 -c 2d",
    )
    add = parser.add_argument
    add("-d", nargs="+", required=True, help="dataset ids or names")
    add("-fpe", default="DatasetFingerprintExtractor", help="fingerprint extractor class")
    add("-npfp", type=int, default=8, help="processes for the fingerprint (default: 8)")
    add("--verify_dataset_integrity", action="store_true", help="have nnU-Net check the dataset first")
    add("--no_pp", action="store_true", help="fingerprint and plans only")
    add("--clean", action="store_true", help="extract the fingerprint anew")
    add("-pl", default="ExperimentPlanner", help="experiment planner class, e.g. nnUNetPlannerResEncM")
    add("-gpu_memory_target", type=float, default=None, help="GPU memory in GB to plan for")
    add("-preprocessor_name", default="DefaultPreprocessor", help="preprocessor class")
    add("-overwrite_target_spacing", type=float, nargs=3, default=None, help="target spacing of 3d_fullres in mm")
    add("-overwrite_plans_name", default=None, help="name of the plans, if not the planner's own")
    add("-plans_name", default=None, help="preprocess these plans, edited by hand or moved from another dataset, "
        "instead of planning; as in nnUNetv2_preprocess")  # fmt: skip
    add("-c", nargs="+", default=["2d", "3d_fullres", "3d_lowres"], help="configurations to preprocess")
    add("-np", type=int, nargs="+", default=None, help="processes, one number or one per configuration")
    add("--max_memory", type=float, default=None, metavar="GIB", help="refuse cases that take more, once resampled too "
        "(default: the memory there is)")  # fmt: skip
    add("-t", nargs="+", default=[], metavar="TEACHER", help="preprocess the votes of these teachers alone (default: "
        "those that nnKD_aggregate -t named last, else all there are)")  # fmt: skip
    add("--auxiliaries", nargs="+", default=[], metavar="DATASET", help="datasets that may train along with this one "
        "(nnKD_train -as), on its grid: ID, ID:LABEL, or ID:* for each label that 30 cases have")  # fmt: skip
    add("--max_aux_cases", type=_at_least_one, default=30, metavar="N", help="cases of each of them (default: 30)")
    command.add_allow_architecture(parser)
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of at least 1")
    return number


def _run(arguments: argparse.Namespace) -> StepReport:
    from nnkd.limits import set_memory
    from nnkd.preprocessing.planning import Planning
    from nnkd.steps.plan_and_preprocess import Request, plan_and_preprocess

    set_memory(arguments.max_memory)
    planning = Planning(
        fingerprint_processes=arguments.npfp,
        fingerprint_extractor=arguments.fpe,
        verify=arguments.verify_dataset_integrity,
        clean=arguments.clean,
        planner=arguments.pl,
        gpu_memory_target=arguments.gpu_memory_target,
        preprocessor=arguments.preprocessor_name,
        target_spacing=arguments.overwrite_target_spacing,
        plans_name=arguments.overwrite_plans_name,
        existing=arguments.plans_name,
    )
    whole = StepReport()
    for dataset in arguments.d:
        report = plan_and_preprocess(
            Request(
                dataset=dataset,
                planning=planning,
                configurations=arguments.c,
                processes=arguments.np,
                preprocess=not arguments.no_pp,
                auxiliaries=arguments.auxiliaries,
                max_aux_cases=arguments.max_aux_cases,
                teachers=arguments.t,
            )
        )
        whole.lines += report.lines
        whole.failures += report.failures
        several = f"{dataset}/" if len(arguments.d) > 1 else ""
        whole.folders += [replace(count, folder=several + count.folder) for count in report.folders]
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    return command.run(_run, _parser().parse_args(argv))
