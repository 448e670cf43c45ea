"""What a preprocessed case and its votes are made from, as origins (`nnkd.data.origins`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.numbering import meaning_of_labels
from nnkd.data.origins import Hashes, of_settings
from nnkd.data.predictions import Manifest
from nnkd.data.reading.raw_pictures import sidecars
from nnkd.files import sha256_text

LABEL_MEANING = "label meaning"
CHANNELS = "channel names"
SETTINGS = "settings"
STATISTICS = "intensity statistics"
LABEL_MAP = "label map"
# nnU-Net's normalisations that look at the image alone; every other one may use the dataset's statistics, as CT's does
OF_THE_IMAGE = (
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
OF_THE_GRID = (
    "spacing",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_seg",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg_kwargs",
)
OF_THE_NORMALISATION = ("normalization_schemes", "use_mask_for_norm")


def label_meaning(spec: DatasetSpec) -> str:
    """Digest of what the integers of manual label maps mean, in which the ignore label stands, too."""
    return of_settings([meaning_of_labels(spec), spec.ignore_label])


def of_dataset(spec: DatasetSpec) -> dict[str, str]:
    """Origins that dataset.json alone decides."""
    return {LABEL_MEANING: label_meaning(spec), CHANNELS: of_settings(list(spec.channel_names))}


def of_plans(plans: Mapping[str, Any], values: Mapping[str, Any], spec: DatasetSpec) -> dict[str, str]:
    """Origins of every case of a configuration: all but its files.

    Args:
        plans: nnU-Net's, or a recipe's.
        values: Of the configuration, see `nnkd.data.plans.configuration_of`.
        spec: The dataset.
    """
    made_by = {key: values.get(key) for key in (*OF_THE_GRID, *OF_THE_NORMALISATION)}
    around = [len(values["patch_size"]), plans["transpose_forward"], plans.get("image_reader_writer")]
    found = {**of_dataset(spec), SETTINGS: of_settings([made_by, around])}
    statistics = statistics_used(plans, values)
    return {**found, STATISTICS: of_settings(statistics)} if statistics else found


def statistics_used(plans: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset's intensity statistics by channel, of channels that may be normalised with them."""
    statistics = plans["foreground_intensity_properties_per_channel"]
    schemes = enumerate(values["normalization_schemes"])
    return {str(k): statistics.get(str(k)) for k, scheme in schemes if scheme not in OF_THE_IMAGE}


def of_files(images: Sequence[Path], label_map: Path, hashes: Hashes) -> dict[str, str]:
    """Origins of a case that are files.

    Args:
        images: One a channel, or one for all.
        label_map: Need not exist.
        hashes: Of the dataset's files.
    """
    found = {f"image {number}": _digest(file, hashes) for number, file in enumerate(images)}
    return {**found, LABEL_MAP: _digest(label_map, hashes, label_map=True)} if label_map.is_file() else found


def _digest(file: Path, hashes: Hashes, label_map: bool = False) -> str:
    beside = sidecars(file, label_map)  # where tif stacks have their spacing
    return sha256_text("".join(hashes.of(f) for f in (file, *beside))) if beside else hashes.of(file)


def of_votes(
    of_its_case: Mapping[str, str], case: str, teachers: Mapping[str, tuple[Path, Manifest]], hashes: Hashes
) -> dict[str, str]:
    """Origins of a case's votes: its images' grid, and what each teacher says.

    Args:
        of_its_case: All origins of the preprocessed case.
        case: Its identifier.
        teachers: Label map and manifest of each teacher that segmented the case.
        hashes: Of the dataset's files.
    """
    images = {key: digest for key, digest in of_its_case.items() if key.startswith("image ")}
    found = {key: of_its_case[key] for key in (LABEL_MEANING, SETTINGS)} | images
    for name, (file, manifest) in teachers.items():
        found[f"{LABEL_MAP} of {name}"] = hashes.of(file) if file.is_file() else "missing"
        found[f"labels of {name}"] = of_settings([sorted(manifest.labels.items()), manifest.cases[case].answers])
    return found
