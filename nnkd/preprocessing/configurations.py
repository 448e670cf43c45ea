"""One configuration of a dataset, images and votes, and the files beside it. Only what is missing or older than its
inputs is done, because nnU-Net's own preprocessor begins by deleting everything."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE
from nnkd.data.reading.raw_pictures import sidecars
from nnkd.errors import NnkdError
from nnkd.files import atomic, read_json, remove_leftovers, sha256, sha256_text, write_json
from nnkd.preprocessing.cases import KILLED, Job, attempt
from nnkd.preprocessing.folders import CasesFolder
from nnkd.processes import run_all
from nnkd.types import Failure, StepReport
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder, VotesIndex, VotesOfCase, sparse_counts
from nnkd.votes.panel import teachers_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def copy_tables(dataset: RawDataset, target: Path) -> None:
    """Copy the dataset's tables of people, where it has them, to nnUNet_preprocessed/DATASET."""
    for name in (PARTICIPANTS_FILE, CASES_FILE):
        if (dataset.folder / name).is_file():
            _copy(dataset.folder / name, target / name)


def copy_labels(dataset: RawDataset, target: Path, cases: Sequence[str]) -> None:
    """Copy the cases' label maps to nnUNet_preprocessed/DATASET, where nnU-Net's validation reads them."""
    for case in cases:
        label_map = dataset.label_file(case)
        for source in (label_map, *sidecars(label_map, label_map=True)):
            copy = target / "gt_segmentations" / source.name
            if not copy.is_file() or sha256(copy) != sha256(source):
                _copy(source, copy)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def preprocess(
    dataset: RawDataset,
    target: Path,
    plans: Mapping[str, Any],
    configuration: str,
    cases: Sequence[str],
    processes: int,
    report: StepReport,
) -> None:
    """Preprocess one configuration, or say that it was not planned.

    Args:
        dataset: In nnUNet_raw.
        target: nnUNet_preprocessed/DATASET.
        plans: nnU-Net's.
        configuration: Such as "2d".
        cases: All training cases; what is preprocessed of others is removed.
        processes: How many cases to do at once.
        report: Gets what was done and what could not be.

    Raises:
        NnkdError: If the disk is full or a process was killed.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    if configuration not in manager.available_configurations:
        report.lines.append(f"{configuration}: not planned for this dataset, passed over")
        return
    identifier = manager.get_configuration(configuration).data_identifier
    folder = _Configuration(dataset, target / identifier, dict(plans), configuration)
    remove_leftovers(folder.votes.folder)
    folder.forget_removed(cases)
    jobs = [job for case in cases if (job := folder.job(case)) is not None]
    report.skipped += [c for c in cases if c not in {job.case for job in jobs}]
    title = f"{configuration}: preprocessing"
    for job, outcome in run_all(attempt, jobs, processes, title=title, killed=KILLED):
        if isinstance(outcome, NnkdError):
            report.failures.append(Failure(job.case, str(outcome)))
        else:
            folder.record(job, outcome)
            report.done.append(job.case)
    folder.save(at_once=True)
    teachers = folder.index.teachers
    voted = f", votes of {', '.join(teachers)}" if teachers else ", no teachers"
    report.lines.append(
        f"{configuration}: {len(jobs)} case(s) preprocessed, {len(cases) - len(jobs)} up to date{voted}"
    )


class _Configuration(CasesFolder):
    """What is to be done for one configuration, and the record of what was."""

    def __init__(self, dataset: RawDataset, folder: Path, plans: dict[str, Any], configuration: str):
        self.inputs_file = folder.parent / f"{folder.name}_inputs.json"
        super().__init__(folder, read_json(self.inputs_file) if self.inputs_file.is_file() else {})
        self.dataset, self.plans, self.configuration = dataset, plans, configuration
        self.votes = VotesFolder.of(folder.parent, folder.name)
        self.teachers = teachers_of(dataset)
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

    def inputs_of(self, case: str) -> str:
        files = (*self.dataset.images().files(case), self.dataset.label_file(case))
        return sha256_text("".join(sha256(f) for f in files) + self.plans_hash)

    def forget_removed(self, cases: Sequence[str]) -> None:
        super().forget_removed(cases)
        for case in set(self.index.cases) - set(cases):
            self.index.cases.pop(case)
            self.votes.file(case).unlink(missing_ok=True)

    def job(self, case: str) -> Job | None:
        """What is to be done for a case; None if nothing is."""
        do_images = not self.is_done(case)
        outputs = self._outputs(case)
        known = self.index.cases.get(case)
        there = known is not None and known.outputs == outputs and self.votes.file(case).is_file()
        do_votes = bool(outputs) and (do_images or not there)
        if not outputs:
            self.index.cases.pop(case, None)
        if not (do_images or do_votes):
            return None
        return Job(
            case=case,
            images=self.dataset.images().files(case),
            label=self.dataset.label_file(case),
            teachers={
                name: folder.file(case, manifest.file_ending) if name in outputs else None
                for name, (folder, manifest) in self.teachers.items()
            },
            plans=self.plans,
            configuration=self.configuration,
            spec=self.dataset.spec,
            folder=self.folder,
            votes_folder=self.votes.folder,
            do_images=do_images,
            do_votes=do_votes,
        )

    def _outputs(self, case: str) -> dict[str, str]:
        return {name: m.cases[case].output for name, (_, m) in self.teachers.items() if case in m.cases}

    def record(self, job: Job, counts: NDArray[np.int64] | None) -> None:
        """Note that a case is done.

        Args:
            job: What was done.
            counts: (L, 2**K) voxels of each pattern; None: no votes were made.
        """
        if job.do_images:
            self.inputs[job.case] = self.inputs_of(job.case)
        if counts is not None:
            outputs = self._outputs(job.case)
            answers = {name: self.teachers[name][1].cases[job.case].answers for name in outputs}
            labels = list(self.dataset.spec.labels)
            self.index.cases[job.case] = VotesOfCase(
                outputs=outputs, answers=answers, counts=sparse_counts(counts, labels)
            )
        self.save()

    def write(self) -> None:
        """Both files; at the end also that teachers have gone or manual labels come."""
        write_json(self.inputs_file, self.inputs)
        if self.teachers or self.votes.exists():
            self.votes.write_index(self.index)
