"""Fairness on a simulated cohort: every teacher, their mean, paper 1's three students, and PUNet with several samplers.

    python benchmarks/fairness.py WORK [--seeds 0 1 2] [--out FILE.jsonl] [--only ROW ...]
    python benchmarks/fairness.py --table FILE.jsonl

Everything is simulated: the people, their scans, and what the teachers say of them (`simulated_cohort.py`, with the
confound). Nothing of it is a finding about people. A seed makes the cohort, its teachers' errors and its halves: one to
learn from, without labels, and one for testing, both with the same shares of sex, age and BMI. nnU-Net seeds neither
networks nor augmentation. Rows are appended to the JSONL with the DSC and HD of every simulated person and organ; rows
that stand there already are not made again, and unfinished trainings continue. Seeds may run at the same time, in one
process each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from commands import Work
from fairness_tables import MEAN, tables
from simulated_cohort import ORGANS, SHAPE, TEACHERS, group_names, write_cohort
from tables import read

UNET, HSNET, PUNET = "nnUNetTrainerUNet", "nnUNetTrainerHSNet", "nnUNetTrainerPUNet"
COMMON = {"iterations": 50, "val_iterations": 1, "oversample": 0.66, "precision": "bfloat16", "lr": 1e-3,
          "batch_size": 24, "patch_size": "{},{}".format(*SHAPE[1:])}  # fmt: skip


@dataclass(frozen=True)
class Student:
    """A row that is trained.

    Attributes:
        trainer: Its class.
        flags: Recipe flags.
        settings: Recipe settings beside the common ones.
        truth: Trained on the true label maps instead of votes: what is left of the spread then, votes do not make.
    """

    trainer: str
    flags: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    truth: bool = False


STUDENTS = {
    "UNet": Student(UNET, ("-a", "mean")),
    "HSNet": Student(HSNET, ("-a", "mean"), {"lr": 3e-4, "enlarge": 2, "iterations": 25}),
    "PUNet": Student(PUNET),
    "PUNet, stratified": Student(PUNET, ("-s", "stratified")),
    "PUNet, balanced_paper": Student(PUNET, ("-s", "balanced_paper")),
    "PUNet, balanced": Student(PUNET, ("-s", "balanced")),
}
FURTHER = {
    "PUNet, weighted": Student(PUNET, ("-s", "weighted")),
    "PUNet, group_dro": Student(PUNET, ("-s", "group_dro")),
    "UNet, balanced": Student(UNET, ("-a", "mean", "-s", "balanced")),
    "UNet on the truth": Student(UNET, truth=True),
    "UNet on the truth, balanced": Student(UNET, ("-s", "balanced"), truth=True),
}
ROWS = {**STUDENTS, **FURTHER}


class Seed:
    """Everything of one seed: the cohort, the dataset that votes are learned from, and one with the truth."""

    def __init__(self, work: Work, seed: int, options: argparse.Namespace):
        self.work, self.seed, self.options = work, seed, options
        self.download = Path("download") / f"seed{seed}"
        self.votes, self.truth = f"Dataset{730 + seed}_SimulatedVotes", f"Dataset{760 + seed}_SimulatedTruth"
        self.key = {"seed": seed, "participants": options.participants, "epochs": options.epochs}
        self.people = write_cohort(self.download, options.participants, seed)

    def prepare(self) -> None:
        """The dataset with votes: halves, teachers, consensus, plans; score teachers and their mean."""
        self._convert(self.votes, hide=True)
        chosen = [f"{name}=imported" for name in TEACHERS]
        folders = [f"{name}.folder={self.download.resolve() / 'teachers' / name}" for name in TEACHERS]
        for more in ([], ["--test"]):
            self.work.run("predict_teachers", "-d", self.votes, "-t", *chosen, "--set", *folders, *more)
        self.work.run("aggregate", "-d", self.votes)
        self._preprocess(self.votes)
        self._record_groups()
        held = f"nnUNet_raw/{self.votes}/teachersTs"
        for name in TEACHERS:
            self.score(f"teacher: {name}", f"{held}/{name}")
        mean = f"seed{self.seed}/mean"
        self.work.run("aggregate", "-d", self.votes, "-i", held, "-o", mean, "-a", "mean")
        self.score(MEAN, mean)

    def _convert(self, name: str, hide: bool) -> None:
        """Images, halves and labels; hidden are all but two, for nnU-Net wants cases to validate on."""
        folder = self.work.folder / "nnUNet_raw" / name
        if not (folder / "dataset.json").is_file():
            number = name[len("Dataset") :].partition("_")
            labels = [f"{organ}={value}" for value, organ in enumerate(ORGANS, 1)]
            self.work.run(
                "convert_dataset", "images_folder", self.download / "images", "-d", number[0], "-n", number[2],
                "--channels", "CT", "--masks", self.download / "labels", "--labels", *labels,
                "--participants", self.download / "participants_simulated.tsv",
            )  # fmt: skip
        few = ["--labelled", "2"] if hide else []
        self.work.run(
            "split", "-d", name, "--test", "0.5", *few, "--stratify", "sex", "age", "bmi", "--bins", "age=30,40,50",
            "bmi=21,24", "--seed", self.seed, done_when=f"nnUNet_raw/{name}/split.json",
        )  # fmt: skip

    def _preprocess(self, name: str) -> None:
        """Plans, and one fold that trains on all but two cases."""
        self.work.run("plan_and_preprocess", "-d", name, "-c", "2d", "-npfp", "1", "-np", "1")
        raw, preprocessed = (self.work.folder / room / name for room in ("nnUNet_raw", "nnUNet_preprocessed"))
        split = json.loads((self.work.folder / "nnUNet_raw" / self.votes / "split.json").read_text())
        training = sorted(file.name.removesuffix("_0000.nii.gz") for file in (raw / "imagesTr").iterdir())
        learned = sorted(split["labelled"]["cases"])
        validation = sorted(set(training) - set(learned))
        (preprocessed / "splits_final.json").write_text(json.dumps([{"train": learned, "val": validation}]))

    def _record_groups(self) -> None:
        """Append who of the simulated test participants is in which group."""
        if self.is_done("cohort"):
            return
        files = (self.work.folder / "nnUNet_raw" / self.votes / "imagesTs").iterdir()
        cases = sorted(file.name.removesuffix("_0000.nii.gz") for file in files)
        self._append("cohort", groups={case: group_names(self.people[case]) for case in cases})

    def student(self, row: str) -> None:
        """Train a row's student, let it predict the test participants, score it."""
        if self.is_done(row):
            return
        student, begun, used = ROWS[row], time.monotonic(), _cpu_minutes()
        dataset, teachers = (self.truth, ["-t", "none"]) if student.truth else (self.votes, [])
        if student.truth:
            self._convert(self.truth, hide=False)
            self._preprocess(self.truth)
        recipe = f"{_slug(row)}_{self.options.epochs}"
        manual = {} if student.truth else {"manual": "ignore"}
        plans = self.work.train(
            dataset, "2d", student.trainer, recipe, *student.flags, *teachers,
            **{**COMMON, "epochs": self.options.epochs, **manual, **student.settings},
        )  # fmt: skip
        minutes = {"minutes": round((time.monotonic() - begun) / 60, 1), "cpu": round(_cpu_minutes() - used, 1)}
        target = f"seed{self.seed}/{recipe}"
        self.work.predict(dataset, "2d", student.trainer, plans, f"nnUNet_raw/{dataset}/imagesTs", target,
                          "--disable_progress_bar", "--disable_tta")  # fmt: skip
        self.score(row, target, training=minutes)

    def is_done(self, row: str) -> bool:
        """Whether a row stands in the JSONL."""
        mine = {**self.key, "row": row}.items()
        return any(mine <= found.items() for found in read(self.options.out))

    def score(self, row: str, folder: str, **more: object) -> None:
        """Append a row: DSC and HD by case and label, and what else is to be known of it."""
        if self.is_done(row):
            return
        import pandas

        target = f"seed{self.seed}_scores/{_slug(row)}"
        self.work.run("evaluate", "-d", self.votes, "-i", folder, "-ref", f"nnUNet_raw/{self.votes}/labelsTs",
                      "-o", target, "--names", "it", "--bootstrap", "0", "-np", "1")  # fmt: skip
        table = pandas.read_csv(self.work.folder / target / "metrics.csv")
        scores: dict[str, dict[str, dict[str, float]]] = {}
        for line in table[table.metric.isin(("DSC", "HD")) & table.value.notna()].itertuples():
            scores.setdefault(line.metric, {}).setdefault(line.label, {})[line.case] = round(float(line.value), 5)
        settings = dict(ROWS[row].settings) if row in ROWS else {}
        self._append(row, scores=scores, settings=settings, **more)
        means = ", ".join(f"{o} {sum(by.values()) / len(by):.4f}" for o, by in scores["DSC"].items())
        print(f"  seed {self.seed} {row}: DSC {means} (simulated)", flush=True)

    def _append(self, row: str, **more: object) -> None:
        versions = {name: metadata.version(name) for name in ("nnkd", "nnunetv2", "torch")}
        record = {**self.key, "row": row, "simulated": True, "versions": versions, **more}
        with self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _cpu_minutes() -> float:
    """Of this process and of its loaders that ended."""
    return sum(os.times()[:4]) / 60


def _slug(row: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in row.lower()).split())


def main() -> None:
    """Do what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="?", type=Path, help="folder to work in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="0 to 29 (default: 0 1 2)")
    parser.add_argument("--participants", type=int, default=400, metavar="N",
                        help="simulated people a seed (default: 400); balanced batches need about 120")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=8, help="of students, 50 iterations each (default: 8)")
    parser.add_argument("--only", nargs="+", default=list(STUDENTS), choices=list(ROWS), metavar="ROW",
                        help=f"students to train; also {', '.join(FURTHER)}")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("fairness.jsonl"))
    parser.add_argument("--table", type=Path, metavar="JSONL", help="print the tables of this file, do nothing else")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"))
    options = parser.parse_args()
    if options.table:
        print(tables(options.table, options.epochs, options.participants))
        return
    if options.work is None:
        parser.error("WORK is needed, or --table")
    if not set(options.seeds) <= set(range(30)):
        parser.error("--seeds are 0 to 29")
    options.out = options.out.resolve()
    os.environ.setdefault("nnUNet_def_n_proc", "1")
    work = Work(options.work / f"{options.participants}_participants", options.device)
    for number in options.seeds:
        seed = Seed(work, number, options)
        seed.prepare()
        for row in options.only:
            seed.student(row)
    print(tables(options.out, options.epochs, options.participants))


if __name__ == "__main__":
    main()
