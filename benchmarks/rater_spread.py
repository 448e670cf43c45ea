"""Do the samples of a probabilistic student spread where the raters differ? DRIVE: ten photographs of the retina, whose
vessels two raters drew.

    python benchmarks/rater_spread.py DATA WORK [--epochs 10] [--samples 16] [--out FILE.jsonl]

DATA holds drive/. The raters are the teachers. PUNet learns from one of them a patch, drawn at random, the UNet from
their mean; each on five photographs, and it is asked about the other five, and the other way round. Appended for each
photograph and student:

    ged         squared generalised energy distance between a student's masks S and the raters' R, with d = 1 - IoU:
                2 E d(S, R) - E d(S, S') - E d(R, R'), as the Probabilistic U-Net paper measures it, over all pairs, one
                and the same included; the UNet has a single mask. PUNet's draws come in pairs of opposite sign, which
                spread a little more evenly than independent ones
    disagreement  area under the ROC curve of a map for "the raters differ in this pixel", within 10 pixels of what a
                rater drew or the student finds: the samples' standard deviation, the entropy of their mean; of the UNet
                its entropy
    dice        of the mean, cut at one half, with either rater; their mean

Photographs and students that stand in the JSONL are not measured again, and unfinished trainings continue. Small here:
five photographs, 10 epochs of 50 patches of 96 x 96 pixels, batches of eight.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
from commands import Work
from tables import read

NAME = "Dataset712_Drive"
RATERS = {"rater1": "ratersTr/1st_manual", "rater2": "ratersTr/2nd_manual"}
STUDENTS = {  # trainer, aggregator, recipe
    "PUNet": ("nnUNetTrainerPUNet", "random_teacher", "raters"),
    "UNet": ("nnUNetTrainerUNet", "mean", "raters_mean"),
}
TRAINING = {"iterations": 50, "val_iterations": 1, "oversample": 0.66, "precision": "bfloat16", "lr": 1e-3,
            "batch_size": 8, "patch_size": "96,96", "manual": "ignore", "mirroring": "false"}  # fmt: skip


def prepare(data: Path, work: Work) -> list[list[str]]:
    """The ten photographs preprocessed, with both raters' votes; returns the cases of two halves."""
    work.run("convert_dataset", "drive", data / "drive", "-d", "712", "-n", "Drive", "--raters", "--swap",
             done_when=f"nnUNet_raw/{NAME}/consensus.json")  # fmt: skip
    raw = work.folder / "nnUNet_raw" / NAME
    settings = [f"{rater}.folder={raw / folder}" for rater, folder in RATERS.items()]
    work.run("predict_teachers", "-d", "712", "-t", *(f"{rater}=imported" for rater in RATERS), "--set", *settings)
    work.run("aggregate", "-d", "712")
    work.run("plan_and_preprocess", "-d", "712", "-c", "2d", "-np", "1", "-npfp", "1")
    preprocessed = work.folder / "nnUNet_preprocessed" / NAME
    cases = sorted(file.stem for file in (preprocessed / "nnUNetPlans_2d").glob("*.pkl"))
    halves = [cases[: len(cases) // 2], cases[len(cases) // 2 :]]
    # nnU-Net's own validation of a whole half, window by window, would take longer than the training
    folds = [{"train": halves[i], "val": halves[1 - i][:1]} for i in (0, 1)]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds, indent=1))
    return halves


def masks_of(predictor: object, images: object, case: str, number: int) -> np.ndarray:
    """(samples, Y, X) float32 probabilities of the vessels in a photograph: one for an ordinary network.

    The whole photograph at once, so that a sample is one mask and no quilt of windows."""
    import torch

    from nnkd.inference.samples import samples_of

    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    data, _, crop = configuration.preprocessor_class(verbose=False).run_case(
        [str(f) for f in images.files(case)], None, plans, configuration, predictor.dataset_json
    )
    x = torch.from_numpy(np.ascontiguousarray(data[:, 0], dtype=np.float32))[None]
    network = samples_of(predictor)
    with torch.inference_mode():
        if network is None:
            found = [predictor.network.eval()(x).softmax(1)[0, 1]]
        else:
            network.number = number
            found = [sample[0, 1].clone() for sample in network.eval().samples(x)]
    whole = np.zeros((len(found), *crop["shape_before_cropping"][1:]), np.float32)
    (y0, y1), (x0, x1) = crop["bbox_used_for_cropping"][1:]
    whole[:, y0:y1, x0:x1] = torch.stack(found).numpy()
    return whole


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """1 - IoU of two masks."""
    union = np.count_nonzero(one | other)
    return 1 - np.count_nonzero(one & other) / union if union else 0.0


def measure(probabilities: np.ndarray, raters: np.ndarray) -> dict[str, float]:
    """What is appended; (samples, Y, X) float32 and (raters, Y, X) bool."""
    from scipy.ndimage import binary_dilation
    from sklearn.metrics import roc_auc_score

    masks, mean = probabilities > 0.5, probabilities.mean(0)

    def expected(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.mean([distance(a, b) for a, b in product(first, second)]))

    near = binary_dilation(raters.any(0) | (mean > 0.5), iterations=10)  # elsewhere nobody sees any vessel
    differ = (raters.any(0) & ~raters.all(0))[near]
    entropy = -sum(p * np.log(np.maximum(p, 1e-12)) for p in (mean, 1 - mean))
    found = {
        "ged": 2 * expected(masks, raters) - expected(masks, masks) - expected(raters, raters),
        "spread": expected(masks, masks),
        "raters_differ": expected(raters, raters),
        "disagreement_entropy": roc_auc_score(differ, entropy[near]),
        "dice": float(np.mean([2 * (m := mean > 0.5)[r].sum() / (m.sum() + r.sum()) for r in raters])),
    }
    if len(probabilities) > 1:
        found["disagreement_deviation"] = roc_auc_score(differ, probabilities.std(0)[near])
    return {name: round(float(value), 5) for name, value in found.items()}


def run(student: str, fold: int, held_out: list[str], work: Work, options: argparse.Namespace) -> None:
    """Train one student on one half, measure it on the other."""
    trainer, aggregator, recipe = STUDENTS[student]
    done = [row["case"] for row in read(options.out) if row["student"] == student and row["epochs"] == options.epochs]
    todo = [case for case in held_out if case not in done]
    if not todo:
        return
    plans = work.train(NAME, "2d", trainer, f"{recipe}_{options.epochs}", "-a", aggregator, "-t", *RATERS, fold=fold,
                       **TRAINING, epochs=options.epochs)  # fmt: skip
    from nnkd.data.dataset import RawDataset
    from nnkd.inference.predictor import load_predictor
    from nnkd.weights.checkpoints import TrainedModel

    model = work.folder / "nnUNet_results" / NAME / f"{trainer}__{plans}__2d"
    predictor = load_predictor(TrainedModel.open(model, [str(fold)], "checkpoint_final.pth"), work.device)
    dataset = RawDataset(work.folder / "nnUNet_raw" / NAME)
    for case in todo:
        found = masks_of(predictor, dataset.images(), case, options.samples)
        files = [dataset.teachers_folder() / rater / f"{case}{dataset.spec.file_ending}" for rater in RATERS]
        raters = np.stack([dataset.spec.read_label_map(file)[0][0] > 0 for file in files])
        row = {"student": student, "case": case, "fold": fold, "epochs": options.epochs, "samples": len(found)}
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **measure(found, raters)}) + "\n")


def table(file: Path, epochs: int) -> str:
    """Means over photographs, 95 % intervals by bootstrap over them, as a Markdown table."""
    from nnkd.evaluation.cells import in_line
    from nnkd.evaluation.intervals import Bootstrap, mean

    rows = read(file)
    names = ["ged", "spread", "raters_differ", "disagreement_deviation", "disagreement_entropy", "dice"]
    lines = [f"| student | photographs | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for student in STUDENTS:
        mine = [row for row in rows if row["student"] == student and row["epochs"] == epochs]
        cells = []
        for name in names:
            values = {row["case"]: row[name] for row in mine if name in row}
            e = mean([values], {case: case for case in values}, Bootstrap()) if values else None
            cells.append(in_line(e, 3) if e else "")
        lines.append(f"| {student} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("rater_spread.jsonl"))
    options = parser.parse_args()
    data, options.out = options.data.resolve(), options.out.resolve()
    work = Work(options.work)
    halves = prepare(data, work)
    for student in STUDENTS:
        for fold in (0, 1):
            run(student, fold, halves[1 - fold], work, options)
    print(table(options.out, options.epochs))


if __name__ == "__main__":
    main()
