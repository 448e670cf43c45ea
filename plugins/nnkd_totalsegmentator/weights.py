"""TotalSegmentator's models on disk: which a task needs, where they are, and what they are called."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from nnkd.errors import ProgramError, SettingError, WeightsError
from nnkd.files import sha256
from nnkd.processes import python
from nnkd.teachers.external import Program, private_folder

SPEEDS = {"normal": "default", "fast": "fast", "fastest": "fastest"}
ROUGH = {"ct": 298, "mri": 852}  # what roi_subset runs first
LICENCE = "Apache-2.0"
CHECKPOINT = "checkpoint_final.pth"
HOURS_S = 4 * 3600.0
URL = "https://github.com/wasserth/TotalSegmentator/releases/download"


@dataclass(frozen=True)
class Task:
    """One of TotalSegmentator's tasks at one speed.

    Attributes:
        name: Such as "total".
        models: Numbers of the nnU-Net datasets whose models it runs.
        classes: Name by number of what it segments.
    """

    name: str
    models: tuple[int, ...]
    classes: Mapping[int, str]

    @classmethod
    def find(cls, name: str, speed: str, roi_subset: bool) -> Task:
        """Look a task up in TotalSegmentator's own tables, which import nothing heavy.

        Raises:
            SettingError: If TotalSegmentator is not installed or too old, or the task is unknown, needs a licence, or
                is none that segments the whole body.
        """
        tables = _tables()
        if name in tables.needing_licence:
            raise SettingError(
                f"TotalSegmentator's task {name} needs a licence number (free for non-commercial use, "
                f"backend.totalsegmentator.com/license-academic). nnkd does not hold it: run TotalSegmentator yourself "
                f"with it, and take its masks in with the teacher imported."
            )
        whole_body = [
            task for task, config in tables.tasks.items() if task.startswith("total") and "sub_modes" in config
        ]
        if name not in whole_body:
            raise SettingError(
                f"The totalsegmentator teacher has no task '{name}', only {', '.join(whole_body)}. For another one, "
                f"run TotalSegmentator yourself and take its masks in with the teacher imported."
            )
        models = tables.tasks[name]["sub_modes"][SPEEDS[speed]]["task_id"]
        models = list(models) if isinstance(models, list) else [models]
        if roi_subset:
            models.append(ROUGH["mri" if name.endswith("_mr") else "ct"])
        return cls(name, tuple(dict.fromkeys(models)), tables.classes[name])

    def folders(self) -> dict[int, str]:
        """Folder by model, below the folder of weights."""
        return {model: _tables().folders[model]["foldername"] for model in self.models}

    def files(self, weights: Path) -> list[Path]:
        """The checkpoints that are there."""
        return sorted(
            f for folder in self.folders().values() for f in (weights / folder).glob(f"*/fold_*/{CHECKPOINT}")
        )

    def missing(self, weights: Path) -> list[int]:
        """Models that are not there, or not whole."""
        there = {file.relative_to(weights).parts[0] for file in self.files(weights)}
        return [model for model, folder in self.folders().items() if folder not in there]

    def fetch(self, weights: Path) -> None:
        """Let TotalSegmentator download the models that are missing, one process at a time.

        Raises:
            WeightsError: If that fails; the message says which folders belong where.
        """
        weights.mkdir(parents=True, exist_ok=True)
        with FileLock(weights / ".nnkd-download.lock"), private_folder() as folder:
            missing = self.missing(weights)
            if not missing:  # another process was faster
                return
            asked = {"home": str(folder / "home"), "weights": str(weights), "models": missing}
            program = Program("TotalSegmentator's download", HOURS_S, inherit=("*",))
            try:
                program.run(command(asked), folder)
                failed = "" if not self.missing(weights) else "A folder that is there, but not whole, must go first"
            except ProgramError as error:
                failed = str(error).split(". ")[0]
            if failed:
                raise WeightsError(self._by_hand(missing, weights, failed))

    def _by_hand(self, missing: Sequence[int], weights: Path, failed: str) -> str:
        tables = _tables().folders
        places = [f"{URL}/{tables[m]['version']}/{tables[m]['foldername']}.zip" for m in missing]
        return (
            f"The task {self.name} needs {len(missing)} model{'s' if len(missing) > 1 else ''} that are not in "
            f"'{weights.name}'. {failed}. Fetch and unpack {', '.join(places)} there by hand, or set "
            f"TOTALSEG_WEIGHTS_PATH to where they are."
        )


@dataclass(frozen=True)
class _Tables:
    """TotalSegmentator's own."""

    tasks: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, Mapping[int, str]]
    folders: Mapping[int | str, Mapping[str, str]]
    needing_licence: frozenset[str]


@cache
def _tables() -> _Tables:
    try:
        from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
        from totalsegmentator.map_to_binary import class_map, commercial_models
    except ImportError as error:
        raise SettingError(
            f"The totalsegmentator teacher needs TotalSegmentator 2.18 or later ({error}). Install it: "
            f'pip install "nnkd[totalsegmentator]".'
        ) from error
    gated = {task for task, config in TASK_CONFIGS.items() if config.get("commercial")} | set(commercial_models)
    return _Tables(TASK_CONFIGS, class_map, TASK_ID_WEIGHTS_CONFIGS, frozenset(gated))


def weights_folder() -> Path:
    """Where TotalSegmentator itself would look for its models."""
    if os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(os.environ["TOTALSEG_WEIGHTS_PATH"])
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator") / "nnunet" / "results"


def command(asked: Mapping[str, Any]) -> list[str]:
    """The command line of `nnkd_totalsegmentator.child`."""
    return python("from nnkd_totalsegmentator.child import main; main(sys.argv[1])", json.dumps(asked))


def hashed(files: Sequence[Path], weights: Path) -> list[dict[str, str]]:
    """Files for the manifest: FOLDER/fold_0/checkpoint_final.pth, sha256 and licence."""
    return [
        {
            "name": "/".join((file.relative_to(weights).parts[0], *file.parts[-2:])),
            "sha256": _sha256_once(file, file.stat().st_mtime_ns, file.stat().st_size),
            "licence": LICENCE,
        }
        for file in files
    ]


@cache
def _sha256_once(file: Path, changed: int, size: int) -> str:
    return sha256(file)
