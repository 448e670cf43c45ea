"""Trainings on two processes, with gloo and the CPU in place of nccl and GPUs, which nnU-Net takes for granted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from nnkd.data.plans import read_plans
from nnkd.plugin.registry import installed


@contextmanager
def one_of_two(rank: int, folder: Path) -> Iterator[None]:
    """Makes this process one of two.

    Args:
        rank: 0 or 1.
        folder: Where both meet.
    """
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    os.environ.update(MASTER_ADDR="localhost")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    on_gpus = module.DDP
    module.DDP = lambda network, device_ids: on_gpus(network)  # nnU-Net names GPUs here
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network  # which exists on GPUs only
    try:
        yield
    finally:
        distributed.destroy_process_group()


def trainer_of(preprocessed: Path, student: str, plans_name: str, continued: bool = False) -> Any:
    """A rank's trainer of fold 0 of configuration 2d."""
    plans = {**read_plans(preprocessed, plans_name), "continue_training": continued}
    kind = installed().load("student", student)
    trainer = kind(plans, "2d", 0, json.loads((preprocessed / "dataset.json").read_text()))
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    return trainer


def total(*modules: torch.nn.Module) -> float:
    """The same in both ranks as long as their weights are."""
    return sum(float(p.detach().abs().sum()) for module in modules for p in module.parameters())
