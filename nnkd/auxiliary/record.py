"""auxiliaries.jsonl: a line for every turn of a training with auxiliary tasks, the plots made of it, and the copies
that prediction folders carry, so that an evaluation knows what trained along with its student."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkd.errors import RecipeError
from nnkd.files import atomic, from_json, is_visible
from nnkd.replacing import Written

if TYPE_CHECKING:
    from nnkd.weights.checkpoints import TrainedModel

log = logging.getLogger("nnkd")
RECORD = "auxiliaries.jsonl"
CARRIED = "auxiliaries"  # in a prediction folder: a folder, at whose files neither nnU-Net nor we look for label maps
ENDING = ".jsonl.gz"  # a tenth of the record, which is 40 MB with 30 datasets and 10,000 turns


def append(file: Path, turn: Mapping[str, Any]) -> None:
    """Add a turn. Numbers that are not finite become null."""
    with file.open("a", encoding="utf-8") as record:
        record.write(json.dumps(_plain(turn), ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def cut(file: Path, turns: int) -> None:
    """Keep the first turns, those that a checkpoint knows; later ones, and a line cut short, go."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            number = from_json(line)["turn"]
        except (ValueError, KeyError, TypeError):
            continue
        if number <= turns:
            kept.append(line + "\n")
    with atomic(file) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def draw(file: Path) -> list[Path]:
    """Draw the record: which task was chosen when (auxiliaries_chosen.png), how often (auxiliaries_turns.png), and
    estimates and bounds where there are any (auxiliaries_bounds.png).

    Returns:
        The files written; none where nothing was chosen in any turn.
    """
    from nnkd.auxiliary.plots import bounds_plot, choice_plot, cumulative_plot
    from nnkd.auxiliary.turns import read_turns

    if not file.is_file():
        return []
    try:
        turns = read_turns(file)
    except RecipeError:  # all tasks in every turn, or none finished yet
        return []
    plots = {"chosen": choice_plot(turns), "turns": cumulative_plot(turns), "bounds": bounds_plot(turns)}
    written = []
    for name, picture in plots.items():
        if picture is not None:
            written.append(file.with_name(f"{file.stem}_{name}.png"))
            with atomic(written[-1]) as temporary:
                temporary.write_bytes(picture)
    return written


# --- in prediction folders ------------------------------------------------------------------------------------------


def carry(models: Sequence[TrainedModel], predictions: Path, replace: bool = False) -> None:
    """Copy the records of a student's folds into its prediction folder; those of an earlier student go. A fold without
    a record has none to copy, and one that cannot be read is said.

    Args:
        models: The student, or those of single labels.
        predictions: The prediction folder.
        replace: Whether files that nnkd did not write may be replaced.

    Raises:
        NnkdError: If a copy cannot be written, or nnkd did not write what is there.
    """
    wanted = {}
    for model in models:
        before = "" if len(models) == 1 else f"{model.folder.name.split('__')[1]}_"
        for fold in model.folds:
            wanted[f"{before}fold_{fold}"] = model.folder / f"fold_{fold}" / RECORD
    written = Written(predictions, replace)
    gone = [name for name in carried(predictions) if name not in wanted or not wanted[name].is_file()]
    written.remove(f"{CARRIED}/{name}{ENDING}" for name in gone)
    for name, record in wanted.items():
        if record.is_file():
            _copy(record, written, f"{CARRIED}/{name}{ENDING}")


def _copy(record: Path, written: Written, name: str) -> None:
    """The same bytes for the same record, so that copies can be compared."""
    try:
        source = record.open("rb")
    except OSError as error:
        log.warning(
            "'%s' of %s cannot be read (%s), so that no report will show it.",
            record.name, record.parent.name, error.strerror,
        )  # fmt: skip
        return
    with (
        source,
        written.writing(name) as temporary,
        temporary.open("wb") as target,
        gzip.GzipFile("", "wb", fileobj=target, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed)


def carried(predictions: Path) -> dict[str, Path]:
    """The copies in a prediction folder, by the name of the fold."""
    files = sorted((predictions / CARRIED).glob(f"*{ENDING}"))
    return {file.name.removesuffix(ENDING): file for file in files if is_visible(file)}
