"""The whole way on real data: hippocampus (2D and 3D), one trunk CT, DRIVE. Runs the commands a user would run.

    python benchmarks/real_data.py DATA WORK [--only hippocampus trunk_ct drive] [--out results.jsonl] [--epochs 24]

DATA holds hippocampus/ (imagesTr, labelsTr), trunk_ct/ (ct.nii.gz and three recorded TotalSegmentator outputs) and
drive/ (training, test). WORK is created; a step whose result is there is not run again, so that a stopped run
continues and a better machine can add to it. Each finished part appends one line to the JSONL.

Small here: the first 120 hippocampus cases (20 labelled, 60 unlabelled, 40 test), 24 epochs of 50 iterations, one fold.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from commands import Work

TRAINING = {"iterations": 50, "val_iterations": 5, "oversample": 0.66, "precision": "bfloat16"}


def hippocampus(data: Path, work: Work, epochs: int) -> dict:
    """20 labelled cases as atlases, 60 unlabelled, 40 test; three atlas teachers; students in 2D and 3D."""
    download = work.folder / "download"
    for kind in ("imagesTr", "labelsTr"):
        (download / kind).mkdir(parents=True, exist_ok=True)
        for file in sorted((data / "hippocampus" / kind).glob("*.nii.gz"))[:120]:
            if not (download / kind / file.name).is_file():
                shutil.copyfile(file, download / kind / file.name)
    name = "Dataset704_Hippocampus"
    work.run("convert_dataset", "msd", "download", "-d", "704", "-n", "Hippocampus", "--channels", "MRI",
             "--labels", "anterior=1", "posterior=2", done_when=f"nnUNet_raw/{name}/split.json")  # fmt: skip
    work.run("split", "-d", "704", "--test", "40", "--labelled", "20", "--seed", "0")
    teachers = ["-t", "atlas", "affine=atlas", "bspline=atlas", "--set", "affine.registration=affine",
                "bspline.method=bspline", "bspline.choice=random", "bspline.number=1"]  # fmt: skip
    work.run("predict_teachers", "-d", "704", *teachers, "-device", "cpu", "-np", "1")
    work.run("predict_teachers", "-d", "704", *teachers, "-device", "cpu", "-np", "1", "--test")
    agreement = work.run("aggregate", "-d", "704", "--review", "4")
    for rule in ("majority", "mean"):
        work.run("aggregate", "-d", "704", "-i", f"nnUNet_raw/{name}/teachersTs", "-o", f"test/{rule}", "-a", rule)
    work.run("plan_and_preprocess", "-d", "704", "-c", "2d", "3d_fullres", "-np", "2", "-npfp", "2")
    unet = {**TRAINING, "epochs": epochs, "lr": 1e-3, "batch_size": 16, "patch_size": "56,40"}
    students = {}
    for norm in ("batch", "instance", "none"):
        recipe = "real2d" if norm == "batch" else f"real2d_{norm}"
        more = {} if norm == "batch" else {"norm": norm}
        plans = work.train(name, "2d", "nnUNetTrainerUNet", recipe, **unet, **more)
        students[f"unet_2d_{norm}"] = ("2d", "nnUNetTrainerUNet", plans)
    plans = work.train(name, "3d_fullres", "nnUNetTrainerKD", "real3d", epochs=epochs, **TRAINING, batch_size=2)
    students["planned_3d"] = ("3d_fullres", "nnUNetTrainerKD", plans)
    for target, (configuration, trainer, plans) in students.items():
        work.predict(name, configuration, trainer, plans, f"nnUNet_raw/{name}/imagesTs", f"test/{target}")
    folders = [f"nnUNet_raw/{name}/teachersTs/{t}" for t in ("atlas", "affine", "bspline")]
    folders += [f"test/{f}" for f in ("mean", "majority", *students)]
    return {"agreement": agreement, "means": work.evaluate(name, folders, "evaluation_hippocampus")}


def trunk_ct(data: Path, work: Work, epochs: int) -> dict:
    """One CT with what three TotalSegmentator versions made of it, imported, and LiteMedSAM, boxed from one of them:
    voted on, compared."""
    download = work.folder / "trunk"
    download.mkdir(exist_ok=True)
    shutil.copyfile(data / "trunk_ct" / "ct.nii.gz", download / "trunk.nii.gz")
    labels = ["liver=1", "kidney=2", "spleen=3", "lung=4", "ivc=5", "pancreas=6"]
    work.run("convert_dataset", "images_folder", "trunk", "-d", "705", "-n", "Trunk", "--channels", "CT",
             "--labels", *labels)  # fmt: skip
    v1 = {"spleen": 1, "kidney": [2, 3], "liver": 5, "pancreas": 10, "ivc": 8, "lung": [13, 14, 15, 16, 17]}
    v2 = {"spleen": 1, "kidney": [2, 3], "liver": 5, "pancreas": 7, "ivc": 63, "lung": [10, 11, 12, 13, 14]}
    runs = {"v1_full": v1, "v1_fast": v1, "v2_fast": v2}
    settings = []
    for alias, numbers in runs.items():
        masks = work.folder / "trunk_masks" / alias
        masks.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "trunk_ct" / f"totalsegmentator_{alias}.nii.gz", masks / "trunk.nii.gz")
        settings += [f"{alias}.folder={masks}", f"{alias}.map={json.dumps(numbers)}"]
    work.run("predict_teachers", "-d", "705", "-t", *(f"{alias}=imported" for alias in runs), "--set", *settings)
    work.run("predict_teachers", "-d", "705", "-t", "litemedsam", "--boxes-from", "v2_fast", "--box_each", "component",
             "-device", "cpu", "-np", "2")  # fmt: skip
    return {"agreement": work.run("aggregate", "-d", "705", "--review", "1")}


def drive(data: Path, work: Work, epochs: int) -> dict:
    """Ten photographs with two raters as teachers, twenty others as test; a 2D RGB student of both raters' mean."""
    name = "Dataset712_Drive"
    work.run("convert_dataset", "drive", data / "drive", "-d", "712", "-n", "Drive", "--raters", "--swap",
             done_when=f"nnUNet_raw/{name}/consensus.json")  # fmt: skip
    raters = work.folder / "nnUNet_raw" / name
    settings = [f"{rater}.folder={raters / folder}" for rater, folder in RATERS.items()]
    work.run("predict_teachers", "-d", "712", "-t", *(f"{rater}=imported" for rater in RATERS), "--set", *settings)
    agreement = work.run("aggregate", "-d", "712", "--review", "2")
    work.run("plan_and_preprocess", "-d", "712", "-c", "2d", "-np", "2", "-npfp", "2")
    settings = {**TRAINING, "epochs": epochs, "lr": 1e-3, "batch_size": 8, "patch_size": "96,96"}
    plans = work.train(name, "2d", "nnUNetTrainerUNet", "drive_mean", "-a", "mean", **settings)
    fewer_windows = ("-step_size", "0.9", "--disable_tta")  # a photograph has 150 windows of 96 pixels
    images = f"nnUNet_raw/{name}/imagesTs"
    work.predict(name, "2d", "nnUNetTrainerUNet", plans, images, "drive/mean", *fewer_windows)
    return {"agreement": agreement, "means": work.evaluate(name, ["drive/mean"], "evaluation_drive")}


RATERS = {"rater1": "ratersTr/1st_manual", "rater2": "ratersTr/2nd_manual"}
PARTS = {"hippocampus": hippocampus, "trunk_ct": trunk_ct, "drive": drive}


def main() -> None:
    """Run the parts that are asked for; append what each found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=None, help="JSONL to append to")
    parser.add_argument("--epochs", type=int, default=24)
    options = parser.parse_args()
    data, out = options.data.resolve(), options.out and options.out.resolve()
    work = Work(options.work)
    for name in options.only:
        found = {"part": name, "epochs": options.epochs, **PARTS[name](data, work, options.epochs)}
        print(found.pop("agreement"))
        for row in found.get("means", []):
            print("  ", row)
        if out:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
