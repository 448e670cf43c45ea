"""progress.png of a training on slices: losses, the measure that it is about, the learning rate, the time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.figures import new_figure
from nnkd.files import atomic

SIDE = (9.0, 2.6)  # inches of a row


def plot(log: Mapping[str, Sequence[Any]], curves: Mapping[str, str], file: Path) -> None:
    """Draw the curves.

    Args:
        log: nnU-Net's, by name; one value an epoch.
        curves: Names of further curves, and what to call them.
        file: Where to write.
    """
    rows: list[tuple[str, dict[str, Sequence[float]]]] = [
        ("loss", {"training": log["train_losses"], "validation": log["val_losses"]})
    ]
    rows += [(title, {"validation": log[name]}) for name, title in curves.items()]
    ends, starts = log["epoch_end_timestamps"], log["epoch_start_timestamps"]
    rows.append(("learning rate", {"": log["lrs"]}))
    rows.append(("seconds an epoch", {"": [end - start for end, start in zip(ends, starts, strict=False)]}))
    figure, unused = new_figure(SIDE[0], SIDE[1] * len(rows))
    unused.remove()
    for axes, (title, lines) in zip(np.atleast_1d(figure.subplots(len(rows), 1)), rows, strict=True):
        for label, values in lines.items():
            axes.plot(range(len(values)), values, label=label or None)
            if title == "loss" and min(values) > 0:
                axes.set_yscale("log")
        axes.set_ylabel(title)
        if len(lines) > 1:
            axes.legend()
    axes.set_xlabel("epoch")
    with atomic(file) as temporary:
        figure.savefig(os.fspath(temporary), dpi=80)
