"""Trained model folders and nnU-Net's checkpoints, loaded without running what a pickle may hold."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnkd import paths
from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.numbering import numbering_problem
from nnkd.data.plans import form_problem
from nnkd.errors import FolderError, WeightsError
from nnkd.files import read_json, sha256
from nnkd.weights import architectures, torch_files


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Load an nnU-Net checkpoint with weights_only=True (see `nnkd.weights.torch_files`).

    Returns:
        Its content, on the CPU.

    Raises:
        WeightsError: If the file is missing, truncated, no nnU-Net checkpoint, or wants other classes.
    """
    folder = file.absolute().parent.name
    if not file.is_file():
        raise WeightsError(f"There is no checkpoint '{file.name}' in {folder}. Train that fold, or choose -chk.")
    try:
        content = torch_files.load(file)
    except torch_files.NotLoadedError as error:
        raise torch_files.sentence(error, f"'{file.name}' in {folder}") from error
    problem = _problem(content)
    if problem:
        raise WeightsError(f"'{file.name}' in {folder} is no nnU-Net checkpoint: {problem}.")
    found: dict[str, Any] = content
    check_numbers(found["network_weights"], f"'{file.name}' in {folder}")
    return found


def _problem(content: Any) -> str:
    """Why this is no checkpoint of nnU-Net, as half a sentence; empty: it is one, perhaps with keys missing."""
    from torch import Tensor

    if not isinstance(content, dict) or "network_weights" not in content:
        return "it has no 'network_weights'"
    weights = content["network_weights"]
    if not (
        isinstance(weights, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    ):
        return "its 'network_weights' are no tensors by name"
    arguments = content.get("init_args", {"configuration": ""})
    if not (isinstance(arguments, dict) and isinstance(arguments.get("configuration"), str)):
        return "its 'init_args' name no configuration"
    if not isinstance(content.get("trainer_name", ""), str):
        return "its 'trainer_name' is no text"
    axes = content.get("inference_allowed_mirroring_axes")
    if axes is not None and not (isinstance(axes, tuple | list) and all(type(n) is int and 0 <= n < 3 for n in axes)):
        return "its 'inference_allowed_mirroring_axes' are no axes"
    return ""


def check_numbers(weights: Mapping[str, Any], what: str) -> None:
    """Refuse weights of a training that went astray: all that such a network answers is NaN.

    Args:
        weights: Tensors by name; anything else is passed over.
        what: Whose, for messages.

    Raises:
        WeightsError: If a number is none.
    """
    import torch

    tensors = {k: v for k, v in weights.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(
            f"{what} has {len(broken)} of {len(tensors)} tensors with values that are no numbers (NaN or infinite, "
            f"such as {broken[0]}): its training went astray. Take another checkpoint, or train again with a lower "
            f"learning rate."
        )


def weights_only(load: Callable[..., Any]) -> Callable[..., Any]:
    """torch.load as it should be: looked over, numpy's types and tensors alone, whatever its caller says.

    Args:
        load: torch's own.

    Returns:
        Takes what torch.load takes; it raises a WeightsError for a file that is truncated, wants other classes, or is
        nnU-Net's with weights that are no numbers.
    """

    def checked(file: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
        where = Path(str(getattr(file, "name", file))).absolute()
        what = f"'{where.name}' in {where.parent.name}"
        try:
            content = torch_files.load(file, map_location, load)
        except torch_files.NotLoadedError as error:
            raise torch_files.sentence(error, what) from error
        if not _problem(content):
            check_numbers(content["network_weights"], what)
        return content

    return checked


@dataclass(frozen=True)
class TrainedModel:
    """A trained nnU-Net model folder.

    Attributes:
        folder: TRAINER__PLANS__CONFIG.
        folds: As in fold_X.
        checkpoint: File name in each fold.
    """

    folder: Path
    folds: Sequence[str]
    checkpoint: str = "checkpoint_final.pth"

    @classmethod
    def open(cls, folder: Path, folds: Sequence[str], checkpoint: str) -> TrainedModel:
        """Check that everything is there before anything expensive.

        Raises:
            FolderError: If the folder, its plans.json or dataset.json, or a fold is missing.
        """
        if not folder.is_dir():
            raise FolderError(f"There is no trained model '{folder.name}' in {folder.parent.name}. {_near(folder)}")
        for name in ("plans.json", "dataset.json"):
            if not (folder / name).is_file():
                raise FolderError(
                    f"'{folder.name}' is no trained model: {name} is missing. Name the folder above fold_X."
                )
        there = cls.trained_folds(folder, checkpoint)
        missing = [f for f in folds if f not in there]
        if missing:
            found = f"fold(s) {', '.join(there)}" if there else "no fold"
            raise FolderError(
                f"Fold(s) {', '.join(missing)} of '{folder.name}' have no {checkpoint}; it has {found}. "
                f"Choose folds (-f) it has, or checkpoint_best.pth (-chk) for an unfinished training."
            )
        return cls(folder, tuple(folds), checkpoint)

    def parts(self) -> Sequence[TrainedModel]:
        """The models that answer together: this one. See `nnkd.inference.label_models.LabelModels` for several."""
        return [self]

    @staticmethod
    def trained_folds(folder: Path, checkpoint: str) -> list[str]:
        """Folds of a model folder that have the checkpoint, as in fold_X, sorted."""
        return sorted(p.parent.name[5:] for p in folder.glob(f"fold_*/{checkpoint}"))

    def files(self) -> list[Path]:
        """Its checkpoint files."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    def weights(self) -> list[dict[str, str]]:
        """Name and sha256 of each, for the manifest."""
        return [{"name": f"{f.parent.name}/{f.name}", "sha256": sha256(f)} for f in self.files()]

    def plans(self) -> dict[str, Any]:
        """plans.json, of which all that it names may be run.

        Raises:
            WeightsError: If it names what is not allowed (`nnkd.weights.architectures`), or is not as nnU-Net's are.
        """
        content: dict[str, Any] = read_json(self.folder / "plans.json")
        architectures.check(content, self.folder.name)
        problem = form_problem(content)
        if problem:
            raise WeightsError(f"plans.json of '{self.folder.name}' {problem}. Copy the whole model again.")
        return content

    def dataset_json(self) -> dict[str, Any]:
        """dataset.json.

        Raises:
            DatasetError: If it is not as nnU-Net's are.
            WeightsError: If it names a reader that is none of nnU-Net's.
        """
        content = dict(DatasetSpec.read(self.folder / "dataset.json").json)
        architectures.check_reader(content, self.folder.name)
        return content

    def check_labels(self) -> None:
        """Refuse a model whose outputs nnU-Net would write as other labels than its dataset.json has.

        Raises:
            WeightsError: With what is wrong with its labels.
        """
        problem = numbering_problem(DatasetSpec(self.dataset_json(), self.folder.name))
        if problem:
            raise WeightsError(
                f"'{self.folder.name}' cannot be used, because its dataset.json {problem} Then train it again."
            )

    def configuration(self, checkpoint: Mapping[str, Any]) -> str:
        """The configuration that a checkpoint was trained with.

        Raises:
            WeightsError: If plans.json has none of that name.
        """
        name: str = checkpoint["init_args"]["configuration"]
        known = self.plans()["configurations"]
        if name not in known:
            raise WeightsError(
                f"A checkpoint of '{self.folder.name}' was trained with '{name}', but its plans.json has "
                f"{', '.join(known)}. Copy the whole model again."
            )
        return name

    def _needed(self, file: Path) -> dict[str, Any]:
        """A checkpoint without the optimiser's state, which may be larger than the weights."""
        content = load_checkpoint(file)
        missing = [key for key in ("trainer_name", "init_args") if key not in content]
        if missing:
            raise WeightsError(
                f"'{file.name}' in {file.parent.name} holds weights, but not {' and '.join(missing)}, so that its "
                f"network cannot be built. Take a checkpoint that nnU-Net's training wrote."
            )
        keys = ("network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes")
        return {key: content[key] for key in keys if key in content}

    def initialize(self, predictor: Any) -> None:
        """Hand the model to one of nnU-Net's predictors, which would itself load the pickles unchecked. nnkd's students
        are found too: nnUNet_extTrainer is set.

        Raises:
            WeightsError: If a checkpoint cannot be loaded, does not fit its network, or needs what is not installed;
                or if the network's outputs cannot be written as its labels.
        """
        self.check_labels()
        os.environ["nnUNet_extTrainer"] = paths.trainer_path()
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        checkpoints = [self._needed(file) for file in self.files()]
        first, plans, dataset_json = checkpoints[0], PlansManager(self.plans()), self.dataset_json()
        configuration = plans.get_configuration(self.configuration(first))
        try:
            trainer = recursive_find_trainer_class_by_name(first["trainer_name"])
        except (RuntimeError, AssertionError, TypeError) as error:  # none, or something else of that name
            raise WeightsError(
                f"'{self.folder.name}' was trained by {first['trainer_name']}, which no installed plugin offers. "
                f"Install the plugin, or set nnUNet_extTrainer."
            ) from error
        make = partial(new_network, trainer, plans, configuration, dataset_json)
        try:
            network = make()
            for checkpoint in reversed(checkpoints):  # so that the first one's weights remain
                network.load_state_dict(checkpoint["network_weights"])
        except ImportError as error:
            needs = error.name or configuration.network_arch_class_name
            raise WeightsError(
                f"The network of '{self.folder.name}' needs '{needs}', which is not installed. Install it."
            ) from error
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            raise WeightsError(
                f"The weights of '{self.folder.name}' do not fit its network ({_misfit(error)}). Its plans.json or "
                f"dataset.json, or the installed trainer, is another one than it was trained with."
            ) from error
        predictor.manual_initialization(
            network,
            plans,
            configuration,
            [checkpoint["network_weights"] for checkpoint in checkpoints],
            dataset_json,
            first["trainer_name"],
            first.get("inference_allowed_mirroring_axes"),
        )


def new_network(trainer: Any, plans: Any, configuration: Any, dataset_json: dict[str, Any]) -> Any:
    """A network with random weights, built as the trainer does; trainers written before nnU-Net 2.8 take the
    architecture in pieces."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    heads = plans.get_label_manager(dataset_json).num_segmentation_heads
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    build = trainer.build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        return build(plans, configuration, channels, heads, enable_deep_supervision=False)
    return build(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        channels,
        heads,
        enable_deep_supervision=False,
    )


def _misfit(error: Exception) -> str:
    """The first complaint of load_state_dict, which lists every tensor."""
    lines = [line.strip() for line in str(error).splitlines()]
    return (lines[1] if len(lines) > 1 else lines[0])[:200].rstrip(".")


def _near(folder: Path) -> str:
    models = sorted(p.name for p in folder.parent.glob("*__*__*")) if folder.parent.is_dir() else []
    return f"There are: {', '.join(models)}." if models else "None has been trained there yet."
