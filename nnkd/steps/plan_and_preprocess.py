"""Raw dataset -> preprocessed dataset, votes included. nnU-Net plans and preprocesses; only what is missing or no
longer holds is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nnkd.auxiliary import preprocessing as auxiliaries
from nnkd.auxiliary.tasks import MOST_CASES, Target, parse
from nnkd.data import case_names
from nnkd.data.dataset import RawDataset
from nnkd.data.labels.numbering import check_label_numbers
from nnkd.data.plans import configuration_of
from nnkd.data.predictions import count_predictions, prediction_folders
from nnkd.errors import DatasetError, NnkdError, SettingError
from nnkd.files import read_json
from nnkd.paths import room
from nnkd.preprocessing import configurations, folders
from nnkd.preprocessing.planning import Planning
from nnkd.types import FolderCount, StepReport
from nnkd.votes import consensus
from nnkd.votes.panel import Panel


@dataclass(frozen=True)
class Request:
    """What to do; defaults and meanings are those of nnUNetv2_plan_and_preprocess.

    Attributes:
        dataset: Id or name.
        planning: How to plan it.
        configurations: Those to preprocess.
        processes: Per configuration; one number for all, or one each.
        preprocess: False: fingerprint and plans only.
        auxiliaries: Datasets that may train along with this one, see `nnkd.auxiliary.tasks.parse`.
        max_aux_cases: Cases of each auxiliary task at most.
        teachers: Whose votes to preprocess; empty: those that labelsTr was last made of, or all there are.
    """

    dataset: str
    planning: Planning = field(default_factory=Planning)
    configurations: Sequence[str] = ("2d", "3d_fullres", "3d_lowres")
    processes: Sequence[int] | None = None
    preprocess: bool = True
    auxiliaries: Sequence[str] = ()
    max_aux_cases: int = MOST_CASES
    teachers: Sequence[str] = ()


def plan_and_preprocess(request: Request) -> StepReport:
    """Extract the fingerprint, plan, preprocess images and votes.

    Raises:
        DatasetError: If a network cannot say the labels, a training case has neither a manual label nor a consensus, or
            an image is missing.
        RecipeError: If the existing plans are missing, or are a recipe.
        SettingError: If auxiliaries are named but nothing is to be preprocessed.
        UnknownNameError: If one of the teachers does not exist.
        VotesError: If there are too many.
    """
    dataset = RawDataset.open(request.dataset)
    parse(request.auxiliaries, dataset.name)  # wrong names are found first
    if request.auxiliaries and not request.preprocess:
        raise SettingError("--auxiliaries names datasets to preprocess, but --no_pp preprocesses none. Leave one out.")
    panel = _panel(dataset, request.teachers)
    cases = _check(dataset)
    other = {} if panel is None else panel.of_other_images(cases, dataset.images())
    if other:
        case, why = next(iter(other.items()))
        raise DatasetError(f"Teachers' votes for {len(other)} case(s) (such as {case}) no longer hold. {why}")
    processes = _processes(request)
    request.planning.check_classes()
    target = room("nnUNet_preprocessed") / dataset.name
    target.mkdir(parents=True, exist_ok=True)
    folders.tidy(target)
    plans_name = request.planning.plan(dataset, target, cases)
    report = StepReport(folders=_counts(dataset))
    configurations.copy_tables(dataset, target)
    if request.preprocess:
        configurations.copy_labels(dataset, target, cases)
        plans = read_json(target / f"{plans_name}.json")
        planned = plans["configurations"]
        if not set(request.configurations) & set(planned):
            asked = ", ".join(request.configurations)
            raise DatasetError(
                f"The plans '{plans_name}' of {dataset.name} have no configuration {asked}, so nothing was "
                f"preprocessed; they have {', '.join(planned)}."
            )
        for number, configuration in zip(processes, request.configurations, strict=True):
            configurations.preprocess(dataset, target, plans, configuration, cases, number, report, panel)
            if request.auxiliaries and configuration in plans["configurations"]:
                values = configuration_of(plans, configuration, target)
                wanted = Target(target, plans, configuration, values, dataset.spec.channel_names)
                auxiliaries.preprocess(request.auxiliaries, wanted, request.max_aux_cases, number, report)
    report.lines.append(f"Plans: {plans_name}. Train with nnKD_train {dataset.name} CONFIGURATION FOLD -tr STUDENT ...")
    return report


def _counts(dataset: RawDataset) -> list[FolderCount]:
    """Which files of the raw dataset are taken."""
    counts = [dataset.images().listing.count(), dataset.label_maps().count()]
    teachers = dataset.teachers_folder()
    return counts + (count_predictions(teachers, dataset.images().cases()) if teachers.is_dir() else [])


def _panel(dataset: RawDataset, chosen: Sequence[str]) -> Panel | None:
    """The teachers, checked; None if there are none at all."""
    folder = dataset.teachers_folder()
    there = [teacher.name for teacher in prediction_folders(folder)]
    if not chosen:  # a teacher that nnKD_aggregate was told to take may be gone since
        named = consensus.read(dataset).chosen
        chosen = there if named is None else [teacher for teacher in there if teacher in named]
    return Panel.open(folder, dataset, chosen) if chosen else None


def _check(dataset: RawDataset) -> list[str]:
    if "dataset" in dataset.spec.json:
        raise DatasetError(
            f"dataset.json of {dataset.name} lists the files of its cases (dataset), but nnkd takes those in imagesTr "
            f"and labelsTr. Link them there, and take the list out of dataset.json."
        )
    check_label_numbers(dataset.spec)
    images = dataset.images()
    cases = images.cases()
    for sentence in case_names.problems(cases).values():
        raise DatasetError(sentence)
    for case in cases:
        images.files(case)
    without = [c for c in cases if not dataset.label_file(c).is_file()]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(cases)} training cases of {dataset.name} have neither a manual label nor a "
            f"consensus in labelsTr (such as {without[0]}). Run nnKD_predict_teachers and nnKD_aggregate, or move "
            f"those images out of imagesTr."
        )
    stale = consensus.stale_cases(dataset)
    behind = [case for case in stale if case in cases]  # others are gone, images and all
    if behind:
        raise DatasetError(
            f"The consensus of {len(behind)} case(s) in labelsTr (such as {behind[0]}) no longer holds "
            f"({stale[behind[0]]}). Run nnKD_aggregate -d {dataset.name} again."
        )
    for case in cases:
        for file in images.files(case):
            dataset.spec.reader.check(file)  # nnU-Net would fill up a truncated one with zeros
        dataset.spec.reader.check(dataset.label_file(case), is_label_map=True)
    return cases


def _processes(request: Request) -> list[int]:
    usual = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
    given = list(request.processes or [usual.get(c, 4) for c in request.configurations])
    if len(given) == 1:
        given *= len(request.configurations)
    if len(given) != len(request.configurations):
        raise NnkdError(
            f"-np got {len(given)} numbers for {len(request.configurations)} configurations; give one, or one each."
        )
    return given
