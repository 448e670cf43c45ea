"""Tests of nnkd.training.trial: nnU-Net's planned networks for patches that are too small, or just large enough."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnkd.errors import RecipeError
from nnkd.training import trial

JSON = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}


def plans(patch, strides):
    """As nnU-Net plans a network of so many stages, with few features."""
    axes, n = len(patch), len(strides)
    arguments = {
        "n_stages": n,
        "features_per_stage": [4] * n,
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[3] * axes] * n,
        "strides": strides,
        "n_conv_per_stage": [1] * n,
        "n_conv_per_stage_decoder": [1] * (n - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    values = {"patch_size": patch, "batch_size": 4, "architecture": architecture}
    return {"plans_name": "p", "dataset_name": "Dataset701_Toy", "configurations": {"x": values}}


@pytest.mark.parametrize(
    ("patch", "strides", "why"),
    [
        ([7, 7], [[1, 1]], "list index out of range"),  # a network of one stage
        ([7, 7, 7], [[1, 1, 1]], "list index out of range"),
        ([2, 4], [[1, 1], [2, 4]], "more than 1 spatial element"),  # what instance normalisation says
    ],
)
def test_patches_that_no_planned_network_takes_are_refused(patch, strides, why):
    size = " x ".join(map(str, patch))
    with pytest.raises(RecipeError, match=rf"^Patches of {size} voxels \(x\) are too small .*nnUNetTrainer \(.*{why}"):
        trial.check_network(nnUNetTrainer, plans(patch, strides), "x", JSON)


@pytest.mark.parametrize(("patch", "strides"), [([2, 30], [[1, 1], [1, 2]]), ([1, 12, 12], [[1, 1, 1], [1, 2, 2]])])
def test_small_patches_that_work_pass_and_draw_no_random_number(patch, strides):
    state = torch.get_rng_state()
    trial.check_network(nnUNetTrainer, plans(patch, strides), "x", JSON)
    assert torch.equal(torch.get_rng_state(), state)


def test_patches_of_usual_size_are_not_tried(monkeypatch):
    monkeypatch.setattr(trial, "new_network", lambda *_: pytest.fail("nothing is to be built"))
    trial.check_network(nnUNetTrainer, plans([64, 64], [[1, 1], [2, 2]]), "x", JSON)
