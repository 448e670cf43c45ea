"""One step of a small network before its training: whether it can be built for these patches, and learn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nnkd.errors import NnkdError, RecipeError, in_one_line
from nnkd.weights.checkpoints import new_network

SMALL = 8  # voxels: nnU-Net plans no pooling for shorter axes, and layers may be left with a single value
MOST_VOXELS = 100_000  # of a patch: a step takes less than seconds then


def check_network(trainer: type, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]) -> None:
    """Send one patch of noise through a new network, where patches are so small that it may not work.

    Args:
        trainer: The student, or another trainer of nnU-Net's.
        plans: A recipe's or others.
        configuration: Of the plans.
        dataset_json: Of the dataset that is trained on.

    Raises:
        RecipeError: If the network cannot be built, fails, or answers with what is no number.
    """
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    values = manager.get_configuration(configuration)
    patch = tuple(values.patch_size)
    if min(patch) >= SMALL or math.prod(patch) > MOST_VOXELS:
        return
    import torch

    where = f"Patches of {' x '.join(map(str, patch))} voxels ({configuration})"
    todo = "Choose another configuration or another student, such as -tr nnUNetTrainerUNet."
    state = torch.get_rng_state()
    try:
        network = new_network(trainer, manager, values, dict(dataset_json)).train()
        channels = determine_num_input_channels(manager, values, dict(dataset_json))
        output = network(torch.randn(min(values.batch_size, 2), channels, *patch))
    except NnkdError:
        raise
    except Exception as error:  # networks raise whatever their layers do
        raise RecipeError(
            f"{where} are too small for the network of {trainer.__name__} ({in_one_line(error)}). {todo}"
        ) from error
    finally:
        torch.set_rng_state(state)
    first = output[0] if isinstance(output, list | tuple) else output
    if isinstance(first, torch.Tensor) and not torch.isfinite(first).all():
        raise RecipeError(f"With {where.lower()} the network of {trainer.__name__} answers with no numbers. {todo}")
