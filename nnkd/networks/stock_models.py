"""Trained models as nnU-Net alone can run them, where nnkd is not installed: weights without the trainer's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnkd.errors import WeightsError
from nnkd.files import atomic, write_json
from nnkd.inference.predictor import load_predictor, quiet
from nnkd.paths import check_name
from nnkd.weights.checkpoints import TrainedModel

FOLDER = "nnunet"
TRAINER = "nnUNetTrainer"
STOCK = ("nnunetv2", "dynamic_network_architectures", "torch")  # what every nnU-Net has
CHECKPOINT = "checkpoint_final.pth"


def write_stock_model(model: TrainedModel, folder: Path) -> list[str]:
    """Write DATASET/nnUNetTrainer__PLANS__CONFIGURATION with plans, dataset.json and weights alone, and compare what
    nnU-Net's own loader makes of it.

    Args:
        model: The trained model, of a student with the network that nnU-Net planned.
        folder: Where the dataset's folder is made.

    Returns:
        What to tell the user.

    Raises:
        WeightsError: If the network, or what the plans name, is not nnU-Net's own; or it answers otherwise.
    """
    predictor = load_predictor(model, "cpu")
    check_stock(predictor, model)
    _, plans_name, configuration = model.folder.name.split("__")[:3]
    dataset = check_name(model.plans().get("dataset_name", "Dataset"), "a dataset")
    target = folder / dataset / f"{TRAINER}__{plans_name}__{configuration}"
    for fold, parameters in zip(model.folds, predictor.list_of_parameters, strict=True):
        _write_weights(predictor, parameters, target / f"fold_{fold}" / CHECKPOINT)
    write_json(target / "dataset.json", model.dataset_json())
    write_json(target / "plans.json", model.plans())
    _compare(predictor, target, model)
    where = f"{FOLDER}/{target.parent.name}/{target.name}"
    return [f"nnU-Net: the same answers, bit by bit; nnUNetv2_predict_from_modelfolder -m {where}"]


def check_stock(predictor: Any, model: TrainedModel) -> None:
    """Make sure that nnU-Net alone knows all that a model needs.

    Args:
        predictor: nnU-Net's, with the model in it.
        model: For the message.

    Raises:
        WeightsError: If it does not.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    name = predictor.trainer_name
    with quiet():
        trainer = recursive_find_trainer_class_by_name(name)
    if trainer.build_network_architecture is not nnUNetTrainer.build_network_architecture:
        raise WeightsError(
            f"'{model.folder.name}' has a network of {name}'s own, which nnU-Net alone cannot build. --format nnunet "
            f"is for the networks that nnU-Net plans (nnUNetTrainerKD's, nnUNetTrainer's); take onnx or openvino here."
        )
    strange = {what: module for what, module in _modules(predictor).items() if module.partition(".")[0] not in STOCK}
    if strange:
        what, module = next(iter(strange.items()))
        raise WeightsError(
            f"The plans of '{model.folder.name}' name a {what} of {module}, which nnU-Net alone does not have. Take "
            f"--format onnx or openvino."
        )


def _modules(predictor: Any) -> Mapping[str, str]:
    """Where what the plans name comes from."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    return {
        "network": type(getattr(predictor.network, "_orig_mod", predictor.network)).__module__,
        "reader": plans.image_reader_writer_class.__module__,
        "preprocessor": configuration.preprocessor_class.__module__,
        "label manager": type(predictor.label_manager).__module__,
    }


def _write_weights(predictor: Any, parameters: Mapping[str, Any], file: Path) -> None:
    import torch

    axes = predictor.allowed_mirroring_axes
    content = {
        "network_weights": dict(parameters),
        "trainer_name": TRAINER,
        "init_args": {"configuration": _configuration(predictor)},
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
    }
    with atomic(file) as temporary:
        torch.save(content, temporary)


def _configuration(predictor: Any) -> str:
    """The configuration's name, which nnU-Net's manager forgets."""
    plans, ours = predictor.plans_manager, predictor.configuration_manager.configuration
    return next(name for name in plans.available_configurations if plans.get_configuration(name).configuration == ours)


def _compare(predictor: Any, target: Path, model: TrainedModel) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    with quiet():
        stock = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        # nnU-Net's loader runs whatever a pickle may hold; this one was written above
        stock.initialize_from_trained_model_folder(str(target), tuple(model.folds), CHECKPOINT)
    patch = tuple(predictor.configuration_manager.patch_size)
    channels = determine_num_input_channels(
        predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    )
    image = torch.randn(1, channels, *patch, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for theirs, ours in zip(stock.list_of_parameters, predictor.list_of_parameters, strict=True):
            for one, parameters in ((stock, theirs), (predictor, ours)):
                one.network.load_state_dict(parameters)
                one.network.eval()
            if not torch.equal(stock.network(image), predictor.network(image)):
                raise WeightsError(f"nnU-Net alone answers otherwise than '{model.folder.name}' does.")
