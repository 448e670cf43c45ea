"""Preprocessed toy datasets without nnU-Net's planner: plans by hand, one process, a second or two. And its planner,
without what it does for large datasets alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor

from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import prediction_folders
from nnkd.files import write_json
from nnkd.paths import room
from nnkd.preprocessing import cases
from nnkd.votes import consensus
from nnkd.votes.folder import VotesFolder, VotesIndex, VotesOfCase, sparse_counts

RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def architecture(dim: int, stages: int = 3) -> dict[str, Any]:
    """nnU-Net's plain U-Net, as small as it gets."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [4] * stages,
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * stages,
            "strides": [[1] * dim] + [[2] * dim] * (stages - 1),
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(name: str, patch: Sequence[int], spacing: Sequence[float], channels: int = 1, **more: Any) -> dict:
    """One configuration's values."""
    return {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "architecture": architecture(len(patch)),
        "batch_dice": False,
        **RESAMPLING,
        **more,
    }


def make_plans(dataset: RawDataset, configurations: dict[str, dict], transpose: Sequence[int] = (0, 1, 2)) -> dict:
    """Write nnUNetPlans.json, dataset.json and a fingerprint into nnUNet_preprocessed; returns the plans."""
    backward = [list(transpose).index(i) for i in range(3)]
    channels = {str(i): {} for i in range(len(dataset.spec.channel_names))}
    plans = {
        "dataset_name": dataset.name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": [8, 24, 20],
        "image_reader_writer": dataset.spec.reader.name,
        "transpose_forward": list(transpose),
        "transpose_backward": backward,
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": channels,
    }
    folder = room("nnUNet_preprocessed") / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "nnUNetPlans.json", plans)
    write_json(folder / "dataset.json", dict(dataset.spec.json))
    write_json(folder / "dataset_fingerprint.json", {"shapes_after_crop": [], "spacings": []})
    return plans


def sample_few(patch: pytest.MonkeyPatch) -> None:
    """For its fingerprint nnU-Net draws a hundred million voxels, however few the scans have."""
    extractor = fingerprint_extractor.DatasetFingerprintExtractor
    collect = extractor.collect_foreground_intensities

    def collect_few(segmentation: Any, images: Any, seed: int = 1234, num_samples: int = 10_000) -> Any:
        return collect(segmentation, images, seed, min(num_samples, 10_000))

    patch.setattr(extractor, "collect_foreground_intensities", staticmethod(collect_few))


def preprocess(dataset: RawDataset, plans: dict, name: str) -> VotesFolder:
    """Preprocess all training cases of one configuration, votes included; labels must be there for all."""
    folder = room("nnUNet_preprocessed") / dataset.name
    identifier = plans["configurations"][name]["data_identifier"]
    votes = VotesFolder.of(folder, identifier)
    teachers = {f.name: (f, f.manifest()) for f in prediction_folders(dataset.teachers_folder())}
    labels = list(dataset.spec.labels)
    index = VotesIndex(teachers=list(teachers), labels=labels, manual=consensus.manual_cases(dataset))
    truth = folder / "gt_segmentations"
    truth.mkdir(exist_ok=True)
    for case in dataset.images().cases():
        outputs = {n: m.cases[case].output for n, (_, m) in teachers.items() if case in m.cases}
        files = {n: f.file(case, m.file_ending) if n in outputs else None for n, (f, m) in teachers.items()}
        label = dataset.label_file(case)
        job = cases.Job(
            case=case,
            images=dataset.images().files(case),
            label=label,
            teachers=files,
            plans=plans,
            configuration=name,
            spec=dataset.spec,
            folder=folder / identifier,
            votes_folder=votes.folder,
            do_images=True,
            do_votes=bool(outputs),
        )
        counts = cases.run(job)
        (truth / label.name).write_bytes(label.read_bytes())
        if counts is not None:
            answers = {n: teachers[n][1].cases[case].answers for n in outputs}
            index.cases[case] = VotesOfCase(outputs=outputs, answers=answers, counts=sparse_counts(counts, labels))
    if teachers:
        votes.write_index(index)
    return votes


def preprocessed_folder(dataset: RawDataset) -> Path:
    """nnUNet_preprocessed/DATASET."""
    return room("nnUNet_preprocessed") / dataset.name
