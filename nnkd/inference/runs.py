"""A run over a folder of images: cases are preprocessed ahead, predicted in this process, exported behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from nnkd.data.dataset import DatasetSpec, ImageFolder
from nnkd.data.dicom_cases import DicomCases, DicomRequest
from nnkd.data.predictions import CaseRecord, PredictionFolder
from nnkd.data.reading import readers
from nnkd.data.reading.geometry import Grid
from nnkd.data.reading.memory import check_resampled
from nnkd.data.reading.scan_values import unlike_training
from nnkd.devices import check_device, cores
from nnkd.errors import DatasetError, NnkdError, PredictionError, in_one_line
from nnkd.files import TEMPORARY_PREFIX, sha256
from nnkd.inference.label_maps import label_map, on_image
from nnkd.inference.label_models import LabelModels
from nnkd.inference.predictor import load_predictor, logits_of
from nnkd.inference.uncertainty import UncertaintyFolder
from nnkd.processes import pool, submitted
from nnkd.replacing import Written
from nnkd.types import Failure, StepReport
from nnkd.weights.checkpoints import TrainedModel

if TYPE_CHECKING:
    from nnkd.inference.samples import Answer, Spread


@dataclass(frozen=True)
class Request:
    """nnUNetv2_predict's arguments.

    Attributes:
        model: The trained model, or those of single labels.
        source, target: -i and -o.
        part_id, num_parts: Which of the cases: each num_parts-th from part_id on.
        resume: --continue_prediction.
        replace: Whether files that nnkd did not write may be replaced.
        samples: How many a probabilistic network answers with; None: what it was trained to.
        uncertainty: Whether to write maps of it and intervals of volumes, see `nnkd.inference.uncertainty`.
        wanted: What is wanted of DICOM series.
        dicom: The series that `source` was made of; None: it was made of none.
    """

    model: TrainedModel | LabelModels
    source: Path
    target: Path
    part_id: int = 0
    num_parts: int = 1
    step_size: float = 0.5
    mirroring: bool = True
    verbose: bool = False
    save_probabilities: bool = False
    resume: bool = False
    replace: bool = False
    preprocessing_processes: int = 3
    export_processes: int = 3
    previous_stage: Path | None = None
    device: str = "cuda"
    progress: bool = True
    everything_on_device: bool = True
    samples: int | None = None
    uncertainty: bool = False
    wanted: DicomRequest = field(default_factory=DicomRequest)
    dicom: DicomCases | None = None

    def beside(self, case: str) -> list[str]:
        """What is written of a case beside its label map, by names within -o."""
        names = UncertaintyFolder(self.target).names(case) if self.uncertainty else []
        names += [f"{case}.npz", f"{case}.pkl"] if self.save_probabilities else []
        if self.dicom is not None and self.dicom.writes_seg:
            names.append(self.dicom.seg_of(case, self.target).name)
        return names

    def is_complete(self, case: str) -> bool:
        """Whether all that is wanted beside a case's label map is there."""
        if self.uncertainty and not UncertaintyFolder(self.target).is_complete(case):
            return False
        if self.dicom is not None and self.dicom.writes_seg and not self.dicom.seg_of(case, self.target).is_file():
            return False
        return not self.save_probabilities or (self.target / f"{case}.npz").is_file()


def load_predictors(request: Request) -> list[Any]:
    """nnU-Net's, one for each model that answers.

    Raises:
        NnkdError: If a model cannot be loaded, or has no samples or no uncertainty where these are asked for.
    """
    import torch

    check_device(request.device)
    torch.set_num_threads(cores() if request.device == "cpu" else 1)
    predictors = [
        load_predictor(
            model,
            request.device,
            step_size=request.step_size,
            mirroring=request.mirroring,
            on_device=request.everything_on_device,
            verbose=request.verbose,
        )
        for model in request.model.parts()
    ]
    from nnkd.inference import samples as sampling  # loads nnU-Net, which talks when `load_predictor` does not hush it

    for predictor in predictors:
        if request.samples is not None:
            sampling.set_samples(predictor, request.samples)
        if request.uncertainty:
            sampling.check_spread(predictor)
    return predictors


class Run:
    """Cases on their way into a prediction folder.

    Args:
        request: What was asked for.
        predictors: See `load_predictors`.
        images: The cases.
        folder: Where label maps go.
        report: Gets what was done and what could not be.
    """

    def __init__(
        self,
        request: Request,
        predictors: Sequence[Any],
        images: ImageFolder,
        folder: PredictionFolder,
        report: StepReport,
    ):
        self.request, self.predictors, self.images = request, predictors, images
        self.folder, self.report = folder, report
        first = predictors[0]  # all of them have the same plans
        self._plans, self._configuration = first.plans_manager.plans, first.configuration_manager.configuration
        self._started: dict[str, float] = {}
        self._notes: dict[str, dict[str, Any]] = {}

    def do(self, todo: Mapping[str, dict[str, str]]) -> None:
        """Predict cases; one that cannot be does not stop the others.

        Args:
            todo: By case, the hashes of its files.

        Raises:
            PredictionError: If a label map cannot be written, or a process was killed.
        """
        if not todo:
            return
        request = self.request
        progress = tqdm(total=len(todo), desc="predicting", unit="case", disable=not request.progress)
        try:
            with (
                progress,
                pool(request.preprocessing_processes, todo) as before,
                pool(request.export_processes, todo) as after,
            ):
                answers = self._answers([*todo], before, progress)
                for case, export in submitted(after, _export, answers, ahead=max(1, request.export_processes)):
                    self._collect(case, todo[case], export)
                    progress.update()
        except BrokenProcessPool as error:
            raise PredictionError(
                "A process was killed while preparing or exporting, most likely for want of memory. Continue with "
                "fewer processes (-npp, -nps) and --continue_prediction."
            ) from error

    def fail(self, case: str, reason: str) -> None:
        """Note that a case could not be done."""
        self.folder.fail(case, reason)
        self.report.failures.append(Failure(case, reason))

    def _answers(self, cases: Sequence[str], executor: Executor, progress: tqdm) -> Iterator[tuple[str, tuple]]:
        """Cases and what is to be exported of them. A few are preprocessed ahead: each is a whole scan in memory."""
        request = self.request
        ahead = max(1, min(request.preprocessing_processes, len(cases))) - 1
        images = ((case, self._image(case)) for case in cases)
        for case, prepared in submitted(executor, _prepare, images, ahead):
            self._started[case] = time.monotonic()
            try:
                data, properties = prepared.result()
                self._notes[case] = readers.noted(properties)
                answer = self._answer(data)
            except BrokenProcessPool:  # a RuntimeError too
                raise
            except (NnkdError, RuntimeError, ValueError, AssertionError) as error:
                self.fail(case, _sentence(error))
                progress.update()
                continue
            yield (
                case,
                (request, self._plans, self.folder.folder, case, answer, properties, self._configuration),
            )

    def _image(self, case: str) -> tuple:
        """What `_prepare` is called with."""
        return case, self.request, self._plans, self.images.spec, self._configuration

    def _answer(self, data: np.ndarray) -> Answer:
        from nnkd.inference import samples as sampling

        if self.request.uncertainty:
            answers = [sampling.answer(predictor, data, spread=True) for predictor in self.predictors]
        else:
            answers = [sampling.Answer(logits_of(predictor, data)) for predictor in self.predictors]
        return sampling.together(answers) if isinstance(self.request.model, LabelModels) else answers[0]

    def _collect(self, case: str, inputs: dict[str, str], export: Future) -> None:
        try:
            said = export.result()
        except BrokenProcessPool:
            raise
        except OSError as error:  # no other case would fare better
            raise PredictionError(
                f"The label map of '{case}' could not be written ({error.strerror or error}). Nothing half-written "
                f"remains; make room or change the permissions and continue with --continue_prediction."
            ) from error
        except (NnkdError, RuntimeError, ValueError, AssertionError) as error:
            self.fail(case, _sentence(error))
            return
        self.report.lines += [f"{case}: {sentence}" for sentence in said]
        manifest = self.folder.manifest()
        output = sha256(self.folder.file(case, manifest.file_ending))
        seconds = round(time.monotonic() - self._started[case], 2)
        answers = list(manifest.labels)
        notes = self._notes.pop(case)
        self.folder.record(
            case, CaseRecord(inputs=inputs, output=output, answers=answers, seconds=seconds, notes=notes)
        )
        self.report.done.append(case)


# --- in a worker --------------------------------------------------------------------------------------------------


def _prepare(
    case: str, request: Request, plans: dict, spec: DatasetSpec, configuration: dict
) -> tuple[np.ndarray, dict]:
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    plans_manager, configuration_manager = PlansManager(plans), ConfigurationManager(configuration)
    reader = readers.Reader(plans_manager.image_reader_writer_class())
    array, grid, properties = ImageFolder(request.source, spec).read(case, reader)
    odd = unlike_training(array, plans, configuration_manager.normalization_schemes)
    readers.note(properties, [f"'{case}': {sentence}" for sentence in odd])
    previous = None
    if request.previous_stage is not None:
        previous = request.previous_stage / f"{case}{spec.file_ending}"
        if not previous.is_file():
            raise DatasetError(f"'{previous.name}' is missing in -prev_stage_predictions. Predict that stage first.")
    check_resampled(array, properties["spacing"], configuration_manager, plans_manager, f"'{case}'")
    preprocessor = configuration_manager.preprocessor_class(verbose=False)
    stage = None if previous is None else _stage(previous, reader, grid, spec)
    data, seg, properties = preprocessor.run_case_npy(
        array, stage, properties, plans_manager, configuration_manager, dict(spec.json)
    )
    if previous is not None:
        labels = plans_manager.get_label_manager(dict(spec.json)).foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(seg[0], labels, data.dtype)))
    return np.ascontiguousarray(data, dtype=np.float32), properties


def _stage(file: Path, reader: readers.Reader, image: Grid, spec: DatasetSpec) -> np.ndarray:
    """The previous stage's label map (1, Z, Y, X).

    Raises:
        DatasetError: If it lies elsewhere than the image, or holds what the model does not name.
    """
    array, properties = reader.read_seg(file)
    difference = Grid.from_properties(array.shape[1:], properties).difference(image)
    if difference:
        raise DatasetError(
            f"'{file.name}' in -prev_stage_predictions does not lie on its image's grid: {difference}. Predict that "
            f"stage again, from the same image."
        )
    strange = sorted(set(np.unique(array).tolist()) - spec.values)
    if strange:
        raise DatasetError(
            f"'{file.name}' in -prev_stage_predictions holds {strange[0]:g}, which is no label of the model. Predict "
            f"that stage again."
        )
    return array


def _export(
    request: Request, plans: dict, target: Path, case: str, answer: Answer, properties: dict, configuration: dict
) -> tuple[str, ...]:
    """Bring an answer to the image's grid and write it: first what is uncertain, last, by os.replace, the label map
    (and probabilities, and its DICOM-SEG). Returns what was chosen."""
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    dataset_json = request.model.dataset_json()
    managers = PlansManager(plans), ConfigurationManager(configuration)
    workers = max(1, cores() // max(1, request.export_processes))
    written = Written(target, request.replace)
    spread = UncertaintyFolder(target, request.replace)
    _export_spread(spread, dataset_json, case, answer.spread, managers, properties, workers)
    working = target / f"{TEMPORARY_PREFIX}{os.getpid()}-{case}"
    working.mkdir(exist_ok=True)
    try:
        if request.save_probabilities:
            export_prediction_from_logits(
                answer.logits, properties, *reversed(managers), dataset_json, str(working / case), True
            )
        else:
            found = label_map(
                answer.logits, *managers, managers[0].get_label_manager(dataset_json), properties, workers
            )
            file = working / f"{case}{dataset_json['file_ending']}"
            readers.Reader(managers[0].image_reader_writer_class()).write_seg(found, file, properties)
        for file in working.iterdir():
            readers.with_header(file, properties)
        said: tuple[str, ...] = ()
        if request.dicom is not None and request.dicom.writes_seg:
            file = working / f"{case}{dataset_json['file_ending']}"
            said = request.dicom.file_seg(case, file, DatasetSpec(dataset_json, "").labels)
        files = sorted(working.iterdir())
        written.check(file.name for file in files)  # all of them or none
        for file in files:
            written.move(file, file.name)
        return said
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _export_spread(
    folder: UncertaintyFolder,
    dataset_json: dict,
    case: str,
    spread: Spread | None,
    managers: tuple[Any, Any],
    properties: dict,
    workers: int,
) -> None:
    folder.forget(case)
    if spread is None:
        return
    maps = {name: on_image(array, *managers, properties, workers) for name, array in spread.maps.items()}
    one = maps["entropy"]
    grid = Grid.from_properties(one.shape, properties)
    cropped = np.prod([float(n) for n in properties["shape_after_cropping_and_before_resampling"]])
    header = properties.get(readers.HEADER) if "sitk_stuff" in properties else None  # others turn the axes
    voxel_mm3 = float(np.prod(grid.spacing) * cropped / spread.maps["entropy"].size)
    folder.write(case, maps, spread.voxels, list(DatasetSpec(dataset_json, "").labels), grid, voxel_mm3, header)


def _sentence(error: Exception) -> str:
    if isinstance(error, NnkdError):
        return str(error)
    return f"nnU-Net could not predict it: {in_one_line(error)}"
