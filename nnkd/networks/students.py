"""Students' networks without a dataset: built by their trainers from plans that are made up for an image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nnkd.data.plans import KEY
from nnkd.data.recipes import Recipe
from nnkd.errors import SettingError
from nnkd.plugin.networks import Architecture, plain_unet
from nnkd.plugin.options import parse_options
from nnkd.plugin.students import Student

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from torch import nn

PLANS = "nnUNetPlans"
# nnU-Net's default planner; Source: Isensee et al., Nature Methods 2021
FEATURES, MOST_FEATURES, CONVOLUTIONS, SMALLEST_EDGE = 32, {2: 512, 3: 320}, 2, 4


def architectures(
    trainer: type[nnUNetTrainer],
    name: str,
    size: Sequence[int],
    channels: int = 1,
    labels: int = 1,
    options: Mapping[str, str] = {},
) -> list[Architecture]:
    """What nnKD_train would train, and the networks and graphs that papers counted.

    Args:
        trainer: A student's class.
        name: Its name, for messages.
        size: Of the image, two numbers (2d) or three (3d_fullres).
        channels: Of the image.
        labels: Foreground labels, none of them a region.
        options: As after --set.

    Returns:
        The default row first.

    Raises:
        SettingError: If an option does not exist or cannot take the value, the trainer has no options, or its network
            is counted elsewhere.
    """
    shape = ((1, channels, *_seen(trainer, size)),)
    if not issubclass(trainer, Student):
        if options:
            raise SettingError(f"{name} is not one of nnkd's students and has no options; leave --set out.")
        return [Architecture("default", _build(trainer, size, channels, labels, {}), shape)]
    if trainer.no_network:
        raise SettingError(trainer.no_network)
    checked = parse_options(trainer.options_class, options, name) if options else {}
    given = {option: checked[option] for option in options}
    made = [Architecture("as set" if given else "default", _build(trainer, size, channels, labels, given), shape)]
    for graph in trainer.paper_graphs:
        build = _build(trainer, size, channels, labels, graph.options)
        made.append(Architecture(graph.variant, build, shape, run=graph.run, graph=graph.graph, paper=graph.paper))
    return made


def _seen(trainer: type[nnUNetTrainer], size: Sequence[int]) -> tuple[int, ...]:
    """What a network sees of an image: nnU-Net's own wants sides that can be halved as often as was planned."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    if trainer.build_network_architecture is not nnUNetTrainer.build_network_architecture:
        return tuple(size)
    return tuple(int(side) for side in _topology(size)[3])


def _topology(size: Sequence[int]) -> tuple[Any, ...]:
    """nnU-Net's poolings by axis, strides, kernels, size padded to them, and what it must be a multiple of."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    return get_pool_and_conv_props([1.0] * len(size), list(size), SMALLEST_EDGE, 999999)


def _build(
    trainer: type[nnUNetTrainer], size: Sequence[int], channels: int, labels: int, options: Mapping[str, Any]
) -> Any:
    return partial(build_network, trainer, tuple(size), channels, labels, dict(options))


def build_network(
    trainer: type[nnUNetTrainer], size: Sequence[int], channels: int, labels: int, options: Mapping[str, Any]
) -> nn.Module:
    """A student's network with random weights, built as nnU-Net builds it for prediction."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(made_up_plans(size, channels, options))
    configuration = plans.get_configuration(_configuration(size))
    return trainer.build_network_architecture(plans, configuration, channels, labels + 1, enable_deep_supervision=False)


def made_up_plans(size: Sequence[int], channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Plans with one configuration, its patch as large as the image; the network that nnU-Net plans for that patch.

    Departs: nnU-Net would choose a smaller patch where this one needs too much memory in training.

    Args:
        size: Of the image, two numbers or three; voxels are taken for cubes.
        channels: Of the image.
        options: The trainer's, for the recipe.
    """
    recipe = Recipe(base=PLANS, teachers=("made_up",), options=dict(options), has_regions=False)
    depth = [] if len(size) == 3 else [1]
    return {
        "dataset_name": "Dataset000_MadeUp",
        "plans_name": f"{PLANS}_profile",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [*depth, *size],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {_configuration(size): _values(size, channels)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
        KEY: recipe.content(),
    }


def _configuration(size: Sequence[int]) -> str:
    return "2d" if len(size) == 2 else "3d_fullres"


def _values(size: Sequence[int], channels: int) -> dict[str, Any]:
    return {
        "data_identifier": f"{PLANS}_{_configuration(size)}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(size),
        "median_image_size_in_voxels": list(size),
        "spacing": [1.0] * len(size),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "batch_dice": False,
        "architecture": _planned_architecture(size),
    }


def _planned_architecture(size: Sequence[int]) -> dict[str, Any]:
    dim = len(size)
    _, strides, kernels, _, _ = _topology(size)
    features = [min(MOST_FEATURES[dim], FEATURES * 2**stage) for stage in range(len(strides))]
    return plain_unet(features, kernels, strides, CONVOLUTIONS)
