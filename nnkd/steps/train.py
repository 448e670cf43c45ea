"""Recipe flags -> recipe -> nnU-Net's training of a student."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnkd import paths
from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.numbering import check_label_numbers
from nnkd.data.recipes import write_recipe
from nnkd.devices import check_device, cores
from nnkd.errors import NnkdError, WeightsError
from nnkd.training.checks import check, preprocessed_cases
from nnkd.training.recipe_flags import Request, StudentPlan, TrainingPlan
from nnkd.types import StepReport
from nnkd.weights import pretrained

log = logging.getLogger("nnkd")


def train(request: Request) -> StepReport:
    """Write the recipe if flags ask for one, then train; with `per_label`, one student after another.

    Raises:
        NnkdError: If anything is amiss that can be seen before the training starts.
    """
    plan = TrainingPlan.of(request)
    check_label_numbers(DatasetSpec.read(plan.folder / "dataset.json"))
    if request.per_label is not None and isinstance(plan, StudentPlan):
        return _train_per_label(plan)
    check(plan)
    folders = [] if request.own_data is not None else [preprocessed_cases(plan).count()]
    plans_name = _written(plan)
    log.info("Plans: -p %s", plans_name)
    if not request.dry_run:
        _train(plan, plans_name)
    return StepReport(folders=folders, data={"plans": plans_name})


def _train_per_label(whole: StudentPlan) -> StepReport:
    """Paper 1's way: a binary student a label. All recipes are checked before the first one trains."""
    request, plans = whole.request, whole.label_by_label()
    for plan in plans:
        check(plan)
    folders = [preprocessed_cases(plans[0]).count()]
    for plan in plans:
        plans_name = _written(plan)
        log.info("Plans for %s: -p %s", plan.recipe.label, plans_name)
        if request.dry_run or (request.continue_training and _is_finished(plan, plans_name)):
            continue
        _train(plan, plans_name)
    family = f"{request.plans}_{whole.family}"
    report = StepReport(folders=folders, data={"plans": family})
    report.lines.append(f"Predict all labels with nnKD_predict -p {family} --per_label")
    return report


def _written(plan: TrainingPlan) -> str:
    """The name of the plans to train with, which lie on disk from now on."""
    if isinstance(plan, StudentPlan) and plan.is_new:
        return write_recipe(plan.folder, plan.recipe, plan.name, plan.base)
    return plan.request.plans


def _is_finished(plan: TrainingPlan, plans_name: str) -> bool:
    """Whether there is nothing left to continue."""
    request = plan.request
    model = f"{request.trainer_name}__{plans_name}__{request.configuration}"
    fold = paths.room("nnUNet_results") / plan.folder.name / model / f"fold_{request.fold}"
    files = ("checkpoint_final.pth", "validation/summary.json") if request.fold != "all" else ("checkpoint_final.pth",)
    return all((fold / name).is_file() for name in files)


def _train(plan: TrainingPlan, plans_name: str) -> None:
    os.environ["nnUNet_extTrainer"] = paths.trainer_path()
    import torch
    from nnunetv2.run.run_training import run_training

    from nnkd.training.divergence import watched
    from nnkd.training.guard import guarded

    request = plan.request
    check_device(request.device)
    if request.device == "cpu":
        torch.set_num_threads(cores())
    elif request.device == "cuda":
        torch.set_num_threads(1)
        if torch.get_num_interop_threads() != 1:  # once in a process
            torch.set_num_interop_threads(1)
    if request.device == "cuda" and request.num_gpus > torch.cuda.device_count():
        raise NnkdError(f"-num_gpus is {request.num_gpus}, but torch sees {torch.cuda.device_count()} GPU(s) here.")
    own = (request.pretrained_weights, request.trainer, plan.plans, request.configuration, plan.dataset_json)
    with _one_sentence(request), pretrained.as_nnunets(*own) as weights, guarded(), watched():
        run_training(
            plan.folder.name,
            request.configuration,
            request.fold,
            request.trainer_name,
            plans_name,
            weights,
            request.num_gpus,
            request.save_probabilities,
            request.continue_training,
            request.only_validate,
            request.disable_checkpointing,
            request.validate_best,
            device=torch.device(request.device),
        )


@contextmanager
def _one_sentence(request: Request) -> Iterator[None]:
    """Errors of nnU-Net's and of other processes that are really nnkd's."""
    import torch

    try:
        yield
    except AssertionError as error:
        if not any(frame.name == "load_pretrained_weights" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        why = str(error).split(". ")[0]
        raise WeightsError(
            f"-pretrained_weights '{Path(request.pretrained_weights or '').name}' is of another network ({why}). "
            f"Train from a checkpoint of the same student and plans, or leave it out."
        ) from error
    except torch.multiprocessing.ProcessRaisedException as error:  # -num_gpus: it holds the traceback as text
        kind, _, sentence = str(error).strip().splitlines()[-1].partition(": ")
        if not kind.startswith("nnkd.errors."):
            raise
        raise NnkdError(sentence) from error
