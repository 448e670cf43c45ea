"""nnU-Net plans for networks that see slices of 256 pixels: nobody has to plan or preprocess for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.data.participants import CASES_FILE, PARTICIPANTS_FILE
from nnkd.data.predictions import Lineage
from nnkd.errors import DatasetError, FolderError, RecipeError
from nnkd.files import atomic, read_json, write_json
from nnkd.paths import room
from nnkd.votes import consensus
from nnkd_litemedsam.sizes import SIZE
from nnkd_litemedsam.slices.store import FOLDER, read_index

PLANS = "LiteMedSAMPlans"
BATCH = 8  # Source: Yang et al. 2024, Tables 3 and 4


def raw_folder(name: str) -> Path | None:
    """nnUNet_raw/DATASET; None where it is not there: clusters often have no raw folder."""
    raw = os.environ.get("nnUNet_raw")
    folder = Path(raw) / name if raw else None
    return folder if folder is not None and (folder / "dataset.json").is_file() else None


def write_plans(names: Sequence[str]) -> str:
    """Write what nnU-Net's training reads of each dataset, and the plans of the first one.

    Args:
        names: DatasetXXX_Name.

    Returns:
        The plans' name.

    Raises:
        FolderError: If a dataset is neither in nnUNet_raw nor has slices already.
    """
    for name in names:
        target = room("nnUNet_preprocessed") / name
        raw = raw_folder(name)
        if raw is None:
            _check_slices(target)
            continue
        RawDataset(raw)  # dataset.json is checked before anything is written
        (target / FOLDER).mkdir(parents=True, exist_ok=True)
        _copy(raw / "dataset.json", target / "dataset.json")
        for file in (PARTICIPANTS_FILE, CASES_FILE):
            _copy(raw / file, target / file)
    folder = room("nnUNet_preprocessed") / names[0]
    plans = _plans(DatasetSpec.read(folder / "dataset.json"))
    written = folder / f"{PLANS}.json"
    if not written.is_file() or read_json(written) != plans:
        write_json(written, plans)
    return PLANS


def inherited(names: Sequence[str]) -> tuple[list[dict[str, str]], bool]:
    """What label maps of datasets inherit, see `nnkd.votes.consensus.inherited`; without a raw dataset, what they
    inherited when its slices were made.

    Args:
        names: DatasetXXX_Name.

    Returns:
        Models with their licences, each once, and whether one of them was told of reference labels.
    """

    def kept(name: str) -> tuple[list[Lineage], bool]:
        index = read_index(room("nnUNet_preprocessed") / name / FOLDER, name)
        return ([], False) if index is None else (index.lineage, index.ground_truth)

    models, told = consensus.inherited_of(names, without_raw=kept)
    return [model.model_dump() for model in models], told


def _check_slices(target: Path) -> None:
    if read_index(target / FOLDER, target.name) is None or not (target / "dataset.json").is_file():
        raise FolderError(
            f"{target.name} is not in nnUNet_raw, and nnUNet_preprocessed has no slices of it ({FOLDER}). Set "
            f"nnUNet_raw to where it is, or copy nnUNet_preprocessed/{target.name} from where they were made."
        )


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)


def _plans(spec: DatasetSpec) -> dict[str, Any]:
    """The least that nnU-Net's managers want to see."""
    channels = len(spec.channel_names)
    configuration = {
        "data_identifier": FOLDER,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": BATCH,
        "patch_size": [SIZE, SIZE],
        "median_image_size_in_voxels": [SIZE, SIZE],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["NoNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "architecture": {"network_class_name": "LiteMedSAM", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": False,
    }
    return {
        "dataset_name": spec.name,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [1, SIZE, SIZE],
        "image_reader_writer": spec.reader.name if raw_folder(spec.name) else "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": configuration},
        "experiment_planner_used": "nnkd",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
    }


def check_plans(plans: dict[str, Any], configuration: str, trainer: str) -> None:
    """Whether plans are ours.

    Raises:
        RecipeError: If they are nnU-Net's, whose preprocessed volumes are of no use here.
    """
    values = plans["configurations"].get(configuration, {})
    if values.get("data_identifier") != FOLDER:
        raise RecipeError(
            f"{trainer} learns from slices in 8 bits, for which it makes plans of its own, but got "
            f"'{plans['plans_name']}'. Start it with nnKD_train DATASET 2d FOLD -tr {trainer}, which writes them."
        )


def cases_of(folder: Path) -> list[str]:
    """Cases that can be trained on: those of imagesTr, or, without a raw dataset, those that have slices.

    Args:
        folder: nnUNet_preprocessed/DATASET.

    Raises:
        DatasetError: If there is none.
    """
    raw = raw_folder(folder.name)
    if raw is not None:
        return ImageFolder(raw / "imagesTr", DatasetSpec.read(raw / "dataset.json")).cases()
    index = read_index(folder / FOLDER, folder.name)
    if index is None or not index.cases:
        raise DatasetError(f"{FOLDER} of {folder.name} holds no case. Set nnUNet_raw, from which slices are made.")
    return list(index.cases)
