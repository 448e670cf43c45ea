"""LiteMedSAM's TinyViT with its published weights -> RepViT-M0.6, on real images, and what the student loses by it.

    python benchmarks/litemedsam_distillation.py DATA WORK [--cases 12] [--test 4] [--epochs 48] [--iterations 25]
                                                 [--as_it_is] [-device cuda] [--out distillation.jsonl]
    python benchmarks/litemedsam_distillation.py --table distillation.jsonl

DATA holds the folders named in `public_datasets.py`. Their last --test cases are held out, of the others the first
--cases (default: all) are learned from, without labels. Then teacher and student segment the held-out cases in the same
boxes, one around each piece of a label in a slice, and are compared with the labels: a table like paper 2's Table 5.
WORK is created; what is there is not done again, so that a killed run continues. --as_it_is trains no further: it
compares the best weights of a training that was stopped. Images are not flipped, so that the teacher sees each once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, median

from commands import Work
from public_datasets import DATASETS, write_dataset

TRAINER, PLANS, RECIPE = "nnUNetTrainerRepViTDistill", "LiteMedSAMPlans", "laptop"
STUDENT, TEACHER = "repvit", "litemedsam"
METRICS, JOINED = ("DSC", "NSD"), ("Overall", "Common labels")
KEPT = ("folder", "label", "metric", "mean", "low", "high", "cases")


def train(work: Work, names: list[str], options: argparse.Namespace) -> Path:
    """The student's folder, trained to the end unless it is taken as it is."""
    recipe = f"{RECIPE}_{options.cases or 'all'}_{options.epochs}"
    folder = work.folder / "nnUNet_results" / names[0] / f"{TRAINER}__{PLANS}_{recipe}__2d" / "fold_all"
    if options.as_it_is:
        return folder
    again = ["--c"] if (folder / "checkpoint_latest.pth").is_file() else []
    settings = {
        "epochs": options.epochs, "iterations": options.iterations, "final_slices": 50, "flips": "false",
        "precision": "bfloat16" if options.device == "cpu" else "auto",
    }  # fmt: skip
    work.run(
        "train", names[0], "2d", "all", "-tr", TRAINER, "--datasets", *names, "-n", recipe, "-device", options.device,
        *again, "--set", *(f"{key}={value}" for key, value in settings.items()),
        done_when=str(folder / "validation" / "summary.json"),
    )  # fmt: skip
    return folder


def curve(folder: Path) -> list[float]:
    """The validation's relative error of embeddings by epoch."""
    from nnkd.weights.checkpoints import load_checkpoint

    last = next(file for name in ("final", "latest") if (file := folder / f"checkpoint_{name}.pth").is_file())
    return [round(float(v), 4) for v in load_checkpoint(last)["logging"]["relative_error"]]


def compare(work: Work, name: str, checkpoint: Path, student: str) -> dict | None:
    """Teacher and student in the same boxes, and both against the labels: rows of means.csv, and seconds a case. None
    where there are no labels."""
    if not (work.folder / "nnUNet_raw" / name / "labelsTs").is_dir():
        return None
    work.run(
        "predict_teachers", "-d", name, "--test", "-t", TEACHER, f"{student}={TEACHER}", "--set",
        f"{student}.weights={checkpoint}", f"{student}.licence=Apache-2.0", "--boxes-from", "labels", "--box_each",
        "component", "-device", work.device,
    )  # fmt: skip
    folders = [f"nnUNet_raw/{name}/teachersTs/{teacher}" for teacher in (TEACHER, student)]
    rows = work.evaluate(name, folders, f"evaluation_{name}_{student}")
    means = [{key: row[key] for key in KEPT} for row in rows if row["metric"] in METRICS and row["label"] not in JOINED]
    for row in means:
        row["folder"] = STUDENT if row["folder"] == student else row["folder"]
    seconds = {who: _seconds(work.folder / folder) for who, folder in zip((TEACHER, STUDENT), folders, strict=True)}
    return {"means": means, "seconds": seconds}


def _seconds(folder: Path) -> float:
    """Of a case, the median."""
    from nnkd.data.predictions import PredictionFolder

    return round(median(record.seconds for record in PredictionFolder(folder).manifest().cases.values()), 2)


def table(runs: list[dict]) -> str:
    """Markdown: DSC and NSD of both by data, of the longest run."""
    run = max(runs, key=lambda one: (one["cases"] or 10**6, len(one["curve"])))
    errors = ", ".join(f"{value:.3f}" for value in run["curve"])
    lines = [
        f"Relative error of embeddings by epoch ({len(run['curve'])} epochs of {run['iterations']} iterations with 8 "
        f"slices, {run['cases'] or 'all'} cases of each set): {errors}",
        "",
        "| data | label | cases | DSC: LiteMedSAM | RepViT | NSD: LiteMedSAM | RepViT | s a case |",
        "|---" * 8 + "|",
    ]
    for name, compared in run["compared"].items():
        means, times = compared["means"], ", ".join(f"{compared['seconds'][who]:.1f}" for who in (TEACHER, STUDENT))
        by_key = {(row["folder"], row["label"], row["metric"]): row for row in means}
        for label in dict.fromkeys(row["label"] for row in means):
            found = [by_key[who, label, metric] for metric in METRICS for who in (TEACHER, STUDENT)]
            cells = ["-" if row["mean"] is None else f"{row['mean']:.3f}" for row in found]
            lines.append(f"| {name} | {label} | {found[0]['cases']} | {' | '.join(cells)} | {times} |")
            times = ""
    whole = [_mean_of_sets(run["compared"], who, metric) for metric in METRICS for who in (TEACHER, STUDENT)]
    lines.append(f"| mean of {len(run['compared'])} sets | | | {' | '.join(f'{value:.3f}' for value in whole)} | |")
    return "\n".join(lines)


def _mean_of_sets(compared: dict, who: str, metric: str) -> float:
    """Each set counts the same, and each label in a set."""
    wanted = ([row["mean"] for row in one["means"] if (row["folder"], row["metric"]) == (who, metric)]
              for one in compared.values())  # fmt: skip
    return mean(mean(value for value in values if value is not None) for values in wanted)


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--cases", type=int, help="training cases of each set (default: all)")
    parser.add_argument("--test", type=int, default=4, help="held-out cases of each set")
    parser.add_argument("--epochs", type=int, default=48)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--as_it_is", action="store_true", help="train no further, compare the best weights so far")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--out", type=Path, default=Path("distillation.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of these runs")
    options = parser.parse_args()
    file = (options.table or options.out).resolve()
    if options.table is None:
        if options.work is None:
            parser.error("DATA and WORK are needed, or --table")
        data = options.data.resolve()
        work = Work(options.work, options.device)
        names = [write_dataset(data, work.folder / "nnUNet_raw", one, options.cases, options.test) for one in DATASETS]
        folder = train(work, names, options)
        errors = curve(folder)
        found = {one.title: compare(work, name, folder / "checkpoint_best.pth", f"{STUDENT}{len(errors)}")
                 for one, name in zip(DATASETS, names, strict=True)}  # fmt: skip
        row = {"cases": options.cases, "test": options.test, "epochs": options.epochs, "device": options.device}
        row |= {
            "iterations": options.iterations,
            "curve": errors,
            "compared": {k: v for k, v in found.items() if v},
        }
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
    print(table([json.loads(line) for line in file.read_text().splitlines()]))


if __name__ == "__main__":
    main()
