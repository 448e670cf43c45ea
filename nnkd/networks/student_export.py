"""Trained students written as networks that run without torch, and what lies before and behind them in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.plans import KEY
from nnkd.data.predictions import versions
from nnkd.data.recipes import Recipe
from nnkd.errors import WeightsError
from nnkd.files import sha256, write_json
from nnkd.inference.predictor import load_predictor
from nnkd.networks import runtimes
from nnkd.networks.files import Difference, check_packages, difference, write_onnx, write_openvino
from nnkd.weights.checkpoints import TrainedModel
from nnkd.weights.licences import announcement

if TYPE_CHECKING:
    import torch
    from torch import nn

DESCRIPTION = "student.json"
KIND, VERSION = "student", 1
INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-4  # of logits, as a share of the largest one
OF_PROBABILITIES = 1e-3
IMAGES = 2


@dataclass(frozen=True)
class _Student:
    """A model with one fold's weights in it.

    Attributes:
        predictor: nnU-Net's.
        network: (batch, channels, *patch) -> (batch, heads, *patch).
        channels: Of its input, a cascade's previous stage included.
        probabilistic: Whether it answers with the logarithm of probabilities.
        regions: Whether heads are independent of each other.
    """

    predictor: Any
    network: nn.Module
    channels: int
    probabilistic: bool
    regions: bool

    @property
    def patch(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.predictor.configuration_manager.patch_size)


def write_student(model: TrainedModel, folder: Path, openvino: bool = False) -> list[str]:
    """Write a network for each fold and compare it with torch on images of noise.

    Args:
        model: The trained model.
        folder: Made if need be; an older student in it is replaced.
        openvino: Whether to write OpenVINO's own files beside ONNX.

    Returns:
        What to tell the user.

    Raises:
        SettingError: If a package that this needs is not installed.
        BrokenPluginError: If the network cannot be written as ONNX.
        WeightsError: If the model cannot be loaded, or a written network answers otherwise; no description is left.
    """
    check_packages(openvino)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    predictor = load_predictor(model, "cpu")
    predictor.network = getattr(predictor.network, "_orig_mod", predictor.network)  # if nnUNet_compile is set
    folder.mkdir(parents=True, exist_ok=True)
    networks: list[dict[str, Any]] = []
    lines: list[str] = []
    found: dict[str, Difference] = {}
    for fold, parameters in zip(model.folds, predictor.list_of_parameters, strict=True):
        predictor.network.load_state_dict(parameters)
        student = _student(predictor)
        file = folder / f"fold_{fold}.onnx"
        files = _write(student, file, openvino)
        networks.append({"fold": fold, "file": file.name, "files": {f.name: sha256(f) for f in files}})
        if openvino:
            networks[-1]["openvino"] = file.with_suffix(".xml").name
        for name in runtimes.installed():
            one = _compared(student, file, name)
            found[name] = found.get(name, Difference(0.0, 0, 0)) + one
            lines.append(f"fold {fold}, {name}: {_said(one, student)}")
    write_json(folder / DESCRIPTION, _description(model, student, networks, found))
    terms = announcement(Recipe.of_plans(model.plans()).lineage, "what was exported")
    return [*lines, *([terms] if terms else [])]


def _student(predictor: Any) -> _Student:
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    from nnkd.inference.probabilistic import ProbabilisticNetwork

    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    network = predictor.network.eval()
    probabilistic = isinstance(network, ProbabilisticNetwork)
    return _Student(
        predictor=predictor,
        network=_mean_of_samples(network) if probabilistic else network,
        channels=determine_num_input_channels(plans, configuration, predictor.dataset_json),
        probabilistic=probabilistic,
        regions=predictor.label_manager.has_regions,
    )


def _mean_of_samples(network: Any) -> nn.Module:
    """Its answer to all voxels at once: what splits an image into tiles would become a thousand operations."""
    from torch import nn

    from nnkd.inference.probabilistic import ProbabilisticNetwork

    class MeanOfSamples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return ProbabilisticNetwork.answer(self.network, image)

    return MeanOfSamples()


def _write(student: _Student, file: Path, openvino: bool) -> list[Path]:
    import torch

    example = torch.zeros(2, student.channels, *student.patch)
    write_onnx(student.network, {INPUT: example}, OUTPUT, file, {INPUT: "batch"})
    if not openvino:
        return [file]
    write_openvino(file, file.with_suffix(".xml"))
    return [file, file.with_suffix(".xml"), file.with_suffix(".bin")]


def _compared(student: _Student, file: Path, runtime: str) -> Difference:
    """Against the network as nnKD_predict runs it."""
    import torch

    image = np.random.default_rng(0).standard_normal((IMAGES, student.channels, *student.patch)).astype(np.float32)
    with torch.inference_mode():
        expected = student.predictor.network(torch.from_numpy(image)).float().numpy()
    session = runtimes.open_session(file, runtime, torch.get_num_threads(), inputs=(INPUT,), outputs=(OUTPUT,))
    written = np.concatenate([session.run({INPUT: image[:1]})[0], session.run({INPUT: image[1:]})[0]])
    found = difference(expected, written, heads=None if student.regions else 1)
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if student.probabilistic:  # the logarithm of what is nearly 0 magnifies rounding
        apart = np.abs(_probabilities(expected, student) - _probabilities(written, student))
        found, allowed = Difference(float(apart.max()), found.pixels, found.of), OF_PROBABILITIES
    if found.logits > allowed:
        raise WeightsError(
            f"The exported {file.name} is not the network: on {runtime} {_said(found, student)}, and at most "
            f"{allowed:.1e} is let through. Try another version of torch or {runtime}."
        )
    return found


def _probabilities(logits: np.ndarray, student: _Student) -> np.ndarray:
    return 1 / (1 + np.exp(-logits)) if student.regions else np.exp(logits)


def _said(found: Difference, student: _Student) -> str:
    return str(found).replace("logits", "probabilities") if student.probabilistic else str(found)


# --- in words -------------------------------------------------------------------------------------------------------


def _description(
    model: TrainedModel, student: _Student, networks: Sequence[dict[str, Any]], found: Mapping[str, Difference]
) -> dict[str, Any]:
    plans = model.plans()
    recipe = Recipe.of_plans(plans)
    heads = student.predictor.label_manager.num_segmentation_heads
    kind = "logits" if not student.probabilistic else "log-odds" if student.regions else "log-probabilities"
    return {
        "kind": KIND,
        "version": VERSION,
        "name": model.folder.name,
        "dataset": plans.get("dataset_name", ""),
        "networks": [{key: value for key, value in one.items() if key != "files"} for one in networks],
        "input": {"name": INPUT, "shape": ["batch", student.channels, *student.patch], "dtype": "float32"},
        "output": {
            "name": OUTPUT,
            "shape": ["batch", heads, *student.patch],
            "kind": kind,
            "probabilities": "sigmoid of each head" if student.regions else "softmax over the heads",
        },
        "preprocessing": _preprocessing(student, plans),
        "inference": _inference(student),
        "postprocessing": _postprocessing(student),
        "weights": model.weights(),
        "lineage": list(recipe.lineage),
        "ground_truth": recipe.ground_truth,
        "recipe": plans.get(KEY),
        "parity": {name: one.note() for name, one in found.items()},
        "versions": versions("torch", "onnx", "nnunetv2"),
        "files": {name: digest for one in networks for name, digest in one["files"].items()},
    }


def _preprocessing(student: _Student, plans: Mapping[str, Any]) -> dict[str, Any]:
    configuration, dataset_json = student.predictor.configuration_manager, student.predictor.dataset_json
    properties = plans.get("foreground_intensity_properties_per_channel", {})
    normalisation = [
        {
            "channel": dataset_json.get("channel_names", dataset_json.get("modality", {})).get(str(i), ""),
            "scheme": scheme,
            "only_inside_nonzero": mask,
            "intensities": properties.get(str(i), {}),
        }
        for i, (scheme, mask) in enumerate(
            zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
        )
    ]
    previous = configuration.previous_stage_name
    return {
        "steps": "read, transpose, crop to the box around nonzero voxels, normalise, resample",
        "reader": plans["image_reader_writer"],
        "transpose": list(plans["transpose_forward"]),
        "normalisation": normalisation,
        "spacing": list(configuration.spacing),
        "slices": "spacing and resampling are of a slice; slices are not resampled" if len(student.patch) == 2 else "",
        "resampling": _named(configuration.configuration, "data"),
        "previous_stage": f"one channel a label of the label map of {previous}, behind the image's" if previous else "",
    }


def _inference(student: _Student) -> dict[str, Any]:
    predictor = student.predictor
    return {
        "patch_size": list(student.patch),
        "step": predictor.tile_step_size,
        "pad": "zeros around images smaller than a patch",
        "window": "Gaussian, sigma 1/8 of the patch",
        "mirroring_axes": list(predictor.allowed_mirroring_axes or ()),
        "average": "probabilities" if student.probabilistic else "logits",
        "over": "windows, mirrors and folds",
    }


def _postprocessing(student: _Student) -> dict[str, Any]:
    predictor = student.predictor
    dataset_json = predictor.dataset_json
    decision = "the largest head's label" if not student.regions else (
        "labels in regions_class_order, each written where its head is above one half, over those before"
    )  # fmt: skip
    return {
        "steps": "resample logits to the cropped image, decide, put into the whole image, transpose back",
        "resampling": _named(predictor.configuration_manager.configuration, "probabilities"),
        "decision": decision,
        "labels": dict(dataset_json["labels"]),
        "regions_class_order": dataset_json.get("regions_class_order") if student.regions else None,
        "transpose": list(predictor.plans_manager.transpose_backward),
    }


def _named(configuration: Mapping[str, Any], what: str) -> dict[str, Any]:
    name = f"resampling_fn_{what}"
    return {"function": configuration.get(name), "arguments": configuration.get(f"{name}_kwargs", {})}
