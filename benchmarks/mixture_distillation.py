"""The first table: teachers, their consensus, and students distilled from it, on a labelled dataset whose labels are
hidden.

    python benchmarks/mixture_distillation.py RAW WORK [--seeds 0 1 2] [--out FILE.jsonl] [--only PART ...]
    python benchmarks/mixture_distillation.py --table FILE.jsonl

RAW is any labelled dataset in nnU-Net's raw format (isotropic 3D; for hippocampus: `nnKD_convert_dataset msd`). The
split is a function of the seed alone: 20 labelled cases, 40 test cases, the rest unlabelled; 38 further cases, the same
for all seeds, are for choosing between variants and never for anything else. Teachers share no labelled case: an atlas
and four 2D networks (axial, coronal, sagittal, and axial at half the resolution) have four labelled cases each.
LiteMedSAM, boxed from the atlas, answers in some cases only, since it is slow. Networks predict without mirroring.

Every finished row is appended to the JSONL with its scores case by case; rows that stand there already are not made
again, and unfinished trainings continue. So a better machine can add seeds, epochs or rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from commands import Work
from tables import read, table

LABELLED, TEST, CHOOSE, HANDFUL = 20, 40, 38, 4
NETWORKS = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1), "coarse": (0, 1, 2)}
UNET = "nnUNetTrainerUNet"
COMMON = {"iterations": 50, "val_iterations": 1, "oversample": 0.66, "precision": "bfloat16", "lr": 1e-3,
          "batch_size": 16}  # fmt: skip
# nnU-Net's augmentation of slices, with which the teachers are trained; nnkd's students stay upright by default.
TURNED = {"mirroring": "true", "rotation": 180}


@dataclass(frozen=True)
class Student:
    """A row that is trained.

    Attributes:
        flags: Recipe flags.
        settings: Recipe settings beside the common ones.
        manual: Trained by nnU-Net's supervision on this fold of the manual dataset ("twenty" or "all"), not on votes.
        trainer: Its class.
        plans: Along which axis it slices.
        joined_by: The row whose student joins the teachers: a second round.
        after: The row whose weights it begins with.
        configuration: Of the plans.
        per_label: One student a label.
    """

    flags: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    manual: str = ""
    trainer: str = UNET
    plans: str = "coronal"
    joined_by: str = ""
    after: str = ""
    configuration: str = "2d"
    per_label: bool = False


def _free(aggregator: str, plans: str = "coronal", **settings: object) -> Student:
    return Student(("-a", aggregator), {"manual": "ignore", **settings}, plans=plans)


STUDENTS = {
    "student: STAPLE": _free("staple"),
    "UNet on the 20": Student(manual="twenty"),
    "the 20 after votes: STAPLE": Student(manual="twenty", after="student: STAPLE"),
    "20 + votes: STAPLE": Student(("-a", "staple")),
    "student: mean": _free("mean"),
    "UNet on all manual labels": Student(manual="all"),
    "student: STAPLE, hard (matched control)": _free("staple", target="hard"),
    "student: majority, hard (matched control of mean)": _free("majority", target="hard"),
    "student: weighted": _free("weighted"),
    "student: weighted, hard (matched control)": _free("weighted", target="hard"),
    "20 + votes: mean": Student(("-a", "mean")),
    "UNet on the 20, twice as long": Student((), {"epochs": 32}, manual="twenty"),
    "planned network on the 20": Student((), {"lr": 1e-2}, manual="twenty", trainer="nnUNetTrainerKD"),
}
VOLUMES = {"configuration": "3d_fullres", "plans": ""}
IN_3D = {"batch_size": 2, "iterations": 20, "mirroring": "false", "rotation": 15}  # upright, as slices are
STUDENTS |= {  # paper 1's three students, and 3D
    "PUNet": replace(_free("random_teacher"), trainer="nnUNetTrainerPUNet"),
    "HSNet: STAPLE": replace(_free("staple", lr=3e-4, enlarge=2), trainer="nnUNetTrainerHSNet"),
    "UNet per label: STAPLE": replace(_free("staple"), per_label=True),
    "UNet 3D: STAPLE": replace(_free("staple", **IN_3D), **VOLUMES),
    "PUNet 3D": replace(_free("random_teacher", **IN_3D), trainer="nnUNetTrainerPUNet", **VOLUMES),
}
TRIED = {  # on the cases for choosing, seed 0
    "tried: planned network on the 20, lr 1e-3": Student(manual="twenty", trainer="nnUNetTrainerKD"),
    "tried: HSNet: STAPLE, not enlarged": replace(_free("staple", lr=3e-4), trainer="nnUNetTrainerHSNet"),
    "tried: PUNet 3D, lr 3e-4": replace(STUDENTS["PUNet 3D"], settings={**STUDENTS["PUNet 3D"].settings, "lr": 3e-4}),
    "tried: PUNet 3D, twice as long": replace(
        STUDENTS["PUNet 3D"], settings={**STUDENTS["PUNet 3D"].settings, "epochs": 32}
    ),
    "tried: mean, turned, axial slices": _free("mean", plans="axial", **TURNED),
    "tried: STAPLE, turned, axial slices, instance norm": _free("staple", plans="axial", norm="instance", **TURNED),
    "tried: all manual labels, turned, axial slices": Student((), TURNED, manual="all", plans="axial"),
    "tried: STAPLE, turned": _free("staple", **TURNED),
    "tried: mean, axial slices": _free("mean", plans="axial"),
    "tried: mean, jml": _free("mean", iou="jml"),
    "tried: mean, weighted by agreement": _free("mean", voxel_weight="agreement"),
    "tried: mean, second round": Student(("-a", "mean"), {"manual": "ignore"}, joined_by="student: mean"),
    "tried: 20 + votes, joined by the UNet on the 20": Student(("-a", "staple"), joined_by="UNet on the 20"),
    "tried: STAPLE, instance norm": _free("staple", norm="instance"),
    "tried: STAPLE, no norm": _free("staple", norm="none"),
    "tried: STAPLE, jml": _free("staple", iou="jml"),
    "tried: STAPLE, second round": Student(("-a", "staple"), {"manual": "ignore"}, joined_by="student: STAPLE"),
}
ROWS = {**STUDENTS, **TRIED}
CONSENSUS = {
    "mean": ("mean",),
    "majority, ties no": ("majority", "majority.ties=no"),
    "majority, ties yes": ("majority", "majority.ties=yes"),
    "majority, ties by agreement": ("majority",),
    "STAPLE": ("staple",),
    "weighted": ("weighted",),
}


@dataclass(frozen=True)
class Split:
    """Cases by role.

    Attributes:
        handfuls: The labelled cases of each teacher that has some: the atlas first, then the networks.
    """

    labelled: list[str]
    unlabelled: list[str]
    choose: list[str]
    test: list[str]

    @property
    def handfuls(self) -> list[list[str]]:
        return [self.labelled[i : i + HANDFUL] for i in range(0, LABELLED, HANDFUL)]


def split(cases: Sequence[str], seed: int) -> Split:
    """Cases by role; those for choosing do not depend on the seed."""
    cases = sorted(cases)
    order = np.random.default_rng(20).permutation(len(cases))
    choose, rest = order[:CHOOSE], np.sort(order[CHOOSE:])
    rest = np.random.default_rng(seed).permutation(rest)
    parts = np.split(rest, [LABELLED, LABELLED + TEST])
    labelled, test, unlabelled = ([cases[i] for i in part] for part in parts)
    return Split(labelled, unlabelled, [cases[i] for i in choose], test)


class Seed:
    """Everything of one seed: two datasets (a mixture's, and one with manual labels), their teachers and students."""

    def __init__(self, raw: Path, work: Work, seed: int, options: argparse.Namespace):
        self.raw, self.work, self.seed, self.options = raw, work, seed, options
        self.spec = json.loads((raw / "dataset.json").read_text())
        self.ending = self.spec["file_ending"]
        self.mixture, self.manual = f"Dataset{710 + seed}_Mixture", f"Dataset{720 + seed}_Manual"
        files = (raw / "labelsTr").glob(f"*{self.ending}")
        self.split = split([f.name.removesuffix(self.ending) for f in files], seed)
        self.test = f"seed{seed}/test"
        self.key = {"seed": seed, "epochs": options.epochs, "raw": raw.name}

    def prepare(self) -> None:
        """Both raw datasets, their plans, and which fold trains on what."""
        cases = self.split
        training, held = cases.labelled + cases.unlabelled, cases.choose + cases.test
        self._write_raw(self.mixture, training, cases.labelled, held)
        self._write_raw(self.manual, training, training, [])
        if not (self._preprocessed(self.manual) / "nnUNetPlans.json").is_file():
            self.work.run("plan_and_preprocess", "-d", self.manual, "-c", "2d", "-npfp", "1", "--no_pp")
        few = cases.unlabelled[-2:]  # nnU-Net wants cases to validate on; they are not looked at
        everybody = [c for c in training if c not in few]
        self._write_folds(self.manual, [*cases.handfuls[1:], cases.labelled, everybody], few)
        self._write_folds(self.mixture, [everybody], few)

    def _write_raw(self, name: str, images: Sequence[str], labels: Sequence[str], held: Sequence[str]) -> None:
        folder = self.work.folder / "nnUNet_raw" / name
        if (folder / "dataset.json").is_file():
            return
        wanted = [("imagesTr", images), ("labelsTr", labels), ("imagesTs", held), ("labelsTs", held)]
        for target, cases in wanted:
            (folder / target).mkdir(parents=True, exist_ok=True)
            for case in cases:
                for file in (self.raw / f"{target[:6]}Tr").glob(f"{case}{'_*' if 'im' in target else ''}{self.ending}"):
                    shutil.copyfile(file, folder / target / file.name)
        (folder / "dataset.json").write_text(json.dumps({**self.spec, "numTraining": len(images)}))

    def _preprocessed(self, name: str) -> Path:
        return self.work.folder / "nnUNet_preprocessed" / name

    def _write_folds(self, name: str, groups: list[list[str]], validation: list[str]) -> None:
        self._preprocessed(name).mkdir(exist_ok=True)
        folds = [{"train": sorted(group), "val": validation} for group in groups]
        (self._preprocessed(name) / "splits_final.json").write_text(json.dumps(folds, indent=1))

    def train_teachers(self) -> None:
        """Four 2D networks, each on its own handful."""
        for fold, (name, axes) in enumerate(NETWORKS.items()):
            plans = self._plans_for(self.manual, name, axes, factor=2 if name == "coarse" else 1)
            self.work.train(
                self.manual, "2d", UNET, "teacher", "-t", "none", fold=fold, plans=plans,
                **{**COMMON, **TURNED, "epochs": self.options.teacher_epochs},
            )  # fmt: skip

    def _plans_for(self, dataset: str, name: str, axes: Sequence[int], factor: int = 1) -> str:
        """Plans that slice along another axis, or more coarsely; preprocessed."""
        folder, plans_name = self._preprocessed(dataset), f"nnUNetPlans_{name}"
        file = folder / f"{plans_name}.json"
        if not file.is_file():
            plans = json.loads((folder / "nnUNetPlans.json").read_text())
            before = list(plans["transpose_forward"])
            shape, spacing = (
                [plans[f"original_median_{what}_after_transp"][before.index(axis)] for axis in axes]
                for what in ("shape", "spacing")
            )
            plans |= {
                "plans_name": plans_name,
                "transpose_forward": list(axes),
                "transpose_backward": [list(axes).index(axis) for axis in range(3)],
                "original_median_shape_after_transp": shape,
                "original_median_spacing_after_transp": spacing,
            }
            plans["configurations"] = {"2d": plans["configurations"]["2d"]}
            plans["configurations"]["2d"] |= {
                "data_identifier": f"{plans_name}_2d",
                "spacing": [s * factor for s in spacing[1:]],
                "median_image_size_in_voxels": [s / factor for s in shape[1:]],
                "patch_size": [int(np.ceil(s / factor / 8 + 0.5) * 8) for s in shape[1:]],
            }
            file.write_text(json.dumps(plans, indent=1))
        self.work.run("plan_and_preprocess", "-d", dataset, "-plans_name", plans_name, "-c", "2d", "-np", "1")
        return plans_name

    def ask_teachers(self) -> None:
        """Every teacher segments the training and the held-out cases."""
        chosen = [f"{name}=nnunet" for name in NETWORKS]
        settings = [f"atlas.cases={','.join(sorted(self.split.handfuls[0]))}", "atlas.number=1"]
        for fold, name in enumerate(NETWORKS):
            model = f"nnUNet_results/{self.manual}/{UNET}__nnUNetPlans_{name}_teacher__2d"
            settings += [f"{name}.model={self.work.folder / model}", f"{name}.folds={fold}", f"{name}.mirroring=false"]
        common = ["-d", self.mixture, "-device", self.work.device, "-np", "1"]
        for more in ([], ["--test"]):
            self.work.run("predict_teachers", *common, "-t", "atlas", *chosen, "--set", *settings, *more)
        if self.options.litemedsam:
            self._ask_litemedsam(common)

    def _ask_litemedsam(self, common: list[str]) -> None:
        """In the first few cases of each folder: a part of a job that is divided into many."""
        for more, number in (([], len(self.split.labelled + self.split.unlabelled)), (["--test"], CHOOSE + TEST)):
            parts = max(1, round(number / self.options.litemedsam))
            self.work.run("predict_teachers", *common, "-t", "litemedsam", "--boxes-from", "atlas",
                          "--box_margin", "2", "-num_parts", parts, "-part_id", 0, *more)  # fmt: skip

    def aggregate(self) -> None:
        """labelsTr, votes, and every consensus of the held-out cases; score them and the teachers."""
        self.work.run("aggregate", "-d", self.mixture)
        self.work.run("plan_and_preprocess", "-d", self.mixture, "-c", "2d", "-npfp", "1", "--no_pp")
        held = f"nnUNet_raw/{self.mixture}/teachersTs"
        for name in ("atlas", *NETWORKS, *(["litemedsam"] if self.options.litemedsam else [])):
            self.score(f"teacher: {name}", f"{held}/{name}")
        for name, (rule, *settings) in CONSENSUS.items():
            target = f"{self.test}/{_slug(name)}"
            flags = ["--set", *settings] if settings else []
            self.work.run("aggregate", "-d", self.mixture, "-i", held, "-o", target, "-a", rule, *flags)
            self.score(f"consensus: {name}", target)
        for least in range(1, len(NETWORKS) + 2):
            self._cut(least, Path(held), Path(f"{self.test}/cut_{least}"))
            self.score(f"consensus: at least {least} of {len(NETWORKS) + 1}", f"{self.test}/cut_{least}")

    def _cut(self, least: int, source: Path, target: Path) -> None:
        """The ensemble cut at another number of votes; the label with most votes wins."""
        from nnkd.data.dataset import DatasetSpec
        from nnkd.data.predictions import PredictionFolder
        from nnkd.votes.bits import apply_to_label_maps

        spec = DatasetSpec.read(self.work.folder / "nnUNet_raw" / self.mixture / "dataset.json")
        folders = [PredictionFolder(source / name) for name in ("atlas", *NETWORKS)]
        votes = np.array([i.bit_count() for i in range(1 << len(folders))])
        table = np.where(votes >= least, 0.5 + (votes + 1) / (4 * len(folders)), 0).astype(np.float32)
        target.mkdir(parents=True, exist_ok=True)
        for case in folders[0].cases():
            maps = [folder.read(spec, case) for folder in folders]
            _, _, properties = spec.read_label_map(folders[0].file(case, self.ending))
            label_map = apply_to_label_maps(maps, np.tile(table, (len(spec.labels), 1)), spec)
            spec.write_label_map(label_map, target / f"{case}{self.ending}", properties)

    def student(self, row: str) -> None:
        """Train a row's student, let it predict the held-out cases, score it."""
        if self.is_done(row):
            return
        student, begun = ROWS[row], time.monotonic()
        dataset, fold = self._place(student)
        flags = ["-t", "none"] if student.manual else [*student.flags, "-t", *self._teachers(student)]
        if student.after:
            flags += ["-pretrained_weights", str(self._checkpoint(student.after))]
        if student.per_label:
            flags += ["--per_label", "--c"]
        self.work.train(
            dataset, student.configuration, student.trainer, self._recipe(row), *flags, fold=fold,
            plans=self._plans_of(dataset, student), **{**COMMON, "epochs": self.options.epochs, **student.settings},
        )  # fmt: skip
        minutes = (time.monotonic() - begun) / 60
        target = f"{self.test}/{self._recipe(row)}"
        self.predict(row, "imagesTs", target)
        self.score(row, target, minutes)

    def _plans_of(self, dataset: str, student: Student) -> str:
        """The base plans that a student needs; preprocessed."""
        if student.plans:
            return self._plans_for(dataset, student.plans, NETWORKS[student.plans])
        self.work.run("plan_and_preprocess", "-d", dataset, "-plans_name", "nnUNetPlans", "-c", student.configuration,
                      "-np", "1")  # fmt: skip
        return "nnUNetPlans"

    def _recipe(self, row: str) -> str:
        return f"{_slug(row)}_{self.options.epochs}"

    def _place(self, student: Student) -> tuple[str, int]:
        """The dataset and the fold that a student trains on."""
        if student.manual:
            return self.manual, len(NETWORKS) + (student.manual == "all")
        return self.mixture, 0

    def _checkpoint(self, row: str) -> Path:
        student = ROWS[row]
        dataset, fold = self._place(student)
        model = f"{student.trainer}__nnUNetPlans_{student.plans}_{self._recipe(row)}__{student.configuration}"
        return self.work.folder / "nnUNet_results" / dataset / model / f"fold_{fold}" / "checkpoint_final.pth"

    def _teachers(self, student: Student) -> list[str]:
        names = ["atlas", *NETWORKS, *(["litemedsam"] if self.options.litemedsam else [])]
        if not student.joined_by:
            return names
        name = f"round_{_slug(student.joined_by)}"
        target = f"nnUNet_raw/{self.mixture}/teachersTr/{name}"
        if not (self.work.folder / target / "manifest.json").is_file():
            self.predict(student.joined_by, "imagesTr", target)
            self.work.run("aggregate", "-d", self.mixture)
        return [*names, name]

    def predict(self, row: str, images: str, target: str, *flags: str) -> None:
        """Let a row's student segment imagesTr or imagesTs of the mixture's dataset."""
        student = ROWS[row]
        dataset, fold = self._place(student)
        plans = "_".join(filter(None, ("nnUNetPlans", student.plans, self._recipe(row))))
        more = ["--per_label", *flags] if student.per_label else flags
        self.work.predict(
            dataset, student.configuration, student.trainer, plans, f"nnUNet_raw/{self.mixture}/{images}", target,
            "--disable_progress_bar", "--disable_tta", *more, fold=fold,
        )  # fmt: skip

    def is_done(self, row: str, metric: str = "DSC") -> bool:
        """Whether a row's metric stands in the JSONL."""
        mine = {**self.key, "row": row}.items()
        return any(mine <= found.items() and metric in found["scores"] for found in read(self.options.out))

    def calibrate(self, row: str) -> None:
        """Append how well a student's probabilities are calibrated in the held-out cases. Students of single labels
        have no common probabilities."""
        if ROWS[row].per_label or not self.is_done(row) or self.is_done(row, "ECE"):
            return
        from calibration import brier_score, expected_calibration_error, read_probabilities

        from nnkd.data.dataset import DatasetSpec

        target = f"{self.test}/{self._recipe(row)}_probabilities"
        self.predict(row, "imagesTs", target, "--save_probabilities")
        spec = DatasetSpec.read(self.work.folder / "nnUNet_raw" / self.mixture / "dataset.json")
        scores: dict[str, dict[str, dict[str, float]]] = {"ECE": {}, "Brier": {}}
        for case in self.split.choose + self.split.test:
            found = read_probabilities(self.work.folder / target / f"{case}.npz", spec)
            reference = self.work.folder / "nnUNet_raw" / self.mixture / "labelsTs" / f"{case}{self.ending}"
            label_map, _, _ = spec.read_label_map(reference)
            for label, p in zip(spec.labels, found, strict=True):
                one = p[None], spec.mask(label_map, label)[None]
                for metric, measure in (("ECE", expected_calibration_error), ("Brier", brier_score)):
                    scores[metric].setdefault(label, {})[case] = round(measure(*one), 6)
        self._append(row, scores)
        shutil.rmtree(self.work.folder / target)

    def score(self, row: str, folder: str, minutes: float = 0.0) -> None:
        """Append a row: DSC and HD by case and label."""
        if self.is_done(row):
            return
        import pandas

        target = f"{self.test}_scores/{_slug(row)}"
        self.work.run("evaluate", "-d", self.mixture, "-i", folder, "-ref", f"nnUNet_raw/{self.mixture}/labelsTs",
                      "-o", target, "--names", "it", *(["--chill"] if "lite" in row else []))  # fmt: skip
        table = pandas.read_csv(self.work.folder / target / "metrics.csv")
        scores: dict[str, dict[str, dict[str, float]]] = {}
        for line in table[table.metric.isin(("DSC", "HD"))].itertuples():
            scores.setdefault(line.metric, {}).setdefault(line.label, {})[line.case] = round(float(line.value), 5)
        self._append(row, scores, minutes)
        for name, cases in (("choose", self.split.choose), ("test", self.split.test)):
            means = [np.mean([v for c, v in by.items() if c in cases]) for by in scores["DSC"].values()]
            print(f"  seed {self.seed} {row}: DSC {np.mean(means):.4f} ({name})", flush=True)

    def _append(self, row: str, scores: Mapping[str, object], minutes: float = 0.0) -> None:
        record = {
            **self.key,
            "row": row,
            "minutes": round(minutes, 1),
            "choose": sorted(self.split.choose),
            "settings": dict(ROWS[row].settings) if row in ROWS else {},
            "versions": {name: metadata.version(name) for name in ("nnkd", "nnunetv2", "torch")},
            "scores": scores,
        }
        with self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _slug(row: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in row.lower()).split()
    return "_".join(words)


def main() -> None:
    """Do what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", nargs="?", type=Path, help="a labelled dataset in nnU-Net's raw format")
    parser.add_argument("work", nargs="?", type=Path, help="folder to work in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=16, help="of students, 50 iterations each (default: 16)")
    parser.add_argument("--teacher_epochs", type=int, default=10, help="of the networks that teach (default: 10)")
    parser.add_argument("--litemedsam", type=int, default=6, metavar="N",
                        help="LiteMedSAM answers in about N training and N held-out cases (default: 6)")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=list(STUDENTS), choices=list(ROWS), metavar="ROW",
                        help="students to train; also what was tried on the cases for choosing")  # fmt: skip
    parser.add_argument("--teachers_only", action="store_true", help="stop before the students")
    parser.add_argument("--out", type=Path, default=Path("mixture_distillation.jsonl"))
    parser.add_argument("--table", type=Path, metavar="JSONL", help="print the table of this file, do nothing else")
    parser.add_argument("--subset", choices=("test", "choose"), default="test")
    parser.add_argument("--against", default="consensus: majority, ties by agreement", metavar="ROW")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"))
    options = parser.parse_args()
    if options.table:
        print(table(options.table, options.subset, options.against, options.epochs))
        return
    if options.raw is None or options.work is None:
        parser.error("RAW and WORK are needed, or --table")
    options.out, raw = options.out.resolve(), options.raw.resolve()
    work = Work(options.work, options.device)
    for number in options.seeds:
        seed = Seed(raw, work, number, options)
        seed.prepare()
        seed.train_teachers()
        seed.ask_teachers()
        seed.aggregate()
        for row in [] if options.teachers_only else options.only:
            seed.student(row)
            seed.calibrate(row)
    print(table(options.out, options.subset, options.against, options.epochs))


if __name__ == "__main__":
    main()
