"""What six teachers cost in the data loader, against one label map with nnU-Net's default augmentation.

    python benchmarks/votes_loader.py [--samples 9] [--out results.jsonl]

Same process, one thread, variants interleaved, process CPU time. Each variant draws the same samples (same random
seeds). nnU-Net rotates or scales 36 % of the patches and only crops the others, so there are two figures: the total
over samples drawn at nnU-Net's own probabilities, and the median over samples that are all rotated and scaled. Data are
made up: six ellipsoids and six imperfect teachers. Checks that the soft target is the mean of the votes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import blosc2
import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnkd.data.dataset import DatasetSpec
from nnkd.training.loader import VotesDataLoader
from nnkd.training.targets import Targets
from nnkd.votes.bits import pack
from nnkd.votes.folder import VotesFolder, VotesIndex, VotesOfCase, sparse_counts

SHAPE, PATCH, LABELS, TEACHERS = (128, 208, 208), (96, 160, 160), 6, 6
ROTATION = (-30.0 / 360 * 2 * np.pi, 30.0 / 360 * 2 * np.pi)


def organs(rng: np.random.Generator) -> np.ndarray:
    """(Z, Y, X) int16 with six ellipsoids."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"), -1)
    label_map = np.zeros(SHAPE, dtype=np.int16)
    for label in range(1, LABELS + 1):
        centre, radius = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.2, 0.4, 3)
        label_map[(((grid - centre) / radius) ** 2).sum(-1) < 1] = label
    return label_map


def write_case(folder: Path, rng: np.random.Generator) -> tuple[VotesFolder, list[np.ndarray]]:
    """A preprocessed case with its votes, as nnKD_plan_and_preprocess would leave it."""
    truth = organs(rng)
    teachers = [np.roll(truth, rng.integers(-4, 5, 3), (0, 1, 2)) for _ in range(TEACHERS)]
    image = (truth + rng.normal(0, 1, SHAPE)).astype(np.float32)[None]
    names = {"background": 0, **{f"organ{i}": i for i in range(1, LABELS + 1)}}
    spec = DatasetSpec({"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"}, "benchmark")
    locations = {i: np.argwhere(truth[None] == i)[:1000] for i in range(1, LABELS + 1)}
    nnUNetDatasetBlosc2.save_case(
        image, truth[None], {"class_locations": locations}, str(folder / "case"), *_blocks(image), *_blocks(truth[None])
    )
    write_pickle({"class_locations": locations}, str(folder / "case.pkl"))
    packed = pack(teachers, spec)
    votes = VotesFolder(folder.parent / "votes")
    votes.folder.mkdir()
    blocks, chunks = comp_blosc2_params(packed.shape, PATCH, packed.itemsize)
    blosc2.asarray(packed, urlpath=str(votes.file("case")), blocks=blocks, chunks=chunks)
    labels, whom = list(spec.labels), [f"t{k}" for k in range(TEACHERS)]
    counts = sparse_counts(np.ones((LABELS, 1), dtype=np.int64), labels)
    record = VotesOfCase(outputs=dict.fromkeys(whom, ""), answers=dict.fromkeys(whom, labels), counts=counts)
    votes.write_index(VotesIndex(teachers=whom, labels=labels, cases={"case": record}))
    return votes, teachers


def _blocks(array: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    blocks, chunks = comp_blosc2_params(array.shape, PATCH, array.itemsize)
    return chunks, blocks


def transforms(always: bool) -> object:
    """nnU-Net's default 3D augmentation; `always`: every patch is rotated and scaled."""
    made = nnUNetTrainer.get_training_transforms(
        PATCH, ROTATION, None, (0, 1, 2), False, use_mask_for_norm=[False], foreground_labels=list(range(1, LABELS + 1))
    )
    if always:
        made.transforms[0].p_rotation = made.transforms[0].p_scaling = 1
    return made


def loaders(folder: Path, votes: VotesFolder, always: bool) -> dict[str, nnUNetDataLoader]:
    """The variants."""
    manager = LabelManager({"background": 0, **{f"o{i}": i for i in range(1, LABELS + 1)}}, None)
    initial = nnUNetTrainer_initial_patch()
    share = np.array([bin(p).count("1") / TEACHERS for p in range(1 << TEACHERS)], dtype=np.float32)
    labels = tuple((i,) for i in range(1, LABELS + 1))
    soft = Targets(labels=labels, votes=votes, tables={"case": np.tile(share, (LABELS, 1))})
    everything = np.ones((TEACHERS, LABELS), dtype=bool)
    drawn = Targets(labels=labels, votes=votes, draws={"case": (list(range(TEACHERS)), everything)}, hard=True)

    def arguments(augment: object) -> tuple[tuple, dict]:
        dataset = nnUNetDatasetBlosc2(str(folder), ["case"])
        return (dataset, 1, initial, PATCH, manager), {"transforms": augment}

    made: dict[str, nnUNetDataLoader] = {}
    positional, keywords = arguments(transforms(always))
    made["one label map (nnU-Net)"] = nnUNetDataLoader(*positional, **keywords)
    for name, targets in (("six teachers, soft consensus", soft), ("six teachers, one drawn", drawn)):
        positional, keywords = arguments(transforms(always))
        made[name] = VotesDataLoader(*positional, targets=targets, **keywords)
    return made


def nnUNetTrainer_initial_patch() -> np.ndarray:
    """The larger patch that nnU-Net crops before it rotates."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    return get_patch_size(PATCH, ROTATION, ROTATION, ROTATION, (0.85, 1.25))


def check(votes: VotesFolder, teachers: list[np.ndarray], loader: VotesDataLoader) -> float:
    """Largest difference between the loader's soft target and the mean of the votes, without augmentation."""
    bbox = [[0, n] for n in SHAPE]
    patch, _ = loader.targets.of_patch("case", bbox, np.zeros((1, *SHAPE), np.int16), np.random.default_rng(0))
    expected = np.stack([np.mean([t == i for t in teachers], axis=0) for i in range(1, LABELS + 1)])
    return float(np.abs(patch.soft().numpy() - expected).max())


def measure(variants: dict[str, nnUNetDataLoader], samples: int) -> dict[str, list[float]]:
    """CPU seconds of each sample, by variant."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for sample in range(samples + 1):
        for name, loader in variants.items():
            np.random.seed(sample)  # nnU-Net's augmentation draws from numpy's global state
            torch.manual_seed(sample)
            start = time.process_time()
            loader.generate_train_batch()
            if sample:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return seconds


def show(name: str, seconds: dict[str, list[float]], medians: bool) -> dict[str, float]:
    """Print one line; returns its figures."""
    mine, reference = seconds[name], next(iter(seconds.values()))
    if medians:
        value, ratio = statistics.median(mine), statistics.median(m / r for m, r in zip(mine, reference, strict=True))
    else:
        value, ratio = statistics.fmean(mine), sum(mine) / sum(reference)
    print(f"  {name:32s} {value:7.3f} s a sample   {ratio:5.2f}x one label map")
    return {"seconds": round(value, 4), "ratio": round(ratio, 3)}


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40, help="samples per variant; each with the same random seed")
    parser.add_argument("--out", type=Path, default=None, help="JSONL to append to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        folder.mkdir()
        votes, teachers = write_case(folder, np.random.default_rng(0))
        result = {"benchmark": "votes_loader", "patch": PATCH, "samples": options.samples}
        for title, always in (("nnU-Net's own probabilities", False), ("every patch rotated and scaled", True)):
            variants = loaders(folder, votes, always)
            seconds = measure(variants, options.samples)
            print(title)
            result[title] = {name: show(name, seconds, always) for name in variants}
        difference = check(votes, teachers, variants["six teachers, soft consensus"])
        result["max_difference"] = difference
    print(f"soft target against the mean of the votes: largest difference {difference:.1e}")
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
