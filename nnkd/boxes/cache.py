"""Box models that were exported for use without torch, kept in the cache folder by their weights' sha256."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from nnkd import paths
from nnkd.boxes.model import DESCRIPTION, BoxModelFolder
from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.weights.store import of_teacher

FOLDER = "box_models"
DIGITS = 16  # of the sha256
log = logging.getLogger("nnkd")


def is_exported(model: str) -> bool:
    """Whether it is a folder that nnKD_export wrote of a box model."""
    return (Path(model) / DESCRIPTION).is_file()


def weights_of(model: str) -> str:
    """sha256 of a model's weights: of a file, or of those published under a name. Empty if the name has none."""
    if Path(model).is_file():
        return sha256(Path(model))
    checkpoint = of_teacher(model)
    return "" if checkpoint is None else checkpoint.sha256


def kept(digest: str) -> Path:
    """Where the model of these weights lies once it is exported."""
    return paths.cache_folder() / FOLDER / digest[:DIGITS]


def exported(model: str, digest: str, export: Callable[[str, Path], None]) -> BoxModelFolder:
    """The exported model, made on its first use.

    Args:
        model: A name or a checkpoint.
        digest: sha256 of its weights.
        export: Writes a model into a folder.

    Raises:
        NnkdError: If it cannot be exported.
    """
    target = kept(digest)
    if is_exported(str(target)):
        return BoxModelFolder.read(target)
    log.info("%s is exported for use without torch; this is done once.", Path(model).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        export(model, temporary)
        found = BoxModelFolder.read(temporary)
        if found.weights["sha256"] != digest:
            raise WeightsError(
                f"What was exported of '{Path(model).name}' names the weights {found.weights['sha256'][:12]}..., but "
                f"{digest[:12]}... were asked for. Use a checkpoint that nothing else writes to."
            )
        os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes a folder that nobody else may read
        _move(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return BoxModelFolder.read(target)


def _umask() -> int:
    """What new files of this process are not allowed, which can be read by setting it alone."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def _move(source: Path, target: Path) -> None:
    """Put a finished folder in its place; another process may have been faster."""
    try:
        os.replace(source, target)
    except OSError:
        if not is_exported(str(target)):
            raise
