"""nnKD_predict: as nnUNetv2_predict, plus -m FOLDER, with a manifest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.inference.label_models import LabelModels
    from nnkd.weights.checkpoints import TrainedModel


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "Predict a folder of images with a trained student, as nnUNetv2_predict does. Failed images do not stop the "
        "others, and a manifest says what made the label maps.",
        "nnKD_predict -i imagesTs -o predictions -d 701 -tr nnUNetTrainerUNet -p nnUNetPlans_mean_1a2b3c -c 2d -f 0",
    )
    add = parser.add_argument
    add("-i", required=True, help="folder of images, channels numbered _0000 ...; or a folder or zip of DICOM series")
    add("-o", required=True, help="prediction folder to write")
    add("-d", help="dataset id or name; with -tr -p -c it names the model")
    add("-p", default="nnUNetPlans", help="plans or recipe (default: nnUNetPlans)")
    add("-tr", default="nnUNetTrainerKD", help="trainer (default: nnUNetTrainerKD)")
    add("-c", help="configuration")
    add("-m", help="the trained model's folder, instead of -d -tr -p -c")
    add("-f", nargs="+", default=["0", "1", "2", "3", "4"], help="folds to ensemble (default: 0 1 2 3 4)")
    add("-step_size", type=float, default=0.5, help="step of the sliding window, as a share of it (default: 0.5)")
    add("--disable_tta", action="store_true", help="no mirroring: faster, a little less accurate")
    add("--verbose", action="store_true", help="say more")
    add("--save_probabilities", action="store_true", help="also write probabilities, for nnUNetv2_ensemble")
    add("--continue_prediction", "--c", action="store_true", help="do only cases that are missing or changed")
    command.add_replace(parser)
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: checkpoint_final.pth)")
    add("-npp", type=int, default=int(os.environ.get("nnUNet_npp", "3")), help="processes that preprocess (default: 3)")
    add("-nps", type=int, default=int(os.environ.get("nnUNet_nps", "3")), help="processes that export (default: 3)")
    add("-prev_stage_predictions", default=None, help="predictions of the cascade's first stage")
    add("--disable_progress_bar", action="store_true", help="no progress bar")
    add("--not_on_device", action="store_true", help="gather the windows on the CPU: for scans too large for the GPU")
    add("--samples", type=int, metavar="N", help="samples of a probabilistic network (default: as it was trained)")
    add(
        "--uncertainty", action="store_true", help="also write entropy, mutual information, standard deviation, volumes"
    )
    add("--per_label", action="store_true", help="merge the students of all labels that nnKD_train --per_label trained")
    add("--max_memory", type=float, default=None, metavar="GIB", help="refuse cases that take more, once resampled too "
        "(default: the memory there is)")  # fmt: skip
    command.add_allow_architecture(parser)
    command.add_dicom(parser)
    command.add_parts(parser)
    command.add_device(parser)
    return parser


def _run(arguments: argparse.Namespace) -> StepReport:
    from pathlib import Path

    from nnkd import paths
    from nnkd.errors import NnkdError
    from nnkd.limits import set_memory
    from nnkd.weights.checkpoints import TrainedModel

    if arguments.m:
        folder = Path(arguments.m)
    elif arguments.d and arguments.c:
        model = f"{arguments.tr}__{arguments.p}__{arguments.c}"
        folder = paths.room("nnUNet_results") / paths.dataset_name(arguments.d) / model
    else:
        raise NnkdError("Name the model: either -m FOLDER, or -d DATASET -c CONFIGURATION (with -tr and -p).")
    if not 0 < arguments.step_size <= 1:
        raise NnkdError(f"-step_size got {arguments.step_size:g}, but expects more than 0 and at most 1.")
    if arguments.samples is not None and arguments.samples < 1:
        raise NnkdError(f"--samples got {arguments.samples}, but a number of 1 or more is expected.")
    if arguments.per_label and (arguments.m or arguments.save_probabilities):
        raise NnkdError(
            "--per_label goes with -d -tr -p -c, not with -m, and without --save_probabilities: students of single "
            "labels have no common probabilities."
        )
    command.part_of([], arguments)
    set_memory(arguments.max_memory)
    trained: TrainedModel | LabelModels
    if arguments.per_label:
        from nnkd.inference.label_models import LabelModels

        trained = LabelModels.open(folder, arguments.f, arguments.chk)
    else:
        trained = TrainedModel.open(folder, arguments.f, arguments.chk)
    from nnkd.inference.runs import Request
    from nnkd.steps.predict import predict

    return predict(
        Request(
            model=trained,
            source=Path(arguments.i),
            target=Path(arguments.o),
            part_id=arguments.part_id,
            num_parts=arguments.num_parts,
            step_size=arguments.step_size,
            mirroring=not arguments.disable_tta,
            verbose=arguments.verbose,
            save_probabilities=arguments.save_probabilities,
            resume=arguments.continue_prediction,
            replace=arguments.replace,
            preprocessing_processes=arguments.npp,
            export_processes=arguments.nps,
            previous_stage=Path(arguments.prev_stage_predictions) if arguments.prev_stage_predictions else None,
            device=arguments.device,
            progress=not arguments.disable_progress_bar,
            everything_on_device=not arguments.not_on_device,
            samples=arguments.samples,
            uncertainty=arguments.uncertainty,
            wanted=command.dicom_of(arguments),
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    return command.run(_run, _parser().parse_args(argv))
