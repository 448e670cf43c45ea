"""One configuration of a dataset, images and votes, and the files beside it. Only what is missing or no longer
holds is done, because nnU-Net's own preprocessor begins by deleting everything."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.dataset import RawDataset
from nnkd.data.origins import Hashes, difference, made_anew
from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE
from nnkd.data.plans import configuration_of
from nnkd.data.reading.raw_pictures import sidecars
from nnkd.errors import NnkdError
from nnkd.files import atomic, remove_leftovers, write_json
from nnkd.preprocessing import adoption, case_origins
from nnkd.preprocessing.cases import KILLED, Job, attempt
from nnkd.preprocessing.folders import CasesFolder, inputs_file, read_inputs
from nnkd.processes import run_all
from nnkd.types import Failure, StepReport
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder, VotesIndex, VotesOfCase, sparse_counts
from nnkd.votes.panel import Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray


def copy_tables(dataset: RawDataset, target: Path) -> None:
    """Copy dataset.json (nnU-Net does so only where it plans) and the dataset's tables of people, where it has them, to
    nnUNet_preprocessed/DATASET."""
    for name in ("dataset.json", PARTICIPANTS_FILE, CASES_FILE):
        if (dataset.folder / name).is_file():
            _copy(dataset.folder / name, target / name)


def copy_labels(dataset: RawDataset, target: Path, cases: Sequence[str]) -> None:
    """Copy the cases' label maps to nnUNet_preprocessed/DATASET, where nnU-Net's validation reads them."""
    ours, theirs = Hashes(dataset.folder), Hashes(target)
    for case in cases:
        label_map = dataset.label_file(case)
        for source in (label_map, *sidecars(label_map, label_map=True)):
            copy = target / "gt_segmentations" / source.name
            if not copy.is_file() or theirs.of(copy) != ours.of(source):
                _copy(source, copy)
    ours.save()
    theirs.save()


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
    panel: Panel | None,
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
        panel: The teachers whose votes are made; None: there are none.

    Raises:
        NnkdError: If the disk is full or a process was killed.
    """
    if configuration not in plans["configurations"]:
        report.lines.append(f"{configuration}: not planned for this dataset, passed over")
        return
    folder = _Configuration(dataset, target, dict(plans), configuration, panel)
    remove_leftovers(folder.votes.folder)
    folder.forget_removed(cases)
    jobs = [job for case in cases if (job := folder.job(case)) is not None]
    report.skipped += [c for c in cases if c not in {job.case for job in jobs}]
    folder.begin(job.case for job in jobs if job.do_images)
    failed = 0
    for job, outcome in run_all(attempt, jobs, processes, title=f"{configuration}: preprocessing", killed=KILLED):
        if isinstance(outcome, NnkdError):
            report.failures.append(Failure(job.case, str(outcome)))
            failed += 1
        else:
            folder.record(job, outcome)
            report.done.append(job.case)
    folder.save(at_once=True)
    report.lines.append(folder.summary(len(jobs) - failed, failed, len(cases) - len(jobs)))


class _Configuration(CasesFolder):
    """What is to be done for one configuration, and the record of what was."""

    def __init__(
        self,
        dataset: RawDataset,
        target: Path,
        plans: dict[str, Any],
        configuration: str,
        panel: Panel | None,
    ):
        self.dataset, self.plans, self.configuration = dataset, plans, configuration
        self.values = configuration_of(plans, configuration, target)
        folder = target / self.values["data_identifier"]
        super().__init__(folder, read_inputs(folder))
        self.images, self.hashes = dataset.images(), Hashes(dataset.folder)
        self.of_plans = case_origins.of_plans(plans, self.values, dataset.spec)
        self.votes = VotesFolder.of(target, folder.name)
        self.teachers = {} if panel is None else {t: (panel.folders[t], panel.manifests[t]) for t in panel.names}
        self.index = self._start_index()
        self.changed: list[str] = []  # why cases are made anew, one by one

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

    def origins_of(self, case: str) -> dict[str, str]:
        files = case_origins.of_files(self.images.files(case), self.dataset.label_file(case), self.hashes)
        return {**self.of_plans, **files}

    def adopts(self, case: str, digest: str) -> bool:
        files = (*self.images.files(case), self.dataset.label_file(case))
        before = adoption.digest_of_old([self.hashes.of(f) for f in files], self.plans, self.configuration)
        return digest == before and adoption.holds(self.folder, case, self.plans, self.values, self.dataset.spec)

    def forget_removed(self, cases: Sequence[str]) -> None:
        super().forget_removed(cases)
        for case in set(self.index.cases) - set(cases):
            self.index.cases.pop(case)
            self.votes.file(case).unlink(missing_ok=True)

    def job(self, case: str) -> Job | None:
        """What is to be done for a case; None if nothing is."""
        why = self.what_changed(case)
        do_images = why is not None
        if why:
            self.changed.append(why)
        outputs = self._outputs(case)
        do_votes = bool(outputs) and (do_images or not self._votes_hold(case, outputs))
        if not outputs:
            self.index.cases.pop(case, None)
        if not (do_images or do_votes):
            return None
        return Job(
            case=case,
            images=self.images.files(case),
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

    def _votes_hold(self, case: str, outputs: Mapping[str, str]) -> bool:
        """Whether a case's votes are there and hold; those of an earlier version do if all that it noted is the same,
        for integers of other labels are refused."""
        known = self.index.cases.get(case)
        if known is None or not self.votes.file(case).is_file():
            return False
        now = self._vote_origins(case)
        if not known.origins and (known.outputs, known.answers) == (outputs, self._answers(outputs, case)):
            self.index.cases[case] = known.model_copy(update={"origins": now})
            return True
        why = difference(known.origins, now)
        if why:
            self.changed.append(f"votes, {why}")
        return not why

    def _vote_origins(self, case: str) -> dict[str, str]:
        said = {
            name: (folder.file(case, manifest.file_ending), manifest)
            for name, (folder, manifest) in self.teachers.items()
            if case in manifest.cases
        }
        return case_origins.of_votes(self.origins_of(case), case, said, self.hashes)

    def _answers(self, outputs: Iterable[str], case: str) -> dict[str, list[str]]:
        return {name: self.teachers[name][1].cases[case].answers for name in outputs}

    def _outputs(self, case: str) -> dict[str, str]:
        return {name: m.cases[case].output for name, (_, m) in self.teachers.items() if case in m.cases}

    def record(self, job: Job, counts: NDArray[np.int64] | None) -> None:
        """Note that a case is done.

        Args:
            job: What was done.
            counts: (L, 2**K) voxels of each pattern; None: no votes were made.
        """
        if job.do_images:
            self.inputs[job.case] = self.origins_of(job.case)
        if counts is not None:
            outputs = self._outputs(job.case)
            self.index.cases[job.case] = VotesOfCase(
                outputs=outputs,
                answers=self._answers(outputs, job.case),
                counts=sparse_counts(counts, list(self.dataset.spec.labels)),
                origins=self._vote_origins(job.case),
            )
        self.save()

    def write(self) -> None:
        """Both files; at the end also that teachers have gone or manual labels come."""
        write_json(inputs_file(self.folder), self.inputs)
        if self.teachers or self.votes.exists():
            self.votes.write_index(self.index)
        self.hashes.save()

    def summary(self, done: int, failed: int, up_to_date: int) -> str:
        """What was done, in a line."""
        parts = [f"{done} case(s) preprocessed", f"{up_to_date} up to date"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{self.adopted} of an earlier version verified"] if self.adopted else []
        teachers = f"votes of {', '.join(self.index.teachers)}" if self.index.teachers else "no teachers"
        why = made_anew(self.changed)
        return f"{self.configuration}: {', '.join([*parts, teachers])}" + (f" ({why})" if why else "")
