"""A teacher whose workers can be killed at work: it writes down which case it begins, where, and takes its time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nnkd.plugin.teachers import Teacher


class SlowTeacher(Teacher):
    """Everything bright is liver."""

    devices = ("cpu",)

    def __init__(self, context, *, log: str = "", seconds: float = 0.3, fatal: str = ""):
        super().__init__(context)
        self.log, self.seconds, self.fatal = Path(log), seconds, fatal

    def predict(self, volume, prompts):
        import ray

        with open(self.log, "a") as out:
            out.write(f"{volume.case} {ray.get_runtime_context().get_node_id()}\n")
        if volume.case == self.fatal:
            os._exit(1)
        time.sleep(self.seconds)
        return {"liver": volume.data[0] > 130}
