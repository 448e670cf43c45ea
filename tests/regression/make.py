"""Makes a regression folder with the nnkd that is installed: what every command writes, of a toy cohort.

    PYTHONPATH=tests/toys python tests/regression/make.py tests/regression/version_0.1.0

Needs the extra "export"; made_with.json says which packages there were. What depends on the day, on the clock or on
other packages' versions is frozen (`freeze`); what only nnU-Net reads or writes (logs, debug.json, its own validation)
and what is large (report.html) is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnkd_unet.punet_trainer import nnUNetTrainerPUNet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image
from torch import nn
from toy import toy_dataset, toy_teacher

from nnkd.boxes.export import write_box_model
from nnkd.cli import aggregate, evaluate, export, plan_and_preprocess, predict, segment_boxes, split, train
from nnkd.files import read_json, write_json
from nnkd.plugin.networks import BoxGraphs

ROOMS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
COHORT, OTHER = "Dataset701_Toy", "Dataset801_Other"
SPLIT = ("-d", "701", "--folds", "2", "--labelled", "2", "--stratify", "sex")
PREPROCESS = ("-d", "701", "-c", "2d", "-np", "1", "-npfp", "1", "--auxiliaries", "801:liver", "801:spleen")
SHORT = ("epochs=2", "iterations=30", "val_iterations=1", "save_every=1", "lr=0.02")
SMALL = ("widths=[3,4,5]", "patch_size=16,16", "batch_size=2")
BALANCED = ("-s", "balanced", "--set", 'balanced.attributes=["sex"]')
RECIPES = {  # flags by what they are good for; the recipes' own names are nnkd's business
    "student": (*BALANCED, "-a", "staple", "--set", *SHORT, *SMALL),
    "adapted": ("-t", "none", "-as", "ucb", *PREPROCESS[-3:], "--set", "ucb.c=0.2", "turn=epoch", *SHORT, *SMALL),
    "weighted": ("-t", "t0", "t1", "-a", "weighted", "-n", "mine", "--set", 'weighted.weights={"t1": 0.5}', "iou=jml"),
    "probabilistic": ("--set", "samples=3", "latent=2", "norm=none", "patch_size=16,16"),
    "per label": ("-a", "majority", "-n", "alone", "--per_label", "--set", "majority.ties=yes", *SMALL),
}
STUDENTS = {name: "nnUNetTrainerPUNet" if name == "probabilistic" else "nnUNetTrainerUNet" for name in RECIPES}
TRAINED = {"student": ("0", "1"), "adapted": ("0",)}  # folds; a Probabilistic U-Net cannot be made small
LATEST = "checkpoint_latest.pth"
NOT_KEPT = (
    *("debug.json", "training_log_*.txt", "progress.png", "auxiliaries_*.png", "validation", "checkpoint_best.pth"),
    *(".*.lock", "report.html"),
)
BOXES = {"scan": {"first": [[10, 8, 40, 34]], "second": [[30, 36, 56, 60]]}}


# --- steps that the test repeats --------------------------------------------------------------------------------------


def settings(folder: Path) -> dict[str, str]:
    """Environment variables for a regression folder."""
    rooms = {name: str(folder / name) for name in ROOMS}
    quick = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0"}
    return {**rooms, **quick, "nnKD_cache": str(folder / "cache")}


def call(main: Callable[[list[str]], int], *words: object) -> None:
    """Run a command, which must succeed."""
    code = main([str(word) for word in words])
    if code != 0:
        raise RuntimeError(f"{main.__module__} {words} ended with {code}")


def train_words(name: str, fold: str = "0") -> tuple[str, ...]:
    """Of nnKD_train, for one of RECIPES."""
    return ("701", "2d", fold, "-device", "cpu", "-tr", STUDENTS[name], *RECIPES[name])


def new_plans(folder: Path, name: str) -> list[str]:
    """Write the recipe of one of RECIPES; returns the names of the plans that are new."""
    plans = folder / "nnUNet_preprocessed" / COHORT
    before = set(plans.glob("*.json"))
    call(train.main, *train_words(name), "--dry_run")
    return sorted(file.stem for file in set(plans.glob("*.json")) - before)


def predict_into(folder: Path, target: Path, name: str, plans: str) -> None:
    """Predict the test images with one of TRAINED; the first one's folds with uncertainty and probabilities."""
    more = ("--uncertainty", "--save_probabilities") if len(TRAINED[name]) > 1 else ()
    model = ("-d", "701", "-tr", STUDENTS[name], "-p", plans, "-c", "2d", "-f", *TRAINED[name], "-device", "cpu")
    images = folder / "nnUNet_raw" / COHORT / "imagesTs"
    call(predict.main, "-i", images, "-o", target, *model, "-npp", 0, "-nps", 0, "--disable_progress_bar", *more)


def evaluate_into(folder: Path, target: Path, *more: str) -> None:
    """Evaluate both students and a teacher, with groups, ranking and two raters."""
    raw = folder / "nnUNet_raw" / COHORT
    predictions = [*(folder / "predictions" / name for name in TRAINED), raw / "teachersTs" / "t1"]
    references = ("-ref", raw / "labelsTs", "-ref", raw / "teachersTs" / "t0")
    people = ("--participants", raw, "--attributes", "sex", "--smallest_group", 2)
    rules = ("--tolerance", 1, "spleen=2", "--bootstrap", 50, "--rank")
    call(evaluate.main, "-i", *predictions, *references, *people, *rules, "-d", 701, "-o", target, *more)


def aggregate_into(folder: Path, target: Path) -> None:
    """STAPLE of all teachers into a prediction folder."""
    source = folder / "nnUNet_raw" / COHORT / "teachersTr"
    call(aggregate.main, "-d", 701, "-i", source, "-o", target, "-a", "staple")


def export_into(folder: Path, target: Path, plans: str) -> None:
    """The student's first fold as ONNX."""
    model = folder / "nnUNet_results" / COHORT / f"{STUDENTS['student']}__{plans}__2d"
    call(export.main, "-m", model, "-f", 0, "-o", target, "--format", "onnx")


def segment_into(folder: Path, target: Path) -> None:
    """Segment the picture's boxes with the toy box model."""
    words = ("-i", folder / "pictures", "--boxes", folder / "boxes.json", "--model", folder / "box_model", "-o", target)
    call(segment_boxes.main, *words, "--runtime", "onnxruntime", "--threads", 1)


class Encoder(nn.Module):
    """An image -> how bright its patches are, 256 times."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 256, 4, stride=4, bias=False)
        nn.init.constant_(self.conv.weight, 1 / 48)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


class Decoder(nn.Module):
    """Says yes to what is bright in a box."""

    def forward(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        grid = torch.arange(256.0)
        rows = (grid[:, None] >= boxes[:, 1, None, None]) & (grid[:, None] < boxes[:, 3, None, None])
        columns = (grid >= boxes[:, 0, None, None]) & (grid < boxes[:, 2, None, None])
        bright = 40 * embedding.mean(0).repeat_interleave(4, 0).repeat_interleave(4, 1) - 20
        return torch.where(rows & columns, bright, -1 - bright.abs())


class Whole(nn.Module):
    """Both."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image)[0], boxes)


def box_model_into(target: Path) -> None:
    """Export a toy box model: those that exist are too large to be kept."""
    encoder, decoder = Encoder(), Decoder()
    weights = {"name": "toy.pth", "sha256": "ab" * 32, "licence": "CC0-1.0"}
    whole = Whole(encoder, decoder)
    graphs = BoxGraphs("toy", "conv", encoder, decoder, whole, weights, size=256, grid=64, channels=256)
    write_box_model(graphs, target)


def parameters(folder: Path, plans: str) -> dict[str, list[int]]:
    """Names and shapes in a checkpoint of the Probabilistic U-Net, which itself is too large to be kept."""
    manager = PlansManager(read_json(folder / "nnUNet_preprocessed" / COHORT / f"{plans}.json"))
    made = nnUNetTrainerPUNet.build_network_architecture(manager, manager.get_configuration("2d"), 1, 3, False)
    return {name: list(value.shape) for name, value in made.state_dict().items()}


def freeze(text: str) -> str:
    """A JSON text with dates, times, versions and differences between runtimes made the same; all else stays."""
    text = re.sub(r'("made_on": )"[^"]*"', r'\1"2026-01-01"', text)
    text = re.sub(r'("seconds": )[\d.e-]+', r"\g<1>0.0", text)
    versions = re.compile(r'"versions": \{[^{}]*\}')
    text = versions.sub(lambda found: re.sub(r'(": )"[^"]*"', r'\1"0"', found[0]), text)
    return re.sub(r'"parity": \{(?:[^{}]|\{[^{}]*\})*\}', '"parity": {}', text)


# --- the folder -------------------------------------------------------------------------------------------------------


def cohort(folder: Path) -> None:
    """Dataset701_Toy: six training cases, three with manual label maps, and four test cases; three teachers, one of
    which abstains from a label and from a case. Dataset801_Other may train along."""
    raw = folder / "nnUNet_raw"
    dataset = toy_dataset(raw / COHORT, training=6, test=4, labelled=3, shape=(5, 18, 16))
    cases = dataset.images().cases()
    toy_teacher(dataset, "t0")
    toy_teacher(dataset, "t1", shift=1, flip_share=0.1, seed=1)
    toy_teacher(dataset, "t2", shift=-1, flip_share=0.1, seed=2, answers=["liver"], cases=cases[:-1])
    for name, shift in (("t0", 0), ("t1", 1)):
        toy_teacher(dataset, name, shift=shift, split="Ts")
    people = [f"toy_{i:03d}\t{'FM'[i % 2]}\t{40.5 + 3 * i}\t{20 + i}" for i in range(10)]
    table = "\n".join(["participant_id\tsex\tage\tbmi", *people]) + "\n"
    (dataset.folder / "participants.tsv").write_text(table, encoding="utf-8")
    other = toy_dataset(raw / OTHER, training=2, labelled=2, shape=(5, 14, 16), channels=("MRI",), seed=1)
    for made in (dataset, other):
        shutil.rmtree(made.folder / "truth")


def trained(folder: Path, name: str) -> None:
    """Train one of TRAINED, without nnU-Net's validation; the student's first checkpoint of two stays, for --c."""
    kept, end, validate = folder / LATEST, nnUNetTrainer.on_epoch_end, nnUNetTrainer.perform_actual_validation

    def keep(trainer: Any) -> None:
        end(trainer)
        if trainer.current_epoch == 1 and trainer.fold == 0:
            shutil.copyfile(Path(trainer.output_folder) / LATEST, kept)

    nnUNetTrainer.on_epoch_end, nnUNetTrainer.perform_actual_validation = keep, lambda *_: None
    try:
        for fold in TRAINED[name]:
            torch.manual_seed(int(fold))
            np.random.seed(int(fold))  # nnU-Net's loaders draw from it
            call(train.main, *train_words(name, fold))
    finally:
        nnUNetTrainer.on_epoch_end, nnUNetTrainer.perform_actual_validation = end, validate
    if name == "student":
        (model,) = (folder / "nnUNet_results" / COHORT).iterdir()  # the first one that is trained
        os.replace(kept, model / "fold_0" / LATEST)
    else:
        kept.unlink()


def pictures(folder: Path) -> None:
    """A picture with two bright discs, and boxes around them."""
    y, x = np.ogrid[:64, :64]
    discs = ((y - 24) ** 2 + (x - 20) ** 2 < 120) | ((y - 43) ** 2 + (x - 48) ** 2 < 90)
    noise = np.random.default_rng(0).integers(0, 60, (64, 64))
    (folder / "pictures").mkdir()
    Image.fromarray(np.where(discs, 220, noise).astype(np.uint8)).save(folder / "pictures" / "scan.png")
    write_json(folder / "boxes.json", BOXES)


def make(folder: Path) -> None:
    """Make everything in an empty folder."""
    for name in ROOMS:
        (folder / name).mkdir(parents=True)
    os.environ.update(settings(folder))
    cohort(folder)
    call(split.main, *SPLIT)
    call(aggregate.main, "-d", "701")
    aggregate_into(folder, folder / "aggregated")
    call(plan_and_preprocess.main, *PREPROCESS)
    plans = {name: new_plans(folder, name) for name in RECIPES}
    write_json(folder / "recipes.json", plans)
    write_json(folder / "parameters.json", parameters(folder, plans["probabilistic"][0]))
    for name in TRAINED:
        trained(folder, name)
    for name in TRAINED:
        predict_into(folder, folder / "predictions" / name, name, plans[name][0])
    evaluate_into(folder, folder / "evaluation")
    export_into(folder, folder / "exported", plans["student"][0])
    box_model_into(folder / "box_model")
    pictures(folder)
    segment_into(folder, folder / "boxed")


def tidy(folder: Path) -> None:
    """Remove what is not kept, and freeze what remains."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    for pattern in NOT_KEPT:
        for path in list(folder.rglob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file in folder.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        if freeze(text) != text:
            file.write_text(freeze(text), encoding="utf-8")


def telltales(folder: Path, word: str) -> list[str]:
    """Files that name a folder of this machine, or the machine; a short host name may stand in numbers by chance."""
    texts = (".json", ".jsonl", ".csv", ".tsv")
    return [
        str(file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and (word.encode() in file.read_bytes() or (file.suffix in texts and os.uname().nodename in file.read_text()))
    ]


def made_with() -> dict[str, str]:
    """Versions of the packages that write what lies here."""
    names = ("nnkd", "nnunetv2", "torch", "numpy", "pandas", "SimpleITK", "blosc2", "onnx", "onnxscript", "onnxruntime")
    return {name: metadata.version(name) for name in names}


def main() -> None:
    """Make the folder that the command line names."""
    target = Path(sys.argv[1])
    if target.exists():
        raise SystemExit(f"{target} is there already. A version's folder is made once.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "folder"
        make(folder)
        tidy(folder)
        found = telltales(folder, temporary)
        if found:
            raise SystemExit(f"They name this machine or its folders: {', '.join(found)}")
        write_json(folder / "made_with.json", made_with())
        shutil.copytree(folder, target)
    print(json.dumps({"bytes": sum(f.stat().st_size for f in target.rglob("*") if f.is_file())}))


if __name__ == "__main__":
    main()
