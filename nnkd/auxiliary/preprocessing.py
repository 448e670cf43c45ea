"""Auxiliary datasets on a target's grid, each normalised by itself: the target's spacing, axes and resampling, but the
channel scheme and the intensity properties of the dataset's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.auxiliary.channels import Conversion, check_axes, conversion_to, converted, schemes
from nnkd.auxiliary.tasks import AuxiliaryIndex, Target, Task, grid_of, parse, read_index, write_index
from nnkd.data import case_names
from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.data.origins import Hashes, made_anew
from nnkd.data.reading.memory import check_resampled
from nnkd.errors import DatasetError, NnkdError, RecipeError, UnknownNameError
from nnkd.files import remove_leftovers, sha256_text
from nnkd.preprocessing import case_origins
from nnkd.preprocessing.cases import KILLED, attempted, check_files, stop_if_full
from nnkd.preprocessing.folders import CasesFolder, whole_case
from nnkd.processes import run_all
from nnkd.types import Failure, FolderCount, StepReport

SAMPLES = 50_000  # foreground voxels of a case whose intensities are kept for the dataset's properties
CROPPED = 3 / 4.0  # below this median share of an image left by cropping, nnU-Net normalises by what is left


@dataclass(frozen=True)
class CaseJob:
    """What a worker process needs for one case.

    Attributes:
        case: nnU-Net's identifier.
        images: Its image files.
        label: Its label map.
        spec: The auxiliary dataset.
        conversion: Of its channels.
        plans: The target's, with the auxiliary's normalisation and reader.
        configuration: Its name.
        folder: Where the case goes.
        target: The target's name, for messages.
    """

    case: str
    images: tuple[Path, ...]
    label: Path
    spec: DatasetSpec
    conversion: Conversion
    plans: Mapping[str, Any]
    configuration: str
    folder: Path
    target: str


def preprocess(names: Sequence[str], target: Target, most: int, processes: int, report: StepReport) -> None:
    """Preprocess auxiliary datasets for one configuration; what does not fit is said and left out.

    Args:
        names: See `nnkd.auxiliary.tasks.parse`.
        target: What they are for.
        most: Cases of each task at most.
        processes: How many at once.
        report: Gets lines, and as failures what was left out.

    Raises:
        NnkdError: If a name is wrong, or one is the target itself.
    """
    tasks = parse(names, target.preprocessed.name, target.folder)
    for dataset in dict.fromkeys(task.dataset for task in tasks):
        try:
            raw = RawDataset.open(dataset)
            wanted = [task for task in tasks if task.dataset == dataset]
            report.folders += [count for count in _counts(raw) if count not in report.folders]
            _Auxiliary(raw, target, wanted, processes, report).run(most)
        except (DatasetError, RecipeError, UnknownNameError) as error:
            stop_if_full(error)
            report.failures.append(Failure(dataset, str(error)))


def _counts(raw: RawDataset) -> list[FolderCount]:
    """Which files are taken: those of cases with a label map."""
    labels = raw.label_maps()
    images = raw.images().listing.only(labels.cases, rule="without a label map, which auxiliaries need")
    return [images.count(f"{raw.name}/imagesTr"), labels.count(f"{raw.name}/labelsTr")]


class _Auxiliary(CasesFolder):
    """What is to be done for one dataset, and the record of what was."""

    def __init__(self, raw: RawDataset, target: Target, tasks: Sequence[Task], processes: int, report: StepReport):
        self.raw, self.target, self.tasks, self.processes, self.report = raw, target, list(tasks), processes, report
        self.images = raw.images()
        self.hashes = Hashes(raw.folder)
        spec = DatasetSpec.read(target.preprocessed / "dataset.json")
        self.conversion = conversion_to(spec, raw.spec)
        folder = target.folder / raw.name
        self.grid = grid_of(target.plans, target.values, spec.channel_names)
        found = read_index(folder)
        fresh = AuxiliaryIndex(
            dataset=raw.name,
            grid=self.grid,
            channels=self.conversion,
            labels={label: list(values) for label, values in raw.spec.labels.items()},
            ignore_label=raw.spec.ignore_label,
        )
        kept: tuple[str, ...] = ()
        same_labels = found is not None and (found.labels, found.ignore_label) == (fresh.labels, fresh.ignore_label)
        if found is not None and same_labels:
            kept = ("label_maps", "present")
            if (found.grid, found.channels) == (fresh.grid, fresh.channels):
                kept += ("inputs", "schemes", "use_mask", "intensities", "measured")
        self.index = fresh.model_copy(update={key: getattr(found, key) for key in kept})
        self.others = tuple(self.index.inputs)  # cases that are there for other tasks: one normalisation is for all
        before = {} if found is None else found.inputs
        # the one hash of earlier versions says nothing of labels
        super().__init__(folder, {c: made for c, made in before.items() if same_labels or not isinstance(made, str)})
        self.index.inputs = self.inputs

    def run(self, most: int) -> None:
        """Look at the label maps, choose cases, measure them, and preprocess what is missing or old."""
        cases = [case for case in self.images.cases() if self.raw.label_file(case).is_file()]
        for sentence in case_names.problems(cases).values():
            raise DatasetError(sentence)
        if not cases:
            raise DatasetError(
                f"{self.raw.name} has no label map in labelsTr, so nothing can be learned along from it. Choose "
                f"datasets with label maps."
            )
        self._check_axes(cases)
        self.folder.parent.mkdir(exist_ok=True)
        remove_leftovers(self.folder)
        self._look(cases)
        chosen = self._measured(most)
        why = {case: self.what_changed(case) for case in chosen}
        jobs = [self._job(case) for case in chosen if why[case] is not None]
        self.begin(job.case for job in jobs)
        title = f"{self.target.configuration}: {self.raw.name}"
        done = 0
        for case, _ in self._run(_store, jobs, title):
            self.inputs[case] = self.origins_of(case)
            self.report.done.append(case)
            self.save()
            done += 1
        self.forget_removed(cases)
        self.save(at_once=True)
        said = [f"{done} case(s) preprocessed", f"{len(chosen) - len(jobs)} up to date"]
        said += [f"{len(jobs) - done} failed"] if done < len(jobs) else []
        said += [f"{self.adopted} of an earlier version verified"] if self.adopted else []
        again = made_anew(reason for reason in why.values() if reason)
        self.report.lines.append(
            f"{self.target.configuration}: auxiliary {self.raw.name}: {', '.join(said)}"
            + (f" ({again})" if again else "")
            + f"; channels {self.index.channels}, {', '.join(self.index.schemes)}"
        )

    def _check_axes(self, cases: Sequence[str]) -> None:
        """Of the first image that can be read."""
        for case in cases:
            try:
                image = self.images.read(case)[0]
            except DatasetError:
                if case == cases[-1]:
                    raise
                continue
            check_axes(self.target.values["patch_size"], image, self.target.preprocessed.name, self.raw.name)
            return

    def _look(self, cases: Sequence[str]) -> None:
        """Which labels each case has, of all cases."""
        hashes = {case: self.hashes.of(self.raw.label_file(case)) for case in cases}
        present = self.index.present
        self.index.present = {
            c: present[c] for c in cases if c in present and self.index.label_maps.get(c) == hashes[c]
        }
        todo = [self._job(case) for case in cases if case not in self.index.present]
        self.index.present.update(self._run(_labels, todo, f"{self.raw.name}: labels"))
        self.index.label_maps = {case: hashes[case] for case in self.index.present}

    def _chosen(self, most: int) -> list[str]:
        """The tasks' cases, and those that are there for other tasks. A task that has none is left out if there are
        others."""
        wanted: list[str] = []
        for given in tuple(self.tasks):
            try:
                wanted += [case for task in self.index.tasks(given) for case in self.index.chosen(task, most)]
            except (RecipeError, UnknownNameError) as error:
                if self.tasks == [given]:
                    raise
                self.tasks.remove(given)
                self.report.failures.append(Failure(given.name, str(error)))
        return list(dict.fromkeys(wanted + [case for case in self.others if case in self.index.present]))

    def _measured(self, most: int) -> list[str]:
        """The cases to preprocess, after their intensities were measured; one that cannot be read gives place to
        another."""
        found: dict[str, Any] = {}
        while True:
            chosen = self._chosen(most)
            source = sha256_text(
                "".join(self._files(case) for case in sorted(chosen)) + self.conversion + self._ignored()
            )
            if source == self.index.measured:
                return chosen
            todo = [self._job(case) for case in chosen if case not in found]
            if not todo:
                break
            found.update(self._run(_measure, todo, f"{self.raw.name}: intensities"))
        self._normalise([found[case] for case in sorted(chosen)])
        self.index.measured = source
        return chosen

    def _normalise(self, found: Sequence[tuple[np.ndarray, float]]) -> None:
        """nnU-Net's fingerprint and choice of normalisation, of this dataset alone."""
        from nnunetv2.preprocessing.normalization import default_normalization_schemes as known

        self.index.schemes = schemes(self.raw.spec, self.conversion)
        cropped = float(np.median([share for _, share in found])) < CROPPED
        leaves = "leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true"
        self.index.use_mask = [cropped and bool(getattr(getattr(known, s), leaves)) for s in self.index.schemes]
        values = np.concatenate([intensities for intensities, _ in found], axis=1)
        self.index.intensities = {str(channel): _properties(row) for channel, row in enumerate(values)}

    def _run(self, work: Callable[[CaseJob], Any], jobs: Sequence[CaseJob], title: str) -> Iterator[tuple[str, Any]]:
        """Cases and what came of them; those that cannot be done are left out."""
        attempt = partial(_attempt, work)
        for job, outcome in run_all(attempt, jobs, self.processes, title=title, killed=KILLED):
            if isinstance(outcome, NnkdError):
                for record in (self.index.present, self.index.label_maps, self.inputs):
                    record.pop(job.case, None)
                self.report.failures.append(Failure(f"{self.raw.name}/{job.case}", str(outcome)))
            else:
                yield job.case, outcome

    def write(self) -> None:
        write_index(self.folder, self.index)
        self.hashes.save()

    def _files(self, case: str) -> str:
        return "".join(self.hashes.of(file) for file in (*self.images.files(case), self.raw.label_file(case)))

    def _ignored(self) -> str:
        """Intensities that earlier versions measured were of ignored voxels too."""
        return "" if self.raw.spec.ignore_label is None else f"without {self.raw.spec.ignore_label}"

    def origins_of(self, case: str) -> dict[str, str]:
        files = case_origins.of_files(self.images.files(case), self.raw.label_file(case), self.hashes)
        return {**files, **self.index.origins()}

    def adopts(self, case: str, digest: str) -> bool:
        # earlier versions kept grid, channels and labels in the index: of other ones nothing is taken over
        made_by = (self.grid, self.conversion, self.index.schemes, self.index.use_mask, self.index.intensities)
        return digest == sha256_text(self._files(case) + str(made_by))

    def _job(self, case: str) -> CaseJob:
        return CaseJob(
            case=case,
            images=self.images.files(case),
            label=self.raw.label_file(case),
            spec=self.raw.spec,
            conversion=self.conversion,
            plans=self._plans(),
            configuration=self.target.configuration,
            folder=self.folder,
            target=self.target.preprocessed.name,
        )

    def _plans(self) -> dict[str, Any]:
        """The target's plans with what is this dataset's own."""
        values = {
            **self.target.values,
            "normalization_schemes": self.index.schemes,
            "use_mask_for_norm": self.index.use_mask,
        }
        values.pop("inherits_from", None)
        return {
            **self.target.plans,
            "image_reader_writer": self.raw.spec.reader.name,
            "foreground_intensity_properties_per_channel": self.index.intensities,
            "configurations": {self.target.configuration: values},
        }


# --- in a worker --------------------------------------------------------------------------------------------------


def _attempt(work: Callable[[CaseJob], Any], job: CaseJob) -> Any:
    return attempted(partial(work, job))


def _labels(job: CaseJob) -> list[str]:
    """Which labels a case has."""
    there = set(np.unique(job.spec.read_label_map(job.label)[0]).tolist())
    return [label for label, values in job.spec.labels.items() if there.intersection(values)]


def _measure(job: CaseJob) -> tuple[np.ndarray, float]:
    """(C, n) float32 foreground intensities, and the share of the image that cropping leaves."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    images, seg, _ = _read(job)
    if job.spec.ignore_label is not None:
        seg = np.where(seg == job.spec.ignore_label, 0, seg)  # nnU-Net takes it for foreground
    cropped, seg, _ = crop_to_nonzero(images, seg)
    sampled, _ = DatasetFingerprintExtractor.collect_foreground_intensities(seg, cropped, num_samples=SAMPLES)
    return np.array(sampled, dtype=np.float32), float(np.prod(cropped.shape[1:]) / np.prod(images.shape[1:]))


def _properties(values: np.ndarray) -> dict[str, float]:
    """nnU-Net's intensity properties of one channel."""
    low, middle, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(middle),
        "std": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


def _read(job: CaseJob) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Images (C, Z, Y, X) float32 with the target's channels, label map (1, Z, Y, X), the reader's properties."""
    folder = ImageFolder.of_case(job.case, job.images, job.spec)
    images, label_map, properties = check_files(folder, job.label, job.case)
    return converted(images, job.conversion), label_map[None], properties


def _store(job: CaseJob) -> None:
    """nnU-Net's preprocessing of a case."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    images, seg, properties = _read(job)
    plans = dict(job.plans)
    if images.shape[1] == 1:  # the one plane of a picture is the slice, whatever axis the target is cut along
        plans |= {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    manager = PlansManager(plans)
    configuration = manager.get_configuration(job.configuration)
    preprocessor = configuration.preprocessor_class(verbose=False)
    check_resampled(images, properties["spacing"], configuration, manager, f"'{job.case}' of {job.spec.name}")
    data, seg, properties = preprocessor.run_case_npy(
        images, seg, properties, manager, configuration, dict(job.spec.json)
    )
    data, seg = data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
    patch = tuple(configuration.patch_size)
    blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, patch, seg.itemsize)
    with whole_case(job.folder, job.case) as file:
        nnUNetDatasetBlosc2.save_case(
            data, seg, properties, str(file), chunks=chunks, blocks=blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg
        )
