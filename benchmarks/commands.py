"""What the benchmarks on real data share: nnU-Net's three rooms in a folder, and nnkd's commands run in them."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import time
from pathlib import Path


class Work:
    """A folder with nnU-Net's three rooms. Paths in commands are relative to it.

    Commands run in this process, since each start would cost ten seconds: make one Work in a process, before anything
    of nnU-Net is imported. What a command prints goes to log.txt in the folder.
    """

    def __init__(self, folder: Path, device: str = "cpu"):
        self.folder, self.device = folder.resolve(), device
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chdir(self.folder)
        logging.basicConfig(format="%(message)s")  # to stderr; a command would bind it to the log of its own call
        os.environ["nnUNet_compile"] = "f"
        os.environ.setdefault("nnUNet_n_proc_DA", "1")
        for room in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.folder / room).mkdir(exist_ok=True)
            os.environ[room] = str(self.folder / room)

    def run(self, name: str, *arguments: object, done_when: str = "") -> str:
        """Run nnKD_NAME; returns what it printed. Skipped if the file `done_when` is there."""
        if done_when and (self.folder / done_when).exists():
            return ""
        words = [str(a) for a in arguments]
        print(f"{time.strftime('%H:%M:%S')} $ nnKD_{name} {' '.join(words)}", flush=True)
        log = self.folder / f"log_{os.getpid()}.txt"
        begin = log.stat().st_size if log.is_file() else 0
        with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            code = importlib.import_module(f"nnkd.cli.{name}").main(words)
        printed = log.read_bytes()[begin:].decode("utf-8", "replace")
        if code:
            sys.exit(f"nnKD_{name} ended with exit code {code}\n{printed[-2000:]}")
        return printed

    def train(
        self, dataset: str, configuration: str, trainer: str, recipe: str, *flags: str,
        fold: object = 0, plans: str = "nnUNetPlans", **settings: object,
    ) -> str:  # fmt: skip
        """Train one fold; returns the plans name."""
        name = f"{plans}_{recipe}"
        folder = f"nnUNet_results/{dataset}/{trainer}__{name}__{configuration}/fold_{fold}"
        again = ["--c"] if list((self.folder / folder).glob("checkpoint_latest.pth")) else []
        start = time.monotonic()
        self.run(
            "train", dataset, configuration, fold, "-tr", trainer, "-p", plans, "-n", recipe, *flags, *again,
            "-device", self.device, "--set", *(f"{key}={value}" for key, value in settings.items()),
            done_when=f"{folder}/validation/summary.json",
        )  # fmt: skip
        print(f"  {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        return name

    def predict(
        self, dataset: str, configuration: str, trainer: str, plans: str, source: str, target: str, *more: object,
        fold: object = 0,
    ) -> None:  # fmt: skip
        """Predict a folder of images."""
        self.run(
            "predict", "-i", source, "-o", target, "-d", dataset, "-tr", trainer, "-p", plans, "-c", configuration,
            "-f", fold, "-device", self.device, "--continue_prediction", "-npp", "1", "-nps", "1", *more,
        )  # fmt: skip

    def evaluate(self, dataset: str, predictions: list[str], target: str, *more: object) -> list[dict]:
        """Evaluate on labelsTs; returns the rows of means.csv."""
        self.run("evaluate", "-d", dataset, "-i", *predictions, "-ref", f"nnUNet_raw/{dataset}/labelsTs", "-o", target,
                 "--names", *[Path(p).name for p in predictions], *more)  # fmt: skip
        import pandas

        return json.loads(pandas.read_csv(self.folder / target / "means.csv").to_json(orient="records"))
