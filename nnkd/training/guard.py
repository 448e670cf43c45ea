"""nnU-Net's training kept from running what files hold: its trainers, also those of others, load checkpoints and
preprocessed cases with pickle. For as long as nnKD_train runs they do it as nnkd does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training
from nnunetv2.training.dataloading import nnunet_dataset
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

from nnkd.weights import pickles
from nnkd.weights.checkpoints import weights_only


class CheckedBlosc2(nnUNetDatasetBlosc2):
    """nnU-Net's cases, each looked at before it is opened. A class of its own, so that it holds in loaders' processes
    wherever these are started from nothing."""

    def load_case(self, identifier: str) -> Any:
        """nnU-Net's."""
        pickles.check_case(Path(self.source_folder), identifier)
        if self.folder_with_segs_from_previous_stage is not None:
            pickles.check_array(Path(self.folder_with_segs_from_previous_stage) / f"{identifier}.b2nd")
        return super().load_case(identifier)


class CheckedNumpy(nnUNetDatasetNumpy):
    """The same for the cases of earlier versions."""

    def load_case(self, identifier: str) -> Any:
        """nnU-Net's."""
        pickles.check_case(Path(self.source_folder), identifier)
        return super().load_case(identifier)


CHECKED = {nnUNetDatasetBlosc2: CheckedBlosc2, nnUNetDatasetNumpy: CheckedNumpy}
_infer, _run_ddp = nnunet_dataset.infer_dataset_class, run_training.run_ddp


def checked_dataset_class(folder: str) -> type:
    """nnU-Net's dataset class of a preprocessed folder, checked."""
    found = _infer(folder)
    return CHECKED.get(found, found)


def run_ddp(*arguments: Any) -> None:
    """nnU-Net's training on one of several GPUs, in a process of its own."""
    with guarded():
        _run_ddp(*arguments)


@contextmanager
def guarded() -> Iterator[None]:
    """All that nnU-Net's training reads is looked at."""
    places: tuple[tuple[Any, str, Any], ...] = (
        (nnunet_dataset, "infer_dataset_class", checked_dataset_class),
        (trainer_module, "infer_dataset_class", checked_dataset_class),
        (run_training, "run_ddp", run_ddp),
        (torch, "load", weights_only(torch.load)),
    )
    kept = [getattr(module, name) for module, name, _ in places]
    try:
        for module, name, ours in places:
            setattr(module, name, ours)
        yield
    finally:
        for (module, name, _), before in zip(places, kept, strict=True):
            setattr(module, name, before)
