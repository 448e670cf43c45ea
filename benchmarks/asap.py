"""Few-shot adaptation on real data: which auxiliary scheduler helps, beside direct fine-tuning (paper 3's Table 1).

    python benchmarks/asap.py DATA WORK [--targets ...] [--students ...] [--only METHOD ...] [--folds 0 1 2 3 4]
                              [--shots 3] [--out FILE.jsonl]
    python benchmarks/asap.py --table FILE.jsonl

DATA holds the folders named in `public_datasets.py`. Three targets, of 30 cases each: cytoplasm of blood cells (2D),
the anterior hippocampus (3D), and membranes in electron micrographs (2D), for which every auxiliary task was expected,
before any run, to be harmful: thin lines everywhere against single compact things. In each fold three cases train and
27 validate, once, with the last weights. A target's own task is not in its pool, and its cases are in no auxiliary.
Source models learned one task of the pool. Rows are appended to the JSONL with the DSC and IoU of each case; what
stands there is not run again, and unfinished trainings continue. Two targets may run at the same time, in one process
each. Seconds are of CPU, one thread: run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from asap_tables import tables
from commands import Work
from public_datasets import DATASETS, Pair, Source, write_case, write_description
from tables import read

FOLDS = 5
CASES = 30  # of a target, and of an auxiliary dataset at most
SHOTS = (3, 2, 5)  # folds of splits_final.json in this order, five of each
SOURCES = {source.name: source for source in DATASETS}
COMMON = {"val_iterations": 1, "mirroring": "false", "precision": "bfloat16", "oversample": 0.66}


@dataclass(frozen=True)
class Target:
    """What is adapted to.

    Attributes:
        number, source, label: Its dataset's number, the collection, and the one label that is foreground.
        configuration: nnU-Net's.
        plan: What its plan has instead of nnU-Net's choice: small enough for 60 seconds of one core.
        origin: The auxiliary dataset that the source model learned.
        pool: Auxiliary tasks, DATASET:LABEL.
        cropped: Pixels to keep of the sides, or 0.
    """

    number: int
    source: str
    label: str
    configuration: str
    plan: Mapping[str, object]
    origin: str
    pool: tuple[str, ...]
    cropped: int = 0

    @property
    def name(self) -> str:
        """Of the dataset."""
        return f"Dataset{self.number}_{self.label.capitalize()}"


ORGANS = tuple(f"TrunkCT:{organ}" for organ in ("liver", "spleen", "left_kidney", "aorta"))
SLICES = {"spacing": [2.0, 2.0], "patch_size": [64, 64], "batch_size": 4}
VOLUMES = {"spacing": [2.0, 2.0, 2.0], "patch_size": [24, 32, 24], "batch_size": 4}
TARGETS = {
    "cytoplasm (2D)": Target(
        821, "Cells", "cytoplasm", "2d", SLICES, "Drive",
        ("Cells:nucleus", "Drive:vessel", "Membranes:membrane", "Polyps:polyp", "LungCT:lung", "ChestXray:lung",
         "Hippocampus:anterior", "Hippocampus:posterior", "LeftAtrium:left_atrium", *ORGANS),
    ),
    "anterior hippocampus (3D)": Target(
        822, "Hippocampus", "anterior", "3d_fullres", VOLUMES, "LeftAtrium",
        ("Hippocampus:posterior", "LeftAtrium:left_atrium", *ORGANS, "TrunkCT:stomach", "TrunkCT:pancreas",
         "TrunkMR:liver", "TrunkMR:spleen", "TrunkMR:left_kidney", "Lesions:lesion"),
    ),
    "membranes (2D), all expected to harm": Target(
        823, "Membranes", "membrane", "2d", SLICES, "LeftAtrium",
        ("Cells:nucleus", "Cells:cytoplasm", "Polyps:polyp", "LungCT:lung", "ChestXray:lung", "Hippocampus:anterior",
         "Hippocampus:posterior", "LeftAtrium:left_atrium", *ORGANS), cropped=192,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Student:
    """A network.

    Attributes:
        trainer: By configuration.
        settings: Recipe settings by configuration.
    """

    trainer: Mapping[str, str]
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def _both(trainer: str, **settings: object) -> Student:
    """In 3D patches are multiples of 32."""
    volumes = {**settings, "patch_size": "32,32,32"}
    return Student({"2d": trainer, "3d_fullres": trainer}, {"2d": settings, "3d_fullres": volumes})


STUDENTS = {
    "UNet": Student(
        {"2d": "nnUNetTrainerUNet", "3d_fullres": "nnUNetTrainerUNet"},
        {"2d": {"lr": 1e-3}, "3d_fullres": {"lr": 1e-3, "widths": "8,16,32,48"}},
    ),
    "SwinUNETR": _both("nnUNetTrainerSwinUNETR", feature_size=12),
    "MambaUNet": _both("nnUNetTrainerMambaUNet", embed=24, depths="1,1,1,1"),
}
DIRECT = "direct fine-tuning"
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    DIRECT: ("none", {}),
    "direct, twice the turns": ("none", {}),
    "random": ("random", {}),
    "gms": ("gms", {}),
    "mtl": ("mtl", {}),
    "dal, EXP3": ("dal", {"dal.algorithm": "exp3"}),
    "dal, UCB1": ("dal", {"dal.algorithm": "ucb1"}),
    "ucb, paper": ("ucb", {"ucb.preset": "paper"}),
    "ucb, log (scored every 10 turns)": ("ucb", {"ucb.preset": "log", "ucb.rescore_every": 10}),
    "ucb, decoupled, beta .9": ("ucb", {"ucb.preset": "decoupled", "ucb.beta": 0.9}),
    "ucb, decoupled": ("ucb", {"ucb.preset": "decoupled"}),  # beta .1
}


class Adaptation:
    """One target: its dataset, its auxiliaries, its plan, its source models, its trainings."""

    def __init__(self, data: Path, work: Work, title: str, options: argparse.Namespace):
        self.data, self.work, self.title, self.options = data, work, title, options
        self.target = TARGETS[title]
        self.raw, self.preprocessed = (work.folder / room for room in ("nnUNet_raw", "nnUNet_preprocessed"))

    def prepare(self) -> None:
        """Datasets, folds, and everything preprocessed by the target's plan."""
        target = self.target
        source = SOURCES[target.source]
        self._write(target.name, source, list(source.pairs(self.data))[:CASES], (target.label,), target.cropped)
        for name in sorted({task.partition(":")[0] for task in target.pool}):
            source = SOURCES[name]
            pairs = list(source.pairs(self.data))
            pairs = pairs[CASES : 2 * CASES] if len(pairs) >= 2 * CASES else pairs[:CASES]
            self._write(self._dataset(name), source, pairs, source.labels, 0)
        self._write_folds()
        for configuration_of in (target.name, self._dataset(target.origin)):
            self._write_plans(configuration_of)
        self._preprocess(target.name, "--auxiliaries", *self.pool)
        self._preprocess(self._dataset(target.origin))

    @property
    def pool(self) -> list[str]:
        """Auxiliary tasks as --auxiliaries wants them."""
        return [f"{self._dataset(name)}:{label}" for name, _, label in (t.partition(":") for t in self.target.pool)]

    def _dataset(self, name: str) -> str:
        """Of an auxiliary."""
        return f"Dataset{SOURCES[name].number}_{name}"

    def _write(self, name: str, source: Source, pairs: list[Pair], labels: tuple[str, ...], cropped: int) -> None:
        """A raw dataset with some of the collection's labels, once."""
        folder = self.raw / name
        if (folder / "dataset.json").is_file():
            return
        new_of = {source.labels.index(label) + 1: i for i, label in enumerate(labels, start=1)}
        for case, image, label_map in pairs:
            image, label_map = (_cropped(a, cropped) if cropped else a for a in (image, label_map))
            write_case(image, folder / "imagesTr" / f"{case}_0000{source.ending}")
            write_case(label_map, folder / "labelsTr" / f"{case}{source.ending}")
            if labels != source.labels:
                _relabel(folder / "labelsTr" / f"{case}{source.ending}", new_of)
        write_description(folder, source, labels, len(pairs))

    def _write_folds(self) -> None:
        """Five folds for each number of shots, one list after the other."""
        file = self.preprocessed / self.target.name / "splits_final.json"
        if file.is_file() and len(json.loads(file.read_text())) == FOLDS * len(SHOTS):
            return
        folds = []
        for shots in SHOTS:
            self.work.run("split", "-d", self.target.name, "--shots", shots, "--folds", FOLDS, "--overwrite")
            folds += json.loads(file.read_text())
        file.write_text(json.dumps(folds, indent=1))

    def _write_plans(self, dataset: str) -> None:
        """The target's plan, made small, for the target or for the source model's dataset."""
        target = self.target
        file = self.preprocessed / dataset / f"{self.plans}.json"
        if file.is_file():
            return
        self.work.run("plan_and_preprocess", "-d", dataset, "-c", target.configuration, "-npfp", "1", "--no_pp")
        plans = json.loads((file.parent / "nnUNetPlans.json").read_text())
        own = plans["configurations"][target.configuration]
        if dataset == target.name:
            plan = own | target.plan | {"data_identifier": f"{self.plans}_{target.configuration}"}
        else:  # the target's, but for what depends on the source's images: reader, intensities, normalisation
            moved = json.loads((self.preprocessed / target.name / file.name).read_text())
            kept = {key: own[key] for key in ("normalization_schemes", "use_mask_for_norm")}
            plan = moved["configurations"][target.configuration] | kept
        plans |= {"plans_name": self.plans, "configurations": {target.configuration: plan}}
        file.write_text(json.dumps(plans, indent=1))

    @property
    def plans(self) -> str:
        """The plans' name; each target has its own, for their datasets are each other's auxiliaries."""
        return f"nnUNetPlans_{self.target.label}"

    def _preprocess(self, dataset: str, *more: str) -> None:
        self.work.run("plan_and_preprocess", "-d", dataset, "-plans_name", self.plans, "-c",
                      self.target.configuration, "-np", "1", *more)  # fmt: skip

    def run(self, student: str, method: str, shots: int, fold: int) -> None:
        """Adapt once, append the row."""
        key = {"target": self.title, "student": student, "method": method, "shots": shots, "fold": fold,
               "turns": self.options.turns}  # fmt: skip
        if any(key.items() <= row.items() for row in read(self.options.out)):
            return
        scheduler, settings = METHODS[method]
        turns = self.options.turns * (2 if "twice" in method else 1)
        recipe = "_".join(re.findall("[a-z0-9]+", f"{student} {method} {turns}".lower()))
        place = SHOTS.index(shots) * FOLDS + fold
        flags = ["-t", "none", "-as", scheduler, "-pretrained_weights", str(self.source_model(student))]
        if scheduler != "none":
            flags += ["--auxiliaries", *self.pool]
        folder, seconds = self._train(self.target.name, student, recipe, place, turns, flags, settings)
        record = folder / "auxiliaries.jsonl"
        chosen = [row["dataset"] for row in read(record)] if scheduler not in ("none", "mtl") else []
        row = {
            **key,
            "cpu_seconds": seconds,
            "chosen": {task: chosen.count(task) for task in sorted(set(chosen))},
            "versions": {name: metadata.version(name) for name in ("nnkd", "nnunetv2", "torch")},
            **_scores(folder / "validation" / "summary.json"),
        }
        with self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"  {method} fold {fold}: DSC {np.mean(list(row['dsc'].values())):.3f}, {seconds} s", flush=True)

    def source_model(self, student: str) -> Path:
        """The checkpoint to begin with; trained on its one task if it is not there."""
        dataset = self._dataset(self.target.origin)
        turns = 2 * self.options.turns
        folder, _ = self._train(dataset, student, f"source_{student.lower()}_{turns}", 0, turns, ["-t", "none"], {})
        return folder / "checkpoint_final.pth"

    def _train(
        self, dataset: str, student: str, recipe: str, fold: int, turns: int, flags: list[str],
        settings: Mapping[str, object],
    ) -> tuple[Path, float | None]:  # fmt: skip
        """Returns the fold's folder and the seconds of CPU; None where a training was continued."""
        configuration = self.target.configuration
        trainer = STUDENTS[student].trainer[configuration]
        epochs = max(1, turns // 20)
        mine = {**COMMON, "epochs": epochs, "iterations": turns // epochs, **STUDENTS[student].settings[configuration]}
        model = f"{trainer}__{self.plans}_{recipe}__{configuration}"
        folder = self.work.folder / "nnUNet_results" / dataset / model / f"fold_{fold}"
        before, begun = folder.is_dir(), time.process_time()
        self.work.train(
            dataset, configuration, trainer, recipe, *flags, fold=fold, plans=self.plans, **mine, **settings
        )
        return folder, None if before else round(time.process_time() - begun, 1)


def _cropped(image: np.ndarray, side: int) -> np.ndarray:
    return image[:side, :side]


def _relabel(file: Path, new_of: Mapping[int, int]) -> None:
    """Keep these labels of a label map's file, renumbered."""
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    kept = sitk.GetImageFromArray(sum((array == old).astype(np.uint8) * new for old, new in new_of.items()))
    kept.CopyInformation(image)
    sitk.WriteImage(kept, str(file))


def _scores(summary: Path) -> dict[str, dict[str, float]]:
    """DSC and IoU by case, as nnU-Net's final validation has them."""
    cases = json.loads(summary.read_text())["metric_per_case"]
    by_case = {Path(case["prediction_file"]).name.partition(".")[0]: case["metrics"]["1"] for case in cases}
    return {ours: {case: round(float(found[theirs]), 5) for case, found in by_case.items()}
            for ours, theirs in (("dsc", "Dice"), ("iou", "IoU"))}  # fmt: skip


def main() -> None:
    """Do what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--students", nargs="+", choices=list(STUDENTS), default=["UNet"])
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--shots", type=int, nargs="+", choices=SHOTS, default=[3])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("asap.jsonl"))
    parser.add_argument("--table", type=Path, metavar="JSONL", help="print the tables of this file, do nothing else")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"))
    options = parser.parse_args()
    if options.table:
        print(tables(read(options.table), DIRECT))
        return
    if options.data is None or options.work is None:
        parser.error("DATA and WORK are needed, or --table")
    options.out, data = options.out.resolve(), options.data.resolve()
    os.environ["nnUNet_n_proc_DA"] = "0"  # in this process, so that its seconds count
    os.environ["nnUNet_def_n_proc"] = "1"
    work = Work(options.work, options.device)
    adaptations = [Adaptation(data, work, title, options) for title in options.targets]
    for adaptation in adaptations:
        adaptation.prepare()
    for fold in options.folds:
        for adaptation in adaptations:
            for student in options.students:
                for shots in options.shots:
                    for method in options.only:
                        adaptation.run(student, method, shots, fold)
    print(tables(read(options.out), DIRECT))


if __name__ == "__main__":
    main()
