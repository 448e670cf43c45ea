"""What runs in a process of its own: TotalSegmentator on one image, or the download of its weights.

It sets nnU-Net's environment variables for its own models, exchanges functions of nnU-Net, and takes every CPU core:
all of it would stay in force in a process that goes on. `nnkd_totalsegmentator.weights.command` starts it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# No usage statistics, no notice about them; the folder is this run's own, so parallel runs do not meet in it.
CONFIG = {
    "totalseg_id": "nnkd",
    "send_usage_stats": False,
    "prediction_counter": 0,
    "statistics_disclaimer_shown": True,
}


def main(text: str) -> None:
    """Do what the JSON asks for.

    Args:
        text: {"home": folder for TotalSegmentator's configuration, "weights": folder of its models, "models": numbers
            of those to fetch, if they are not there} and, to segment, "image", "output", "threads" and "options" of its
            Python API.
    """
    asked = json.loads(text)
    _be_silent(Path(asked["home"]), Path(asked["weights"]))
    if "image" in asked:
        _segment(asked)
        return
    from totalsegmentator.libs import download_pretrained_weights

    for model in asked["models"]:
        download_pretrained_weights(model)


def _be_silent(home: Path, weights: Path) -> None:
    """Before anything of TotalSegmentator is imported."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    os.environ["TOTALSEG_HOME_DIR"], os.environ["TOTALSEG_WEIGHTS_PATH"] = str(home), str(weights)
    from totalsegmentator import config

    if config.get_config() != CONFIG:
        sys.exit("this version of TotalSegmentator keeps its configuration elsewhere, so it might send statistics")


def _segment(asked: Mapping[str, Any]) -> None:
    import nibabel
    import torch

    from nnkd.weights.checkpoints import weights_only

    torch.load = weights_only(torch.load)  # nnU-Net would run whatever a checkpoint's pickle holds
    set_threads, most = torch.set_num_threads, int(asked["threads"])
    torch.set_num_threads = lambda nthreads: set_threads(min(nthreads, most))
    set_threads(most)
    from totalsegmentator import python_api

    # Models are there already. The original also deletes the folders of earlier versions' models.
    python_api.download_pretrained_weights = lambda model: None
    found = python_api.totalsegmentator(asked["image"], None, quiet=True, **asked["options"])
    nibabel.save(found, asked["output"])
