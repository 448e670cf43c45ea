"""Raw dataset -> preprocessed dataset, votes included. nnU-Net plans and preprocesses; only what is missing or older
than its inputs is done, because nnU-Net's own preprocessor begins by deleting everything."""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnkd.auxiliary import preprocessing as auxiliary_preprocessing
from nnkd.auxiliary.tasks import MOST_CASES, Target, parse
from nnkd.data.dataset import RawDataset
from nnkd.data.nifti import check_whole
from nnkd.data.plans import KEY, configuration_of, read_plans
from nnkd.data.predictions import prediction_folders
from nnkd.errors import DatasetError, NnkdError, RecipeError, SettingError, UnknownNameError
from nnkd.files import atomic, read_json, remove_leftovers, sha256, sha256_text, write_json
from nnkd.paths import room
from nnkd.preprocessing import cases as preprocessing
from nnkd.preprocessing import folders
from nnkd.types import Failure, StepReport
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder, VotesIndex, VotesOfCase, sparse_counts

log = logging.getLogger("nnkd")
SECONDS_BETWEEN_RECORDS = 5


@dataclass(frozen=True)
class Request:
    """What to do; defaults and meanings are those of nnUNetv2_plan_and_preprocess.

    Attributes:
        dataset: Id or name.
        configurations: Those to preprocess.
        processes: Per configuration; one number for all, or one each.
        preprocess: False: fingerprint and plans only.
        existing_plans: Plans that are there already, edited by hand or moved from another dataset, to preprocess
            instead of planning anew.
        auxiliaries: Datasets that may train along with this one, see `nnkd.auxiliary.tasks.parse`.
        max_aux_cases: Cases of each auxiliary task at most.
    """

    dataset: str
    configurations: Sequence[str] = ("2d", "3d_fullres", "3d_lowres")
    processes: Sequence[int] | None = None
    fingerprint_processes: int = 8
    fingerprint_extractor: str = "DatasetFingerprintExtractor"
    verify: bool = False
    preprocess: bool = True
    clean: bool = False
    planner: str = "ExperimentPlanner"
    gpu_memory_target: float | None = None
    preprocessor: str = "DefaultPreprocessor"
    target_spacing: Sequence[float] | None = None
    plans_name: str | None = None
    existing_plans: str | None = None
    auxiliaries: Sequence[str] = ()
    max_aux_cases: int = MOST_CASES


def plan_and_preprocess(request: Request) -> StepReport:
    """Extract the fingerprint, plan, preprocess images and votes.

    Raises:
        DatasetError: If a training case has neither a manual label nor a consensus, or an image is missing.
        RecipeError: If the existing plans are missing, or are a recipe.
        SettingError: If auxiliaries are named but nothing is to be preprocessed.
    """
    dataset = RawDataset.open(request.dataset)
    parse(request.auxiliaries, dataset.name)  # wrong names are found first
    if request.auxiliaries and not request.preprocess:
        raise SettingError("--auxiliaries names datasets to preprocess, but --no_pp preprocesses none. Leave one out.")
    cases = _check(dataset)
    processes = _processes(request)
    _check_classes(request)
    target = room("nnUNet_preprocessed") / dataset.name
    target.mkdir(parents=True, exist_ok=True)
    folders.tidy(target)
    if request.existing_plans is None:
        with _no_zero_workers():
            plans_name = _plan(request, dataset, target, cases)
    else:
        plans_name = _existing(request.existing_plans, target)
    report = StepReport()
    for file in ("participants.tsv", "cases.tsv"):
        _copy_if_there(dataset.folder / file, target / file)
    if request.preprocess:
        _copy_labels(dataset, target, cases)
        plans = read_json(target / f"{plans_name}.json")
        for number, configuration in zip(processes, request.configurations, strict=True):
            _configuration(dataset, target, plans, configuration, cases, number, report)
            if request.auxiliaries and configuration in plans["configurations"]:
                values = configuration_of(plans, configuration, target)
                wanted = Target(target, plans, configuration, values, dataset.spec.channel_names)
                auxiliary_preprocessing.preprocess(request.auxiliaries, wanted, request.max_aux_cases, number, report)
    report.lines.append(f"Plans: {plans_name}. Train with nnKD_train {dataset.name} CONFIGURATION FOLD -tr STUDENT ...")
    return report


# --- checks -----------------------------------------------------------------------------------------------------


def _check(dataset: RawDataset) -> list[str]:
    images = dataset.images()
    cases = images.cases()
    for case in cases:
        images.files(case)
    without = [c for c in cases if not dataset.label_file(c).is_file()]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(cases)} training cases of {dataset.name} have neither a manual label nor a "
            f"consensus in labelsTr (such as {without[0]}). Run nnKD_predict_teachers and nnKD_aggregate, or move "
            f"those images out of imagesTr."
        )
    behind = [case for case in consensus.stale_cases(dataset) if case in cases]  # others are gone, images and all
    if behind:
        raise DatasetError(
            f"The consensus of {len(behind)} case(s) in labelsTr (such as {behind[0]}) is older than the teachers' "
            f"label maps. Run nnKD_aggregate -d {dataset.name} again."
        )
    for case in cases:
        for file in (*images.files(case), dataset.label_file(case)):
            check_whole(file)  # nnU-Net would fill up a truncated one with zeros
    return cases


def _check_classes(request: Request) -> None:
    """nnU-Net looks its classes up by name and calls None where there is none."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    for flag, name, place in (
        ("-fpe", request.fingerprint_extractor, "experiment_planning"),
        ("-pl", request.planner, "experiment_planning"),
        ("-preprocessor_name", request.preprocessor, "preprocessing"),
    ):
        folder = Path(nnunetv2.__path__[0]) / place
        if recursive_find_python_class(str(folder), name, current_module=f"nnunetv2.{place}") is None:
            raise UnknownNameError(
                f"{flag} names '{name}', but nnU-Net has no such class in nnunetv2.{place}. Correct the name, or leave "
                f"{flag} out for nnU-Net's default."
            )


@contextmanager
def _no_zero_workers() -> Iterator[None]:
    """Planning fails with nnUNet_n_proc_DA=0, which is meant for training."""
    value = os.environ.pop("nnUNet_n_proc_DA", None)
    try:
        yield
    finally:
        if value is not None:
            os.environ["nnUNet_n_proc_DA"] = value


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


# --- planning ---------------------------------------------------------------------------------------------------


def _plan(request: Request, dataset: RawDataset, target: Path, cases: Sequence[str]) -> str:
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = int(dataset.name[7:].split("_")[0])
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    clean = request.clean or _fingerprint_is_old(dataset, target, cases)
    try:
        api.extract_fingerprints(
            [number], request.fingerprint_extractor, request.fingerprint_processes, request.verify, clean, False
        )
        return api.plan_experiments(
            [number],
            request.planner,
            request.gpu_memory_target,
            request.preprocessor,
            request.target_spacing,
            request.plans_name,
        )
    except (RuntimeError, AssertionError, LookupError, ValueError, OSError, EOFError) as error:  # how it refuses
        preprocessing.stop_if_full(error)
        for case in cases:
            preprocessing.check_files(dataset.images(), dataset.label_file(case), case)
        raise DatasetError(f"nnU-Net could not plan {dataset.name} ({preprocessing.first_line(error)}).") from error


def _existing(name: str, target: Path) -> str:
    """Plans to preprocess without planning; checked."""
    plans = read_plans(target, name)
    if KEY in plans:
        base = plans[KEY]["base"]
        raise RecipeError(
            f"'{name}' is a recipe; it shares the preprocessed cases of {base}. Preprocess those: -plans_name {base}."
        )
    if plans.get("plans_name") != name:
        raise RecipeError(
            f"{name}.json says that its plans_name is '{plans.get('plans_name')}', under which nnU-Net would write and "
            f"train. Change it to '{name}'."
        )
    if not (target / "dataset_fingerprint.json").is_file():
        raise RecipeError(f"{target.name} has no fingerprint yet. Plan it once, without -plans_name.")
    return name


def _fingerprint_is_old(dataset: RawDataset, target: Path, cases: Sequence[str]) -> bool:
    """Whether cases came or went, or an image was written after the fingerprint."""
    file = target / "dataset_fingerprint.json"
    if not file.is_file():
        return False
    newest = max(f.stat().st_mtime for case in cases for f in dataset.images().files(case))
    return len(read_json(file)["shapes_after_crop"]) != len(cases) or newest > file.stat().st_mtime


def _copy_if_there(source: Path, target: Path) -> None:
    if source.is_file():
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)


def _copy_labels(dataset: RawDataset, target: Path, cases: Sequence[str]) -> None:
    folder = target / "gt_segmentations"
    for case in cases:
        source = dataset.label_file(case)
        copy = folder / source.name
        if not copy.is_file() or sha256(copy) != sha256(source):
            _copy_if_there(source, copy)


# --- one configuration ------------------------------------------------------------------------------------------


def _configuration(
    dataset: RawDataset,
    target: Path,
    plans: Mapping[str, Any],
    configuration: str,
    cases: Sequence[str],
    processes: int,
    report: StepReport,
) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    if configuration not in manager.available_configurations:
        report.lines.append(f"{configuration}: not planned for this dataset, passed over")
        return
    identifier = manager.get_configuration(configuration).data_identifier
    work = _Work(dataset, target / identifier, dict(plans), configuration)
    remove_leftovers(work.votes.folder)
    work.forget_removed(cases)
    jobs = [job for case in cases if (job := work.job(case)) is not None]
    report.skipped += [c for c in cases if c not in {job.case for job in jobs}]
    for job, outcome in preprocessing.run_all(jobs, processes, f"{configuration}: preprocessing"):
        if isinstance(outcome, NnkdError):
            report.failures.append(Failure(job.case, str(outcome)))
        else:
            work.record(job, outcome)
            report.done.append(job.case)
    work.save()
    voted = f", votes of {', '.join(work.index.teachers)}" if work.index.teachers else ", no teachers"
    report.lines.append(
        f"{configuration}: {len(jobs)} case(s) preprocessed, {len(cases) - len(jobs)} up to date{voted}"
    )


class _Work:
    """What is to be done for one configuration, and the record of what was."""

    def __init__(self, dataset: RawDataset, folder: Path, plans: dict[str, Any], configuration: str):
        self.dataset, self.folder, self.plans, self.configuration = dataset, folder, plans, configuration
        self.votes = VotesFolder(folder.parent / f"{folder.name}_votes")
        self.inputs_file = folder.parent / f"{folder.name}_inputs.json"
        self.inputs: dict[str, str] = read_json(self.inputs_file) if self.inputs_file.is_file() else {}
        self.written = time.monotonic()
        self.teachers = {f.name: (f, f.manifest()) for f in prediction_folders(dataset.teachers_folder())}
        self.index = self._start_index()
        values = plans["configurations"][configuration]
        self.plans_hash = sha256_text(str(sorted(values.items())) + str(plans["transpose_forward"]))

    def _start_index(self) -> VotesIndex:
        manifests = [manifest for _, manifest in self.teachers.values()]
        fresh = VotesIndex(
            teachers=list(self.teachers),
            labels=list(self.dataset.spec.labels),
            lineage=[manifest.as_model() for manifest in manifests],
            ground_truth=any(m.ground_truth for m in manifests),
            manual=consensus.manual_cases(self.dataset),
        )
        if self.votes.exists() and self.votes.index.same_bits(fresh):
            fresh.cases = self.votes.index.cases
        return fresh

    def forget_removed(self, cases: Sequence[str]) -> None:
        """Remove preprocessed cases whose image is gone, so that nobody trains on them."""
        for case in set(folders.listed_cases(self.folder)) - set(cases):
            folders.remove_case(self.folder, case)
        for case in set(self.index.cases) - set(cases):
            self.index.cases.pop(case)
            self.votes.file(case).unlink(missing_ok=True)
        if set(self.inputs) - set(cases):
            self.inputs = {case: value for case, value in self.inputs.items() if case in cases}
            write_json(self.inputs_file, self.inputs)

    def job(self, case: str) -> preprocessing.Job | None:
        """What is to be done for a case; None if nothing is."""
        images, label = self.dataset.images().files(case), self.dataset.label_file(case)
        do_images = not folders.is_preprocessed(self.folder, case) or self.inputs.get(case) != self._inputs(case)
        outputs = self._outputs(case)
        known = self.index.cases.get(case)
        there = known is not None and known.outputs == outputs and self.votes.file(case).is_file()
        do_votes = bool(outputs) and (do_images or not there)
        if not outputs:
            self.index.cases.pop(case, None)
        if not (do_images or do_votes):
            return None
        teachers = {
            name: folder.file(case, manifest.file_ending) if name in outputs else None
            for name, (folder, manifest) in self.teachers.items()
        }
        return preprocessing.Job(
            case,
            images,
            label,
            teachers,
            self.plans,
            self.configuration,
            self.dataset.spec,
            self.folder,
            self.votes.folder,
            do_images,
            do_votes,
        )

    def _outputs(self, case: str) -> dict[str, str]:
        return {name: m.cases[case].output for name, (_, m) in self.teachers.items() if case in m.cases}

    def _inputs(self, case: str) -> str:
        files = (*self.dataset.images().files(case), self.dataset.label_file(case))
        return sha256_text("".join(sha256(f) for f in files) + self.plans_hash)

    def record(self, job: preprocessing.Job, counts: Any) -> None:
        """Note that a case is done."""
        if job.do_images:
            self.inputs[job.case] = self._inputs(job.case)
        if counts is not None:
            outputs = self._outputs(job.case)
            answers = {name: self.teachers[name][1].cases[job.case].answers for name in outputs}
            labels = list(self.dataset.spec.labels)
            self.index.cases[job.case] = VotesOfCase(
                outputs=outputs, answers=answers, counts=sparse_counts(counts, labels)
            )
        # both files grow with the cohort: written after every case, a thousand cases would write a million records;
        # what a kill loses is a few seconds' cases, which are done again
        if time.monotonic() - self.written > SECONDS_BETWEEN_RECORDS:
            self.save()

    def save(self) -> None:
        """Write down what is done, and, at the end, that teachers have gone or manual labels come."""
        write_json(self.inputs_file, self.inputs)
        if self.teachers or self.votes.exists():
            self.votes.write_index(self.index)
        self.written = time.monotonic()
