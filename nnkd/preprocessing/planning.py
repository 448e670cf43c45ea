"""nnU-Net's fingerprint and plans of a dataset, or plans that are there already."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnkd.data.dataset import RawDataset
from nnkd.data.plans import KEY, read_plans
from nnkd.data.reading.readers import without_tracebacks
from nnkd.errors import DatasetError, FileError, RecipeError, UnknownNameError, in_one_line
from nnkd.files import read_json
from nnkd.preprocessing import fingerprints
from nnkd.preprocessing.cases import check_files, stop_if_full
from nnkd.weights import architectures


@dataclass(frozen=True)
class Planning:
    """How to plan; defaults and meanings are those of nnUNetv2_plan_and_preprocess.

    Attributes:
        existing: Plans that are there already, edited by hand or moved from another dataset, to take instead of
            planning anew.
    """

    fingerprint_processes: int = 8
    fingerprint_extractor: str = "DatasetFingerprintExtractor"
    verify: bool = False
    clean: bool = False
    planner: str = "ExperimentPlanner"
    gpu_memory_target: float | None = None
    preprocessor: str = "DefaultPreprocessor"
    target_spacing: Sequence[float] | None = None
    plans_name: str | None = None
    existing: str | None = None

    def check_classes(self) -> None:
        """nnU-Net looks its classes up by name and calls None where there is none.

        Raises:
            UnknownNameError: If it has no such class.
        """
        import nnunetv2
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        for flag, name, place in (
            ("-fpe", self.fingerprint_extractor, "experiment_planning"),
            ("-pl", self.planner, "experiment_planning"),
            ("-preprocessor_name", self.preprocessor, "preprocessing"),
        ):
            folder = Path(nnunetv2.__path__[0]) / place
            if recursive_find_python_class(str(folder), name, current_module=f"nnunetv2.{place}") is None:
                raise UnknownNameError(
                    f"{flag} names '{name}', but nnU-Net has no such class in nnunetv2.{place}. Correct the name, or "
                    f"leave {flag} out for nnU-Net's default."
                )

    def plan(self, dataset: RawDataset, target: Path, cases: Sequence[str]) -> str:
        """Plans of a dataset.

        Args:
            dataset: In nnUNet_raw.
            target: nnUNet_preprocessed/DATASET.
            cases: Its training cases.

        Returns:
            Their name.

        Raises:
            DatasetError: If nnU-Net cannot plan it.
            RecipeError: If the existing plans are missing, are a recipe, or have another name inside.
        """
        if self.existing is not None:
            return _existing(self.existing, target)
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        number = int(dataset.name[7:].split("_")[0])
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        made_from = fingerprints.Record(dataset, target, cases, self.fingerprint_extractor)
        clean = self.clean or not made_from.holds()
        try:
            with (
                _no_zero_workers(),
                without_tracebacks(),
                _listed(dataset, cases),
                fingerprints.without_ignored(dataset.spec),
            ):
                api.extract_fingerprints(
                    [number], self.fingerprint_extractor, self.fingerprint_processes, self.verify, clean, False
                )
                _check_statistics(dataset, target, cases)
                made_from.write()
                return api.plan_experiments(
                    [number],
                    self.planner,
                    self.gpu_memory_target,
                    self.preprocessor,
                    self.target_spacing,
                    self.plans_name,
                )
        except (RuntimeError, AssertionError, LookupError, ValueError, OSError, EOFError) as error:  # how it refuses
            stop_if_full(error)
            _check_cases(dataset, cases)
            raise DatasetError(f"nnU-Net could not plan {dataset.name} ({in_one_line(error)}).") from error


def _check_cases(dataset: RawDataset, cases: Sequence[str]) -> None:
    """Raises:
    DatasetError: If a file is not as it should be, or no label map holds any label.
    """
    images, seen = dataset.images(), False
    for case in cases:
        _, label_map, _ = check_files(images, dataset.label_file(case), case)
        seen = seen or any(dataset.spec.mask(label_map, label).any() for label in dataset.spec.labels)
    if not seen:
        raise DatasetError(
            f"None of the {len(cases)} label map(s) in labelsTr of {dataset.name} holds a voxel of "
            f"{', '.join(dataset.spec.labels)}, so there is nothing to learn. Look at what the teachers found "
            f"(nnKD_predict_teachers), or put other label maps there."
        )


@contextmanager
def _listed(dataset: RawDataset, cases: Sequence[str]) -> Iterator[None]:
    """nnU-Net plans with the cases that nnkd takes. It lists imagesTr by file ending alone: a shadow file of macOS is a
    case to it, and of an image without the number of its channel it cuts off five letters."""
    from nnunetv2.experiment_planning import verify_dataset_integrity
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner

    images = dataset.images()
    files = {
        case: {"images": [str(f) for f in images.files(case)], "label": str(dataset.label_file(case))} for case in cases
    }
    modules = (verify_dataset_integrity, fingerprint_extractor, default_experiment_planner)
    name = "get_filenames_of_train_images_and_targets"
    theirs = [getattr(module, name) for module in modules]
    for module in modules:
        setattr(module, name, lambda *_, **__: files)
    try:
        yield
    finally:
        for module, function in zip(modules, theirs, strict=True):
            setattr(module, name, function)


def _check_statistics(dataset: RawDataset, target: Path, cases: Sequence[str]) -> None:
    """nnU-Net counts infinite voxels into its fingerprint: it goes, and whose they are is said."""
    file = target / "dataset_fingerprint.json"
    try:
        channels = read_json(file)["foreground_intensity_properties_per_channel"].values()
        if all(np.isfinite(list(values.values())).all() for values in channels):
            return
    except FileError:  # Infinity, which nnU-Net writes, is none of JSON's numbers
        pass
    file.unlink()
    images = dataset.images()
    for case in cases:
        check_files(images, dataset.label_file(case), case)
    raise DatasetError(f"The intensities of {dataset.name} are too large to be averaged. Scale the images.")


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
    architectures.check(plans, name)
    if not (target / "dataset_fingerprint.json").is_file():
        raise RecipeError(f"{target.name} has no fingerprint yet. Plan it once, without -plans_name.")
    return name


@contextmanager
def _no_zero_workers() -> Iterator[None]:
    """Planning fails with nnUNet_n_proc_DA=0, which is meant for training."""
    value = os.environ.pop("nnUNet_n_proc_DA", None)
    try:
        yield
    finally:
        if value is not None:
            os.environ["nnUNet_n_proc_DA"] = value
