"""Trained nnU-Net model folders made in a moment: plans by hand and random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import configuration

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def trained(
    folder: Path,
    *,
    name: str = "2d",
    patch: Sequence[int] = (16, 16),
    spacing: Sequence[float] = (1.0, 1.0),
    labels: Mapping[str, Any] | None = None,
    channels: Sequence[str] = ("CT",),
    folds: Sequence[str] = ("0",),
    reader: str = "SimpleITKIO",
    ending: str = ".nii.gz",
    transpose: Sequence[int] = (0, 1, 2),
    trainer: str = "nnUNetTrainer",
    **json_keys: Any,
) -> Path:
    """A model folder TRAINER__nnUNetPlans__NAME with a checkpoint in each fold; weights differ from fold to fold."""
    dataset_json = {
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": dict(labels or LABELS),
        "numTraining": 4,
        "file_ending": ending,
        **json_keys,
    }
    plans = {
        "dataset_name": "Dataset799_Trained",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(i) for i in range(3)],
        "configurations": {name: configuration(name, patch, spacing, len(channels))},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(len(channels))},
    }
    model = folder / f"{trainer}__nnUNetPlans__{name}"
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    manager = PlansManager(plans)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration(name), len(channels), heads, False
        )
        with torch.no_grad():  # every feature has the same mean: heads that sum to zero answer with all labels
            for head in network.decoder.seg_layers:
                head.weight.normal_()
                head.weight.sub_(head.weight.mean(1, keepdim=True))
                head.bias.zero_()
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": {},
            "init_args": {"configuration": name, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": tuple(range(len(patch))),
        }
        (model / f"fold_{fold}").mkdir()
        torch.save(checkpoint, model / f"fold_{fold}" / "checkpoint_final.pth")
    return model
