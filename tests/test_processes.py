"""Tests of nnkd.processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, time
from multiprocessing import get_context
from nnkd.processes import end_with_parent

def work(pid):
    end_with_parent()
    pid.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = get_context("spawn")
    pid = context.Queue()
    context.Process(target=work, args=(pid,)).start()
    print(pid.get(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
        ended = True
        try:
            parent.communicate(timeout=30)  # until nobody holds its standard output any more
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            ended = False
    assert ended
