"""What LiteMedSAM's DSC on one CT rests on: the boxes, one label map or each organ alone, and whose masks are right.

    python benchmarks/litemedsam_protocols.py DATA [--references v1_full v1_fast v2_fast]

DATA holds trunk_ct/ with three runs of TotalSegmentator, each of them reference and source of boxes in turn. Published
weights, float32, one thread; soft-tissue window (-160 to 240 HU). "alone": an organ's probability is above one half,
whatever other organs say there. "joint": each voxel goes to the most probable organ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnkd_litemedsam.teacher import LiteMedSAMTeacher

from nnkd.data.intensities import GreyScale, to_uint8
from nnkd.teachers.prompts import BoxDrawing, boxes_of
from nnkd.types import TeacherContext

SHARED = {"spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "stomach": 6}
ORGANS = {
    "v1_full": {**SHARED, "aorta": 7, "ivc": 8, "pancreas": 10},
    "v1_fast": {**SHARED, "aorta": 7, "ivc": 8, "pancreas": 10},
    "v2_fast": {**SHARED, "aorta": 52, "ivc": 63, "pancreas": 7},
}
SOFT_TISSUE = GreyScale("window", -160.0, 240.0)
BOXES = {"one box a slice": BoxDrawing(), "each piece": BoxDrawing(each="component")}


def read(file: Path) -> np.ndarray:
    """(Z, Y, X), feet to head."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS"))


def answers(
    teacher: LiteMedSAMTeacher, embeddings: list[np.ndarray], masks: dict[str, np.ndarray], drawing: BoxDrawing
) -> dict[str, np.ndarray]:
    """Probabilities (Z, Y, X) by organ; 0 where there is no box."""
    found = {}
    for organ, mask in masks.items():
        found[organ] = np.zeros(mask.shape, np.float32)
        for z, *box in boxes_of(mask, (3.0, 3.0, 3.0), drawing):
            probabilities = teacher.decode(embeddings[z], np.array([box]), mask.shape[1:])[0]
            found[organ][z] = np.maximum(found[organ][z], probabilities)
    return found


def dsc(prediction: np.ndarray, mask: np.ndarray) -> float:
    """Over the whole volume."""
    return 2 * float((prediction & mask).sum()) / float(prediction.sum() + mask.sum())


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--references", nargs="+", choices=sorted(ORGANS), default=list(ORGANS))
    options = parser.parse_args()
    folder = options.data / "trunk_ct"
    torch.set_num_threads(1)
    teacher = LiteMedSAMTeacher(TeacherContext(labels=tuple(ORGANS["v1_full"]), device="cpu"))
    grey = to_uint8(read(folder / "ct.nii.gz"), SOFT_TISSUE)
    embeddings = [teacher.encode(np.repeat(image[..., None], 3, axis=-1)) for image in grey]
    print(f"| reference, boxes | | {' | '.join(ORGANS['v1_full'])} |\n|{'---|' * 10}")
    for name in options.references:
        labels = read(folder / f"totalsegmentator_{name}.nii.gz")
        masks = {organ: labels == number for organ, number in ORGANS[name].items()}
        for how, drawing in BOXES.items():
            found = answers(teacher, embeddings, masks, drawing)
            best = np.argmax([np.full(labels.shape, 0.5, np.float32), *found.values()], axis=0)
            ways = {"alone": lambda organ, _: found[organ] > 0.5, "joint": lambda _, number: best == number}  # noqa: B023
            for way, prediction in ways.items():
                values = [dsc(prediction(organ, i), masks[organ]) for i, organ in enumerate(found, start=1)]
                print(f"| {name}, {how} | {way} | {' | '.join(f'{value:.3f}' for value in values)} |")


if __name__ == "__main__":
    main()
