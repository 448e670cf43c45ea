"""A trained student and a folder of images -> a prediction folder. nnU-Net's arguments and result; beyond it: one bad
image does not stop the rest, nothing half-written remains, and a manifest says what made the label maps."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from nnkd.auxiliary import record
from nnkd.data.dataset import DatasetSpec, ImageFolder
from nnkd.data.geometry import Grid
from nnkd.data.predictions import CaseRecord, Lineage, Manifest, PredictionFolder, Weights, versions
from nnkd.data.recipes import Recipe
from nnkd.devices import check_device, cores
from nnkd.errors import DatasetError, FolderError, NnkdError, PredictionError
from nnkd.files import TEMPORARY_PREFIX, sha256, write_json
from nnkd.inference.label_maps import label_map, on_image
from nnkd.inference.label_models import LabelModels
from nnkd.inference.predictor import first_line, load_predictor, logits_of
from nnkd.inference.uncertainty import UncertaintyFolder
from nnkd.processes import pool
from nnkd.types import Failure, StepReport
from nnkd.weights.checkpoints import TrainedModel

if TYPE_CHECKING:
    from nnkd.inference.samples import Answer, Spread

log = logging.getLogger("nnkd")


@dataclass(frozen=True)
class Request:
    """nnUNetv2_predict's arguments.

    Attributes:
        model: The trained model, or those of single labels.
        source, target: -i and -o.
        cases: Which cases, given all of them: -num_parts and -part_id.
        resume: --continue_prediction.
        samples: How many a probabilistic network answers with; None: what it was trained to.
        uncertainty: Whether to write maps of it and intervals of volumes, see `nnkd.inference.uncertainty`.
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
    preprocessing_processes: int = 3
    export_processes: int = 3
    previous_stage: Path | None = None
    device: str = "cuda"
    progress: bool = True
    everything_on_device: bool = True
    samples: int | None = None
    uncertainty: bool = False


def predict(request: Request) -> StepReport:
    """Predict a folder of images.

    Raises:
        NnkdError: If the model or the folder of images is not as it should be.
    """
    plans, spec = request.model.plans(), DatasetSpec(request.model.dataset_json(), request.source.name)
    images = ImageFolder(request.source, spec)
    if not request.source.is_dir():
        raise FolderError(f"There is no folder '{request.source.name}' to predict (-i).")
    cases = images.cases()[request.part_id :: request.num_parts]
    predictors = _predictors(request)
    _check_cascade(request, predictors[0])
    folder = PredictionFolder(request.target)
    header = _header(request, plans, spec, predictors[0])
    manifest = folder.begin(header, overwrite=not request.resume and request.num_parts == 1)
    if request.num_parts == 1:  # what a killed run left; other parts may be writing at this moment
        for leftover in request.target.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        UncertaintyFolder(request.target).remove_leftovers()
    write_json(request.target / "dataset.json", request.model.dataset_json())  # nnU-Net's ensemble reads both
    write_json(request.target / "plans.json", plans)
    record.carry(request.model.parts(), request.target)  # for nnKD_evaluate's report
    report = StepReport()
    todo = []
    for case in cases:
        try:
            inputs = {file.name: sha256(file) for file in images.files(case)}
        except NnkdError as error:
            _fail(folder, report, case, str(error))
            continue
        if request.resume and folder.is_done(manifest, case, inputs) and _complete(request, case):
            report.skipped.append(case)
        else:
            todo.append((case, inputs))
    try:
        _run(request, predictors, images, folder, todo, report)
    except BrokenProcessPool as error:
        raise PredictionError(
            "A process was killed while preparing or exporting, most likely for want of memory. Continue with fewer "
            "processes (-npp, -nps) and --continue_prediction."
        ) from error
    report.lines.append(f"{len(report.done)} case(s) predicted, {len(report.skipped)} were there already")
    return report


def _header(request: Request, plans: Mapping[str, Any], spec: DatasetSpec, predictor: Any) -> Manifest:
    from nnkd.inference.samples import samples_of

    sampler = samples_of(predictor)
    recipe = Recipe.of_plans(plans)
    trainer, plans_name, configuration = request.model.folder.name.split("__")[:3]
    return Manifest(
        kind="student",
        name=request.target.name,
        made_by=trainer,
        versions=versions("nnunetv2", "torch"),
        options={
            "plans": plans_name,
            "configuration": configuration,
            "folds": list(request.model.folds),
            "checkpoint": request.model.checkpoint,
            "step_size": request.step_size,
            "mirroring": request.mirroring,
            **({"samples": sampler.number} if sampler else {}),
            "uncertainty": request.uncertainty,
            "recipe": recipe.content() if recipe.teachers or recipe.auxiliary_scheduler else None,
        },
        labels={name: list(values) for name, values in spec.labels.items()},
        file_ending=spec.file_ending,
        weights=[Weights(**w) for w in request.model.weights()],
        lineage=[Lineage(**model) for model in recipe.lineage],
        ground_truth=recipe.ground_truth,
    )


def _predictors(request: Request) -> list[Any]:
    """nnU-Net's, one for each model that answers."""
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
    from nnkd.inference import samples as sampling

    for predictor in predictors:
        if request.samples is not None:
            sampling.set_samples(predictor, request.samples)
        if request.uncertainty:
            sampling.check_spread(predictor)
    return predictors


def _check_cascade(request: Request, predictor: Any) -> None:
    previous = predictor.configuration_manager.previous_stage_name
    if previous is not None and request.previous_stage is None:
        raise PredictionError(
            f"'{request.model.folder.name}' is the second stage of a cascade. Predict {previous} first and name that "
            f"folder with -prev_stage_predictions."
        )


def _complete(request: Request, case: str) -> bool:
    if request.uncertainty and not UncertaintyFolder(request.target).is_complete(case):
        return False
    return not request.save_probabilities or (request.target / f"{case}.npz").is_file()


# --- the loop: preprocess ahead, predict here, export behind -----------------------------------------------------


def _run(
    request: Request,
    predictors: Sequence[Any],
    images: ImageFolder,
    folder: PredictionFolder,
    todo: Sequence[tuple[str, dict[str, str]]],
    report: StepReport,
) -> None:
    if not todo:
        return
    started = {}
    inputs, predictor = dict(todo), predictors[0]  # all of them have the same plans
    progress = tqdm(total=len(todo), desc="predicting", unit="case", disable=not request.progress)
    with (
        progress,
        pool(request.preprocessing_processes, todo) as before,
        pool(request.export_processes, todo) as after,
    ):
        exports: dict[str, Future] = {}
        for case, prepared in _prepared(request, predictor, images, [case for case, _ in todo], before):
            started[case] = time.monotonic()
            try:
                data, properties = prepared.result()
                answer = _answer(request, predictors, data)
            except (NnkdError, RuntimeError, ValueError, AssertionError) as error:
                _fail(folder, report, case, _sentence(error))
                progress.update()
                continue
            exports[case] = after.submit(
                _export,
                request,
                predictor.plans_manager.plans,
                folder.folder,
                case,
                answer,
                properties,
                predictor.configuration_manager.configuration,
            )
            while len(exports) > max(1, request.export_processes):
                _collect(next(iter(exports)), exports, inputs, started, folder, report, progress)
        while exports:
            _collect(next(iter(exports)), exports, inputs, started, folder, report, progress)


def _prepared(
    request: Request, predictor: Any, images: ImageFolder, cases: Sequence[str], executor: Executor
) -> Iterator[tuple[str, Future]]:
    """Preprocessed cases in order, a few ahead: each is a whole scan in memory."""
    ahead: list[tuple[str, Future]] = []
    limit = max(1, min(request.preprocessing_processes, len(cases)))
    configuration = predictor.configuration_manager
    for case in cases:
        files = [str(f) for f in images.files(case)]
        ahead.append(
            (
                case,
                executor.submit(
                    _prepare,
                    case,
                    files,
                    request,
                    predictor.plans_manager.plans,
                    images.spec,
                    configuration.configuration,
                ),
            )
        )
        if len(ahead) >= limit:
            yield ahead.pop(0)
    yield from ahead


def _prepare(
    case: str, files: list[str], request: Request, plans: dict, spec: DatasetSpec, configuration: dict
) -> tuple[np.ndarray, dict]:
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    ImageFolder(request.source, spec).read(case)  # our sentence rather than the reader's traceback
    plans_manager, configuration_manager = PlansManager(plans), ConfigurationManager(configuration)
    previous = None
    if request.previous_stage is not None:
        previous = request.previous_stage / f"{case}{spec.file_ending}"
        if not previous.is_file():
            raise DatasetError(f"'{previous.name}' is missing in -prev_stage_predictions. Predict that stage first.")
    preprocessor = configuration_manager.preprocessor_class(verbose=False)
    data, seg, properties = preprocessor.run_case(
        files, str(previous) if previous else None, plans_manager, configuration_manager, dict(spec.json)
    )
    if previous is not None:
        labels = plans_manager.get_label_manager(dict(spec.json)).foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(seg[0], labels, data.dtype)))
    return np.ascontiguousarray(data, dtype=np.float32), properties


def _answer(request: Request, predictors: Sequence[Any], data: np.ndarray) -> Answer:
    from nnkd.inference import samples as sampling

    if request.uncertainty:
        answers = [sampling.answer(predictor, data, spread=True) for predictor in predictors]
    else:
        answers = [sampling.Answer(logits_of(predictor, data)) for predictor in predictors]
    return sampling.together(answers) if isinstance(request.model, LabelModels) else answers[0]


def _export(
    request: Request, plans: dict, target: Path, case: str, answer: Answer, properties: dict, configuration: dict
) -> None:
    """Bring an answer to the image's grid and write it: first what is uncertain, last, by os.replace, the label map
    (and probabilities)."""
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    dataset_json = request.model.dataset_json()
    managers = PlansManager(plans), ConfigurationManager(configuration)
    workers = max(1, cores() // max(1, request.export_processes))
    _export_spread(UncertaintyFolder(target), dataset_json, case, answer.spread, managers, properties, workers)
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
            managers[0].image_reader_writer_class().write_seg(found, str(file), properties)
        for file in working.iterdir():
            os.replace(file, target / file.name)
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
    voxel_mm3 = float(np.prod(grid.spacing) * cropped / spread.maps["entropy"].size)
    folder.write(case, maps, spread.voxels, list(DatasetSpec(dataset_json, "").labels), grid, voxel_mm3)


def _collect(
    case: str,
    exports: dict[str, Future],
    inputs: Mapping[str, dict[str, str]],
    started: Mapping[str, float],
    folder: PredictionFolder,
    report: StepReport,
    progress: tqdm,
) -> None:
    try:
        exports.pop(case).result()
    except OSError as error:  # no other case would fare better
        raise PredictionError(
            f"The label map of '{case}' could not be written ({error.strerror or error}). Nothing half-written "
            f"remains; make room or change the permissions and continue with --continue_prediction."
        ) from error
    except (NnkdError, RuntimeError, ValueError, AssertionError) as error:
        _fail(folder, report, case, _sentence(error))
    else:
        manifest = folder.manifest()
        output = sha256(folder.file(case, manifest.file_ending))
        seconds = round(time.monotonic() - started[case], 2)
        folder.record(
            case, CaseRecord(inputs=inputs[case], output=output, answers=list(manifest.labels), seconds=seconds)
        )
        report.done.append(case)
    progress.update()


def _fail(folder: PredictionFolder, report: StepReport, case: str, reason: str) -> None:
    folder.fail(case, reason)
    report.failures.append(Failure(case, reason))


def _sentence(error: Exception) -> str:
    if isinstance(error, NnkdError):
        return str(error)
    return f"nnU-Net could not predict it: {first_line(error)}"
