"""What a file from outside may take at most, compared before memory is taken; a variable raises each limit."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from nnkd.errors import SettingError

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Limit:
    """A number that an environment variable replaces.

    Attributes:
        variable: Its name.
        default: The number without it.
        unit: What it counts, for messages.
    """

    variable: str
    default: float
    unit: str

    @property
    def value(self) -> float:
        """The number that holds.

        Raises:
            SettingError: If the variable holds no number above 0.
        """
        given = os.environ.get(self.variable)
        if not given:
            return self.default
        try:
            number = float(given)
        except ValueError:
            number = math.nan
        if not number > 0:
            raise SettingError(f"The variable {self.variable} is '{given[:40]}', but a number of {self.unit} above 0.")
        return number

    @property
    def raised(self) -> str:
        """How to raise it, as the last sentence of a message."""
        return f"If you trust it, raise the limit of {self.value:g} {self.unit} by setting {self.variable}."


JSON = Limit("NNKD_MAX_JSON", 64, "MiB")
PICKLE = Limit("NNKD_MAX_PICKLE", 64, "MiB")  # what a checkpoint holds beside tensors
RATIO = Limit("NNKD_MAX_RATIO", 500, "times the file's own size")
PIXELS = Limit("NNKD_MAX_PIXELS", 2 * (1024**3 // 4 // 3) / 1e6, "million")  # of one picture; where Pillow stops, too
MEMBERS = Limit("NNKD_MAX_MEMBERS", 200_000, "members")  # of an archive
ALWAYS = 2 * GIB  # bytes that may always come of a compressed file: empty label maps are a thousand times smaller
MEMORY = "NNKD_MAX_MEMORY"
VARIABLES = (MEMORY, *(limit.variable for limit in (JSON, PICKLE, RATIO, PIXELS, MEMBERS)))


def memory() -> float:
    """Bytes that one image, or one case, may take: $NNKD_MAX_MEMORY in GiB, else what this machine has available.

    Raises:
        SettingError: If the variable holds no number above 0.
    """
    import psutil

    free = float(psutil.virtual_memory().available)
    for group in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's, which the machine does not tell
        try:
            free = min(free, float(Path("/sys/fs/cgroup", group).read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max" is no number
            continue
    return Limit(MEMORY, free / GIB, "GiB").value * GIB


def set_memory(gib: float | None) -> None:
    """Have `memory` answer so much in this process and those it starts; None: nothing changes."""
    if gib is None:
        return
    if not gib > 0:
        raise SettingError(f"--max_memory got {gib:g}, but a number of GiB above 0 is expected.")
    os.environ[MEMORY] = f"{gib:g}"


def too_large(needed: float, packed: float | None = None) -> str:
    """Why so many bytes are not taken into memory, as a sentence's end and what to do; empty: they may be.

    Args:
        needed: Bytes.
        packed: Bytes of the compressed file that they come of; None: they are of no file, or not compressed.
    """
    allowed = memory()
    if needed > allowed:
        return (
            f"takes {needed / GIB:.4g} GiB, but {allowed / GIB:.4g} GiB are there. Make it smaller, or if this is "
            f"wrong set {MEMORY} (GiB), or --max_memory of nnKD_predict and nnKD_plan_and_preprocess."
        )
    if packed is not None and needed > ALWAYS and needed > packed * RATIO.value:
        return (
            f"unpacks to {needed / GIB:.4g} GiB, {needed / max(packed, 1):.0f} times its own size, which no scan does. "
            f"{RATIO.raised}"
        )
    return ""
