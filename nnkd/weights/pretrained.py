"""-pretrained_weights from files that nnU-Net did not write, for students that take them (`foreign_weights`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nnkd.files import sha256
from nnkd.plugin.students import Student
from nnkd.weights.checkpoints import check_numbers, load_checkpoint, new_network

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("nnkd")
OF_NNUNET = "network_weights"


def check(
    file: Path, trainer: type, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> None:
    """Refuse a file that is not whole, holds more than weights, or is a foreign one that does not fit.

    Args:
        file, trainer, plans, configuration, dataset_json: As `as_nnunets`.

    Raises:
        WeightsError: If it is so, or no checkpoint of nnU-Net's, which others than such students need.
    """
    if _is_foreign(file, trainer):
        _filled_up(file, trainer, plans, configuration, dataset_json)
    else:
        load_checkpoint(file)  # nnU-Net would run whatever its pickle holds


@contextmanager
def as_nnunets(
    file: str | None, trainer: type, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> Iterator[str | None]:
    """The file as nnU-Net takes it: itself, or for as long as the training lasts one that was made of it.

    Tensors that a foreign file does not have are those of a new network.

    Args:
        file: -pretrained_weights; None: there is none.
        trainer: The student, or another trainer of nnU-Net's.
        plans: A recipe's or others.
        configuration: Of the plans.
        dataset_json: Of the dataset that is trained on.

    Raises:
        WeightsError: If the file does not fit the network.
    """
    if file is None or not _is_foreign(Path(file), trainer):
        yield file
        return
    import torch

    tensors, found = _filled_up(Path(file), trainer, plans, configuration, dataset_json)
    log.info(
        "%d of the network's %d tensors start from %s, sha256 %s; the others at random",
        found, len(tensors), Path(file).name, sha256(Path(file)),
    )  # fmt: skip
    with TemporaryDirectory(prefix="nnkd_") as folder:
        made = Path(folder) / "pretrained.pth"
        torch.save({OF_NNUNET: tensors}, made)
        yield str(made)


def _filled_up(
    file: Path, trainer: type[Student], plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> tuple[dict[str, Tensor], int]:
    """The tensors of a new network with those of a foreign file in their place, and how many these are."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    network = new_network(trainer, manager, manager.get_configuration(configuration), dict(dataset_json))
    tensors = network.state_dict()
    found = trainer.foreign_weights(file, tensors)
    check_numbers(found, f"'{file.name}'")
    return {**tensors, **found}, len(found)


def _is_foreign(file: Path, trainer: type) -> bool:
    """Whether the student can read such files and this is one, and no checkpoint of nnU-Net's."""
    if not (issubclass(trainer, Student) and trainer.takes_foreign_weights):
        return False
    from nnkd.weights import published

    content = published.everything(file, "this student")
    return not (isinstance(content, dict) and OF_NNUNET in content)
